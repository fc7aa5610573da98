"""Names of system calls by their numbers: seccomp_syscall_resolve_num_arch(3)."""

from __future__ import annotations

import ctypes
import functools
from typing import Final

_LIBRARY: Final = "libseccomp.so.2"
_X32: Final = 0x4000003E  # SCMP_ARCH_X32: audit tells x32 by a bit of the number alone
_X32_BIT: Final = 0x40000000


@functools.lru_cache(maxsize=1024)
def call_name(arch: int, number: int) -> str:
    """`mkdirat`; "" for a number that libseccomp does not know, and without it.  arch: AUDIT_ARCH_*."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ""
    resolve = library.seccomp_syscall_resolve_num_arch
    resolve.restype, resolve.argtypes = ctypes.c_void_p, (ctypes.c_uint32, ctypes.c_int)
    name = resolve(_X32 if number & _X32_BIT else arch, number)
    if not name:
        return ""
    try:
        return ctypes.string_at(name).decode("ascii", "replace")
    finally:
        free = ctypes.CDLL(None).free
        free.restype, free.argtypes = None, (ctypes.c_void_p,)
        free(name)
