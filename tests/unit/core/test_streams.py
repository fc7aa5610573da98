"""Streams: packings, damage, bombs, threads."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import threading
from collections.abc import Callable, Iterator

import pytest
import zstandard

from corten.core.limits import DEFAULT, Limits
from corten.core.streams import CHUNK, Ahead, Compression, Hashed, IterReader, chunks_of, decompressed, detect, gzipped
from corten.errors import InvalidArgument
from support.tarballs import chunked

DATA = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(20_000))
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def unpacked(data: bytes, limits: Limits = DEFAULT, chunk: int = 5000) -> bytes:
    return b"".join(decompressed(chunked(data, chunk), limits))


@pytest.mark.parametrize("form", PACK)
@pytest.mark.parametrize("chunk", [1, 3, 65536])
def test_every_packing_is_told_by_its_first_bytes(form: str, chunk: int) -> None:
    data = DATA if chunk > 1 else DATA[:5000]
    assert unpacked(PACK[form](data), chunk=chunk) == data


def test_an_empty_stream_is_empty() -> None:
    assert unpacked(b"") == b""
    assert unpacked(gzip.compress(b"")) == b""


@pytest.mark.parametrize("form", ["gzip", "zstd", "bzip2", "xz"])
def test_members_follow_each_other(form: str) -> None:
    assert unpacked(PACK[form](b"one") + PACK[form](b"two"), chunk=1) == b"onetwo"


@pytest.mark.parametrize("chunk", [1, 4096])
def test_gzip_takes_zero_padding_and_nothing_else_behind_a_member(chunk: int) -> None:
    packed = gzip.compress(b"data")
    assert unpacked(packed + bytes(10_000), chunk=chunk) == b"data"
    for rest in (b"x", b"\0x", bytes(9000) + b"x", b"\x1f\x8b", b"garbage that is long enough"):
        with pytest.raises(InvalidArgument):
            unpacked(packed + rest, chunk=chunk)


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_a_truncated_stream_is_refused(form: str) -> None:
    with pytest.raises(InvalidArgument, match=f"unexpected end of {form} stream"):
        unpacked(PACK[form](DATA)[:-10])


@pytest.mark.parametrize("form", ["gzip", "zstd", "bzip2", "xz"])
def test_a_damaged_stream_is_refused(form: str) -> None:
    packed = bytearray(PACK[form](DATA))
    packed[len(packed) // 2] ^= 0xFF
    packed[-3] ^= 0xFF
    with pytest.raises(InvalidArgument, match=f"invalid {form} stream"):
        unpacked(bytes(packed))


def test_a_zstd_stream_may_begin_with_a_skippable_frame() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    assert detect(skippable) is Compression.ZSTD
    assert unpacked(skippable + PACK["zstd"](b"data")) == b"data"


@pytest.mark.parametrize("form", ["gzip", "zstd", "bzip2", "xz"])
def test_a_bomb_is_stopped_by_its_ratio_and_comes_in_small_chunks(form: str) -> None:
    limits = Limits(ratio=10, ratio_floor=4 << 20)
    bomb = PACK[form](bytes(64 << 20))
    seen: list[int] = []
    with pytest.raises(InvalidArgument, match="expands more than 10 times"):
        seen.extend(len(chunk) for chunk in decompressed([bomb], limits))
    assert max(seen) <= CHUNK
    assert sum(seen) <= (4 << 20) + CHUNK


def test_a_stream_that_expands_little_is_not_stopped() -> None:
    assert unpacked(PACK["gzip"](DATA), Limits(ratio=2, ratio_floor=1000)) == DATA


def test_reading_from_a_file_and_from_chunks() -> None:
    assert b"".join(chunks_of(io.BytesIO(DATA), 1000)) == DATA
    reader = IterReader([b"ab", b"", b"cdef"])
    assert [reader.read(3), reader.read(3), reader.read(3), reader.read(3)] == [b"ab", b"cde", b"f", b""]
    assert IterReader([b"ab", b"c"]).read() == b"abc"


def test_a_hash_covers_what_came_by() -> None:
    hashed = Hashed([b"ab", b"c"])
    assert list(hashed) == [b"ab", b"c"]
    assert (hashed.size, hashed.digest) == (3, "sha256:" + hashlib.sha256(b"abc").hexdigest())


def test_reading_ahead_keeps_order_and_raises_what_was_raised() -> None:
    def failing() -> Iterator[bytes]:
        yield b"a"
        raise InvalidArgument("boom")

    with Ahead(b"%d" % number for number in range(100)) as ahead:
        assert list(ahead) == [b"%d" % number for number in range(100)]
    with Ahead(failing()) as ahead, pytest.raises(InvalidArgument, match="boom"):
        list(ahead)


def test_reading_ahead_stops_with_its_reader() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x"

    before = threading.active_count()
    with Ahead(endless()) as ahead:
        assert next(iter(ahead)) == b"x"
    assert threading.active_count() == before


def test_what_is_packed_as_gzip_has_no_time_and_no_name_and_comes_in_pieces() -> None:
    data = [noise * 3000 for noise in (b"a", b"bc", bytes(range(256)))] * 300
    pieces = list(gzipped(data))
    assert gzip.decompress(b"".join(pieces)) == b"".join(data)
    assert pieces[0][:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff", "gzip, deflate, no flags, no time, unknown system"
    assert len(pieces) > 2
    assert gzip.decompress(b"".join(gzipped([]))) == b""
