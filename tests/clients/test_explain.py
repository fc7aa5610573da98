"""`corten run --explain`, row by row: each value's origin is where it is really from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.cli.explain import FIELDS
from corten.cli.options import FLAGS
from corten.cli.run import run
from support import images
from support.engine import CortenEngine

PLAIN = images.BUSYBOX_REF
FULL = "explain/full:1"  # an image that says everything an image can say
NODE = {"default-pids-limit": 77, "log-opts": {"max-size": "5m", "max-file": "2"}, "log-driver": "json-file"}
CHANGES = (
    *("ENV A=image", "LABEL a=image", "EXPOSE 81", 'ENTRYPOINT ["/bin/echo"]', 'CMD ["x"]', "USER root"),
    *("WORKDIR /tmp", "STOPSIGNAL SIGINT"),
)
Rows = dict[str, tuple[str, str]]  # field: (origin, value)


def has_weight(name: str) -> bool:
    """Whether the kernel can do it: v2 always, v1 with bfq's weights; else it is discarded with a warning."""
    root = Path("/sys/fs/cgroup")
    return (root / "cgroup.controllers").exists() or (root / "blkio" / f"blkio.{name}").exists()


H, C = "HostConfig.", "Config."
# What is given for each flag, and the fields whose rows must say so; None: refused, alone it makes no sense.
GIVEN: dict[str, tuple[str, set[str] | None]] = {
    "--add-host": ("a:1.2.3.4", {H + "ExtraHosts"}),
    "--annotation": ("a=b", {H + "Annotations"}),
    "--attach": ("stdout", {C + "AttachStdout"}),
    "--blkio-weight": ("100", {H + "BlkioWeight"} if has_weight("weight") else set()),
    "--blkio-weight-device": ("/dev/null:100", {H + "BlkioWeightDevice"} if has_weight("weight_device") else set()),
    "--cap-add": ("SYS_TIME", {H + "CapAdd"}),
    "--cap-drop": ("CHOWN", {H + "CapDrop"}),
    "--cgroup-parent": ("/x", {H + "CgroupParent"}),
    "--cgroupns": ("private", {H + "CgroupnsMode"}),
    "--cidfile": ("/tmp/nonexistent/id", {H + "ContainerIDFile"}),
    "--cpu-count": ("1", None),
    "--cpu-percent": ("1", None),
    "--cpu-period": ("50000", {H + "CpuPeriod"}),
    "--cpu-quota": ("50000", {H + "CpuQuota"}),
    "--cpu-rt-period": ("1000000", {H + "CpuRealtimePeriod"}),
    "--cpu-rt-runtime": ("1000", {H + "CpuRealtimeRuntime"}),
    "--cpu-shares": ("512", {H + "CpuShares"}),
    "--cpus": ("1", {H + "NanoCpus"}),
    "--cpuset-cpus": ("0", {H + "CpusetCpus"}),
    "--cpuset-mems": ("0", {H + "CpusetMems"}),
    "--device": ("/dev/fuse", {H + "Devices"}),
    "--device-cgroup-rule": ("c 1:3 rwm", {H + "DeviceCgroupRules"}),
    "--device-read-bps": ("/dev/null:1mb", {H + "BlkioDeviceReadBps"}),
    "--device-read-iops": ("/dev/null:100", {H + "BlkioDeviceReadIOps"}),
    "--device-write-bps": ("/dev/null:1mb", {H + "BlkioDeviceWriteBps"}),
    "--device-write-iops": ("/dev/null:100", {H + "BlkioDeviceWriteIOps"}),
    "--disable-content-trust": ("true", set()),
    "--dns": ("1.2.3.4", {H + "Dns"}),
    "--dns-option": ("ndots:2", {H + "DnsOptions"}),
    "--dns-search": ("example.org", {H + "DnsSearch"}),
    "--domainname": ("d", {C + "Domainname"}),
    "--entrypoint": ("/bin/sh", {C + "Entrypoint"}),
    "--env": ("X=1", {C + "Env"}),
    "--env-file": ("{folder}/env", {C + "Env"}),
    "--expose": ("99", {C + "ExposedPorts"}),
    "--gpus": ("all", {H + "DeviceRequests"}),
    "--group-add": ("7", {H + "GroupAdd"}),
    "--health-cmd": ("true", {C + "Healthcheck.Test"}),
    "--health-interval": ("1s", {C + "Healthcheck.Interval"}),
    "--health-on-failure": ("kill", {C + "Labels"}),
    "--health-retries": ("1", {C + "Healthcheck.Retries"}),
    "--health-start-interval": ("1s", {C + "Healthcheck.StartInterval"}),
    "--health-start-period": ("1s", {C + "Healthcheck.StartPeriod"}),
    "--health-timeout": ("1s", {C + "Healthcheck.Timeout"}),
    "--hostname": ("h", {C + "Hostname"}),
    "--init": ("true", {H + "Init"}),
    "--interactive": ("true", {C + "AttachStdin", C + "OpenStdin", C + "StdinOnce"}),
    "--io-maxbandwidth": ("1m", None),
    "--io-maxiops": ("1", None),
    "--ip": ("172.17.0.9", None),
    "--ip6": ("fd00::9", None),
    "--ipc": ("shareable", {H + "IpcMode"}),
    "--isolation": ("default", {H + "Isolation"}),
    "--kernel-memory": ("64m", set()),
    "--label": ("x=1", {C + "Labels"}),
    "--label-file": ("{folder}/env", {C + "Labels"}),
    "--link": ("a:b", None),
    "--link-local-ip": ("169.254.1.1", {"EndpointsConfig.bridge.IPAMConfig.LinkLocalIPs"}),
    "--log-driver": ("none", {H + "LogConfig.Type"}),
    "--log-opt": ("max-size=1m", {H + "LogConfig.Config"}),
    "--mac-address": ("02:42:ac:11:00:09", {"EndpointsConfig.bridge.MacAddress"}),
    "--memory": ("64m", {H + "Memory"}),
    "--memory-reservation": ("32m", {H + "MemoryReservation"}),
    "--memory-swap": ("-1", {H + "MemorySwap"}),
    "--memory-swappiness": ("10", {H + "MemorySwappiness"}),
    "--mount": ("type=bind,src=/tmp,dst=/x", {H + "Mounts"}),
    "--name": ("explained", set()),
    "--network": ("bridge", {H + "NetworkMode"}),
    "--network-alias": ("a", None),
    "--no-healthcheck": ("true", {C + "Healthcheck.Test"}),
    "--oom-kill-disable": ("true", {H + "OomKillDisable"}),
    "--oom-score-adj": ("100", {H + "OomScoreAdj"}),
    "--pid": ("host", {H + "PidMode"}),
    "--pids-limit": ("7", {H + "PidsLimit"}),
    "--platform": ("linux/amd64", set()),
    "--privileged": ("true", {H + "Privileged"}),
    "--publish": ("8080:80", {C + "ExposedPorts", H + "PortBindings"}),
    "--publish-all": ("true", {H + "PublishAllPorts"}),
    "--pull": ("missing", set()),
    "--quiet": ("true", set()),
    "--read-only": ("true", {H + "ReadonlyRootfs"}),
    "--restart": ("on-failure:3", {H + "RestartPolicy.Name", H + "RestartPolicy.MaximumRetryCount"}),
    "--rm": ("true", {H + "AutoRemove"}),
    "--runtime": ("corten", {H + "Runtime"}),
    "--security-opt": ("no-new-privileges", {H + "SecurityOpt"}),
    "--shm-size": ("1m", {H + "ShmSize"}),
    "--stop-signal": ("SIGUSR1", {C + "StopSignal"}),
    "--stop-timeout": ("3", {C + "StopTimeout"}),
    "--storage-opt": ("size=1g", None),
    "--sysctl": ("net.ipv4.ip_forward=1", {H + "Sysctls"}),
    "--tmpfs": ("/x", {H + "Tmpfs"}),
    "--tty": ("true", {C + "Tty"}),
    "--ulimit": ("nofile=100:100", {H + "Ulimits"}),
    "--use-api-socket": ("true", {H + "Mounts"}),
    "--user": ("1000", {C + "User"}),
    "--userns": ("host", {H + "UsernsMode"}),
    "--uts": ("host", {H + "UTSMode"}),
    "--volume": ("/tmp:/x", {H + "Binds"}),
    "--volume-driver": ("local", {H + "VolumeDriver"}),
    "--volumes-from": ("a", None),
    "--workdir": ("/x", {C + "WorkingDir"}),
}
NAMES = [next(name for name in names if name.startswith("--")).partition("/")[0] for names, _, _ in FLAGS]
# What --explain says without a flag, of an image that says nothing but PATH and of one that says everything.
DEFAULTS = {
    C + "AttachStderr": "built-in",
    C + "AttachStdout": "built-in",
    C + "Env": "image",
    C + "Hostname": "built-in",
    C + "Image": "argument",
    H + "CgroupnsMode": "built-in",
    H + "IpcMode": "built-in",
    H + "LogConfig.Config": "daemon.json",
    H + "LogConfig.Type": "daemon.json",
    H + "MaskedPaths": "built-in",
    H + "NetworkMode": "built-in",
    H + "PidsLimit": "daemon.json",
    H + "ReadonlyPaths": "built-in",
    H + "RestartPolicy.Name": "built-in",
    H + "Runtime": "built-in",
    H + "ShmSize": "built-in",
    C + "Cmd": "image",
}
OF_IMAGE = {C + name for name in ("Entrypoint", "ExposedPorts", "Labels", "StopSignal", "User", "WorkingDir")}


