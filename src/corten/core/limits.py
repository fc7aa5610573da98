"""Budgets for what strangers send (field.md D9, D12): one value, passed to everything that reads an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from corten.errors import Unavailable

_SPACE_EVERY = 64 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one archive or layer may ask for.  Sizes are bytes."""

    entries: int = 4_000_000
    """Headers of any kind in one archive."""
    path: int = 4096
    """A whole path or link target: PATH_MAX."""
    name: int = 255
    """One component: NAME_MAX."""
    names: int = 256 << 20
    """Names, link targets and extended attributes of all entries: much of them is kept to the end of a layer."""
    header: int = 1 << 20
    """The body of one extended header (PAX record set, GNU long name, sparse map)."""
    xattrs: int = 256
    """Extended attributes of one entry."""
    xattr: int = 64 << 10
    """One attribute's value: XATTR_SIZE_MAX."""
    apparent: int = 1 << 40
    """The sizes of all files of one layer, holes included."""
    ratio: int = 400
    """Decompressed by compressed size, once `ratio_floor` bytes have come out."""
    ratio_floor: int = 1 << 30
    disk_reserve: int = 512 << 20
    """What must stay free on the filesystem while unpacking."""
    links: int = 40
    """Symbolic links followed for one path, as the kernel counts them."""
    document: int = 8 << 20
    """A manifest, index or configuration."""
    layers: int = 1024
    """Of one image; overlayfs takes fewer.  The work for an image grows with the square of them."""


DEFAULT = Limits()


def watched(
    chunks: Iterable[bytes], root: str, check: Callable[[], None], limits: Limits, *, until_look: int = 0
) -> Iterator[bytes]:
    """The chunks, while there is room for them on the filesystem of `root` and somebody wants them.

    until_look: bytes before the first look.  Raises Unavailable, and what `check` raises.
    """
    for chunk in chunks:
        until_look -= len(chunk)
        if until_look < 0:
            until_look = _SPACE_EVERY
            check()
            space = os.statvfs(root)
            if space.f_bavail * space.f_frsize < limits.disk_reserve:
                raise Unavailable(f"no space left for layers: less than {limits.disk_reserve} bytes are free")
        yield chunk


def with_room(chunks: Iterable[bytes], root: str, limits: Limits) -> Iterator[bytes]:
    """The chunks, while the filesystem of `root` has room for more: a stranger's must not fill it for everybody.

    Raises Unavailable when the disk is about to be full.
    """
    return watched(chunks, root, lambda: None, limits, until_look=_SPACE_EVERY)
