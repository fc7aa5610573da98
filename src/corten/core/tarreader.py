"""Reads tar archives from a stream of chunks: one entry at a time, memory bounded, nothing written.

    reader = TarReader(chunks, limits)
    for entry in reader:              # what is not read of an entry's data is skipped
        for piece in reader.data():   # memoryviews, only valid until the next one is asked for

After the last entry `drain` reads the stream to its end, so that a digest covers what follows the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from corten.core import tarheader
from corten.core.limits import Limits
from corten.core.tarheader import BLOCK, ZERO_BLOCK, Entry, Kind, RawHeader
from corten.errors import InvalidArgument

_EMPTY = memoryview(b"")
_NO_RECORDS: dict[bytes, list[bytes]] = {}


class _Stream:
    """Chunks as one stream of bytes."""

    __slots__ = ("_at", "_chunks", "_view")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._view = _EMPTY
        self._at = 0

    def exactly(self, count: int) -> bytes:
        """`count` bytes; fewer only at the end of the stream."""
        end = self._at + count
        if end <= len(self._view):
            piece = bytes(self._view[self._at : end])
            self._at = end
            return piece
        return b"".join(bytes(part) for part in self.pieces(count))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes as they lie in the chunks; fewer only at the end of the stream."""
        while count:
            part = self._view[self._at : self._at + count]
            if not part:
                if not self._next():
                    return
                continue
            self._at += len(part)
            count -= len(part)
            yield part

    def _next(self) -> bool:
        chunk = next(self._chunks, None)
        self._view, self._at = memoryview(chunk or b""), 0
        return chunk is not None

    def drain(self) -> None:
        """Reads to the end."""
        while self._next():
            pass