@pytest.fixture(scope="module")
def node() -> Iterator[CortenEngine]:
    with CortenEngine(config=NODE) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        changes = [word for change in CHANGES for word in ("--change", change)]
        engine.docker("import", *changes, "-", FULL, stdin=bytes(10240), check=True)
        yield engine


def explained(node: CortenEngine, *words: str) -> Rows | str:
    """Rows of --explain, or why there are none."""
    done = node.corten("run", "--explain", *words)
    if done.returncode:
        return done.stderr
    table = done.stdout.partition("\nPLAN\n")[0].splitlines()
    cells = [re.split(r" {2,}", line, maxsplit=2) for line in table]
    assert cells[0] == ["FIELD", "ORIGIN", "VALUE"]
    return {field: (origin, value) for field, origin, value in cells[1:]}


def origins(rows: Rows | str) -> dict[str, str]:
    assert not isinstance(rows, str), rows
    return {field: origin for field, (origin, _) in rows.items()}


def test_without_a_flag_no_row_says_flag(node: CortenEngine) -> None:
    assert origins(explained(node, PLAIN)) == DEFAULTS
    assert origins(explained(node, FULL)) == DEFAULTS | dict.fromkeys(OF_IMAGE, "image")
    assert origins(explained(node, PLAIN, "true")) == DEFAULTS | {C + "Cmd": "argument"}


