"""Tar headers: what ustar holds is ustar, the rest is PAX, and readers of both kinds read it back."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from corten.core.limits import DEFAULT
from corten.core.tarheader import Entry, Kind
from corten.core.tarreader import TarReader
from corten.core.tarwriter import END, header, padding
from corten.errors import InvalidArgument


def entry(kind: Kind = Kind.FILE, **given: Any) -> Entry:
    fields: dict[str, Any] = {"name": b"a", "link": b"", "mode": 0o644, "uid": 0, "gid": 0, "size": 0, "mtime_ns": 0}
    fields |= {"device": 0, "xattrs": (), "segments": None}
    return Entry(kind, **(fields | given))


ENTRIES = (
    entry(),
    entry(mode=0o6755, uid=1000, gid=0o7777777, mtime_ns=1704067200 * 10**9),
    entry(size=1 << 40),
    entry(uid=2**32 - 2, gid=2**31),
    entry(name=b"x" * 101),
    entry(name=b"d/" * 100 + b"f"),
    entry(name=b"a" * 155 + b"/" + b"b" * 100),
    entry(name=b"a" * 156 + b"/" + b"b" * 98),
    entry(name="Grüße/日本".encode()),
    entry(name=b"not \xff utf-8\n"),
    entry(Kind.DIRECTORY, name=b"d", mode=0o1777),
    entry(Kind.DIRECTORY, name=b"d" * 100),
    entry(Kind.SYMLINK, link=b"/target", mode=0o777),
    entry(Kind.SYMLINK, link=b"t" * 4000, mode=0o777),
    entry(Kind.HARD_LINK, link=b"b" * 100),
    entry(Kind.CHAR, device=(5 << 8) | 1),
    entry(Kind.BLOCK, device=(259 << 8) | 7),
    entry(Kind.FIFO),
    entry(xattrs=((b"security.capability", bytes(range(20))), (b"user.a", b"=\xff\n"))),
    entry(xattrs=tuple((b"user.%03d" % n, b"v" * n) for n in range(85, 110))),
)


@pytest.mark.parametrize("written", ENTRIES, ids=lambda one: f"{one.kind.value} {one.name[:20]!r}")
def test_our_reader_reads_back_what_was_written(written: Entry) -> None:
    data = header(written)
    assert len(data) % 512 == 0
    # no reader of a test skips a TiB
    (read,) = TarReader(iter([data + END]), DEFAULT) if not written.size else [next(iter(TarReader([data], DEFAULT)))]
    name = written.name + b"/" if written.kind is Kind.DIRECTORY else written.name
    assert (read.kind, read.name, read.link, read.mode) == (written.kind, name, written.link, written.mode)
    assert (read.uid, read.gid, read.size, read.mtime_ns) == (
        *(written.uid, written.gid, written.size),
        written.mtime_ns,
    )
    assert (read.device, read.xattrs) == (written.device, written.xattrs)


@pytest.mark.parametrize("written", ENTRIES, ids=lambda one: f"{one.kind.value} {one.name[:20]!r}")
def test_pythons_reader_reads_it_too(written: Entry) -> None:
    with tarfile.open(fileobj=io.BytesIO(header(written) + END)) as opened:
        read = opened.next()
    assert read is not None
    assert read.name.encode(errors="surrogateescape") == written.name.rstrip(b"/")
    assert read.linkname.encode() == written.link
    assert (read.mode, read.uid, read.gid, read.size) == (written.mode, written.uid, written.gid, written.size)


def test_a_plain_entry_needs_no_extended_header() -> None:
    assert [len(header(one)) for one in ENTRIES[:2]] == [512, 512]
    assert header(entry())[156:157] == b"0"


def test_fractions_of_a_second_and_times_before_1970_are_whole_seconds() -> None:
    assert header(entry(mtime_ns=1_999_999_999)) == header(entry(mtime_ns=10**9))
    assert b" mtime=-1\n" in header(entry(mtime_ns=-1))


def test_the_length_of_a_record_counts_itself() -> None:
    for length in (85, 86, 87, 88, 985, 986, 987):
        data = header(entry(xattrs=((b"user.x", b"v" * length),)))
        record = data[512 : 512 + int(data[124:135], 8)]
        assert int(record.split(b" ")[0]) == len(record)


def test_padding_fills_the_block() -> None:
    assert [len(padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


def test_a_name_with_nul_is_refused() -> None:
    for wrong in (entry(name=b"a\0b"), entry(Kind.SYMLINK, link=b"a\0b")):
        with pytest.raises(InvalidArgument, match="NUL"):
            header(wrong)
