"""Byte streams of strangers: read in bounded pieces, decompressed, counted, hashed, one thread ahead.

A stream here is an iterator of `bytes` chunks.  What a chunk expands to is cut into chunks of at most CHUNK bytes
before the next input is touched, so memory is bounded whatever the compression promises.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from corten.core.limits import Limits
from corten.errors import InvalidArgument
from corten.spec.reference import Digest

CHUNK = 1 << 20
_SOURCE_CHUNK = 256 << 10
_ZSTD_WINDOW_MAX = 128 << 20
_LZMA_MEMORY_MAX = 256 << 20
_MAGIC_LENGTH = 6
_GZIP_LEVEL = 3  # 120 MB of /usr: 43.6 MB in 0.31 s; level 2 44.5 MB in 0.20 s; zlib's level 6 39.3 MB in 3.3 s


_DAMAGED: tuple[type[Exception], ...] = (
    cast(type[Exception], igzip_lib.IsalError),  # its stub declares an instance
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
)


class Readable(Protocol):
    """What `chunks_of` reads: a file opened for bytes, a pipe, an upload."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class Compression(Enum):
    """How a stream is packed, told by its first bytes."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


_MAGIC = (
    (b"\x1f\x8b", Compression.GZIP),
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
)


def chunks_of(source: Readable, size: int = _SOURCE_CHUNK) -> Iterator[bytes]:
    """The content of a file-like object in chunks of at most `size` bytes."""
    while chunk := source.read(size):
        yield chunk


def detect(start: bytes) -> Compression:
    """The compression that a stream beginning with `start` has.  Skippable frames open a zstd stream too."""
    for magic, compression in _MAGIC:
        if start.startswith(magic):
            return compression
    is_skippable = len(start) >= 4 and start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F
    return Compression.ZSTD if is_skippable else Compression.NONE


def decompressed(chunks: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The stream in `chunks`, unpacked by what its first bytes say; as it is when they say nothing.

    Raises:
        InvalidArgument: damaged, truncated, followed by something else, or expanding beyond `limits`.
    """
    counted = _Counter(chunks)
    compression, source = _peek(counted)
    produced = 0
    for chunk in _DECODERS[compression](source):
        produced += len(chunk)
        if produced > limits.ratio_floor and produced > counted.seen * limits.ratio:
            raise InvalidArgument(f"{compression.value} stream expands more than {limits.ratio} times")
        yield chunk


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The stream in one gzip member without name and time: the same bytes whenever it is packed."""
    packer = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


class _Counter:
    """Chunks, and how many bytes have come by."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.seen = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.seen += len(chunk)
        return chunk


def _peek(chunks: Iterator[bytes]) -> tuple[Compression, Iterator[bytes]]:
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= _MAGIC_LENGTH:
            break
    return detect(start), _prepended(start, chunks)


def _prepended(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest


class _Member(Protocol):
    """The shape that bz2, lzma and igzip decompressors share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


def _members(chunks: Iterator[bytes], open_member: Callable[[], _Member], what: str) -> Iterator[bytes]:
    """Members one after the other, zero padding after the last; anything else behind a member is refused.

    zlib, isal and zlib-ng stop silently after the first member: what is left over is looped on here.
    """
    member: _Member | None = None
    for chunk in chunks:
        data = chunk
        while data or (member is not None and not member.needs_input):
            if member is None:
                if data.startswith(b"\0"):
                    _require_padding(data, chunks, what)
                    return
                member = open_member()
            if out := _step(member, data, what):
                yield out
            data = b""
            if member.eof:
                data, member = member.unused_data, None
    if member is not None:
        raise InvalidArgument(f"unexpected end of {what} stream")


def _step(member: _Member, data: bytes, what: str) -> bytes:
    try:
        return member.decompress(data, CHUNK)
    except _DAMAGED as error:
        raise InvalidArgument(f"invalid {what} stream: {error}") from error


def _require_padding(rest: bytes, chunks: Iterator[bytes], what: str) -> None:
    if rest.strip(b"\0") or any(chunk.strip(b"\0") for chunk in chunks):
        raise InvalidArgument(f"invalid {what} stream: trailing garbage")


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _members(chunks, lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), "gzip")


def _bunzip2(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _members(chunks, bz2.BZ2Decompressor, "bzip2")


def _unxz(chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _members(chunks, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY_MAX), "xz")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Frames one after the other.  `stream_reader` and not `decompressobj`, which has no bound on what it returns.

    A stream cut off inside a frame ends here without an error; the archive inside or the digest tells.
    """
    source = cast(IO[bytes], IterReader(chunks))  # zstandard calls read() alone
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    try:
        with decompressor.stream_reader(source, read_size=_SOURCE_CHUNK, read_across_frames=True) as reader:
            while chunk := reader.read(CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise InvalidArgument(f"invalid zstd stream: {error}") from error


_DECODERS: dict[Compression, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    Compression.NONE: iter,
    Compression.GZIP: _gunzip,
    Compression.ZSTD: _unzstd,
    Compression.BZIP2: _bunzip2,
    Compression.XZ: _unxz,
}


class IterReader:
    """An iterator of chunks as a `Readable`."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, possibly fewer; everything when `size` is negative; empty at the end."""
        if size < 0:
            everything = self._rest + b"".join(self._chunks)
            self._rest = b""
            return everything
        while not self._rest:
            try:
                self._rest = next(self._chunks)
            except StopIteration:
                return b""
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class Hashed:
    """Chunks, with the sha256 and the number of the bytes that came by.  Final when the chunks are used up."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self._hash.update(chunk)
        self.size += len(chunk)
        return chunk

    @property
    def digest(self) -> Digest:
        """`sha256:` of what came by so far."""
        return Digest("sha256:" + self._hash.hexdigest())


class Ahead:
    """Runs an iterator of chunks in a thread of its own, a few chunks ahead of who reads them.

    Decompression and hashing release the interpreter lock, so they overlap with the writing of files.  A context
    manager: leaving it stops the thread, also when not everything was read.
    """

    _DEPTH = 8

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(self._DEPTH)
        self._chunks = chunks
        self._stopped = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stream-ahead")
        self._job: Future[None] | None = None

    def __enter__(self) -> Ahead:
        self._job = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        while self._job is not None and not self._job.done():
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                continue
        self._pool.shutdown()

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            yield chunk
        if self._job is not None:
            self._job.result()  # raises what ended the thread

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                self._queue.put(chunk)
                if self._stopped:
                    return
        finally:
            self._queue.put(None)
