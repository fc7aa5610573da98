"""Docker's `local` log: records, cutting, mending."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from corten.shim import locallog
from corten.shim.lines import PIECE_BYTES, Lines
from corten.shim.locallog import FRAMING, LocalEncoder, bounds, decode, mend, varint, whole
from corten.shim.logfile import LogFile

MOMENT = 1_700_000_000_123_456_789


def test_a_record_is_a_message_between_its_length_twice() -> None:
    record = LocalEncoder("stdout").feed(b"hi\n", MOMENT)
    body = b"\x0a\x06stdout\x10" + varint(MOMENT) + b"\x1a\x02hi"
    assert record == struct.pack(">I", len(body)) + body + struct.pack(">I", len(body))
    assert decode(record) == [(b"stdout", MOMENT, b"hi\n")]


def test_bytes_that_are_no_text_come_back_as_they_were() -> None:
    data = b"\xff\xfe\0\n\n" + "é\n".encode()
    entries = decode(LocalEncoder("stderr").feed(data, MOMENT))
    assert b"".join(text for _, _, text in entries) == data


def test_a_long_line_comes_in_pieces_that_make_it_whole_again() -> None:
    encoder = LocalEncoder("stdout")
    line = b"x" * (2 * PIECE_BYTES + 5) + b"\n"
    records = b"".join(encoder.feed(line[at : at + 5000], MOMENT + at) for at in range(0, len(line), 5000))
    entries = decode(records + encoder.feed(b"next\nlast", MOMENT) + encoder.finish(MOMENT))
    assert [len(text) for _, _, text in entries] == [PIECE_BYTES, PIECE_BYTES, 6, 5, 4]
    assert b"".join(text for _, _, text in entries) == line + b"next\nlast"
    assert len({moment for _, moment, _ in entries[:3]}) == 1


def test_a_line_of_exactly_a_piece_ends_with_an_empty_one() -> None:
    lines = Lines().feed(b"y" * PIECE_BYTES + b"\nz\n", MOMENT)
    assert [(len(line.text), line.ordinal, line.is_last) for line in lines] == [
        (PIECE_BYTES, 1, False),
        (0, 2, True),
        (1, 0, True),
    ]
    assert lines[0].id == lines[1].id != ""


def test_files_are_rotated_between_records(tmp_path: Path) -> None:
    path = tmp_path / "log"
    encoder = LocalEncoder("stdout")
    record = encoder.feed(b"abc\n", MOMENT)
    log = LogFile(str(path), max_size=2 * len(record), max_files=3, framing=FRAMING)
    log.append(record * 7)
    log.close()
    assert [(tmp_path / name).read_bytes() for name in ("log", "log.1", "log.2")] == [record, record * 2, record * 2]


def test_a_record_torn_anywhere_keeps_its_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    record = LocalEncoder("stderr").feed(b"some words\n", MOMENT)
    for cut in range(len(record)):
        path.write_bytes(record + record[:cut])
        assert mend(str(path)) == cut
        first, *rest = decode(path.read_bytes())
        assert first == (b"stderr", MOMENT, b"some words\n")
        text = b"".join(entry[2] for entry in rest)
        assert b"some words".startswith(text)
        assert len(bounds(path.read_bytes())) == 1 + bool(rest)
    assert text == b"some words"


def test_what_is_whole_is_known(tmp_path: Path) -> None:
    record = LocalEncoder("stdout").feed(b"abc\n", MOMENT)
    assert whole(record * 3, len(record) * 2 + 1) == 2 * len(record)
    assert whole(b"\xff" * 50, 50) == 0
    path = tmp_path / "log"
    path.write_bytes(record * 3)
    assert mend(str(path)) == 0
    assert mend(str(tmp_path / "nope")) == 0


def test_a_long_file_is_mended_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    encoder = LocalEncoder("stdout")
    records = b"".join(encoder.feed(b"line %d\n" % number, MOMENT + number) for number in range(1000))
    asked: list[int] = []
    true_pread = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        asked.append(size)
        return true_pread(fd, size, offset)

    monkeypatch.setattr(locallog, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(locallog, "_LIMIT", 992)
    monkeypatch.setattr(os, "pread", pread)
    path.write_bytes(records + records[:10])
    assert mend(str(path)) == 10
    assert path.read_bytes() == records
    path.write_bytes(records[:-3])
    mend(str(path))
    text = b"".join(text for _, _, text in decode(path.read_bytes()))
    assert text.split(b"\n")[:1000] == [b"line %d" % number for number in range(1000)]
    assert max(asked) <= 1000
