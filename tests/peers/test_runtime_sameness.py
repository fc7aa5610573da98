"""Everything that a container shows of itself, beneath dockerd, is what it shows with runc: mountinfo, status, limits,
descriptors, namespaces, nodes of /dev, every file of every cgroup.  docs/runtime-compatibility.md has what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, sameness
from support.compatibility import ALWAYS, KNOWN, compare
from support.dockerd import Dockerd
from support.sameness import Look

IMAGE = images.BUSYBOX_REF
NONE = ("--network", "none")

DISKS = sorted(str(path) for path in Path("/dev").iterdir() if path.is_block_device())[:1]
THROTTLES = [
    word for disk in DISKS for word in ("--device-read-bps", f"{disk}:1mb", "--device-write-iops", f"{disk}:9")
]
DISKS_OPTIONS = [word for disk in DISKS for word in ("--device", disk)]

# name: options of docker run
RUNS: dict[str, tuple[str, ...]] = {
    "plain": NONE,
    "terminal": ("-t", *NONE),
    "stdin": ("-i", *NONE),
    "user": ("-u", "1000:50", "--group-add", "77", *NONE),
    "capabilities": ("--cap-add", "SYS_TIME", "--cap-drop", "CHOWN", *NONE),
    "every capability": ("--cap-add", "ALL", *NONE),
    "privileged": ("--privileged", *NONE),
    "unconfined, no new privileges": (
        *("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"),
        *("--security-opt", "systempaths=unconfined", *NONE),
    ),
    "limits": (
        *("-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", "--oom-kill-disable"),
        *("--cpu-shares", "300", "--cpu-period", "50000", "--cpu-quota", "20000", "--pids-limit", "50"),
        *("--cpuset-cpus", "0", "--cpuset-mems", "0"),
        *("--oom-score-adj", "100", "--shm-size", "8m", "--ulimit", "nofile=77:99", *THROTTLES, *NONE),
    ),
    "devices": (*("--device", "/dev/full:/dev/other:rw", "--device-cgroup-rule", "c 10:* rm", *DISKS_OPTIONS, *NONE),),
    "mounts": (
        *("--read-only", "--tmpfs", "/t:size=1m,mode=700,noexec", "-v", "/usr:/u:ro", "-v", "/etc/passwd:/p"),
        *("-v", "data:/v", "--mount", "type=bind,src=/srv,dst=/s,bind-propagation=rprivate", *NONE),
    ),
    "host namespaces": ("--ipc", "host", "--uts", "host", "--pid", "host", "--network", "host", "--cgroupns", "host"),
    "own cgroup namespace": ("--cgroupns", "private", *NONE),
    "sysctl and init": ("--sysctl", "net.ipv4.ip_forward=1", "--init", "--hostname", "hh", "-w", "/tmp", *NONE),
    "bridge": (),
}

# name: options of docker exec
EXECS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "terminal": ("-t",),
    "stdin": ("-i",),
    "user": ("-u", "1000:50", "-w", "/tmp", "-e", "A=1"),
    "privileged": ("--privileged",),
}


@pytest.fixture(scope="module", params=["20.10", "26.1"])
def engine(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    with Dockerd(request.param, runtimes={"corten": paths.COMMANDS / "corten-runtime"}) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


def run(engine: Dockerd, runtime: str, options: tuple[str, ...]) -> Look:
    name = "look"
    words = ("run", "--name", name, "--hostname", "box") if "--uts" not in options else ("run", "--name", name)
    try:
        done = engine.docker(*words, "--runtime", runtime, *options, IMAGE, "sh", "-c", sameness.LOOK)
        return sameness.parse(done.stdout + done.stderr, ids(engine, name))
    finally:
        engine.docker("rm", "-f", "-v", name)
        engine.docker("volume", "rm", "-f", "data")


def ids(engine: Dockerd, name: str) -> dict[str, str]:
    """What names this container alone."""
    found = engine.docker("inspect", "-f", "{{.Id}} {{.HostnamePath}}", name, check=True).stdout.split()[0]
    return {found: "ID", found[:12]: "ID"}


@pytest.mark.parametrize("name", RUNS)
def test_a_container_shows_what_it_shows_with_runc(engine: Dockerd, name: str) -> None:
    ours = run(engine, "corten", RUNS[name])
    if is_refused_by_runc(engine, RUNS[name]):
        assert (engine.version, name) in {("20.10", "privileged"), ("20.10", "every capability")}
    else:
        compare(run(engine, "runc", RUNS[name]), ours)


def is_refused_by_runc(engine: Dockerd, options: tuple[str, ...]) -> bool:
    """Whether runc is asked for capabilities that the machine lacks: 20.10 does that."""
    if not {"--privileged", "ALL"} & {*options}:
        return False
    done = engine.docker("run", "--rm", "--runtime", "runc", *options, IMAGE, "true")
    return "unable to apply caps: operation not permitted" in done.stderr


def test_each_known_difference_is_there(engine: Dockerd) -> None:
    found = compare(run(engine, "runc", NONE), run(engine, "corten", NONE))
    assert sameness.rows_seen(found, KNOWN) >= ALWAYS


def test_an_exec_shows_what_it_shows_with_runc(engine: Dockerd) -> None:
    texts: dict[str, list[str]] = {"runc": [], "corten": []}
    for runtime, found in texts.items():
        engine.docker("run", "-d", "--name", "home", "--runtime", runtime, *NONE, IMAGE, "sleep", "1000", check=True)
        try:
            (id, short) = ids(engine, "home")
            for options in EXECS.values():
                done = engine.docker("exec", *options, "home", "sh", "-c", sameness.LOOK)
                found.append((done.stdout + done.stderr).replace(id, "ID").replace(short, "ID"))
        finally:
            engine.docker("rm", "-f", "home")
    for name, theirs, ours in zip(EXECS, texts["runc"], texts["corten"], strict=True):
        if (engine.version, name) == ("20.10", "privileged") and "unable to apply caps" in theirs:
            sameness.parse(ours, {})
        else:
            compare(sameness.parse(theirs, {}), sameness.parse(ours, {}))


def test_every_capability_is_the_bounding_set_of_the_engine(engine: Dockerd) -> None:
    """As current dockerd does it: what the machine does not give is left out, silently; 20.10 knows 38 of them."""
    status = Path(f"/proc/{engine.pid}/status").read_text()
    bounding = int(dict(line.split(":", 1) for line in status.splitlines())["CapBnd"], 16)
    expected = bounding & (1 << 38) - 1 if engine.version == "20.10" else bounding
    for options in (("--privileged",), ("--cap-add", "ALL")):
        fields = run(engine, "corten", (*options, *NONE)).sections["status"]
        assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {expected}, options
