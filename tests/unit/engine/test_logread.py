"""Reading json-file logs: formats, tails, bounds, rotation."""

from __future__ import annotations

import gzip
import itertools
import mmap
import os
import signal
import struct
import time
from pathlib import Path

import pytest

from corten.engine import logfiles
from corten.engine.logfiles import Reader, rotated_files
from corten.engine.logformats import JSON_LINES, LENGTH_PREFIXED
from corten.engine.logread import Formatter, Query, fixed_time
from corten.engine.times import from_rfc3339
from corten.shim.locallog import FRAMING, LocalEncoder
from corten.shim.logfile import LogFile


def line(text: str, second: int = 0, stream: str = "stdout", **extra: str) -> str:
    attrs = '"attrs":{' + ",".join(f'"{key}":"{value}"' for key, value in extra.items()) + "}," if extra else ""
    return f'{{"log":"{text}\\n","stream":"{stream}",{attrs}"time":"2026-01-02T03:04:{second:02d}.5Z"}}\n'


def read(path: Path, query: Query, *, raw: bool = True) -> bytes:
    reader, formatter, out = Reader(str(path), JSON_LINES, query.tail), Formatter(query, raw=raw), b""
    while not formatter.is_past_until and (block := reader.read()):
        out += formatter.format(block)
    reader.close()
    return out


def at(second: int) -> int:
    return from_rfc3339(f"2026-01-02T03:04:{second:02d}.5Z")


def log(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "x.log"
    path.write_text("".join(lines))
    return path


def test_multiplexed_output_has_eight_byte_headers(tmp_path: Path) -> None:
    path = log(tmp_path, line("one"), line("two", stream="stderr"))
    frames = struct.pack(">BxxxI", 1, 4) + b"one\n" + struct.pack(">BxxxI", 2, 4) + b"two\n"
    assert read(path, Query(), raw=False) == frames
    assert read(path, Query(stderr=False), raw=True) == b"one\n"


def test_a_tail_counts_lines_from_the_end(tmp_path: Path) -> None:
    path = log(tmp_path, *(line(str(number)) for number in range(10_000)))
    assert read(path, Query(tail=2)) == b"9998\n9999\n"
    assert read(path, Query(tail=0)) == b""
    assert read(path, Query(tail=20_000)).startswith(b"0\n1\n")
    assert read(path, Query(tail=5_000)).startswith(b"5000\n")


def test_a_tail_reaches_into_rotated_files(tmp_path: Path) -> None:
    path = log(tmp_path, line("c"))
    (tmp_path / "x.log.1").write_text(line("b"))
    with gzip.open(tmp_path / "x.log.2.gz", "wt") as file:
        file.write(line("z") + line("a"))
    assert [Path(name).name for name in rotated_files(str(path))] == ["x.log.2.gz", "x.log.1", "x.log"]
    assert read(path, Query()) == b"z\na\nb\nc\n"
    assert read(path, Query(tail=3)) == b"a\nb\nc\n"


def test_bounds_of_time_are_inclusive(tmp_path: Path) -> None:
    path = log(tmp_path, *(line(str(second), second) for second in range(5)))
    assert read(path, Query(since_ns=at(2))) == b"2\n3\n4\n"
    assert read(path, Query(until_ns=at(2))) == b"0\n1\n2\n"


def test_timestamps_have_nine_digits_and_details_are_sorted(tmp_path: Path) -> None:
    path = log(tmp_path, line("x", b="2", a="1 1"))
    assert read(path, Query(timestamps=True)) == b"2026-01-02T03:04:00.500000000Z x\n"
    assert read(path, Query(details=True)) == b"a=1+1,b=2 x\n"


def test_times_sort_as_text_once_they_are_fixed() -> None:
    assert fixed_time("2026-01-02T03:04:05Z") == "2026-01-02T03:04:05.000000000Z"
    assert fixed_time("2026-01-02T03:04:05.123456789Z") == "2026-01-02T03:04:05.123456789Z"


def test_a_line_that_is_no_record_is_left_out(tmp_path: Path) -> None:
    path = log(tmp_path, line("a"), "garbage\n", line("b"))
    assert read(path, Query()) == b"a\nb\n"


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = log(tmp_path, line("a"), '{"log":"half')
    reader = Reader(str(path), JSON_LINES)
    assert reader.read() == line("a").encode()
    assert reader.read() == b""
    with path.open("a") as file:
        file.write('\\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}\n')
    assert b"half" in reader.read()
    reader.close()


def test_rotation_while_reading_loses_nothing(tmp_path: Path) -> None:
    path = log(tmp_path, line("a"))
    reader = Reader(str(path), JSON_LINES)
    assert b'"a\\n"' in reader.read()
    with path.open("a") as file:
        file.write(line("b"))
    path.rename(tmp_path / "x.log.1")
    path.write_text(line("c"))
    seen = b""
    while block := reader.read():
        seen += block
    assert seen.decode() == line("b") + line("c")
    reader.close()


def test_many_lines_come_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text(line("x" * 99) * 200_000)
    assert len(read(path, Query(), raw=False)) == 200_000 * (8 + 100)


def numbered(blocks: list[bytes]) -> list[int]:
    return [int(record.log) for block in blocks for record in JSON_LINES.decode(block)]


def test_files_that_are_rotated_while_an_older_one_is_read_come_once(tmp_path: Path) -> None:
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=50 * len(line("0000")), max_files=9)
    for number in range(200):
        log_file.append(line(f"{number:04}").encode())
    reader = Reader(path, JSON_LINES)
    blocks = [reader.read()]
    for number in range(200, 300):
        log_file.append(line(f"{number:04}").encode())
    while block := reader.read():
        blocks.append(block)
    reader.close()
    log_file.close()
    assert numbered(blocks) == list(range(300))


