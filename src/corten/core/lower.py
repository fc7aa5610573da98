"""What the layers below show at a path, without mounting them.

overlayfs.rst, "Upper and Lower", "whiteouts and opaque directories": the first layer that has the name decides, unless
it is a directory: directories merge downwards until one is opaque.  Links are reported, never followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from corten.sys.openat2 import O_PATH, openat2

OPAQUE_XATTR = "trusted.overlay.opaque"


@dataclass(frozen=True, slots=True)
class Found:
    """The file that the layers below show; `fd` of its layer's root, `path` in it."""

    status: os.stat_result
    layer_fd: int
    path: bytes

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)

    def open(self, flags: int) -> int:
        """A descriptor of it, which the caller closes."""
        return openat2(self.layer_fd, self.path, flags | os.O_NOFOLLOW)

    def target(self) -> bytes:
        """Where a symbolic link points."""
        fd = self.open(O_PATH)
        try:
            return os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether it hides the name below: a character device 0/0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class LowerView:
    """A stack of finished layers, by descriptors of their roots, topmost first.

    The descriptors stay the caller's.  Answers are kept: the layers do not change.
    """

    def __init__(self, layer_fds: Sequence[int]) -> None:
        self._merged: dict[bytes, tuple[int, ...]] = {b"": tuple(layer_fds)}
        self._found: dict[bytes, Found | None] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies below."""
        return not self._merged[b""]

    def find(self, path: bytes) -> Found | None:
        """What is at `path` (relative, plain components); None when nothing is, or a link or file is on the way."""
        if path not in self._found:
            parent = path.rpartition(b"/")[0]
            layers = self._directory_layers(parent)
            self._found[path], self._merged[path] = self._look(path, layers)
        return self._found[path]

    def layers(self, path: bytes) -> tuple[int, ...]:
        """Descriptors of the layers whose directories merge at `path`, topmost first; none when it is no directory."""
        return self._directory_layers(path)

    def _directory_layers(self, path: bytes) -> tuple[int, ...]:
        if path not in self._merged:
            self.find(path)
        return self._merged[path]

    def _look(self, path: bytes, layers: tuple[int, ...]) -> tuple[Found | None, tuple[int, ...]]:
        first: Found | None = None
        merged: list[int] = []
        for layer_fd in layers:
            status, is_opaque = _status(layer_fd, path)
            if status is None:
                continue
            if is_whiteout(status):
                break
            is_directory = stat.S_ISDIR(status.st_mode)
            if first is None:
                first = Found(status, layer_fd, path)
            if not is_directory:
                break
            merged.append(layer_fd)
            if is_opaque:
                break
        return first, tuple(merged)


def _status(layer_fd: int, path: bytes) -> tuple[os.stat_result | None, bool]:
    try:
        fd = openat2(layer_fd, path, O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None, False
        raise
    try:
        status = os.fstat(fd)
        return status, stat.S_ISDIR(status.st_mode) and _is_opaque(fd)
    finally:
        os.close(fd)


def _is_opaque(fd: int) -> bool:
    # an O_PATH descriptor has no fgetxattr; the magic link names exactly this directory
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
            return False
        raise
