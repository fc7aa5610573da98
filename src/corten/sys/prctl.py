"""`prctl(2)` and the process's title."""

from __future__ import annotations

import ctypes
import os

from corten.sys.libc import fail, function

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def set_name(name: str) -> None:
    """The thread's name as in /proc/PID/comm, cut to 15 bytes."""
    _prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()))


def set_child_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def set_death_signal(signum: int) -> None:
    """What this process gets when the thread that forked it ends; forked children do not inherit it."""
    _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signum))


class Title:
    """The place of argv, which ps shows (proc(5), stat fields 48 and 49); the same in forked children."""

    __slots__ = ("_room", "_start")

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        self._start = int(fields[45])
        self._room = int(fields[46]) - self._start

    def write(self, title: str) -> None:
        """Overwrite argv, cut to its room.  Through a file: ctypes would cost a shim 300 KB of pages of its own."""
        fd = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, title.encode()[: self._room - 1].ljust(self._room, b"\0"), self._start)
        finally:
            os.close(fd)


def _prctl(option: int, argument: ctypes.c_char_p | ctypes.c_ulong) -> None:
    zero = ctypes.c_ulong(0)
    if function("prctl")(ctypes.c_int(option), argument, zero, zero, zero) != 0:
        fail()
