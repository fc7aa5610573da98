"""The reader of tar archives: formats, damage, budgets."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from corten.core.limits import DEFAULT, Limits
from corten.core.tarheader import Entry, Kind, number
from corten.core.tarreader import TarReader
from corten.errors import InvalidArgument
from support import tarballs as t


def read(data: bytes, limits: Limits = DEFAULT, chunk: int = 1000) -> list[tuple[Entry, bytes]]:
    reader = TarReader(t.chunked(data, chunk), limits)
    return [(entry, reader.read_all()) for entry in reader]


def one(data: bytes, limits: Limits = DEFAULT) -> tuple[Entry, bytes]:
    (found,) = read(data, limits)
    return found


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 513, 100_000])
def test_an_archive_reads_the_same_however_its_stream_is_cut(chunk: int) -> None:
    data = t.archive(t.directory(b"d/"), t.entry(b"d/f", data=b"x" * 1300), t.symlink(b"l", b"d/f"))
    found = read(data, chunk=chunk)
    assert [(entry.kind, entry.name, len(content)) for entry, content in found] == [
        (Kind.DIRECTORY, b"d/", 0),
        (Kind.FILE, b"d/f", 1300),
        (Kind.SYMLINK, b"l", 0),
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_read_back_in_every_format(form: int) -> None:
    buffer = io.BytesIO()
    name = "very/" * 30 + "é" if form != tarfile.USTAR_FORMAT else "p" * 90 + "/" + "n" * 90
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uid, info.gid, info.mtime = 5, 0o4755, 12, 34, 1234567890
        archive.addfile(info, io.BytesIO(b"hello"))
    entry, content = one(buffer.getvalue())
    assert (entry.name, content) == (name.encode(), b"hello")
    assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (0o4755, 12, 34, 1234567890 * 10**9)


def test_numbers_are_octal_or_base_256() -> None:
    assert number(b"0000644\0") == 0o644
    assert number(b"    644 ") == 0o644
    assert number(b"        ") == 0
    assert number(t.octal(2**40, 12)) == 2**40
    assert number(b"\xff" * 12) == -1
    for bad in (b"00x0644\0", b"0_1\0\0\0\0\0", b"+1\0\0\0\0\0\0", b"888\0\0\0\0\0"):
        with pytest.raises(InvalidArgument):
            number(bad)


def test_pax_records_win_over_the_block_and_gnu_names_over_pax() -> None:
    records = {b"path": b"pax", b"uid": b"70000", b"gid": b"80000", b"mtime": b"12.5"}
    entry, _ = one(t.archive(t.pax(records), t.entry(b"block")))
    assert (entry.name, entry.uid, entry.gid, entry.mtime_ns) == (b"pax", 70000, 80000, 12_500_000_000)
    entry, _ = one(t.archive(t.gnu_long(b"gnu" * 100), t.pax(records), t.entry(b"block")))
    assert entry.name == b"gnu" * 100
    entry, _ = one(t.archive(t.gnu_long(b"far/" * 50, b"K"), t.symlink(b"l", b"near")))
    assert entry.link == b"far/" * 50


def test_names_stay_bytes_whatever_the_character_set_says() -> None:
    records = [(b"hdrcharset", b"BINARY"), (b"path", b"\xff\xfe\n=")]
    assert one(t.archive(t.pax(records), t.entry(b"x")))[0].name == b"\xff\xfe\n="


def test_extended_attributes_keep_their_bytes() -> None:
    records = {b"SCHILY.xattr.security.capability": b"\x01\0\0\x02\n=\xff", b"SCHILY.xattr.user.a=b": b"x"}
    entry, _ = one(t.archive(t.pax(list(records.items())[:1]), t.entry(b"x")))
    assert entry.xattrs == ((b"security.capability", b"\x01\0\0\x02\n=\xff"),)


def test_global_headers_and_contiguous_files_are_read_as_go_does() -> None:
    data = t.archive(t.pax({b"comment": b"abc", b"path": b"evil"}, b"g"), t.entry(b"f", b"7", b"1"))
    entry, content = one(data)
    assert (entry.kind, entry.name, content) == (Kind.FILE, b"f", b"1")


def test_an_old_directory_is_told_by_its_slash() -> None:
    assert one(t.archive(t.entry(b"old/", b"\0", magic=bytes(8))))[0].kind is Kind.DIRECTORY


def test_the_prefix_of_ustar_and_star_headers() -> None:
    assert one(t.archive(t.entry(b"name", prefix=b"some/prefix")))[0].name == b"some/prefix/name"
    star = b"p" * 131 + b"00000000000\0" + b"00000000000\0" + bytes(8) + b"tar\0"
    assert one(t.archive(t.entry(b"name", tail=star)))[0].name == b"p" * 131 + b"/name"
    gnu = t.entry(b"name", magic=b"ustar  \0", tail=b"12345670123\0")
    assert one(t.archive(gnu))[0].name == b"name"


def test_only_files_have_data() -> None:
    data = t.archive(t.header(b"l", t.HARD_LINK, size=4096, link=b"x"), t.entry(b"f", data=b"y"))
    assert [entry.name for entry, _ in read(data)] == [b"l", b"f"]


def test_a_signed_checksum_is_accepted_and_a_wrong_one_is_not() -> None:
    block = bytearray(t.header(b"\xe9t\xe9"))
    unsigned = int(block[148:154], 8)
    block[148:156] = f"{unsigned - 2 * 256:06o}".encode() + b"\0 "
    assert one(bytes(block) + t.END)[0].name == b"\xe9t\xe9"
    block[0] ^= 1
    with pytest.raises(InvalidArgument, match="archive/tar: invalid tar header"):
        read(bytes(block) + t.END)


def test_an_archive_may_end_at_a_header_and_nowhere_else() -> None:
    data = t.entry(b"f", data=b"x" * 600)
    assert len(read(data)) == 1
    for cut in (100, 512, 513, 1111):
        with pytest.raises(InvalidArgument, match="unexpected EOF"):
            read(data[:cut])
    with pytest.raises(InvalidArgument, match="unexpected EOF"):
        read(t.pax({b"path": b"x"}))


def test_the_stream_is_read_to_its_end_only_when_drained() -> None:
    chunks = iter([t.archive(t.entry(b"f")), b"more", b"and more"])
    reader = TarReader(chunks, DEFAULT)
    assert len(list(reader)) == 1
    reader.drain()
    assert next(chunks, None) is None


@pytest.mark.parametrize("sparse_version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar_are_read_in_every_form(sparse_version: str, tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
        for number_ in range(30):
            file.seek(number_ * 32768)
            file.write(b"%04d" % number_ * 1024)
    form = ["--format=gnu"] if sparse_version == "gnu" else ["--format=pax", f"--sparse-version={sparse_version}"]
    argv = ["tar", "--sparse", "--hole-detection=raw", *form, "-C", str(tmp_path), "-cf", "-", "holes"]
    data = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
    entry, stored = one(data)
    assert (entry.name, entry.size) == (b"holes", 1 << 20)
    content = bytearray(entry.size)
    at = 0
    for offset, length in entry.segments or ():
        content[offset : offset + length] = stored[at : at + length]
        at += length
    assert bytes(content) == (tmp_path / "holes").read_bytes()
    assert len(stored) < 300_000


@pytest.mark.parametrize(
    ("records", "data", "text"),
    [
        ({b"GNU.sparse.map": b"0,5,3,5", b"GNU.sparse.size": b"9"}, b"x" * 10, "invalid sparse map"),
        ({b"GNU.sparse.map": b"0,5", b"GNU.sparse.size": b"4"}, b"x" * 5, "invalid sparse map"),
        ({b"GNU.sparse.map": b"0,5,6", b"GNU.sparse.size": b"9"}, b"x" * 5, "invalid sparse map"),
        ({b"GNU.sparse.map": b"0,5", b"GNU.sparse.size": b"9"}, b"x" * 6, "does not cover"),
        ({b"GNU.sparse.map": b"0,5"}, b"x" * 5, "no size"),
        ({b"GNU.sparse.map": b"0,-5", b"GNU.sparse.size": b"9"}, b"", "bad sparse map"),
        ({b"GNU.sparse.major": b"2"}, b"", "unsupported sparse"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}, b"5\n" * 5, "too long or cut off"),
        ({b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": b"9223372036854775807"}, b"x", "invalid sparse map"),
    ],
)
def test_a_sparse_map_that_cannot_be_is_refused(records: dict[bytes, bytes], data: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        read(t.archive(t.pax(records), t.entry(b"f", data=data)))


@pytest.mark.parametrize(
    "body",
    [
        b"5 a=b\n",
        b"7 a=b\nX",
        b"999 a=b\n",
        b"x a=b\n",
        b"6 ab \n",
        b"6 =ab\n",
        b"8 a\0=b\n\n",
        b"13 path=a\0b\n\n"[:13],
        b"-5 a=b\n",
        b"0 \n",
        b" a=b\n",
    ],
)
def test_malformed_pax_records_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="pax header"):
        read(t.archive(t.entry(b"PaxHeaders/x", b"x", body), t.entry(b"f")))


@pytest.mark.parametrize(
    "records", [{b"uid": b"4294967295"}, {b"gid": b"99999999999"}, {b"uid": b"-1"}, {b"size": b"-2"}]
)
def test_numbers_that_would_wrap_around_are_refused(records: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidArgument):
        read(t.archive(t.pax(records), t.entry(b"f")))


def test_times_beyond_what_the_kernel_takes_become_the_epoch() -> None:
    for time in (b"-5", b"99999999999999"):
        assert one(t.archive(t.pax({b"mtime": time}), t.entry(b"f")))[0].mtime_ns == 0


def test_unknown_types_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="unhandled tar header type"):
        read(t.archive(t.entry(b"v", b"V")))


@pytest.mark.parametrize(
    ("limits", "data", "text"),
    [
        (Limits(entries=3), t.archive(*[t.entry(b"f")] * 4), "more than 3 entries"),
        (Limits(entries=3), t.archive(*[t.pax({b"a": b"b"})] * 4, t.entry(b"f")), "more than 3 entries"),
        (Limits(header=100), t.archive(t.pax({b"a": b"b" * 100}), t.entry(b"f")), "larger than 100 bytes"),
        (Limits(header=100), t.archive(t.gnu_long(b"b" * 100), t.entry(b"f")), "larger than 100 bytes"),
        (Limits(), t.archive(t.gnu_long(b"b/" * 2048), t.entry(b"f")), "more than 4095 bytes"),
        (Limits(apparent=10), t.archive(t.entry(b"f", data=b"x" * 11)), "larger than 10 bytes"),
        (
            Limits(xattrs=1),
            t.archive(t.pax({b"SCHILY.xattr.user.a": b"", b"SCHILY.xattr.user.b": b""}), t.entry(b"f")),
            "more than 1 extended attributes",
        ),
        (
            Limits(xattr=4),
            t.archive(t.pax({b"SCHILY.xattr.user.a": b"12345"}), t.entry(b"f")),
            "extended attribute out of bounds",
        ),
    ],
)
def test_budgets_end_the_reading(limits: Limits, data: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        read(data, limits)
