"""Reading json-file logs: formats, tails, bounds, rotation."""

from __future__ import annotations

import gzip
import itertools
import os
import struct
from pathlib import Path

from corten.engine.logread import Formatter, Query, Reader, decode, fixed_time, rotated_files
from corten.engine.times import from_rfc3339
from corten.shim.logfile import LogFile


def line(text: str, second: int = 0, stream: str = "stdout", **extra: str) -> str:
    attrs = '"attrs":{' + ",".join(f'"{key}":"{value}"' for key, value in extra.items()) + "}," if extra else ""
    return f'{{"log":"{text}\\n","stream":"{stream}",{attrs}"time":"2026-01-02T03:04:{second:02d}.5Z"}}\n'


def read(path: Path, query: Query, *, raw: bool = True) -> bytes:
    reader, formatter, out = Reader(str(path), query.tail), Formatter(query, raw=raw), b""
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
    reader = Reader(str(path))
    assert reader.read() == line("a").encode()
    assert reader.read() == b""
    with path.open("a") as file:
        file.write('\\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}\n')
    assert b"half" in reader.read()
    reader.close()


def test_rotation_while_reading_loses_nothing(tmp_path: Path) -> None:
    path = log(tmp_path, line("a"))
    reader = Reader(str(path))
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
    return [int(record.log) for block in blocks for record in decode(block)]


def test_files_that_are_rotated_while_an_older_one_is_read_come_once(tmp_path: Path) -> None:
    path = str(tmp_path / "x.log")
    log_file = LogFile(path, max_size=50 * len(line("0000")), max_files=9)
    for number in range(200):
        log_file.append(line(f"{number:04}").encode())
    reader = Reader(path)
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

    numbers, reader = itertools.count(1), Racing(path)
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
        reader = Reader(str(path), tail)
        reader.read()
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before
