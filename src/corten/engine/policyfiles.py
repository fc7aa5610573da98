"""Policy files on disk: read by descriptor, and only where nobody but root and the engine's user can write.

Whoever writes such a file decides what every container gets, so its owner and mode are looked at, and those of every
directory above it (one in which anybody may make files must be sticky, as /tmp is).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

import msgspec

from corten.errors import InvalidArgument

MAX_BYTES: Final = 1 << 20
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class PolicyFile(msgspec.Struct, frozen=True):
    """One that was read."""

    path: str
    text: str


def load(paths: Sequence[str]) -> tuple[PolicyFile, ...]:
    """All of them.  Raises InvalidArgument naming the file."""
    return tuple(PolicyFile(path, read(path)) for path in paths)


def read(path: str) -> str:
    """One file's text.  Raises InvalidArgument naming it."""
    if os.path.realpath(path) != path:
        raise InvalidArgument(f"{path}: a symbolic link is in the way: give {os.path.realpath(path)}")
    try:
        _check_directories(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            _check_file(path, os.fstat(fd))
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"open {path}: {(error.strerror or '').lower()}") from error
    if len(data) > MAX_BYTES:
        raise InvalidArgument(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: not UTF-8") from error


def _check_file(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidArgument(f"{path}: not a regular file")
    _check_owner(path, found)
    if found.st_mode & _OTHERS:
        raise InvalidArgument(f"{path}: writable by others (mode {stat.S_IMODE(found.st_mode):04o})")


def _check_directories(path: str) -> None:
    directory = path
    while directory != "/":
        directory = os.path.dirname(directory)
        found = os.lstat(directory)
        _check_owner(directory, found)
        if found.st_mode & _OTHERS and not found.st_mode & stat.S_ISVTX:
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            raise InvalidArgument(f"{path}: its directory {directory} is writable by others (mode {mode})")


def _check_owner(path: str, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise InvalidArgument(f"{path}: owned by uid {found.st_uid}, not by root")
