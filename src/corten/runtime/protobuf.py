"""The wire format of Protocol Buffers, as far as CRIU's messages need it: numbers, and bytes with a length."""

from __future__ import annotations

from corten.errors import InvalidArgument

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
MASK_64 = (1 << 64) - 1
VARINT_BYTES = 10


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number as 64 bits of two's complement."""
    rest = value & MASK_64
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field of int32, uint32, bool or an enumeration."""
    return _varint(field << 3 | VARINT) + _varint(value)


def data(field: int, value: bytes) -> bytes:
    """A field of bytes, or a message in a message."""
    return _varint(field << 3 | LENGTH) + _varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    """A field of text; bytes of a path that are not UTF-8 go as they are."""
    return data(field, value.encode("utf-8", "surrogateescape"))


class Message:
    """The fields of a message that was received; the last value of a field counts."""

    __slots__ = ("_fields",)

    def __init__(self, content: bytes) -> None:
        self._fields: dict[int, int | bytes] = {}
        at = 0
        while at < len(content):
            key, at = _take(content, at)
            kind = key & 7
            if kind == VARINT:
                self._fields[key >> 3], at = _take(content, at)
                continue
            if kind == LENGTH:
                size, at = _take(content, at)
            elif kind in (EIGHT_BYTES, FOUR_BYTES):
                size = 8 if kind == EIGHT_BYTES else 4
            else:
                raise InvalidArgument(f"protocol buffer: unknown wire type {kind}")
            if at + size > len(content):
                raise InvalidArgument("protocol buffer: a field is longer than its message")
            self._fields[key >> 3] = content[at : at + size]
            at += size

    def number(self, field: int) -> int:
        """An int32 or bool; 0 where the message has none."""
        value = self._fields.get(field, 0)
        if isinstance(value, bytes):
            raise InvalidArgument(f"protocol buffer: field {field} is not a number")
        return value - (1 << 64) if value >> 63 else value

    def data(self, field: int) -> bytes:
        """Bytes; none where the message has none."""
        value = self._fields.get(field, b"")
        if isinstance(value, int):
            raise InvalidArgument(f"protocol buffer: field {field} is a number")
        return value

    def message(self, field: int) -> Message:
        """A message in this one."""
        return Message(self.data(field))


def _take(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(VARINT_BYTES):
        if at + index >= len(content):
            raise InvalidArgument("protocol buffer: ends in the middle of a number")
        byte = content[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & MASK_64, at + index + 1
    raise InvalidArgument("protocol buffer: a number of more than ten bytes")
