"""Writes tar archives: the same entries give the same bytes, on every machine.

POSIX pax(1), "ustar Interchange Format"; an extended header stands only before entries that ustar cannot hold.  Nothing
goes in that differs between machines: no names of users, no access or change times, no inode or device numbers of the
file system, no fractions of a second (as dockerd's layers, which Go's archive/tar writes).  Pure functions on values.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import major, minor

from corten.core.tarheader import BLOCK, XATTR_PREFIX, Entry, Kind
from corten.errors import InvalidArgument

END = bytes(2 * BLOCK)
"""What closes an archive."""

_FLAGS = {
    Kind.FILE: b"0",
    Kind.HARD_LINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
_PAX = b"x"
_PAX_NAME = b"PaxHeaders.0"
_NAME_BYTES = 100
_PREFIX_BYTES = 155
_ID_MAX = 0o7777777
_SIZE_MAX = 0o77777777777
_SECOND_NS = 10**9
_ZEROS = bytes(BLOCK)


def padding(size: int) -> bytes:
    """What follows `size` bytes of data up to the next block."""
    return _ZEROS[: -size % BLOCK]


def header(entry: Entry) -> bytes:
    """The blocks before an entry's data; `segments` is ignored: files are written whole, holes as zeros.

    Raises InvalidArgument for a name or target with NUL, which no archive can hold.
    """
    if b"\0" in entry.name or b"\0" in entry.link:
        raise InvalidArgument("tar archive cannot hold a name with NUL")
    name = entry.name + b"/" if entry.kind is Kind.DIRECTORY and not entry.name.endswith(b"/") else entry.name
    seconds = entry.mtime_ns // _SECOND_NS
    size = entry.size if entry.kind is Kind.FILE else 0
    records = _records(entry, name, seconds, size)
    place = _split(name)
    block = _block(
        place if place is not None else (b"", _plain(name)),
        mode=entry.mode,
        owner=(min(entry.uid, _ID_MAX), min(entry.gid, _ID_MAX)),
        size=min(size, _SIZE_MAX),
        mtime=min(max(seconds, 0), _SIZE_MAX),
        flag=_FLAGS[entry.kind],
        link=_plain(entry.link),
        device=entry.device if entry.kind in (Kind.CHAR, Kind.BLOCK) else 0,
    )
    return _extended(records) + block if records else block


def _records(entry: Entry, name: bytes, seconds: int, size: int) -> list[tuple[bytes, bytes]]:
    """What the block cannot hold, in the order of keys."""
    records = [(XATTR_PREFIX + key, value) for key, value in entry.xattrs]
    if entry.gid > _ID_MAX:
        records.append((b"gid", b"%d" % entry.gid))
    if len(entry.link) > _NAME_BYTES or not entry.link.isascii():
        records.append((b"linkpath", entry.link))
    if not 0 <= seconds <= _SIZE_MAX:
        records.append((b"mtime", b"%d" % seconds))
    if _split(name) is None:
        records.append((b"path", name))
    if size > _SIZE_MAX:
        records.append((b"size", b"%d" % size))
    if entry.uid > _ID_MAX:
        records.append((b"uid", b"%d" % entry.uid))
    return sorted(records)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) as ustar has them; None when they do not fit."""
    if not name.isascii():
        return None
    if len(name) <= _NAME_BYTES:
        return b"", name
    if len(name) > _NAME_BYTES + 1 + _PREFIX_BYTES:
        return None
    cut = name.rfind(b"/", 0, min(_PREFIX_BYTES, len(name) - 2) + 1)
    if cut <= 0 or len(name) - cut - 1 > _NAME_BYTES:
        return None
    return name[:cut], name[cut + 1 :]


def _plain(text: bytes) -> bytes:
    """For readers without extended headers: the ASCII of it, cut."""
    return bytes(byte for byte in text if byte < 0x80)[:_NAME_BYTES]


def _extended(records: Sequence[tuple[bytes, bytes]]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records)
    block = _block((b"", _PAX_NAME), mode=0, owner=(0, 0), size=len(data), mtime=0, flag=_PAX, link=b"", device=0)
    return block + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`; the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _block(
    place: tuple[bytes, bytes],
    *,
    mode: int,
    owner: tuple[int, int],
    size: int,
    mtime: int,
    flag: bytes,
    link: bytes,
    device: int,
) -> bytes:
    prefix, name = place
    start = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (b"", mode & 0o7777, *owner, size, mtime)
    start = name.ljust(_NAME_BYTES, b"\0") + start[_NAME_BYTES:]
    end = b"%b%b%b%07o\0%07o\0%b" % (
        *(flag, link.ljust(_NAME_BYTES, b"\0"), b"ustar\x0000".ljust(72, b"\0")),
        *(major(device), minor(device), prefix.ljust(167, b"\0")),
    )
    checksum = sum(start) + sum(end) + 8 * 0x20
    return start + b"%06o\0 " % checksum + end
