"""Control groups as the kernel shows them: mounts, directories, one file at a time.

What a container's cgroup is and which files it needs is decided in `runtime.cgroups`.
Sources: cgroups(7), cgroup-v1/*.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import posix
import time

from corten.errors import Internal
from corten.sys import files

PROCS = "cgroup.procs"
REMOVE_ATTEMPTS = 14  # 0.5 ms doubled each time up to 0.25 s: about two seconds in all
FIRST_PAUSE_S = 0.0005
LONGEST_PAUSE_S = 0.25


def mounts(mountinfo: str) -> tuple[dict[str, str], str]:
    """The hierarchies in /proc/self/mountinfo: (v1 controller → mount point, v2 mount point or '').

    Controllers are named as in /proc/self/cgroup: a hierarchy without one is `name=systemd`.
    """
    version_1: dict[str, str] = {}
    version_2 = ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if not separator or not after.startswith("cgroup"):
            continue
        point = before.split(" ")[4]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            version_2 = version_2 or point
            continue
        for option in options.split(","):
            if option in CONTROLLERS or option.startswith("name="):
                version_1.setdefault(option, point)
    return version_1, version_2


CONTROLLERS = frozenset(
    (
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
    )
)


class Refused(Internal):
    """A file of a cgroup did not take a value; the text is runc's."""

    def __init__(self, text: str, errno: int) -> None:
        super().__init__(text)
        self.errno = errno


def write(directory: str, file: str, value: str) -> None:
    """Sets one file; raises Refused with the file, the value and the kernel's answer."""
    write_each(directory, file, [value])


def write_each(directory: str, file: str, values: list[str]) -> None:
    """Several values for one file, a write(2) each; raises as `write` does."""
    path = f"{directory}/{file}"
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"open {path}: {files.why(error)}", error.errno or 0) from error
    value = values[0]
    try:
        for value in values:
            posix.write(fd, value.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise Refused(f'failed to write "{value}": write {path}: {files.why(error)}', error.errno or 0) from error
    finally:
        posix.close(fd)


def read_numbers(directory: str, file: str) -> dict[str, int]:
    """A flat keyed file (`oom_kill 3`), or {} when it does not exist, or no more."""
    pairs = (line.rsplit(" ", 1) for line in _text(directory, file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def read_number(directory: str, file: str) -> int:
    """A file of one number; -1 for `max`, 0 when it does not exist, or no more."""
    text = _text(directory, file).strip()
    return -1 if text == "max" else int(text or 0)


def _text(directory: str, file: str) -> str:
    """What a file says, '' when it does not exist; the cgroup may be removed at any moment (ENODEV)."""
    try:
        return files.read_text(f"{directory}/{file}")
    except OSError as error:
        if error.errno not in GONE:
            raise
        return ""


def pids(directory: str) -> list[int]:
    """Every process in `directory` and below; a directory that vanishes has none."""
    found: list[int] = []
    for place, name in files.directories_below(directory):
        found += _members(f"{name}/{PROCS}", place)
    return found + _members(f"{directory}/{PROCS}")


def _members(path: str, dir_fd: int | None = None) -> list[int]:
    """The processes that a cgroup.procs lists."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=dir_fd)
        try:
            return [int(word) for word in files.read_fd(fd).split()]
        finally:
            posix.close(fd)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []


ENOENT, EBUSY, ENODEV, ENOTDIR, EOPNOTSUPP = 2, 16, 19, 20, 95
GONE = (ENOENT, ENODEV, EOPNOTSUPP)  # EOPNOTSUPP: a threaded cgroup, whose processes its domain lists


def remove(directory: str) -> None:
    """Removes a cgroup and those below; waits for tasks that are still on their way out.

    A dead task keeps its cgroup busy until the kernel has let go of it, some milliseconds after its parent
    was told.  Raises Internal with the processes that are left when that does not happen in two seconds.
    """
    pause_s = FIRST_PAUSE_S
    for _ in range(REMOVE_ATTEMPTS):
        if _remove_once(directory):
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    raise Internal(f"remove cgroup {directory}: device or resource busy (processes: {pids(directory) or 'none'})")


def _remove_once(directory: str) -> bool:
    """One pass of rmdir; whether nothing is left."""
    try:
        posix.rmdir(directory)
    except OSError as error:
        if error.errno in (ENOENT, ENODEV):
            return True
        if error.errno != EBUSY:
            raise Internal(f"remove cgroup {directory}: {files.why(error)}") from error
    else:
        return True
    for place, name in files.directories_below(directory):
        try:
            posix.rmdir(name, dir_fd=place)
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV, EBUSY):
                raise Internal(f"remove cgroup {name} below {directory}: {files.why(error)}") from error
    return not files.exists(directory)