def test_what_is_written_between_the_last_look_and_the_rotation_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=4 * len(line("0000")), max_files=9)
    log_file.append(line("0000").encode())

    class Racing(Reader):
        def _find_newer(self) -> bool:
            while log_file.size and not os.path.exists(f"{path}.2"):  # grows, and is rotated twice
                log_file.append(line(f"{next(numbers):04}").encode())
            return super()._find_newer()

    numbers, reader = itertools.count(1), Racing(path, JSON_LINES)
    blocks = []
    while block := reader.read():
        blocks.append(block)
    reader.close()
    log_file.close()
    assert numbered(blocks) == list(range(9))


def test_a_reader_closes_all_its_files(tmp_path: Path) -> None:
    path = log(tmp_path, line("c"))
    for number in range(1, 5):
        (tmp_path / f"x.log.{number}").write_text(line("b"))
    before = len(os.listdir("/proc/self/fd"))
    for tail in (-1, 0, 2):
        reader = Reader(str(path), JSON_LINES, tail)
        reader.read()
        reader.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


def test_a_file_that_is_packed_behind_a_reader_is_not_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=10 * len(line("0000")), max_files=9, compress=True)
    for number in range(15):
        log_file.append(line(f"{number:04}").encode())
    reader = Reader(path, JSON_LINES)
    blocks = list(iter(reader.read, b""))
    for number in range(15, 45):
        log_file.append(line(f"{number:04}").encode())
    deadline = time.monotonic() + 60
    while len([name for name in os.listdir(tmp_path) if name.endswith(".gz")]) < 4:
        assert time.monotonic() < deadline
        log_file.settle()
        time.sleep(0.01)
    blocks += list(iter(reader.read, b""))
    reader.close()
    log_file.close()
    assert numbered(blocks) == list(range(45))


def test_what_a_slow_reader_has_open_survives_its_rotation(tmp_path: Path) -> None:
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=10 * len(line("0000")), max_files=2)
    log_file.append(line("0000").encode())
    reader = Reader(path, JSON_LINES)
    blocks = [reader.read()]
    for number in range(1, 100):
        log_file.append(line(f"{number:04}").encode())
        if number % 10 == 5:
            blocks.append(reader.read())
    blocks += list(iter(reader.read, b""))
    reader.close()
    log_file.close()
    assert numbered(blocks) == list(range(100))


def test_a_reader_in_the_middle_of_a_rotation_misses_no_file(tmp_path: Path) -> None:
    """`.1` has moved on and the current file has not: there is a gap for a moment."""
    path = log(tmp_path, line("c"))
    (tmp_path / "x.log.2").write_text(line("b"))
    (tmp_path / "x.log.10").write_text(line("a"))
    assert read(path, Query()) == b"a\nb\nc\n"


def test_a_log_is_read_whole_while_it_is_written_rotated_and_packed(tmp_path: Path) -> None:
    """The writer is never further ahead than the files that are kept reach: what is missing, the reader has lost."""
    path = str(tmp_path / "x.log")
    count, most_ahead = 20_000, 400
    progress = mmap.mmap(-1, 8)  # how many lines the reader has
    child = os.fork()
    if not child:
        try:
            log_file = LogFile(path, max_size=20_000, max_files=4, compress=True)
            for number in range(0, count, 20):
                while number - int.from_bytes(progress[:8], "little") > most_ahead:
                    time.sleep(0.0002)
                log_file.append("".join(line(f"{one:06}") for one in range(number, number + 20)).encode())
                log_file.settle()
                time.sleep(0.0002)
        finally:
            os._exit(0)
    blocks: list[bytes] = []
    deadline = time.monotonic() + 60
    try:
        while not os.path.exists(path):
            time.sleep(0.001)
        reader = Reader(path, JSON_LINES)
        seen = 0
        while seen < count:
            assert time.monotonic() < deadline
            if block := reader.read():
                blocks.append(block)
                seen += block.count(b"\n")
                progress[:8] = seen.to_bytes(8, "little")
        reader.close()
    finally:  # a writer whose reader has given up would wait for it for ever
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        progress.close()
    assert numbered(blocks) == list(range(count))


