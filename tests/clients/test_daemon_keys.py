"""Every key of daemon.json that dockerd knows: refused by name, or with an effect that can be seen.

Which keys there are says dockerd 26.1 itself: the names of its flags, in the singular and the plural, are put into
one file, and `dockerd --validate` lists those that it does not know.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.api import Api
from clients.network_keys import NETWORKS, Row, Running
from corten.daemon import config
from corten.errors import InvalidArgument
from support import images, paths, peers, process
from support.engine import CortenEngine
from support.netns import NetNs

# Keys without a flag of their own, and those whose plural is not the flag with an s.
MORE_KEYS = (
    "builder",
    "deprecated-key-path",
    "features",
    "insecure-registries",
    "runtimes",
    "default-address-pools",
    "containerd-plugin-namespace",
)
# Known to dockerd 28 and not to 26.1 (its reference, "Daemon configuration file").
YOUNGER_KEYS = (
    "allow-direct-routing",
    "bip6",
    "bridge-accept-fwmark",
    "firewall-backend",
    "host-gateway-ips",
    "ip-forward-no-drop",
)
# Flags that dockerd does not call unknown in a file, and that mean nothing there.
FLAGS_ONLY = {"add-runtime", "config-file", "help", "insecure-registry", "version"}
UNKNOWN = re.compile(r"don't match any configuration option: (.*)")

# The keys that CortenEngine gives as flags (data-root, exec-root, hosts, pidfile, debug) have a test of their own.
PARENT = f"/{paths.mark()}keys"
CARD = ([{"Source": "cdi", "ID": "v.example/card=card"}], True)
CARD_SPEC = """
cdiVersion: "0.8.0"
kind: v.example/card
devices:
  - name: card
    containerEdits: {env: [CARD=yes]}
