"""`idmap` of a bind or volume: which owners its files seem to have in the container, and get when it makes some.

Corten's own, in podman's spelling: `uids=DISK-SEEN-COUNT[#…][;gids=…]`.  With `uids=1000-0-1` files that are of user
1000 on the disk are root's in the container, and what root makes there is of user 1000 on the disk.  Owners without a
mapping are seen as 65534.  Groups are mapped as users are when nothing else is said.  mount_setattr(2),
MOUNT_ATTR_IDMAP.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from corten.errors import InvalidArgument

_MAX_ID: Final = (1 << 32) - 2
_MAX_LINES: Final = 340  # of a map: user_namespaces(7)
_KINDS: Final = ("uids", "gids")


def check(text: str) -> None:
    """Raises InvalidArgument for what is no such text."""
    mappings(text)


def mappings(text: str) -> dict[str, list[dict[str, Any]]]:
    """`uidMappings` and `gidMappings` of a mount in config.json."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in text.split(";"):
        kind, equals, ranges = part.partition("=")
        if not equals or kind not in _KINDS or kind in found:
            raise InvalidArgument(f"invalid idmap: {text!r}: give uids=DISK-SEEN-COUNT and, behind a ;, gids=…")
        found[kind] = [_range(text, one) for one in ranges.split("#")]
        if len(found[kind]) > _MAX_LINES:
            raise InvalidArgument(f"invalid idmap: more than {_MAX_LINES} ranges of {kind}")
        _refuse_overlaps(text, found[kind])
    first = next(iter(found.values()))
    return {"uidMappings": found.get("uids", first), "gidMappings": found.get("gids", first)}


def _range(text: str, given: str) -> dict[str, int]:
    words = given.split("-")
    if len(words) != 3 or not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words):
        raise InvalidArgument(f"invalid idmap: {text!r}: {given!r} is not DISK-SEEN-COUNT")
    disk, seen, count = map(int, words)
    if not count or max(disk, seen) + count - 1 > _MAX_ID:
        raise InvalidArgument(f"invalid idmap: {text!r}: {given!r} is beyond the ids there are")
    return {"containerID": disk, "hostID": seen, "size": count}


def _refuse_overlaps(text: str, rows: list[dict[str, int]]) -> None:
    for side in ("containerID", "hostID"):
        ordered = sorted((row[side], row["size"]) for row in rows)
        for (first, count), (second, _) in pairwise(ordered):
            if first + count > second:
                raise InvalidArgument(f"invalid idmap: {text!r}: two ranges have id {second}")
