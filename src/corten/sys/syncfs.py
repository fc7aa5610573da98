"""syncfs(2): everything that was written to one filesystem reaches the disk before this returns."""

from __future__ import annotations

from corten.sys.libc import fail, function

_syncfs = function("syncfs")


def syncfs(fd: int) -> None:
    """Writes back the filesystem that `fd` lies on; raises OSError, also for an earlier failure of writing back."""
    if _syncfs(fd) < 0:
        fail()