"""
SEEN: dict[str, Row] = {
    **NETWORKS,
    "cgroup-parent": Row(PARENT, lambda running: running.inspect["HostConfig"]["CgroupParent"], PARENT),
    "default-cgroupns-mode": Row("private", lambda running: running.inspect["HostConfig"]["CgroupnsMode"], "private"),
    "default-ipc-mode": Row("shareable", lambda running: running.inspect["HostConfig"]["IpcMode"], "shareable"),
    "default-shm-size": Row("32M", lambda running: running.inspect["HostConfig"]["ShmSize"], 32 << 20),
    "exec-opts": Row(["native.cgroupdriver=cgroupfs"], lambda running: running.info["CgroupDriver"], "cgroupfs"),
    "allow-nondistributable-artifacts": Row(
        ["a.example"], lambda running: "allow-nondistributable-artifacts has no" in running.engine.log.read_text(), True
    ),
    "api-cors-header": Row("", lambda running: running.configuration.get("data-root", "") != "", True),
    "cdi-spec-dirs": Row([], lambda running: (running.info.get("DiscoveredDevices"), "CARD=yes" in running.said), CARD),
    "cpu-rt-period": Row(0, lambda running: running.configuration.get("cpu-rt-period"), 0),
    "cpu-rt-runtime": Row(0, lambda running: running.configuration.get("cpu-rt-runtime"), 0),
    "deprecated-key-path": Row("/x", lambda running: running.configuration.get("data-root", "") != "", True),
    "dns": Row(["192.0.2.53"], lambda running: "nameserver 192.0.2.53\n" in running.said, True),
    "dns-opts": Row(["ndots:3"], lambda running: "options ndots:3\n" in running.said, True),
    "dns-search": Row(
        ["a.example"], lambda running: running.inspect["Corten"]["Origins"].get("HostConfig.DnsSearch"), "daemon.json"
    ),
    "experimental": Row(True, lambda running: running.info["ExperimentalBuild"], True),
    "features": Row({"x": True}, lambda running: running.configuration.get("features"), {"x": True}),
    "host-gateway-ips": Row(
        ["192.0.2.1", "2001:db8::1"], lambda running: "192.0.2.1\tgate\n2001:db8::1\tgate\n" in running.said, True
    ),
    "min-api-version": Row(
        "1.44", lambda running: Api(running.engine.socket).ok("GET", "/version")["MinAPIVersion"], "1.44"
    ),
    "selinux-enabled": Row(
        True, lambda running: "Docker could not enable SELinux on the host" in running.engine.log.read_text(), True
    ),
    "group": Row("1", lambda running: running.engine.socket.stat().st_gid, 1),
    "init": Row(True, lambda running: "docker-init" in running.said, True),
    "init-path": Row("", lambda running: running.info["InitBinary"], "tini-static"),
    "log-format": Row("json", lambda running: '{"level":"info"' in running.engine.log.read_text(), True),
    "log-level": Row("warn", lambda running: running.configuration.get("log-level"), "warn"),
    "no-new-privileges": Row(True, lambda running: "NoNewPrivs:\t1" in running.said, True),
    "raw-logs": Row(True, lambda running: "\033" in running.engine.log.read_text(), False),
    "seccomp-profile": Row("unconfined", lambda running: "Seccomp:\t0" in running.said, True),
    "shutdown-timeout": Row(7, lambda running: running.configuration.get("shutdown-timeout"), 7),
    "userns-remap": Row("root", lambda running: running.configuration.get("userns-remap"), "root"),  # nobody's
    "userland-proxy": Row(False, lambda running: running.configuration.get("userland-proxy"), False),
    "storage-driver": Row("overlay2", lambda running: running.info["Driver"], "overlay2"),
    "storage-opts": Row(
        ["overlay2.size=0"], lambda running: running.configuration.get("storage-opts"), ["overlay2.size=0"]
    ),
    "default-pids-limit": Row(77, lambda running: running.said.split()[0], "77"),
    "default-runtime": Row("crun", lambda running: running.inspect["HostConfig"]["Runtime"], "crun"),
    "default-ulimits": Row(
        {"nofile": {"Name": "nofile", "Soft": 50, "Hard": 100}},
        lambda running: running.inspect.get("Corten", {}).get("rlimits"),
        [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 100, "origin": "daemon.json"}],
    ),
    "insecure-registries": Row(
        ["registry.example:5000"],
        lambda running: "registry.example:5000" in running.info["RegistryConfig"]["IndexConfigs"],
        True,
    ),
    "host-firewall": Row(
        "respect",
        lambda running: "chain input" in running.engine.netns.run(["nft", "list", "ruleset"]),
        True,
    ),
    "http-proxy": Row(
        "http://user:secret@proxy.example:3128",
        lambda running: running.info["HttpProxy"],
        "http://xxxxx:xxxxx@proxy.example:3128",
    ),
    "https-proxy": Row(
        "http://proxy.example:3129", lambda running: running.info["HttpsProxy"], "http://proxy.example:3129"
    ),
    "labels": Row(["quarry=one"], lambda running: running.info["Labels"], ["quarry=one"]),
    "live-restore": Row(True, lambda running: running.info["LiveRestoreEnabled"], True),
    "log-driver": Row("local", lambda running: running.inspect["HostConfig"]["LogConfig"]["Type"], "local"),
    "log-opts": Row(
        {"max-size": "3k"}, lambda running: running.inspect["HostConfig"]["LogConfig"]["Config"], {"max-size": "3k"}
    ),
    "max-concurrent-downloads": Row(2, lambda running: running.configuration.get("max-concurrent-downloads"), 2),
    "max-concurrent-uploads": Row(4, lambda running: running.configuration.get("max-concurrent-uploads"), 4),
    "max-download-attempts": Row(6, lambda running: running.configuration.get("max-download-attempts"), 6),
    "metrics-addr": Row("127.0.0.1:9324", lambda running: running.configuration.get("metrics-addr"), "127.0.0.1:9324"),
    "no-proxy": Row("r.example", lambda running: running.info["NoProxy"], "r.example"),
    "policies": Row([], lambda running: running.configuration.get("policies"), []),  # system/test_policies.py
    "registry-mirrors": Row(
        ["https://mirror.example/"],
        lambda running: running.info["RegistryConfig"]["Mirrors"],
        ["https://mirror.example/"],
    ),
    "signal-senders": Row(True, lambda running: (running.engine.exec_root / "senders/link-1").exists(), True),
    "runtimes": Row({"crun": {"path": str}}, lambda running: "crun" in running.info["Runtimes"], True),
}
SEEN_WITH_TLS = ("tls", "tlscacert", "tlscert", "tlskey", "tlsverify")  # test_tls.py
BY_ITSELF = ("validate", "host-gateway-ip", "authorization-plugins")  # tests below; test_authorization.py
GIVEN_AS_FLAGS = ("data-root", "exec-root", "hosts", "pidfile", "debug")


def known_keys(folder: Path) -> list[str]:
    """What dockerd 26.1 takes in daemon.json."""
    dockerd = str(peers.binary("dockerd-26.1"))
    usage = subprocess.run([dockerd, "--help"], check=True, capture_output=True, text=True).stdout
    flags = re.findall(r"--([a-z0-9-]+)", usage)
    names = {name for flag in flags for name in (flag, f"{flag}s")} | set(MORE_KEYS)
    file = folder / "dockerd.json"
    file.write_text(json.dumps(dict.fromkeys(names, "x")))
    done = subprocess.run(
        [dockerd, "--validate", "--config-file", str(file)], check=False, capture_output=True, text=True
    )
    found = UNKNOWN.search(done.stderr)
    assert found, done.stderr
    known = names - set(re.split(r", ", found[1].strip())) - FLAGS_ONLY
    known -= {name for name in known if f"{name}s" in known}  # the flag of a list, ignored in a file
    assert len(known) > 60
    return sorted(known) + list(YOUNGER_KEYS)


def validate(folder: Path, values: Any) -> tuple[int, str]:
    """`cortend --validate` of a file."""
    file = folder / "daemon.json"
    file.write_text(json.dumps(values))
    argv = [str(paths.COMMANDS / "cortend"), "--validate", "--config", str(file)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


def test_every_key_of_dockerd_is_refused_by_name_or_has_a_row(tmp_path: Path) -> None:
    accepted = []
    for key in known_keys(tmp_path):
        if key in SEEN or key in (*GIVEN_AS_FLAGS, *SEEN_WITH_TLS, *BY_ITSELF):
            continue
        try:
            config.settings("daemon.json", {key: "x"}, {})
        except InvalidArgument as error:
            if f"{key} is not supported" in error.text:
                continue
        accepted.append(key)
    assert not accepted


def test_every_row_is_of_a_key_that_dockerd_knows_but_for_our_own(tmp_path: Path) -> None:
    own = {"default-pids-limit", "policies", "host-firewall", "signal-senders", "min-api-version"}
    assert set(SEEN) - set(known_keys(tmp_path)) == own


def test_a_key_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    status, text = validate(tmp_path, {"frobnicate": 1})
    assert status == 1
    assert "the following directives don't match any configuration option: frobnicate" in text


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"policies": ["a.py"]}, "policies: 'a.py' is not an absolute path"),
        ({"policies": ["/nowhere.py"]}, "policies (daemon.json): open /nowhere.py: no such file or directory"),
        ({"live-restore": False}, "live-restore: false is not supported"),
        ({"debug": "yes"}, "debug: not true or false"),
        ({"hosts": "unix:///x"}, "hosts: not a list of strings"),
        ({"runtimes": {"x": {}}}, "runtimes"),
        ({"default-runtime": "absent"}, "specified default runtime 'absent' does not exist"),
        ({"default-ulimits": {"nofile": {"Soft": 2, "Hard": 1}}}, "soft limit must not exceed hard limit"),
        ({"default-ipc-mode": "host"}, 'IPC mode "host" is not supported as default value'),
        ({"default-shm-size": "much"}, "default-shm-size: invalid size: 'much'"),
        ({"log-level": "loud"}, "log-level: invalid logging level: loud"),
        ({"seccomp-profile": "/nowhere"}, "opening seccomp profile (/nowhere) failed: no such file or directory"),
        ({"storage-driver": "vfs"}, "storage-driver: driver not supported: vfs: overlay2 is the only one"),
        ({"storage-opts": ["overlay2.size=x"]}, "storage-opts: invalid size: 'x'"),
        ({"storage-opts": ["size=1g"]}, "storage-opts: overlay2: unknown option size"),
        ({"exec-opts": ["native.cgroupdriver=systemd"]}, "native.cgroupdriver option systemd is not supported yet"),
        ({"default-pids-limit": 0}, "default-pids-limit: not a number above 0, or -1 for no limit"),
    ],
)
def test_wrong_values_are_refused_by_name(tmp_path: Path, wrong: Any, text: str) -> None:
    status, error = validate(tmp_path, wrong)
    assert status == 1
    assert text in error


def reloaded(engine: CortenEngine) -> Any:
    """What the daemon logs at a SIGHUP: the whole configuration."""
    os.kill(engine.pid, signal.SIGHUP)
    process.wait_for(lambda: "Reloaded configuration" in engine.log.read_text(), "reload")
    (line,) = [one for one in engine.log.read_text().splitlines() if "Reloaded configuration: " in one]
    text = json.loads(line)["msg"] if line.startswith("{") else line
    return json.loads(text.partition("Reloaded configuration: ")[2])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An engine whose daemon.json has every row's value."""
    values = {key: row.value for key, row in SEEN.items()}
    values["init-path"] = str(peers.binary("tini"))
    values["runtimes"] = {"crun": {"path": str(peers.crun_for_hybrid())}}
    folder = tmp_path_factory.mktemp("cdi")
    (folder / "card.yaml").write_text(CARD_SPEC)
    values["cdi-spec-dirs"] = [str(folder)]
    with CortenEngine(config=values) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        api = Api(engine.socket)
        script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /proc/1/comm"
        script += "; env; cat /etc/resolv.conf /etc/hosts; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"
        script += "; ip -o addr; ip link; ip route"
        engine.docker(
            "run",
            "--name",
            "box",
            "--add-host",
            "gate:host-gateway",
            "--device",
            "v.example/card=card",
            images.BUSYBOX_REF,
            "sh",
            "-c",
            script,
            check=True,
        )
        inspect = api.ok("GET", "/containers/box/json")
        yield Running(engine, api.ok("GET", "/info"), inspect, api.logs("box").strip(), reloaded(engine))
        engine.docker("rm", "box", check=True)


