"""A machine of its own for the judge, in which everything new is the engine's, also what bears no name of it.

    python3 -m support.leaks.alone FOLDER        (by tests/faults/test_leaks_alone.py, below unshare(1))

It runs in namespaces of its own for processes, mounts, network, ipc and host name.  Before the first engine it puts
empty file systems over the public folders, moves into cgroups of its own and mounts each hierarchy anew from there
(cgroup_namespaces(7)): neighbours are out of sight.  Its parent, which collects orphans, is process 1.

Then, with a warm engine, whole lives must leave nothing at all, and neither may a death of each kind of process that
the engine has; leaks without a name are planted and must be found.  Each finding is a line on standard output.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import images, paths
from support.engine import CortenEngine
from support.faultlife import Life
from support.killpoints import Named, NamedTrace
from support.leaks import Leak, Snapshot, Subject, diff, expect_none
from support.leaks.mounts import mountinfo
from support.process import wait_for
from support.warmup import warm_up

CLONE_NEWCGROUP = 0x02000000
MASKED = ("/tmp", "/run", "/var/tmp", "/dev/shm", "/var/log")
GROUP = "corten-test-{pid}-alone"  # pid: of the test, which removes it
SECONDS = 60.0
_libc = ctypes.CDLL(None, use_errno=True)


# The machine.


def hide_neighbours() -> None:
    """Empty public folders; what is needed of them (the checkout, the cache) is bound into its place again."""
    needed = [path for path in (paths.REPOSITORY, paths.cache(), Path(sys.prefix)) if path.is_dir()]
    with ExitStack() as held:
        fds = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in needed}
        for fd in fds.values():
            held.callback(os.close, fd)
        for folder in (one for one in MASKED if os.path.isdir(one) and not os.path.islink(one)):
            run("mount", "-t", "tmpfs", "-o", "mode=1777", "alone", folder)
        for path, fd in fds.items():
            if not path.exists():
                path.mkdir(parents=True)
                run("mount", "--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{fd}", str(path))


def own_cgroups(name: str) -> None:
    """A group of this name in every hierarchy, which then is the root of all that can be seen."""
    mounts = {mount.point: mount for mount in mountinfo("self") if mount.kind in ("cgroup", "cgroup2")}
    for mount in mounts.values():
        folder = Path(mount.point, name)
        folder.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if mount.kind == "cgroup" and (folder / setting).exists():
                (folder / setting).write_text((folder.parent / setting).read_text())
        (folder / "cgroup.procs").write_text("0")
    if _libc.unshare(CLONE_NEWCGROUP) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
    for mount in mounts.values():
        run("umount", mount.point)
        if mount.kind == "cgroup2":
            run("mount", "-t", "cgroup2", "cgroup2", mount.point)
        else:
            run(
                "mount",
                "-t",
                "cgroup",
                "-o",
                mount.options.partition(";")[2].removeprefix("rw,"),
                "cgroup",
                mount.point,
            )


def run(*argv: str) -> None:
    """A command that must succeed."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


# Leaks without a name.


@dataclass(frozen=True, slots=True)
class Plant:
    """A leak of a kind, found by this part of its text; `place` is undone by what it returns."""

    kind: str
    what: str
    place: Callable[[], Callable[[], object]]


def commands(*argv: str, back: tuple[str, ...]) -> Callable[[], Callable[[], object]]:
    """One command plants, another uproots."""

    def place() -> Callable[[], object]:
        run(*argv)
        return lambda: run(*back)

    return place


def process(*argv: str) -> Callable[[], Callable[[], object]]:
    """An orphan."""

    def place() -> Callable[[], object]:
        program = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=-3, stderr=-3).pid)"
        argv_ = [sys.executable, "-W", "ignore", "-c", program, *argv]
        pid = int(subprocess.run(argv_, check=True, stdout=subprocess.PIPE).stdout)
        return lambda: os.kill(pid, 9)

    return place


def file(path: str) -> Plant:
    """An empty one."""

    def place() -> Callable[[], object]:
        Path(path).touch()
        return lambda: Path(path).unlink()

    return Plant("file", path, place)


def cgroup(kind: str) -> Plant:
    """An empty one in a hierarchy of that kind."""
    point = next(mount.point for mount in mountinfo("self") if mount.kind == kind)

    def place() -> Callable[[], object]:
        folder = Path(point, "nobodys")
        folder.mkdir()
        return folder.rmdir

    return Plant("cgroup", "/nobodys", place)


def abstract_socket() -> Callable[[], object]:
    """A name that no file system has."""
    made = socket.socket(socket.AF_UNIX)
    made.bind("\0nobodys")
    return made.close


SLEEPER = "import os, time; os.memfd_create('nobodys'); time.sleep(4716)"
ZOMBIE = "import os, time; os.posix_spawnp('true', ['true'], os.environ); time.sleep(4717)"


