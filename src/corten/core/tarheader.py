"""Headers of tar archives: ustar, GNU, star, pre-POSIX; and the records of PAX extended headers.

Documents: POSIX pax(1), "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format" and
"Storing Sparse Files".  Where archives in the wild are looser than these, the rule is that of Go's archive/tar, since
that is what dockerd and containerd read layers with.  Pure functions on bytes; names stay bytes (a file system knows no
character set, so PAX's hdrcharset changes nothing here).
"""

from __future__ import annotations

from enum import Enum
from os import makedev

import msgspec

from corten.core.limits import Limits
from corten.errors import InvalidArgument

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)

UID_MAX = 2**32 - 2  # the last number is chown(2)'s "leave it as it is"
_MTIME_MAX_NS = 2**63 - 1

XATTR_PREFIX = b"SCHILY.xattr."


class Kind(Enum):
    """What an entry becomes."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHAR = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


class Entry(msgspec.Struct, frozen=True):
    """One file of an archive with everything that its headers say.  A msgspec struct: a layer has 100 000 of them."""

    kind: Kind
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of the file, holes included."""
    mtime_ns: int
    device: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    segments: tuple[tuple[int, int], ...] | None
    """Of a sparse file the (offset, length) that the archive stores, ascending; None when it stores all."""


class RawHeader(msgspec.Struct, frozen=True):
    """One header block, before extended headers have their say."""

    flag: bytes
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    device: int
    block: bytes


KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}

FLAG_PAX = b"x"
FLAG_PAX_GLOBAL = b"g"
FLAG_GNU_NAME = b"L"
FLAG_GNU_LINK = b"K"
FLAG_GNU_SPARSE = b"S"


def number(field: bytes) -> int:
    """A numeric field: octal text, or GNU's base 256 when the top bit is set."""
    usual = field.rstrip(b"\0 ")
    if usual.isdigit() and b"8" not in usual and b"9" not in usual:
        return int(usual, 8)
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.strip(b" \0")
    if not text:
        return 0
    text = text.split(b"\0", 1)[0].rstrip(b" ")
    if not text.isdigit():
        raise InvalidArgument("archive/tar: invalid tar header")
    try:
        return int(text, 8)
    except ValueError as error:
        raise InvalidArgument("archive/tar: invalid tar header") from error


def text_field(field: bytes) -> bytes:
    """A name field, up to its first NUL."""
    end = field.find(0)
    return field if end < 0 else field[:end]


def parse_block(block: bytes) -> RawHeader:
    """The header in a block of 512 bytes that is not all zero.  Raises InvalidArgument."""
    _verify_checksum(block)
    flag = block[156:157]
    magic = block[257:265]
    name = text_field(block[:100])
    is_posix = magic[:6] == b"ustar\0"
    if is_posix and block[345]:
        prefix = block[345:476] if block[508:512] == b"tar\0" else block[345:500]
        name = text_field(prefix) + b"/" + name
    has_device = flag in (b"3", b"4") and (is_posix or magic == b"ustar  \0")
    return RawHeader(
        flag=flag,
        name=name,
        link=text_field(block[157:257]),
        mode=number(block[100:108]),
        uid=number(block[108:116]),
        gid=number(block[116:124]),
        size=number(block[124:136]),
        mtime=number(block[136:148]),
        device=_device(block) if has_device else 0,
        block=block,
    )


def _device(block: bytes) -> int:
    major, minor = number(block[329:337]), number(block[337:345])
    if not (0 <= major < 1 << 32 and 0 <= minor < 1 << 32):
        raise InvalidArgument("invalid tar header: bad device number")
    return makedev(major, minor)


def _verify_checksum(block: bytes) -> None:
    told = number(block[148:156])
    field = sum(block[148:156])
    total = sum(block) - field + 8 * 0x20
    if told == total:
        return
    # old tars summed signed characters
    signed = total - 256 * sum(byte > 0x7F for byte in block[:148] + block[156:])
    if told != signed:
        raise InvalidArgument("archive/tar: invalid tar header")


