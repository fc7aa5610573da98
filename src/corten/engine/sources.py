"""The host's side of bind mounts: sources that are made, and propagation that must be possible."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec.structs import replace

from corten.engine.mountspec import MountPoint
from corten.errors import Internal, InvalidArgument

_SHARED: Final = frozenset({"shared", "rshared"})
_SLAVE: Final = frozenset({"slave", "rslave"})


class _MountPlace(NamedTuple):
    point: str
    optional: tuple[str, ...]


def prepare(point: MountPoint) -> MountPoint:
    """Make the missing source of a `-v` as a directory (0755, as dockerd), and check the propagation.

    The bind as it can be: `rslave` that nobody asked for yields where the mount is not shared.
    Raises InvalidArgument for a `--mount` whose source has gone, Internal for an impossible propagation.
    """
    if point.read_only_non_recursive and point.read_only_force_recursive:
        raise Internal("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    if not os.path.lexists(point.source):
        _make(point)
    if point.propagation not in _SHARED | _SLAVE:
        return point
    try:
        _check_propagation(point, _mount_table())
    except Internal:
        if point.explicit_propagation:
            raise
        return replace(point, propagation="rprivate")
    return point


def _make(point: MountPoint) -> None:
    if not point.create_source:
        text = f"bind source path does not exist: {point.source}"
        raise InvalidArgument(f'invalid mount config for type "bind": {text}')
    try:
        os.makedirs(point.source, 0o755, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        text = f"error while creating mount source path '{point.source}': mkdir {error.filename}: {reason}"
        raise Internal(text) from error


def _mount_table() -> list[_MountPlace]:
    """proc(5), mountinfo: mount point and optional fields."""
    places = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split()
            end = words.index("-")
            point = words[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            places.append(_MountPlace(point, tuple(words[6:end])))
    return places


def _check_propagation(point: MountPoint, table: Iterable[_MountPlace]) -> None:
    path = os.path.realpath(point.source)
    below = [place for place in table if path == place.point or path.startswith(place.point.rstrip("/") + "/")]
    if not below:
        return
    place = max(reversed(below), key=lambda one: len(one.point))
    is_shared = any(word.startswith("shared:") for word in place.optional)
    is_slave = any(word.startswith("master:") for word in place.optional)
    if point.propagation in _SHARED and not is_shared:
        raise Internal(f"path {point.source} is mounted on {place.point} but it is not a shared mount")
    if point.propagation in _SLAVE and not (is_shared or is_slave):
        raise Internal(f"path {point.source} is mounted on {place.point} but it is not a shared or slave mount")
