"""Which ids of the host the users of a container are: the maps of its user namespace (user_namespaces(7))."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from corten.errors import InvalidArgument

OVERFLOW: Final = 65534  # what an id without a mapping is seen as


class IdRange(msgspec.Struct, frozen=True, array_like=True):
    """`count` ids from `inside` on are those from `outside` on."""

    inside: int
    outside: int
    count: int


class IdMap(msgspec.Struct, frozen=True):
    """The maps of users and of groups, neither of them empty."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    @property
    def root(self) -> tuple[int, int]:
        """uid and gid of the host that root of the container is.  Raises InvalidArgument where it is nobody."""
        return self.outside(0, 0)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids.  Raises InvalidArgument in dockerd's words for ids that are beyond the ranges."""
        return _outside(self.uids, uid), _outside(self.gids, gid)

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's ids, as the container sees them: `OVERFLOW` for the host's others."""
        return _inside(self.uids, uid), _inside(self.gids, gid)

    def has(self, uid: int, gid: int) -> bool:
        """Whether there is such a user and such a group in the container."""
        return _find(self.uids, uid) is not None and _find(self.gids, gid) is not None

    @property
    def text(self) -> str:
        """INSIDE:OUTSIDE:COUNT, those of groups as well where they are others."""
        uids, gids = (",".join(f"{r.inside}:{r.outside}:{r.count}" for r in rows) for rows in (self.uids, self.gids))
        return uids if uids == gids else f"{uids};{gids}"

    def lines(self) -> tuple[str, str]:
        """What uid_map and gid_map take."""
        return _lines(self.uids), _lines(self.gids)

    def mappings(self) -> dict[str, list[dict[str, Any]]]:
        """`uidMappings` and `gidMappings` of config.json's `linux`."""
        return {"uidMappings": _rows(self.uids), "gidMappings": _rows(self.gids)}

    def composed(self, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        """The mappings of a mount whose `hostID` are ids of the container: with those of the host.

        Raises InvalidArgument when the container has none of them.
        """
        return {
            key: _composed(rows[key], kind) for key, kind in (("uidMappings", self.uids), ("gidMappings", self.gids))
        }


def _find(rows: tuple[IdRange, ...], id: int) -> IdRange | None:
    return next((row for row in rows if row.inside <= id < row.inside + row.count), None)


def _outside(rows: tuple[IdRange, ...], id: int) -> int:
    row = _find(rows, id)
    if row is None:
        raise InvalidArgument(f"Container ID {id} cannot be mapped to a host ID")
    return row.outside + id - row.inside


def _inside(rows: tuple[IdRange, ...], id: int) -> int:
    for row in rows:
        if row.outside <= id < row.outside + row.count:
            return row.inside + id - row.outside
    return OVERFLOW


def _lines(rows: tuple[IdRange, ...]) -> str:
    return "".join(f"{row.inside} {row.outside} {row.count}\n" for row in rows)


def _rows(rows: tuple[IdRange, ...]) -> list[dict[str, Any]]:
    return [{"containerID": row.inside, "hostID": row.outside, "size": row.count} for row in rows]


def _composed(given: list[dict[str, Any]], rows: tuple[IdRange, ...]) -> list[dict[str, Any]]:
    found = []
    for one in given:
        for row in rows:
            begin = max(one["hostID"], row.inside)
            end = min(one["hostID"] + one["size"], row.inside + row.count)
            if begin < end:
                disk = one["containerID"] + begin - one["hostID"]
                found.append({"containerID": disk, "hostID": row.outside + begin - row.inside, "size": end - begin})
    if not found:
        raise InvalidArgument("invalid idmap: the container has none of the ids that files are to be seen with")
    return found