def plants() -> Iterator[Plant]:
    """Every kind that the judge knows but keyrings."""
    yield Plant("process", "sleep 4715", process("sleep", "4715"))
    yield Plant("descriptor", "memfd nobodys", process(sys.executable, "-c", SLEEPER))
    yield Plant("zombie", ": true", process(sys.executable, "-c", ZOMBIE))
    yield Plant("mount", "tmpfs nobodys", commands("mount", "-t", "tmpfs", "nobodys", "/mnt", back=("umount", "/mnt")))
    inside = ("unshare", "--mount", "sh", "-c", "mount -t tmpfs nobodys /mnt; exec sleep 4718")
    yield Plant("mount", "nobodys at /mnt", process(*inside))
    if any(mount.kind == "cgroup" for mount in mountinfo("self")):
        yield cgroup("cgroup")
    if any(mount.kind == "cgroup2" for mount in mountinfo("self")):
        yield cgroup("cgroup2")
    named = commands("ip", "netns", "add", "nobodys", back=("ip", "netns", "delete", "nobodys"))
    yield Plant("network namespace", "nobodys", named)
    yield Plant("network namespace", "it exists", process("unshare", "--net", "sleep", "4719"))
    link = commands("ip", "link", "add", "nobodys0", "type", "bridge", back=("ip", "link", "delete", "nobodys0"))
    yield Plant("link", "nobodys0", link)
    table = commands("nft", "add table ip nobodys", back=("nft", "delete table ip nobodys"))
    yield Plant("nft", "table ip nobodys", table)
    yield Plant("socket name", "@nobodys", abstract_socket)
    yield from (file(f"{folder}/nobodys") for folder in ("/tmp", "/run", "/dev/shm"))


def found(before: Snapshot, plant: Plant) -> Leak:
    """The planted one, as soon as it is seen."""
    end = time.monotonic() + SECONDS
    while True:
        leaks = diff(before, Snapshot.take(before.subject))
        for leak in leaks:
            if leak.fact.kind == plant.kind and plant.what in str(leak):
                return leak
        assert time.monotonic() < end, f"{plant.kind} {plant.what!r} was not found, but {[str(one) for one in leaks]}"
        time.sleep(0.05)


# The run.


def pid_of(pattern: str) -> int:
    """The one process with this in its command line, as soon as there is one."""
    end = time.monotonic() + SECONDS
    while True:
        done = subprocess.run(["pgrep", "-f", "--", pattern], check=False, stdout=subprocess.PIPE, text=True)
        if len(found := done.stdout.split()) == 1:
            return int(found[0])
        assert time.monotonic() < end, f"{pattern}: {found}"
        time.sleep(0.02)


# Each in the middle of a life that is traced: (who, the point, the process that is traced).
DEATHS: tuple[tuple[str, Named, str], ...] = (
    ("shim", (1, "child receive op start"), "corten-shim --zygote --exec-root {exec_root}"),
    ("zygote", (1, "receive op fork"), "corten-shim --zygote --exec-root {exec_root}"),
    ("helper", (2, "rename state.json"), "corten-shim helper {exec_root}"),
    ("cortend", (1, "receive answer to start"), ""),
)


def die(engine: CortenEngine, who: str, point: Named, traced: str) -> None:
    """One life with one death; its verdict; cortend is started again when it was the one."""
    pid = pid_of(traced.format(exec_root=engine.exec_root)) if traced else engine.pid
    life = Life(engine)
    with NamedTrace(
        pid, kill=point, forks="--zygote" in traced, threads=who == "helper", late=who == "helper"
    ) as trace:
        life.run()
        trace.end()
    assert trace.killed == point, f"{who}: killed at {trace.killed}, not at {point}: {life.failure}"
    if who == "cortend":
        engine.kill9()
        engine.start()
    if who == "shim":
        wait_for(
            lambda: (life.state() or {"Status": "created"})["Status"] in ("created", "exited"), "the shim's verdict"
        )
    life.judge(lost=who == "shim")


@contextmanager
def alone_with(engine: CortenEngine) -> Iterator[Snapshot]:
    """The block must leave nothing at all."""
    before = Snapshot.take(Subject.of(engine, alone=True))
    yield before
    expect_none(before)


def main(name: str) -> None:
    """`name`: of the cgroups."""
    hide_neighbours()
    own_cgroups(name)
    run("ip", "link", "set", "lo", "up")
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        with alone_with(engine):
            for network in ("bridge", "none", "bridge"):
                life = Life(engine, network=network)
                life.run()
                assert not life.failure, life.failure
            engine.docker("run", "--rm", "-p", "8088:80", images.BUSYBOX_REF, "true", check=True)
        print("clean: three lives and a --rm", flush=True)
        for who, point, traced in DEATHS:
            with alone_with(engine):
                die(engine, who, point, traced)
            print(f"clean: a death, {who}", flush=True)
        for plant in plants():
            with alone_with(engine) as before:
                uproot = plant.place()
                leak = found(before, plant)
                uproot()
            print(f"found: {leak}", flush=True)
        with alone_with(engine):
            engine.docker("run", "-d", "--name", "over", "-p", "8088:80", images.BUSYBOX_REF, "sleep", "99", check=True)
            engine.kill9()
            engine.start()
            engine.docker("rm", "-f", "over", check=True)
        print("clean: a kill and an adoption", flush=True)
    shutil.rmtree("/tmp/nobodys", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