def local_log(tmp_path: Path, count: int, max_size: int) -> str:
    path, encoder = str(tmp_path / "c.log"), LocalEncoder("stdout")
    log_file = LogFile(path, max_size=max_size, max_files=5, framing=FRAMING)
    for number in range(count):
        log_file.append(encoder.feed(b"%04d\xff\n" % number, at(1)))
    log_file.close()
    return path


def test_a_local_log_is_read_over_all_its_files_with_its_bytes(tmp_path: Path) -> None:
    path = local_log(tmp_path, 300, 3000)
    with gzip.open(f"{path}.2.gz", "wb") as file:
        file.write(Path(f"{path}.2").read_bytes())
    os.unlink(f"{path}.2")
    for tail in (-1, 0, 1, 5, 150, 250, 1000):
        reader, formatter, out = (
            Reader(path, LENGTH_PREFIXED, tail),
            Formatter(Query(), raw=True, format=LENGTH_PREFIXED),
            b"",
        )
        while block := reader.read():
            out += formatter.format(block)
        reader.close()
        expected = range(300) if tail < 0 else range(max(0, 300 - tail), 300)
        assert out == b"".join(b"%04d\xff\n" % number for number in expected), tail


def test_a_torn_end_of_a_local_log_does_not_count(tmp_path: Path) -> None:
    path = local_log(tmp_path, 10, -1)
    with open(path, "ab") as file:
        file.write(b"\0\0\0\x20half")
    reader = Reader(path, LENGTH_PREFIXED, 2)
    assert [record.log for record in LENGTH_PREFIXED.decode(reader.read())] == ["0008\udcff\n", "0009\udcff\n"]
    reader.close()


def test_who_does_not_follow_ends_where_the_log_ended(tmp_path: Path) -> None:
    path = log(tmp_path, line("a"), line("b"))
    (tmp_path / "x.log.1").write_text(line("z"))
    reader = Reader(str(path), JSON_LINES, follows=False)
    with path.open("a") as file:
        file.write(line("c"))
    path.rename(tmp_path / "x.log.2")
    path.write_text(line("d"))
    assert "".join(record.log for record in JSON_LINES.decode(b"".join(iter(reader.read, b"")))) == "z\na\nb\n"
    reader.close()
    empty = Reader(str(tmp_path / "nope"), JSON_LINES, follows=False)
    (tmp_path / "nope").write_text(line("later"))
    assert empty.read() == b""


def test_what_a_reader_comes_too_late_for_is_told_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles, "_KEPT_FILES", 3)
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=10 * len(line("0000")), max_files=2)
    log_file.append(line("0000").encode())
    reader = Reader(path, JSON_LINES)
    seen: list[int] = []
    for number in range(1, 95):
        log_file.append(line(f"{number:04}").encode())
        reader.look()
    missed = 0
    while block := reader.read():
        if size := reader.missed():
            missed = size
            seen.append(-1)
        seen += numbered([block])
    reader.close()
    log_file.close()
    assert seen == [*range(10), -1, *range(80, 95)]
    assert missed == 7 * 10 * len(line("0000"))


@pytest.mark.parametrize("late", [2, 3, 5])
def test_rotations_that_nobody_looked_at_are_a_gap_as_soon_as_a_file_is_missing(tmp_path: Path, late: int) -> None:
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=10 * len(line("0000")), max_files=2)
    log_file.append(line("0000").encode())
    reader = Reader(path, JSON_LINES)
    rotations = 0
    reader.count(lambda: rotations)
    for number in range(1, 10 * late + 5):
        log_file.append(line(f"{number:04}").encode())
    rotations = late
    reader.read()
    seen = numbered([reader.read()])
    assert reader.missed() == (0 if late == 2 else -1)
    assert seen[0] == (10 if late == 2 else 10 * late - 10)
    assert reader.missed() == 0
    reader.close()
    log_file.close()


def test_a_gap_is_a_line_on_stderr(tmp_path: Path) -> None:
    text = Formatter(Query(stderr=False), raw=False).gap(12)
    size = len(text) - 8
    assert text[:8] == struct.pack(">BxxxI", 2, size)
    assert text[8:] == b"corten: 12 bytes of this log were rotated away before this reader came to it\n"
    raw = Formatter(Query(timestamps=True), raw=True).gap(-1)
    assert raw.endswith(b"Z corten: a part of this log was rotated away before this reader came to it\r\n")
