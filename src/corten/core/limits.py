"""Budgets for what strangers send (field.md D9, D12): one value, passed to everything that reads an archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one archive or layer may ask for.  Sizes are bytes."""

    entries: int = 4_000_000
    """Headers of any kind in one archive."""
    path: int = 4096
    """A whole path or link target: PATH_MAX."""
    name: int = 255
    """One component: NAME_MAX."""
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


DEFAULT = Limits()
