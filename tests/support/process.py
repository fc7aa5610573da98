"""Programs that a test keeps running, and what they leave behind: processes, mounts, cgroups."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import paths

CGROUPS = Path("/sys/fs/cgroup")
DEEP = 16


class NotReady(Exception):
    """A program ended, or did not come up in time; the text has the end of its log."""


class Daemon:
    """A process with its own session and a log file."""

    def __init__(self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = [str(word) for word in argv]
        self.log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=None if env is None else dict(env),
            )

    @property
    def pid(self) -> int:
        """The pid of the program (nsenter and unshare exec, so it is the daemon's own)."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended; reaps it when it has."""
        return self._process.poll() is None

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Polls `ready`; raises NotReady when the program ends first or the time (seconds) is over."""
        end = time.monotonic() + timeout
        while not ready():
            if not self.is_running():
                raise NotReady(f"{self.argv}: ended with {self._process.returncode} before {what}\n{self.log_tail()}")
            if time.monotonic() > end:
                raise NotReady(f"{self.argv}: no {what} after {timeout} s\n{self.log_tail()}")
            time.sleep(0.01)

    def stop(self, signum: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Signals it and waits; SIGKILL when the time (seconds) is over.  The return code."""
        if self.is_running():
            self._process.send_signal(signum)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait(timeout)


class Stuck(AssertionError):
    """A program did not end in time; the text says where it, and what it started, stood."""


def finish(
    argv: Sequence[str], timeout: float, *, stdin: bytes | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """`subprocess.run` with stdin from `stdin` or /dev/null, for at most `timeout` seconds.

    Raises Stuck after that, when the program and what it started are killed; `options` are those of Popen.
    """
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    with subprocess.Popen(argv, stdin=source, **options) as running:
        try:
            output, errors = running.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            stuck = [running.pid, *_started_by(running.pid)]
            where = "\n".join(_standing(pid) for pid in stuck)
            kill(stuck)
            raise Stuck(f"{argv} did not end in {timeout:g} s:\n{where}") from None
        except BaseException:  # the test's own time is over
            running.kill()
            raise
    return subprocess.CompletedProcess(argv, running.returncode, output, errors)


def children(pid: int) -> list[int]:
    """Pids that the main thread of a process started and has not reaped (proc_pid_task(5)).

    Raises FileNotFoundError when the process is gone.
    """
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _started_by(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):  # it ends
        for child in children(pid):
            yield child
            yield from _started_by(child)


def _standing(pid: int) -> str:
    """Command line, state, system call and kernel stack of a process, as far as it still has them."""
    words = []
    for name in ("cmdline", "stat", "syscall", "wchan", "stack", "cgroup"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            words.append(f"{name}: {text}")
    return f"process {pid}: " + "\n  ".join(words)


def is_alive(pid: int) -> bool:
    """Whether `pid` runs: zombies count as dead."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes(mark: str) -> Iterator[int]:
    """Pids whose command line has `mark` in it, this process and zombies left out."""
    for entry in _others():
        with suppress(OSError):  # it ends
            if mark.encode() in (entry / "cmdline").read_bytes():
                yield int(entry.name)


def holders(mark: str) -> Iterator[int]:
    """Pids that have something open, or are, at a path with `mark` in it: a launcher's command line tells nothing."""
    for entry in _others():
        with suppress(OSError):
            links = [entry / "cwd", entry / "root", *(entry / "fd").iterdir()]
            if any(mark in _target(link) for link in links):
                yield int(entry.name)


def _others() -> Iterator[Path]:
    """Directories in /proc of every process but this one."""
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid())


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def kill_all(mark: str, timeout: float = 60) -> list[str]:
    """SIGKILLs every process with `mark` in its command line and waits; where each of them stood.

    `mark` must be a random path of the caller's own: nothing else may match.
    """
    assert len(mark) >= 16, f"{mark!r} is too short to be somebody's own"
    found = list(processes(mark))
    told = [_standing(pid) for pid in found]
    kill(found, timeout)
    return told


def kill(pids: Iterable[int], timeout: float = 60) -> None:
    """SIGKILLs these processes and waits."""
    killed = list(pids)
    for pid in killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_for(lambda: not any(is_alive(pid) for pid in killed), f"death of {killed}", timeout)


def wait_for(ready: Callable[[], object], what: str, timeout: float = 60) -> None:
    """Polls `ready` every 10 ms; AssertionError naming `what` when the time (seconds) is over."""
    end = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < end, f"no {what} after {timeout} s"
        time.sleep(0.01)


def mounts_below(folder: Path) -> list[str]:
    """Mount points of this mount namespace at or below `folder`, the deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point == str(folder) or point.startswith(f"{folder}/")]


def unmount_below(folder: Path) -> list[str]:
    """Detaches everything that is mounted at or below `folder`."""
    found = mounts_below(folder)
    for point in found:
        subprocess.run(["umount", "--lazy", point], check=False)
    return found


def cgroups_named(mark: str) -> list[Path]:
    """Every cgroup directory, of any hierarchy, whose own name has `mark` in it or that lies below one.

    Those of another run of the tests are passed over: they may be many, nested to any depth.  What is below `DEEP` is
    left out.
    """
    found, left = [], [str(CGROUPS)]
    while left:
        base = left.pop()
        if mark in base:
            found.append(Path(base))
        if base.count("/") - str(CGROUPS).count("/") == DEEP:
            continue
        with suppress(OSError), os.scandir(base) as entries:  # one that has gone, or is too deep for a path
            for entry in entries:
                is_another = entry.name.startswith(paths.PREFIX) and mark not in entry.path
                if not is_another and entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
    return found


def engines_below(*folders: Path) -> list[str]:
    """Names of the cgroup parents of the engines whose data roots are in `folders`, not deep: those of its containers.

    That of its shims begins with the same.
    """
    files = {file for folder in folders for depth in range(4) for file in folder.glob("*/" * depth + "engine-id")}
    return [f"corten-{text}" for file in files if re.fullmatch("[0-9a-f]{8}", text := file.read_text().strip())]


def remove_cgroups(mark: str) -> list[Path]:
    """Kills what is in the cgroups of `mark` and removes them, the deepest first."""
    found = sorted(cgroups_named(mark), key=lambda path: len(path.parts), reverse=True)
    for path in found:
        _empty(path)
    for path in found:
        wait_for(lambda path=path: _removed(path), f"end of {path}")  # type: ignore[misc]
    return found


def _empty(cgroup: Path) -> None:
    try:
        pids = (cgroup / "cgroup.procs").read_text().split()
    except OSError:  # ENOENT, ENODEV: somebody else has removed it meanwhile
        return
    for pid in pids:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


def _removed(cgroup: Path) -> bool:
    try:
        if len(cgroup.relative_to(CGROUPS).parts) == DEEP:
            subprocess.run(["find", str(cgroup), "-mindepth", "1", "-depth", "-type", "d", "-delete"], check=False)
        cgroup.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
