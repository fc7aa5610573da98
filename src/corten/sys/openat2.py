"""openat2(2): opens a path beneath a directory, with rules for the way there that the kernel enforces.

The kernel answers ELOOP for a link that the rules forbid, EXDEV for a way out, EAGAIN when a rename raced with the
lookup and it could not decide.  Not on the runtime's cold path (ctypes): there it is an op of the launcher.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_SYS_OPENAT2 = 437  # the same number on every architecture

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

O_PATH = os.O_PATH

STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
"""Nothing but plain directories on the way: no link, no `..` above the start, no mount point."""

_RACED_RETRIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]


def openat2(dir_fd: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = STRICT) -> int:
    """A close-on-exec descriptor of `path`, which may have several components, looked up from `dir_fd`.

    Raises:
        OSError: as the kernel answers, naming `path`.
    """
    if b"\0" in path:
        raise OSError(errno.EINVAL, "embedded null byte", path)
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_RACED_RETRIES):
        fd: int = _syscall(_SYS_OPENAT2, dir_fd, path, how, len(how))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)
