"""The files of a container or layer, read from the directories of its layers; nothing is mounted.

overlayfs.rst, "Upper and Lower": topmost first, the first layer that has a name decides, and directories merge
downwards until one is opaque or is hidden by something else.  A container that runs has other mounts over its root, and
through those its root cannot be seen whole; its layers can.  Everything below the layers' roots is the container's: it
is opened by descriptor (`openat2`, no links, no mount points), and what is read is a regular file for certain.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corten.core.lower import OPAQUE_XATTR, is_whiteout
from corten.errors import FailedPrecondition
from corten.sys.openat2 import O_PATH, openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOATIME | os.O_CLOEXEC
VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV})
"""What says that a name is gone by now, or that something else has come in its way."""

_REDIRECT, _METACOPY = "trusted.overlay.redirect", "trusted.overlay.metacopy"


@dataclass(frozen=True, slots=True)
class Node:
    """One file; `layers` are descriptors of the layers' roots that have it, topmost first: of directories all of them.

    A whiteout is one only where the upper layer alone is read.
    """

    path: bytes
    """From the root, without a slash in front."""
    status: os.stat_result
    layers: tuple[int, ...]
    is_opaque: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it stands for a name that is gone."""
        return is_whiteout(self.status)

    def open(self) -> int:
        """An O_PATH descriptor, the caller's.  Raises OSError, of VANISHED when it is gone by now."""
        return openat2(self.layers[0], self.path, O_PATH | os.O_NOFOLLOW)

    def target(self) -> bytes:
        """Where a symbolic link leads; b"" when it is none by now."""
        fd = self.open()
        try:
            return os.readlink(b"", dir_fd=fd)
        except OSError:
            return b""
        finally:
            os.close(fd)


def reopen(fd: int) -> int:
    """A regular file's O_PATH descriptor as one to read: the magic link names exactly this file."""
    return os.open(f"/proc/self/fd/{fd}", _READ)


def check_here(xattrs: Sequence[str], path: bytes) -> None:
    """Raises FailedPrecondition for what stands for a directory or for data in a layer below, by its attributes."""
    if _REDIRECT in xattrs or _METACOPY in xattrs:
        shown = path.decode(errors="replace")
        raise FailedPrecondition(f"{shown}: overlayfs with redirect_dir or metacopy is not supported")


def merged(layer_fds: Sequence[int]) -> Iterator[Node]:
    """What a mount of the layers shows, in order of names, a directory before what is in it; the root left out.

    Raises FailedPrecondition for files that overlayfs keeps elsewhere (redirect_dir, metacopy); OSError.
    """
    yield from _walk(tuple(layer_fds), shows_whiteouts=False)


def upper(layer_fd: int) -> Iterator[Node]:
    """What one layer has, whiteouts too; otherwise as `merged`."""
    yield from _walk((layer_fd,), shows_whiteouts=True)


def names(path: bytes, layer_fds: Sequence[int]) -> set[bytes]:
    """Names that a directory of these layers shows."""
    return {node.path.rpartition(b"/")[2] for node in _children(path, tuple(layer_fds), shows_whiteouts=False)}


def _walk(layer_fds: tuple[int, ...], *, shows_whiteouts: bool) -> Iterator[Node]:
    pending = [iter(_children(b"", layer_fds, shows_whiteouts))]
    while pending:
        node = next(pending[-1], None)
        if node is None:
            pending.pop()
            continue
        yield node
        if node.is_directory:
            pending.append(iter(_children(node.path, node.layers, shows_whiteouts)))


class _Merging:
    """A name on its way through the layers."""

    __slots__ = ("is_closed", "is_opaque", "layers", "status")

    def __init__(self, status: os.stat_result, layer_fd: int, is_opaque: bool) -> None:
        self.status = status
        self.layers = [layer_fd]
        self.is_opaque = is_opaque
        self.is_closed = is_opaque or not stat.S_ISDIR(status.st_mode)


def _children(path: bytes, layer_fds: tuple[int, ...], shows_whiteouts: bool) -> list[Node]:
    """The files in a directory that these layers have; nothing when it is gone by now."""
    found: dict[bytes, _Merging] = {}
    for layer_fd in layer_fds:
        try:
            fd = openat2(layer_fd, path or b".", _DIRECTORY)
        except OSError as error:
            if error.errno in VANISHED:
                continue
            raise
        try:
            _merge(fd, layer_fd, found)
        finally:
            os.close(fd)
    prefix = path + b"/" if path else b""
    nodes = [Node(prefix + name, one.status, tuple(one.layers), one.is_opaque) for name, one in sorted(found.items())]
    return nodes if shows_whiteouts else [node for node in nodes if not node.is_whiteout]


def _merge(fd: int, layer_fd: int, found: dict[bytes, _Merging]) -> None:
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            known = found.get(name)
            if known is not None and known.is_closed:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                is_opaque = stat.S_ISDIR(status.st_mode) and _is_opaque(fd, name)
            except OSError as error:
                if error.errno in VANISHED:
                    continue
                raise
            if known is None:
                found[name] = _Merging(status, layer_fd, is_opaque)
            elif not stat.S_ISDIR(status.st_mode):
                known.is_closed = True
            else:
                known.layers.append(layer_fd)
                known.is_closed = is_opaque


def _is_opaque(parent_fd: int, name: bytes) -> bool:
    """Whether a directory hides those below.  Raises FailedPrecondition for one that stands for another."""
    fd = openat2(parent_fd, name, O_PATH | os.O_NOFOLLOW)
    try:
        names = os.listxattr(f"/proc/self/fd/{fd}")
        if not names:
            return False
        check_here(names, name)
        return OPAQUE_XATTR in names and os.getxattr(f"/proc/self/fd/{fd}", OPAQUE_XATTR) == b"y"
    finally:
        os.close(fd)
