"""Detached mounts for tests, by system call: what the shim makes for the launcher."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432
SET_STRING, CMD_CREATE = 1, 6


def _call(number: int, *args: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *args)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


@contextmanager
def detached_overlay(lower: Path, folder: Path) -> Iterator[int]:
    """An overlay over `lower` with its upper directory in `folder`, attached nowhere; its descriptor."""
    (folder / "upper").mkdir()
    (folder / "work").mkdir()
    fs_fd = _call(FSOPEN, b"overlay", 1)
    try:
        for key, value in (("lowerdir", lower), ("upperdir", folder / "upper"), ("workdir", folder / "work")):
            _call(FSCONFIG, fs_fd, SET_STRING, key.encode(), os.fsencode(value), 0)
        _call(FSCONFIG, fs_fd, CMD_CREATE, None, None, 0)
        fd = _call(FSMOUNT, fs_fd, 1, 0)
    finally:
        os.close(fs_fd)
    try:
        yield fd
    finally:
        os.close(fd)
