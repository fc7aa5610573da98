"""`prctl(2)` and the process's title."""

from __future__ import annotations

import ctypes

from corten.sys.libc import fail, function

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def set_name(name: str) -> None:
    """The thread's name as in /proc/PID/comm, cut to 15 bytes."""
    _prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()))


def set_child_subreaper() -> None:
    """Orphaned descendants become children of this process."""
    _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def set_title(title: str) -> None:
    """Overwrite argv, so that ps shows `title`; cut to the room of argv (proc(5), stat fields 48, 49)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start
    ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def _prctl(option: int, argument: ctypes.c_char_p | ctypes.c_ulong) -> None:
    zero = ctypes.c_ulong(0)
    if function("prctl")(ctypes.c_int(option), argument, zero, zero, zero) != 0:
        fail()
