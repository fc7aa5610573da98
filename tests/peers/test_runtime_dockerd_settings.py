"""`corten-runtime` in dockerd's daemon.json as a user writes it: with arguments, as the default, below remapped ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images, paths, peers, sameness
from support.compatibility import compare
from support.dockerd import Dockerd
from support.sameness import Look

IMAGE = images.BUSYBOX_REF
NONE = ("--network", "none")
CORTEN = str(paths.COMMANDS / "corten-runtime")
NODE = {
    "default-pids-limit": 123,
    "default-rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    "masked-paths": ["/proc/version"],
    "seccomp": [{"names": ["pivot_root"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}],
}
LOOK = "cat /sys/fs/cgroup/pids/pids.max; ulimit -c; wc -c </proc/version; pivot_root / / 2>&1"

# below remapped ids: options of docker run
LOOKS: dict[str, tuple[str, ...]] = {
    "plain": NONE,
    "user": ("-u", "1000:50", *NONE),
    "limits": ("-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "50", "--init", *NONE),
    "mounts": ("--read-only", "--tmpfs", "/t:size=1m", "-v", "/usr:/u:ro", "-v", "data:/d", *NONE),
    "terminal": ("-t", *NONE),
    "devices": ("--device", "/dev/fuse", "--shm-size", "32m", *NONE),
    "host ids": ("--userns", "host", *NONE),
    "bridge": (),
}
FULL = ("user", "terminal", "devices", "bridge")  # in the full run alone


@pytest.fixture(scope="module", params=["20.10", "26.1"])
def configured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """dockerd whose daemon.json names a file of the node."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "node.json").write_text(json.dumps(NODE))
    settings = {
        "runtimes": {
            "corten": {"path": CORTEN, "runtimeArgs": ["--config", str(folder / "node.json")]},
            "limited": {"path": CORTEN, "runtimeArgs": ["--default-pids-limit", "77"]},
            "debugging": {"path": str(peers.binary("runc")), "runtimeArgs": ["--debug"]},
        },
        "default-runtime": "corten",
    }
    (folder / "daemon.json").write_text(json.dumps(settings))
    with Dockerd(request.param, args=("--config-file", str(folder / "daemon.json"))) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


def test_the_node_file_in_runtime_args_holds_for_containers_and_execs(configured: Dockerd) -> None:
    expected = "123\n0\n0\npivot_root: (null): Input/output error\n"
    assert configured.docker("run", "--rm", *NONE, IMAGE, "sh", "-c", LOOK).stdout == expected
    configured.docker("run", "-d", "--name", "home", *NONE, IMAGE, "sleep", "1000", check=True)
    try:
        assert configured.docker("exec", "home", "sh", "-c", LOOK).stdout == expected
        ulimit = ("run", "--rm", "--ulimit", "core=5:5", "--pids-limit", "9", *NONE, IMAGE, "sh", "-c")
        assert configured.docker(*ulimit, "cat /sys/fs/cgroup/pids/pids.max; ulimit -c").stdout.split() == ["9", "0"]
        assert configured.docker(*ulimit, "grep core /proc/self/limits").stdout.split()[4:6] == ["5", "5"]
    finally:
        configured.docker("rm", "-f", "home", check=True)


def test_each_runtime_has_its_own_arguments(configured: Dockerd) -> None:
    show = (*NONE, IMAGE, "cat", "/sys/fs/cgroup/pids/pids.max")
    names = ("limited", "debugging", "runc")
    seen = {name: configured.docker("run", "--rm", "--runtime", name, *show) for name in names}
    assert {name: (done.returncode, done.stdout) for name, done in seen.items()} == {
        "limited": (0, "77\n"), "debugging": (0, "max\n"), "runc": (0, "max\n"),
    }  # fmt: skip
    assert configured.docker("info", "-f", "{{.DefaultRuntime}}").stdout == "corten\n"
    listed = json.loads(configured.docker("info", "-f", "{{json .Runtimes}}").stdout)
    assert listed["limited"]["runtimeArgs"] == ["--default-pids-limit", "77"]


@pytest.fixture(scope="module", params=["20.10", "26.1"])
def remapped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """dockerd with --userns-remap: its root is uid 200000 of the machine."""
    folder = tmp_path_factory.mktemp("ids")
    for name in ("subuid", "subgid"):
        (folder / name).write_text("daemon:200000:65536\n")
    binds = " && ".join(f"mount --bind {folder}/{name} /etc/{name}" for name in ("subuid", "subgid"))
    args = ("--userns-remap", "daemon:daemon")
    with Dockerd(request.param, runtimes={"corten": Path(CORTEN)}, args=args, prepare=binds) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


def looks(engine: Dockerd, runtime: str, options: tuple[str, ...]) -> tuple[Look, Look]:
    """What a container shows of itself, and what an exec in one like it does."""
    words = ("--name", "look", "--hostname", "box", "--runtime", runtime, *options, IMAGE)
    try:
        first = engine.docker("run", *words, "sh", "-c", sameness.LOOK)
        seen = [sameness.parse(first.stdout + first.stderr, ids(engine))]
        engine.docker("rm", "-f", "-v", "look", check=True)
        engine.docker("run", "-d", *words, "sleep", "1000", check=True)
        second = engine.docker("exec", "look", "sh", "-c", sameness.LOOK)
        return seen[0], sameness.parse(second.stdout + second.stderr, ids(engine))
    finally:
        engine.docker("rm", "-f", "-v", "look")
        engine.docker("volume", "rm", "-f", "data")


def ids(engine: Dockerd) -> dict[str, str]:
    found = engine.docker("inspect", "-f", "{{.Id}}", "look", check=True).stdout.strip()
    return {found: "ID", found[:12]: "ID"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in FULL else ()) for name in LOOKS])
def test_below_remapped_ids_a_container_shows_what_it_shows_with_runc(remapped: Dockerd, name: str) -> None:
    theirs, ours = (looks(remapped, runtime, LOOKS[name]) for runtime in ("runc", "corten"))
    for their_look, our_look in zip(theirs, ours, strict=True):
        compare(their_look, our_look)
    expected = "0 0 4294967295" if name == "host ids" else "0 200000 65536"
    assert ours[0].sections["uid_map"][""].split() == expected.split()


def test_below_remapped_ids_a_container_lives_as_it_does_with_runc(remapped: Dockerd) -> None:
    rows: dict[str, list[Any]] = {"runc": [], "corten": []}
    for runtime, found in rows.items():
        words = ("run", "-d", "--name", "life", "--runtime", runtime, *NONE, "-v", "/:/host", IMAGE, "sleep", "1000")
        remapped.docker(*words, check=True)
        try:
            for line in (
                ("exec", "life", "sh", "-c", "id; touch /x /host/x; ls -ln /x; exit 3"),
                ("exec", "-u", "7:8", "life", "id"),
                ("exec", "-t", "life", "tty"),
                ("exec", "--privileged", "life", "true"),
                ("pause", "life"),
                ("unpause", "life"),
                ("update", "-m", "100m", "--memory-swap", "200m", "life"),
                ("restart", "-t", "0", "life"),
                ("exec", "life", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
                ("kill", "life"),
            ):
                done = remapped.docker(*line)
                found.append((line, done.returncode, done.stdout.partition(":")[0], done.stderr))
        finally:
            remapped.docker("rm", "-f", "life", check=True)
    assert rows["corten"] == rows["runc"]
