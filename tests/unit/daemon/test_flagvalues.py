"""Flags of cortend that are keys of daemon.json: each means what the key means."""

from __future__ import annotations

from typing import Any

import pytest

from corten.daemon import arguments, config, flagvalues
from corten.engine.settings import Settings
from corten.errors import InvalidArgument

PATH = "/etc/corten/daemon.json"

# flags → the same in daemon.json
SAME: list[tuple[list[str], dict[str, Any]]] = [
    (["--cgroup-parent", "/x"], {"cgroup-parent": "/x"}),
    (["--default-cgroupns-mode=private"], {"default-cgroupns-mode": "private"}),
    (["--default-ipc-mode", "shareable"], {"default-ipc-mode": "shareable"}),
    (["--default-pids-limit", "7"], {"default-pids-limit": 7}),
    (["--add-runtime", "a=/b", "--add-runtime=c=/d=e"], {"runtimes": {"a": {"path": "/b"}, "c": {"path": "/d=e"}}}),
    (
        ["--add-runtime", "a=/b", "--default-runtime", "a"],
        {"runtimes": {"a": {"path": "/b"}}, "default-runtime": "a"},
    ),
    (["--default-shm-size", "32m"], {"default-shm-size": "32m"}),
    (
        ["--default-ulimit", "nofile=1", "--default-ulimit", "nofile=64:128", "--default-ulimit=nproc=-1"],
        {
            "default-ulimits": {
                "nofile": {"Name": "nofile", "Soft": 64, "Hard": 128},
                "nproc": {"Name": "nproc", "Soft": -1, "Hard": -1},
            }
        },
    ),
    (["--exec-opt", "native.cgroupdriver=cgroupfs"], {"exec-opts": ["native.cgroupdriver=cgroupfs"]}),
    (["--allow-direct-routing"], {"allow-direct-routing": True}),
    (["--allow-nondistributable-artifacts", "a.example"], {"allow-nondistributable-artifacts": ["a.example"]}),
    (["--api-cors-header", ""], {"api-cors-header": ""}),
    (["--authorization-plugin", "a", "--authorization-plugin=b"], {"authorization-plugins": ["a", "b"]}),
    (["--bip", "10.1.0.1/16"], {"bip": "10.1.0.1/16"}),
    (["--bip6", "2001:db8::1/64"], {"bip6": "2001:db8::1/64"}),
    (["-b", "br0"], {"bridge": "br0"}),
    (["--bridge-accept-fwmark", "0x1/0x3"], {"bridge-accept-fwmark": "0x1/0x3"}),
    (["--host-firewall", "respect"], {"host-firewall": "respect"}),
    (
        ["--default-address-pool", "base=10.0.0.0/8,size=24", "--default-address-pool=size=64,base=fd00::/48"],
        {"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}, {"base": "fd00::/48", "size": 64}]},
    ),
    (["--default-gateway", "10.1.0.9"], {"default-gateway": "10.1.0.9"}),
    (["--default-gateway-v6", "2001:db8::9"], {"default-gateway-v6": "2001:db8::9"}),
    (
        ["--default-network-opt", "bridge=com.docker.network.driver.mtu=1400", "--default-network-opt=macvlan=a=b"],
        {"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}, "macvlan": {"a": "b"}}},
    ),
    (["--firewall-backend", "nftables"], {"firewall-backend": "nftables"}),
    (["--fixed-cidr", "10.1.0.0/24"], {"fixed-cidr": "10.1.0.0/24"}),
    (["--fixed-cidr-v6", "2001:db8::/64"], {"fixed-cidr-v6": "2001:db8::/64"}),
    (["--icc=false"], {"icc": False}),
    (["--ip", "127.0.0.1"], {"ip": "127.0.0.1"}),
    (["--ip-forward=false"], {"ip-forward": False}),
    (["--ip-forward-no-drop"], {"ip-forward-no-drop": True}),
    (["--ip-masq=false"], {"ip-masq": False}),
    (["--ip6tables"], {"ip6tables": True}),
    (["--iptables=true"], {"iptables": True}),
    (["--ipv6"], {"ipv6": True}),
    (["--mtu", "1400"], {"mtu": 1400}),
    (["--cdi-spec-dir", "/a", "--cdi-spec-dir", "/b"], {"cdi-spec-dirs": ["/a", "/b"]}),
    (["--cpu-rt-period", "1000000"], {"cpu-rt-period": 1000000}),
    (["--cpu-rt-runtime", "950000"], {"cpu-rt-runtime": 950000}),
    (["--dns", "192.0.2.1", "--dns", "2001:db8::1"], {"dns": ["192.0.2.1", "2001:db8::1"]}),
    (["--dns-opt", "ndots:2"], {"dns-opts": ["ndots:2"]}),
    (["--dns-search", "a.example"], {"dns-search": ["a.example"]}),
    (["--feature", "cdi=false", "--feature", "x"], {"features": {"cdi": False, "x": True}}),
    (
        ["--host-gateway-ip", "192.0.2.1", "--host-gateway-ip", "2001:db8::1"],
        {"host-gateway-ips": ["192.0.2.1", "2001:db8::1"]},
    ),
    (["--selinux-enabled"], {"selinux-enabled": True}),
    (["--experimental"], {"experimental": True}),
    (["-G", "root"], {"group": "root"}),
    (["--init"], {"init": True}),
    (["--init=false"], {"init": False}),
    (["--init-path", "/x"], {"init-path": "/x"}),
    (["--label", "a=b", "--label", "c=d"], {"labels": ["a=b", "c=d"]}),
    (["--live-restore"], {"live-restore": True}),
    (
        ["--log-driver", "local", "--log-opt", "max-size=3k", "--log-opt", "max-file=2"],
        {"log-driver": "local", "log-opts": {"max-size": "3k", "max-file": "2"}},
    ),
    (["--log-format", "json"], {"log-format": "json"}),
    (["-l", "WARN"], {"log-level": "WARN"}),
    (["--no-new-privileges=1"], {"no-new-privileges": True}),
    (["--policy", "/a.py", "--policy=/b.py"], {"policies": ["/a.py", "/b.py"]}),
    (["--raw-logs"], {"raw-logs": True}),
    (["--seccomp-profile", "unconfined"], {"seccomp-profile": "unconfined"}),
    (["--signal-senders"], {"signal-senders": True}),
    (["--shutdown-timeout", "7"], {"shutdown-timeout": 7}),
    (["-s", "overlay2"], {"storage-driver": "overlay2"}),
    (["--userland-proxy=false"], {"userland-proxy": False}),
    (["--userns-remap", "default"], {"userns-remap": "default"}),
    (["--storage-opt", "overlay2.size=1g"], {"storage-opts": ["overlay2.size=1g"]}),
]


def of_flags(*words: str) -> Settings:
    return config.settings(PATH, {}, arguments.flags(arguments.parse(list(words))))


def test_every_key_has_a_flag_and_every_flag_a_key() -> None:
    of_the_file_alone = {"deprecated-key-path", "min-api-version", "validate"}
    assert set(flagvalues.FLAGS) == set(config.KEYS) - of_the_file_alone


@pytest.mark.parametrize(("words", "file"), SAME, ids=[" ".join(words) for words, _ in SAME])
def test_a_flag_is_as_good_as_the_key(words: list[str], file: dict[str, Any]) -> None:
    made, wanted = of_flags(*words), config.settings(PATH, file, {})
    assert config.shown(made) == config.shown(wanted)
    assert made.origins == dict.fromkeys(file, "flag")


def test_every_flag_of_the_table_is_compared() -> None:
    assert {key for _, file in SAME for key in file} == {flag.key for flag in flagvalues.TABLE}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "x"], 'invalid argument "x" for "--label" flag: bad attribute format: x'),
        (["--label", "a=b", "--label", "x"], 'invalid argument "x" for "--label" flag: bad attribute format: x'),
        (["--add-runtime", "x"], 'invalid argument "x" for "--add-runtime" flag: invalid runtime argument: x'),
        (["--add-runtime", "=y"], 'invalid argument "=y" for "--add-runtime" flag: invalid runtime argument: =y'),
        (
            ["--add-runtime", "x=/y", "--add-runtime", "x=/z"],
            'invalid argument "x=/z" for "--add-runtime" flag: runtime \'x\' was already defined',
        ),
        (["--add-runtime", "corten=/y"], "--add-runtime: runtime name 'corten' is reserved"),
        (["--default-ulimit", "x"], 'invalid argument "x" for "--default-ulimit" flag: invalid ulimit argument: x'),
        (["--default-ulimit", "x=1"], 'invalid argument "x=1" for "--default-ulimit" flag: invalid ulimit type: x'),
        (
            ["--default-ulimit", "nofile=2:1"],
            'invalid argument "nofile=2:1" for "--default-ulimit" flag: '
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
        ),
        (["--default-shm-size", "much"], "--default-shm-size: invalid size: 'much'"),
        (["--log-level", "loud"], "--log-level: invalid logging level: loud"),
        (["--log-format", "x"], "--log-format: invalid log format: x"),
        (["--dns", "x"], 'invalid argument "x" for "--dns" flag: invalid string being converted to IP address: x'),
        (["--dns-search", "a_b"], 'invalid argument "a_b" for "--dns-search" flag: a_b is not a valid domain'),
        (["--host-gateway-ip", "x"], 'invalid argument "x" for "--host-gateway-ip" flag: failed to parse IP: "x"'),
        (["--feature", "x=y"], 'invalid argument "x=y" for "--feature" flag: strconv.ParseBool: parsing "y"'),
        (["--api-cors-header", "*"], '--api-cors-header: DEPRECATED: The "api-cors-header" config parameter'),
        (["--containerd", "/x"], "--containerd is not supported: there is no containerd below Corten"),
        (["--live-restore=false"], "--live-restore: false is not supported"),
        (["--default-pids-limit", "0"], "--default-pids-limit: not a number above 0, or -1 for no limit"),
        (["--default-runtime", "nope"], "--default-runtime: specified default runtime 'nope' does not exist"),
        (["--storage-driver", "vfs"], "--storage-driver: driver not supported: vfs: overlay2 is the only one"),
        (["--storage-opt", "x=1g"], "--storage-opt: overlay2: unknown option x"),
        (["--seccomp-profile", "/nowhere"], "--seccomp-profile: opening seccomp profile (/nowhere) failed"),
        (["--bip", "10.0.0.0"], "--bip: invalid CIDR address: 10.0.0.0"),
        (["--bip", "10.0.0.0/8"], "--bip: 10.0.0.0 is not the address of a host in 10.0.0.0/8"),
        (["--bip6", "10.0.0.1/8"], "--bip6: 10.0.0.1/8 is not of IPv6"),
        (["--bip", "10.0.0.1/8", "--fixed-cidr", "11.0.0.0/24"], "--fixed-cidr: 11.0.0.0/24 is not in bip's 10.0.0"),
        (["--bip", "10.0.0.1/8", "-b", "br0"], "--bridge: You specified -b & --bip, mutually exclusive options."),
        (["--bridge", "a/b"], "--bridge: 'a/b' is not the name of a device"),
        (["--iptables=false"], "--iptables: false is not supported: an nftables table of Corten's own"),
        (["--firewall-backend", "iptables"], "--firewall-backend: iptables is not supported: an nftables table"),
        (["--mtu", "5"], "--mtu: invalid default MTU: 5"),
        (["--ip", "x"], "--ip: invalid IP address: x"),
        (["--host-firewall", "x"], "--host-firewall: 'x' is not \"respect\""),
        (["--bridge-accept-fwmark", "x"], "--bridge-accept-fwmark: invalid firewall mark 'x'"),
        (
            ["--default-address-pool", "base=10.0.0.0/8"],
            'invalid argument "base=10.0.0.0/8" for "--default-address-pool" flag: invalid size value: ',
        ),
        (
            ["--default-address-pool", "base=10.0.0.0/24,size=8"],
            "--default-address-pool: default-address-pools[0]: the base 10.0.0.0/24 has a longer prefix",
        ),
        (["--default-network-opt", "x=a=b"], "--default-network-opt: default-network-opts.x: no driver of this name"),
        (["--default-network-opt", "bridge=com.docker.network.driver.mtu=x"], "--default-network-opt: "),
        (["--init=maybe"], 'invalid argument "maybe" for "--init" flag: strconv.ParseBool: parsing "maybe"'),
        (["--shutdown-timeout", "x"], 'invalid argument "x" for "--shutdown-timeout" flag: strconv.ParseInt'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_told_with_the_flag(words: list[str], said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        of_flags(*words)
    assert caught.value.text.startswith(said)


def test_a_flag_and_its_key_are_refused_as_dockerd_says_it() -> None:
    with pytest.raises(InvalidArgument) as caught:
        config.settings(PATH, {"log-opts": {"max-size": "1m"}}, {"log-opts": {"a": "b"}})
    assert caught.value.text.endswith("log-opts: (from flag: map[a:b], from file: map[max-size:1m])")
