"""The C library, loaded once, for system calls that Python does not wrap.

Not on the runtime's cold path: ctypes costs milliseconds to import (design.md §7).
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """`syscall(2)`.  Integers are passed as 64-bit words, bytes as pointers.

    Raises:
        OSError: with the errno of the call.
    """
    words = [ctypes.c_long(word) if isinstance(word, int) else ctypes.c_char_p(word) for word in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        fail()
    return result


def fail(path: str | None = None) -> None:
    """Raise the OSError of the call that just failed, naming `path` when there is one."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def function(name: str) -> ctypes._NamedFuncPointer:
    """A function of the C library by name."""
    pointer: ctypes._NamedFuncPointer = getattr(_libc, name)
    return pointer
