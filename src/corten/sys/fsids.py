"""Who a thread is to file systems, for a moment (setfsuid(2), setfsgid(2))."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from corten.sys.libc import fail, function

_PR_SET_SECUREBITS = 28
_PR_GET_SECUREBITS = 27
_SECBIT_NO_SETUID_FIXUP = 1 << 2


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """This thread alone makes files of these ids inside the `with`, and keeps all its rights (capabilities(7)).

    On an id-mapped mount nobody makes files whose ids have no mapping there, the host's root neither.  Raises OSError.
    """
    before = _prctl(_PR_GET_SECUREBITS, 0)
    _prctl(_PR_SET_SECUREBITS, before | _SECBIT_NO_SETUID_FIXUP)
    try:
        old = function("setfsuid")(ctypes.c_uint(uid)), function("setfsgid")(ctypes.c_uint(gid))
        try:
            yield
        finally:
            function("setfsgid")(ctypes.c_uint(old[1]))
            function("setfsuid")(ctypes.c_uint(old[0]))
    finally:
        _prctl(_PR_SET_SECUREBITS, before)


def _prctl(option: int, argument: int) -> int:
    zero = ctypes.c_ulong(0)
    result: int = function("prctl")(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero)
    if result < 0:
        fail()
    return result
