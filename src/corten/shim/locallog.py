"""The bytes of Docker's `local` log: each message of protobuf between its length and its length again.

    uint32 length (big-endian) · LogEntry · uint32 length
    LogEntry   source 1 string · time_nano 2 int64 · line 3 bytes · partial 4 bool · partial_log_metadata 5
    metadata   last 1 bool · id 2 string · ordinal 3 int32

(facts from moby's api/types/plugins/logdriver/entry.proto and daemon/logger/local).  A line is kept as it came, without
its newline; a system test reads what is written here with a real dockerd.
"""

from __future__ import annotations

import os
import struct

from corten.shim.lines import PIECE_BYTES, Line, Lines
from corten.shim.logfile import Framing

_LENGTH = struct.Struct(">I")
_EDGES = 2 * _LENGTH.size
_LIMIT = 4 << 20  # no message is longer
_PIECE_BYTES = 16 << 20  # of a file that is mended
_SOURCE, _TIME, _LINE, _PARTIAL, _METADATA = 0x0A, 0x10, 0x1A, 0x20, 0x2A

Entry = tuple[bytes, int, bytes]  # source, Unix ns, text with its newline


class LocalEncoder:
    """As `jsonlog.RecordEncoder`: the reads of one stream as whole records."""

    __slots__ = ("_head", "_lines")

    def __init__(self, stream: str) -> None:
        self._head = bytes((_SOURCE, len(stream))) + stream.encode()
        self._lines = Lines()

    def feed(self, data: bytes, moment_ns: int) -> bytes:
        """The records that are complete after `data`, which was read at `moment_ns`."""
        return self._records(self._lines.feed(data, moment_ns))

    def finish(self, moment_ns: int) -> bytes:
        """The record of an unfinished last line."""
        return self._records(self._lines.finish(moment_ns))

    def _records(self, lines: list[Line]) -> bytes:
        out: list[bytes] = []
        moment_ns, head = -1, b""
        pack = _LENGTH.pack
        for line in lines:
            if line.moment_ns != moment_ns:
                moment_ns = line.moment_ns
                head = b"%s\x10%s" % (self._head, varint(moment_ns))
            body = b"%s\x1a%s%s" % (head, varint(len(line.text)), line.text) if line.text else head
            if line.ordinal:
                body += _metadata(line)
            length = pack(len(body))
            out += (length, body, length)
        return b"".join(out)


def _metadata(line: Line) -> bytes:
    last = b"\x08\x01" if line.is_last else b""
    inside = b"%s\x12%s%s\x18%s" % (last, varint(len(line.id)), line.id.encode(), varint(line.ordinal))
    return b"\x20\x01\x2a%s%s" % (varint(len(inside)), inside)


_SMALL = tuple(bytes((number,)) for number in range(0x80))


def varint(value: int) -> bytes:
    """An unsigned number as protobuf has it."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bounds(data: bytes) -> list[int]:
    """The ends of the whole records that `data` begins with."""
    ends: list[int] = []
    position, size = 0, len(data)
    unpack = _LENGTH.unpack_from
    while size - position >= _EDGES:
        (length,) = unpack(data, position)
        end = position + length + _EDGES
        if end > size or length > _LIMIT or unpack(data, end - _LENGTH.size) != (length,):
            break
        ends.append(end)
        position = end
    return ends


def whole(data: bytes, written: int) -> int:
    """The end of the last record that ends at `written` bytes or before."""
    ends = bounds(data[:written])
    return ends[-1] if ends else 0


def _cut(data: bytes, room: int) -> int:
    return next((end for end in bounds(data) if end >= room), len(data))


def decode(block: bytes) -> list[Entry]:
    """The entries of a block of whole records.

    Those of one read begin with the same bytes, up to the text: what was found of one is taken for the next.
    """
    out: list[Entry] = []
    start = 0
    head, source, moment_ns = b"\xff", b"", 0
    for end in bounds(block):
        first, last = start + _LENGTH.size, end - _LENGTH.size
        start = end
        if block.startswith(head, first):
            at = first + len(head)
            length, at = block[at], at + 1
            if length >= 0x80:
                length, at = length & 0x7F | block[at] << 7, at + 1
            if at + length == last:
                out.append((source, moment_ns, block[at:last] + b"\n"))
                continue
        entry = source, moment_ns, _ = _entry(block, first, last)
        out.append(entry)
        head = b"\x0a%s%s\x10%s\x1a" % (varint(len(source)), source, varint(moment_ns))
    return out


def _entry(data: bytes, position: int, end: int) -> Entry:
    """A field that is not known is passed over, as protobuf wants; a message cut inside gives what it has."""
    source, moment_ns, text, is_partial, is_last = b"", 0, b"", False, False
    while position < end:
        key = data[position]
        if key & 7 == 0:
            value, position = _number(data, position + 1, end)
            moment_ns = value if key == _TIME else moment_ns
            is_partial = bool(value) if key == _PARTIAL else is_partial
            continue
        if key & 7 != 2:
            break
        length, position = _number(data, position + 1, end)
        inside = data[position : min(position + length, end)]
        position += length
        if key == _SOURCE:
            source = inside
        elif key == _LINE:
            text = inside
        elif key == _METADATA:
            is_last = inside.startswith(b"\x08\x01")
    return source, moment_ns, text if is_partial and not is_last else text + b"\n"


def _number(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, position


def mend(path: str) -> int:
    """Complete a torn last record, keeping what is there of its text.  Returns how many bytes the record had."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size = os.fstat(fd).st_size
        if _ends_whole(fd, size):
            return 0
        start = _last_end(fd)
        torn = os.pread(fd, _LIMIT + _EDGES, start)
        os.ftruncate(fd, start)
        os.pwrite(fd, complete(torn), start)
        return size - start
    finally:
        os.close(fd)


def _last_end(fd: int) -> int:
    """The end of the last whole record, piece by piece: a log without a limit may be longer than memory."""
    start = 0
    while ends := bounds(os.pread(fd, _PIECE_BYTES, start)):
        start += ends[-1]
    return start


def _ends_whole(fd: int, size: int) -> bool:
    """Whether the last length leads to its like."""
    if not size:
        return True
    if size < _EDGES:
        return False
    tail = os.pread(fd, _LENGTH.size, size - _LENGTH.size)
    start = size - _LENGTH.unpack(tail)[0] - _EDGES
    return start >= 0 and os.pread(fd, _LENGTH.size, start) == tail


def complete(torn: bytes) -> bytes:
    """A whole record from the beginning of one; empty when no output was in it."""
    source, moment_ns, text = _entry(torn, _LENGTH.size, len(torn))
    text = text.removesuffix(b"\n")[:PIECE_BYTES]
    if not text or not moment_ns:
        return b""
    encoder = LocalEncoder(source.decode("ascii", "replace"))
    return encoder.feed(text, moment_ns) + encoder.finish(moment_ns)


FRAMING = Framing(_cut, whole, mend)
