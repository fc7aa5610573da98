"""What the files of a log hold: lines of JSON (`json-file`), or messages with their length (`local`).

Both come out as `Record`s, a block of whole records in one call.
"""

from __future__ import annotations

import struct
from typing import IO, Final, Protocol

import msgspec

from corten.engine.times import rfc3339
from corten.shim import locallog

BLOCK_BYTES: Final = 128 << 10
_NAMES: Final = {b"stdout": "stdout", b"stderr": "stderr"}
_LENGTH: Final = struct.Struct(">I")


class Record(msgspec.Struct):
    """One line of the file; `time` is RFC 3339 in UTC with up to nine digits of a second."""

    log: str = ""
    stream: str = ""
    time: str = ""
    attrs: dict[str, str] | None = None


class Format(Protocol):
    """How records lie in a file.  A block is made of whole records."""

    def end_of_whole(self, data: bytes) -> int:
        """Where the last whole record of `data` ends."""
        ...

    def decode(self, block: bytes) -> list[Record]:
        """The records of a block; what is no record is left out, as dockerd does."""
        ...

    def count(self, block: bytes) -> int:
        """How many records are in a block."""
        ...

    def skip(self, block: bytes, count: int) -> int:
        """The offset after the first `count` records of a block that has as many."""
        ...

    def tail_offset(self, file: IO[bytes], size: int, wanted: int) -> tuple[int, int]:
        """Where the last `wanted` records of a plain file begin, and how many there are; a torn one does not count."""
        ...


_decoder = msgspec.json.Decoder(Record)


class JsonLines:
    """`json-file`."""

    def end_of_whole(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def decode(self, block: bytes) -> list[Record]:
        try:
            return _decoder.decode_lines(block)
        except msgspec.DecodeError:
            return [record for line in block.splitlines() if (record := _decode_line(line)) is not None]

    def count(self, block: bytes) -> int:
        return block.count(b"\n")

    def skip(self, block: bytes, count: int) -> int:
        position = -1
        for _ in range(count):
            position = block.find(b"\n", position + 1)
        return position + 1

    def tail_offset(self, file: IO[bytes], size: int, wanted: int) -> tuple[int, int]:
        """Without reading the whole file: blocks from the end."""
        position, newlines = size, 0
        while position:
            start = max(0, position - BLOCK_BYTES)
            file.seek(start)
            block = file.read(position - start)
            count = block.count(b"\n")
            if newlines + count > wanted:
                end = len(block)
                for _ in range(wanted + 1 - newlines):
                    end = block.rfind(b"\n", 0, end)
                return start + end + 1, wanted
            newlines += count
            position = start
        return 0, newlines


def _decode_line(line: bytes) -> Record | None:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None


class LengthPrefixed:
    """`local`: each message between its length and its length again, so that it can be read from both ends."""

    def end_of_whole(self, data: bytes) -> int:
        return locallog.whole(data, len(data))

    def decode(self, block: bytes) -> list[Record]:
        out, last, moment = [], -1, ""
        for source, moment_ns, text in locallog.decode(block):
            if moment_ns != last:
                last, moment = moment_ns, rfc3339(moment_ns)
            stream = _NAMES.get(source) or source.decode("ascii", "replace")
            out.append(Record(text.decode("utf-8", "surrogateescape"), stream, moment))
        return out

    def count(self, block: bytes) -> int:
        return len(locallog.bounds(block))

    def skip(self, block: bytes, count: int) -> int:
        return locallog.bounds(block)[count - 1] if count else 0

    def tail_offset(self, file: IO[bytes], size: int, wanted: int) -> tuple[int, int]:
        """From the last length to the one before it.  A file that ends in a torn message is walked from its start."""
        end, found = size, 0
        while end > 0 and found < wanted:
            start = _start_of_last(file, end)
            if start < 0:
                return self._walk(file, size, wanted)
            end, found = start, found + 1
        return end, found

    def _walk(self, file: IO[bytes], size: int, wanted: int) -> tuple[int, int]:
        file.seek(0)
        ends = [0, *locallog.bounds(file.read(size))]
        found = min(wanted, len(ends) - 1)
        return ends[-1 - found], found


def _start_of_last(file: IO[bytes], end: int) -> int:
    """Where the message that ends at `end` begins; -1 when none does."""
    if end < 2 * _LENGTH.size:
        return -1
    file.seek(end - _LENGTH.size)
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    start = end - length - 2 * _LENGTH.size
    if start < 0:
        return -1
    file.seek(start)
    return start if _LENGTH.unpack(file.read(_LENGTH.size)) == (length,) else -1


JSON_LINES: Final = JsonLines()
LENGTH_PREFIXED: Final = LengthPrefixed()
