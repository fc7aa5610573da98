"""syncfs(2): everything that was written to one filesystem reaches the disk before this returns."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def syncfs(fd: int) -> None:
    """Writes back the filesystem that `fd` lies on; raises OSError, also for an earlier failure of writing back."""
    if _libc.syncfs(ctypes.c_int(fd)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