@pytest.mark.parametrize("key", SEEN)
def test_a_supported_key_has_its_effect(running: Running, key: str) -> None:
    assert SEEN[key].look(running) == SEEN[key].expect


def test_the_effects_are_not_the_defaults(shared_engine: CortenEngine) -> None:
    api = Api(shared_engine.socket)
    made = api.ok("POST", "/containers/create", {"Image": images.BUSYBOX_REF, "Cmd": ["true"]})["Id"]
    bare = Running(shared_engine, api.ok("GET", "/info"), api.ok("GET", f"/containers/{made}/json"), "500", {})
    api.remove(made)
    same = [key for key, row in SEEN.items() if row.look(bare) == row.expect]
    # the only way there is: another value is refused, or seen below
    assert sorted(same) == ["bridge", "exec-opts", "live-restore", "raw-logs", "runtimes", "storage-driver"]


def test_a_file_that_says_validate_is_checked_and_nothing_is_started(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"validate": True, "data-root": str(tmp_path / "data")}))
    argv = [str(paths.COMMANDS / "cortend"), "--config", str(file)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "configuration OK\n")
    assert not (tmp_path / "data").exists()


def test_a_request_older_than_the_oldest_version_is_refused(running: Running) -> None:
    status, answer = Api(running.engine.socket, "1.43").call("GET", "/info")
    assert status == 400
    assert "client version 1.43 is too old. Minimum supported API version is 1.44" in str(answer)