def parse_pax(data: bytes, limits: Limits) -> dict[bytes, list[bytes]]:
    """The records of an extended header: every value of a key in order, the last one rules.

    Raises InvalidArgument for a malformed record, a key or name with NUL, too many attributes.
    """
    records: dict[bytes, list[bytes]] = {}
    at = 0
    while at < len(data):
        key, value, at = _record(data, at)
        records.setdefault(key, []).append(value)
    if sum(key.startswith(XATTR_PREFIX) for key in records) > limits.xattrs:
        raise InvalidArgument(f"invalid pax header: more than {limits.xattrs} extended attributes")
    return records


def _record(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    space = data.find(b" ", at, at + 21)
    length_text = data[at:space] if space >= 0 else b""
    if not length_text.isdigit():
        raise InvalidArgument("invalid pax header: bad record length")
    end = at + int(length_text)
    if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
        raise InvalidArgument("invalid pax header: record out of bounds")
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if not equals or not key or b"\0" in key:
        raise InvalidArgument("invalid pax header: bad record")
    if key in (b"path", b"linkpath") and b"\0" in value:
        raise InvalidArgument("invalid pax header: name with NUL")
    return key, value, end


def pax_number(value: bytes, what: str) -> int:
    """A decimal number of a PAX record; raises InvalidArgument."""
    if not value.isdigit() or len(value) > 20:
        raise InvalidArgument(f"invalid pax header: bad {what}")
    return int(value)


def pax_time_ns(value: bytes) -> int:
    """Seconds with an optional sign and fraction, as nanoseconds."""
    sign, digits = (-1, value[1:]) if value.startswith(b"-") else (1, value)
    seconds, _, fraction = digits.partition(b".")
    if not seconds.isdigit() or len(seconds) > 20 or not (fraction or b"0").isdigit():
        raise InvalidArgument("invalid pax header: bad mtime")
    return sign * (int(seconds) * 10**9 + int((fraction + b"000000000")[:9]))


def clamp_mtime(mtime_ns: int) -> int:
    """A time that utimensat(2) takes; what lies outside becomes the epoch, as with Docker."""
    return mtime_ns if 0 <= mtime_ns <= _MTIME_MAX_NS else 0


def owner(value: int, what: str) -> int:
    """A user or group id; raises InvalidArgument where a narrower integer would wrap around (CVE-2024-40635)."""
    if not 0 <= value <= UID_MAX:
        raise InvalidArgument(f"invalid tar header: {what} {value} is out of range")
    return value


def xattrs_of(records: dict[bytes, list[bytes]], limits: Limits) -> tuple[tuple[bytes, bytes], ...]:
    """The extended attributes among PAX records, in order of appearance."""
    found = []
    for key, values in records.items():
        if not key.startswith(XATTR_PREFIX):
            continue
        name = key[len(XATTR_PREFIX) :]
        if not 0 < len(name) <= limits.name or len(values[-1]) > limits.xattr:
            raise InvalidArgument("invalid pax header: extended attribute out of bounds")
        found.append((name, values[-1]))
    return tuple(found)


def sparse_pairs(numbers: list[int], size: int, limits: Limits) -> tuple[tuple[int, int], ...]:
    """Checked (offset, length) pairs: ascending, apart, within `size`; empty ones left out.

    Raises InvalidArgument.
    """
    if len(numbers) % 2 or not 0 <= size <= limits.apparent:
        raise InvalidArgument("invalid sparse map")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > size:
            raise InvalidArgument("invalid sparse map")
        end = offset + length
    return tuple(pair for pair in pairs if pair[1])


def gnu_sparse_numbers(block: bytes) -> tuple[list[int], bool, int]:
    """Of an old GNU sparse header: the map's numbers so far, whether extension blocks follow, the real size."""
    return _gnu_map(block[386:482]), bool(block[482]), number(block[483:495])


def gnu_sparse_extension(block: bytes) -> tuple[list[int], bool]:
    """Of an extension block: more numbers, and whether another block follows."""
    return _gnu_map(block[:504]), bool(block[504])


def _gnu_map(area: bytes) -> list[int]:
    numbers = []
    for at in range(0, len(area), 24):
        if not area[at]:
            break
        numbers += [number(area[at : at + 12]), number(area[at + 12 : at + 24])]
    return numbers
