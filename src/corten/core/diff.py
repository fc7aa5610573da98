"""`docker diff`: what a container changed, its own layer against those below.

As dockerd's comparison of two trees (moby archive.ChangesDirs): a file has changed when its mode, owner, device, size
or time has, a directory when its mode or owner has or something in it.  Of a directory that was removed its own name is
given, of a new one everything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from corten.core.layered import Node, names
from corten.core.lower import LowerView

_SECOND_NS = 10**9


class Kind(IntEnum):
    """Docker API ContainerChanges."""

    MODIFY = 0
    ADD = 1
    DELETE = 2


@dataclass(frozen=True, slots=True)
class Change:
    """`path` has a slash in front."""

    path: bytes
    kind: Kind


def changes(nodes: Iterable[Node], lower: LowerView) -> Sequence[Change]:
    """What `nodes` of the upper directory change of `lower`, in order of names.  Raises OSError."""
    found: dict[bytes, Kind] = {}
    for node in nodes:
        below = lower.find(node.path)
        if node.is_whiteout:
            if below is not None:
                _note(found, node.path, Kind.DELETE)
            continue
        if below is None:
            _note(found, node.path, Kind.ADD)
        elif _differ(below.status, node.status):
            _note(found, node.path, Kind.MODIFY)
        if node.is_opaque and below is not None and below.is_directory:
            for name in names(node.path, lower.layers(node.path)) - names(node.path, node.layers):
                _note(found, node.path + b"/" + name, Kind.DELETE)
    ordered = sorted(found.items(), key=lambda item: item[0].split(b"/"))
    return [Change(b"/" + path, kind) for path, kind in ordered]


def _note(found: dict[bytes, Kind], path: bytes, kind: Kind) -> None:
    """A change, and that the directories above have one."""
    found[path] = kind
    parent = path.rpartition(b"/")[0]
    while parent and parent not in found:
        found[parent] = Kind.MODIFY
        parent = parent.rpartition(b"/")[0]


def _differ(old: os.stat_result, new: os.stat_result) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    return old.st_size != new.st_size or not _is_same_time(old.st_mtime_ns, new.st_mtime_ns)


def _is_same_time(old_ns: int, new_ns: int) -> bool:
    """Whether they are the same, as far as both are told: archives have whole seconds alone."""
    if old_ns % _SECOND_NS and new_ns % _SECOND_NS:
        return old_ns == new_ns
    return old_ns // _SECOND_NS == new_ns // _SECOND_NS