def test_without_a_daemon_json_everything_of_the_node_is_built_in(shared_engine: CortenEngine) -> None:
    found = origins(explained(shared_engine, PLAIN))
    expected = {field: origin.replace("daemon.json", "built-in") for field, origin in DEFAULTS.items()}
    assert found == expected


def test_every_flag_has_a_value_here_and_its_fields_in_the_cli() -> None:
    assert sorted(GIVEN) == sorted(NAMES)
    parameters = {param.name for param in run.params}
    assert set(FIELDS) <= parameters
    silent = {name for name, (_, fields) in GIVEN.items() if fields == set()}
    known = {name for name in NAMES if name[2:].replace("-", "_") in FIELDS}
    assert set(NAMES) - known <= silent


@pytest.mark.parametrize("flag", NAMES)
def test_a_flags_rows_say_flag_and_no_other_row_does(node: CortenEngine, tmp_path: Path, flag: str) -> None:
    (tmp_path / "env").write_text("Y=1\n")
    value, fields = GIVEN[flag]
    rows = explained(node, f"{flag}={value.replace('{folder}', str(tmp_path))}", FULL)
    if isinstance(rows, str):
        assert fields is None or rows.splitlines()[0].endswith("not supported yet")
        return
    assert fields is not None
    found = origins(rows)
    assert {field for field, origin in found.items() if "flag" in origin} == fields
    expected = origins(explained(node, FULL))
    changed = {field for field in expected if field in found and found[field] != expected[field]}
    assert changed <= fields
    assert all(origin != "flag" or field in fields for field, origin in found.items())


@pytest.mark.parametrize(
    ("words", "field", "origin"),
    [
        (("-e", "X=1", FULL), "Config.Env", "flag, image"),
        (("-e", "A=mine", FULL), "Config.Env", "flag"),
        (("-l", "x=1", FULL), "Config.Labels", "flag, image"),
        (("-l", "a=mine", FULL), "Config.Labels", "flag"),
        (("--expose", "99", FULL), "Config.ExposedPorts", "flag, image"),
        (("--expose", "81", FULL), "Config.ExposedPorts", "flag"),
        (("--log-opt", "max-size=1m", FULL), "HostConfig.LogConfig.Config", "flag, daemon.json"),
        (("--log-opt", "max-size=1m", "--log-opt", "max-file=9", FULL), "HostConfig.LogConfig.Config", "flag"),
        (("--log-driver", "json-file", FULL), "HostConfig.LogConfig.Config", "daemon.json"),
        (("--privileged", FULL), "HostConfig.SecurityOpt", "built-in"),
        (("--privileged", "--security-opt", "no-new-privileges", FULL), "HostConfig.SecurityOpt", "flag, built-in"),
        (("-m", "64m", FULL), "HostConfig.MemorySwap", "built-in"),
        (("--pids-limit", "0", FULL), "HostConfig.PidsLimit", "daemon.json"),
        (("--network", "default", FULL), "HostConfig.NetworkMode", "built-in"),
        (("--network", "host", FULL), "HostConfig.NetworkMode", "flag"),
        (("--tty=false", FULL), "Config.AttachStdout", "built-in"),
    ],
)
def test_a_value_of_several_origins_names_them_all(
    node: CortenEngine, words: tuple[str, ...], field: str, origin: str
) -> None:
    assert origins(explained(node, *words))[field] == origin