def test_log_driver_none_keeps_no_log() -> None:
    with CortenEngine(config={"log-driver": "none"}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker(
            "run",
            "--name",
            "box",
            images.BUSYBOX_REF,
            "echo",
            "x",
            check=True,
        )
        done = engine.docker("logs", "box")
        assert "configured logging driver does not support reading" in done.stderr


def test_paths_and_debug_may_stand_in_the_file() -> None:
    folder = paths.scratch("keys")
    values = {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "hosts": [f"unix://{folder}/one", f"unix://{folder}/two"],
        "pidfile": str(folder / "pid"),
        "debug": True,
    }
    file = folder / "daemon.json"
    file.write_text(json.dumps(values))
    argv = [str(paths.COMMANDS / "cortend"), "--config", str(file)]
    with NetNs() as netns:
        daemon = process.Daemon([*netns.enter, *argv], folder / "log")
        try:
            daemon.wait_until(lambda: accepts(folder / "two") and (folder / "pid").exists(), "sockets")
            for name in ("one", "two"):
                info = Api(folder / name).ok("GET", "/info")
                assert (info["Debug"], info["DockerRootDir"]) == (True, str(folder / "data"))
            assert int((folder / "pid").read_text()) == daemon.pid
            assert (folder / "exec" / "tasks").is_dir()
            assert " DEBUG " in (folder / "log").read_text()
        finally:
            daemon.stop()
            done = subprocess.run([*netns.enter, *argv, "--destroy"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process.unmount_below(folder)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def accepts(path: Path) -> bool:
    """Somebody listens there: the socket is in its place before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_sighup_takes_the_level_of_the_log_over() -> None:
    folder = paths.scratch("keys")
    file, log = folder / "daemon.json", folder / "log"
    roots = ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    argv = [str(paths.COMMANDS / "cortend"), "--config", str(file), *roots]

    def shows(*wanted: str) -> bool:
        Api(folder / "exec/corten.sock").ok("GET", "/version")
        return [level for level in (" DEBUG ", " INFO ") if level in log.read_text()] == list(wanted)

    file.write_text('{"log-level": "warn"}')
    with NetNs() as netns:
        daemon = process.Daemon([*netns.enter, *argv], log)
        try:
            daemon.wait_until(lambda: accepts(folder / "exec/corten.sock"), "socket")
            process.wait_for(shows, "silence")
            file.write_text('{"log-level": "info"}')
            os.kill(daemon.pid, signal.SIGHUP)
            process.wait_for(lambda: shows(" INFO "), "info")
            file.write_text('{"log-level": "debug"}')
            os.kill(daemon.pid, signal.SIGHUP)
            process.wait_for(lambda: shows(" DEBUG ", " INFO "), "debug")
        finally:
            daemon.stop()
            done = subprocess.run([*netns.enter, *argv, "--destroy"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process.unmount_below(folder)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_path_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"data-root": "/a"}))
    argv = [str(paths.COMMANDS / "cortend"), "--validate", "--config", str(file), "--data-root", "/b"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "data-root: (from flag: /b, from file: /a)" in done.stderr


def test_without_a_default_bridge_containers_have_no_network_unless_they_name_one() -> None:
    with CortenEngine(config={"bridge": "none", "ip-forward": False}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        names = engine.docker("network", "ls", "--format", "{{.Name}}", check=True).stdout.split()
        assert names == ["host", "none"]
        for network in ((), ("--network", "bridge"), ("--network", "default")):
            done = engine.docker("run", "--rm", *network, images.BUSYBOX_REF, "ip", "-o", "-4", "addr", check=True)
            assert [line.split()[1] for line in done.stdout.splitlines()] == ["lo"]
        engine.docker("network", "create", "own", check=True)
        done = engine.docker("run", "--rm", "--network", "own", images.BUSYBOX_REF, "ip", "route", check=True)
        assert "default via 172.18.0.1" in done.stdout
        engine.netns.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
        done = engine.docker("create", "--network", "own", images.BUSYBOX_REF, "true", check=True)
        assert done.stderr == "WARNING: IPv4 forwarding is disabled. Networking will not work.\n"
        engine.docker("rm", done.stdout.strip(), check=True)
        failed = engine.docker("run", "--rm", "--add-host", "a:host-gateway", images.BUSYBOX_REF, "true")
        assert "unable to derive the IP value for host-gateway" in failed.stderr