class TarReader:
    """The entries of one archive, in order.

    Raises InvalidArgument: damaged, truncated, or beyond the limits.
    """

    def __init__(self, chunks: Iterable[bytes], limits: Limits) -> None:
        self._stream = _Stream(chunks)
        self._limits = limits
        self._headers = 0
        self._apparent = 0
        self._names = 0
        self._left = 0  # bytes of the current entry's data that were not read yet
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next_entry()) is not None:
            yield entry

    def data(self) -> Iterator[memoryview]:
        """The stored bytes of the current entry, all of them or an error."""
        for piece in self._stream.pieces(self._left):
            self._left -= len(piece)
            yield piece
        if self._left:
            raise InvalidArgument("unexpected EOF")

    def read_all(self) -> bytes:
        """The stored bytes of the current entry, which the caller knows to be few."""
        return b"".join(bytes(piece) for piece in self.data())

    def drain(self) -> None:
        """Reads what follows the archive, up to the end of the stream."""
        self._stream.drain()

    def _next_entry(self) -> Entry | None:
        records = _NO_RECORDS
        long_name = long_link = b""
        while (header := self._next_header()) is not None:
            if header.flag == tarheader.FLAG_PAX:
                records = tarheader.parse_pax(self._extended(header), self._limits)
            elif header.flag == tarheader.FLAG_PAX_GLOBAL:
                self._extended(header)
            elif header.flag == tarheader.FLAG_GNU_NAME:
                long_name = self._extended(header).split(b"\0", 1)[0]
            elif header.flag == tarheader.FLAG_GNU_LINK:
                long_link = self._extended(header).split(b"\0", 1)[0]
            else:
                return self._entry(header, records, long_name, long_link)
        if records or long_name or long_link:
            raise InvalidArgument("unexpected EOF")
        return None

    def _next_header(self) -> RawHeader | None:
        self._skip_rest()
        block = self._stream.exactly(BLOCK)
        if not block or block == ZERO_BLOCK:
            return None
        if len(block) < BLOCK:
            raise InvalidArgument("unexpected EOF")
        self._headers += 1
        if self._headers > self._limits.entries:
            raise InvalidArgument(f"tar archive has more than {self._limits.entries} entries")
        return tarheader.parse_block(block)

    def _skip_rest(self) -> None:
        if not self._left and not self._padding:
            return
        count = self._left + self._padding
        for piece in self._stream.pieces(count):
            count -= len(piece)
        if count > self._padding or (count and self._left):
            raise InvalidArgument("unexpected EOF")
        self._left = self._padding = 0

    def _expect(self, size: int) -> None:
        if size < 0:
            raise InvalidArgument("invalid tar header: negative size")
        self._left = size
        self._padding = -size % BLOCK

    def _extended(self, header: RawHeader) -> bytes:
        if header.size > self._limits.header:
            raise InvalidArgument(f"tar extended header is larger than {self._limits.header} bytes")
        self._expect(header.size)
        return self.read_all()

    def _entry(self, header: RawHeader, records: dict[bytes, list[bytes]], long_name: bytes, long_link: bytes) -> Entry:
        kind = tarheader.KINDS.get(header.flag)
        if kind is None:
            raise InvalidArgument(f"unhandled tar header type {header.flag!r}")
        name = long_name or header.name
        if header.flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        # only files have data; some archivers give the others a size that means nothing
        stored = header.size if kind is Kind.FILE else 0
        mtime_ns, uid, gid = header.mtime * 10**9, header.uid, header.gid
        link = long_link or header.link
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if records:
            name, link = self._pax_names(records, name, link, long_name, long_link)
            if kind is Kind.FILE and b"size" in records:
                stored = tarheader.pax_number(records[b"size"][-1], "size")
            if b"uid" in records:
                uid = tarheader.pax_number(records[b"uid"][-1], "uid")
            if b"gid" in records:
                gid = tarheader.pax_number(records[b"gid"][-1], "gid")
            if b"mtime" in records:
                mtime_ns = tarheader.pax_time_ns(records[b"mtime"][-1])
            xattrs = tarheader.xattrs_of(records, self._limits)
        self._expect(stored)
        size, segments = stored, None
        if kind is Kind.FILE and (header.flag == tarheader.FLAG_GNU_SPARSE or records):
            size, segments, name = self._sparse(header, records, stored, name)
        self._check(name, link, size, xattrs)
        return Entry(
            kind,
            name,
            link,
            header.mode & 0o7777,
            tarheader.owner(uid, "uid"),
            tarheader.owner(gid, "gid"),
            size,
            tarheader.clamp_mtime(mtime_ns),
            header.device,
            xattrs,
            segments,
        )

    @staticmethod
    def _pax_names(
        records: dict[bytes, list[bytes]], name: bytes, link: bytes, long_name: bytes, long_link: bytes
    ) -> tuple[bytes, bytes]:
        """GNU's long names win over PAX, PAX over the block; an empty PAX value means the block's."""
        if not long_name and b"path" in records:
            name = records[b"path"][-1] or name
        if not long_link and b"linkpath" in records:
            link = records[b"linkpath"][-1] or link
        return name, link

    def _check(self, name: bytes, link: bytes, size: int, xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
        limits = self._limits
        if len(name) >= limits.path or len(link) >= limits.path:
            raise InvalidArgument(f"tar archive has a path of more than {limits.path - 1} bytes")
        self._names += len(name) + len(link) + sum(len(key) + len(value) for key, value in xattrs)
        if self._names > limits.names:
            raise InvalidArgument(f"names and attributes in the tar archive take more than {limits.names} bytes")
        self._apparent += size
        if self._apparent > limits.apparent:
            raise InvalidArgument(f"files of the tar archive are larger than {limits.apparent} bytes")

    def _sparse(
        self, header: RawHeader, records: dict[bytes, list[bytes]], stored: int, name: bytes
    ) -> tuple[int, tuple[tuple[int, int], ...] | None, bytes]:
        """(size with holes, stored segments, name); segments is None for an ordinary file."""
        if header.flag == tarheader.FLAG_GNU_SPARSE:
            numbers, size = self._old_gnu_map(header)
        elif b"GNU.sparse.major" in records:
            version = (records[b"GNU.sparse.major"][-1], records.get(b"GNU.sparse.minor", [b"0"])[-1])
            if version != (b"1", b"0"):
                raise InvalidArgument("unsupported sparse format in tar archive")
            numbers = self._pax_1_0_map()
            size = self._real_size(records, b"GNU.sparse.realsize")
        elif b"GNU.sparse.map" in records:
            numbers = self._comma_map(records[b"GNU.sparse.map"][-1])
            size = self._real_size(records, b"GNU.sparse.size")
        elif b"GNU.sparse.offset" in records:
            numbers = self._pair_map(records)
            size = self._real_size(records, b"GNU.sparse.size")
        else:
            return stored, None, name
        if b"GNU.sparse.name" in records:
            name = records[b"GNU.sparse.name"][-1] or name
            if b"\0" in name:
                raise InvalidArgument("invalid pax header: name with NUL")
        segments = tarheader.sparse_pairs(numbers, size, self._limits)
        if sum(length for _, length in segments) != self._left:
            raise InvalidArgument("invalid sparse map: it does not cover the data")
        return size, segments, name

    @staticmethod
    def _real_size(records: dict[bytes, list[bytes]], key: bytes) -> int:
        if key not in records:
            raise InvalidArgument("invalid sparse map: no size")
        return tarheader.pax_number(records[key][-1], "sparse size")

    @staticmethod
    def _comma_map(value: bytes) -> list[int]:
        return [tarheader.pax_number(part, "sparse map") for part in value.split(b",")] if value else []

    @staticmethod
    def _pair_map(records: dict[bytes, list[bytes]]) -> list[int]:
        offsets, lengths = records[b"GNU.sparse.offset"], records.get(b"GNU.sparse.numbytes", [])
        if len(offsets) != len(lengths):
            raise InvalidArgument("invalid sparse map")
        pairs = zip(offsets, lengths, strict=True)
        return [tarheader.pax_number(value, "sparse map") for pair in pairs for value in pair]

    def _old_gnu_map(self, header: RawHeader) -> tuple[list[int], int]:
        numbers, more, size = tarheader.gnu_sparse_numbers(header.block)
        blocks = 0
        while more:
            blocks += 1
            block = self._stream.exactly(BLOCK)
            if len(block) < BLOCK or blocks * BLOCK > self._limits.header:
                raise InvalidArgument("invalid sparse map: too long or cut off")
            extra, more = tarheader.gnu_sparse_extension(block)
            numbers += extra
        return numbers, size

    def _pax_1_0_map(self) -> list[int]:
        """The map at the head of the data: decimal lines, first the number of pairs, padded to a block."""
        lines: list[bytes] = []
        rest, wanted, taken = b"", 1, 0
        while len(lines) < wanted:
            block = self._stream.exactly(min(BLOCK, self._left))
            taken += len(block)
            self._left -= len(block)
            if len(block) < BLOCK or taken > self._limits.header:
                raise InvalidArgument("invalid sparse map: too long or cut off")
            *fresh, rest = (rest + block).split(b"\n")
            lines += fresh
            if lines and wanted == 1:
                wanted = 1 + 2 * tarheader.pax_number(lines[0], "sparse map")
        return [tarheader.pax_number(line, "sparse map") for line in lines[1:wanted]]
