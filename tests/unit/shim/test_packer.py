"""Compression of rotated files, while they go on being rotated."""

from __future__ import annotations

import gzip
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.engine.logfiles import Reader
from corten.engine.logformats import JSON_LINES
from corten.shim import packer
from corten.shim.logfile import LogFile, mend
from corten.shim.loop import Loop


def record(number: int) -> bytes:
    return b'{"log":"%06d\\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}\n' % number


SIZE = len(record(0))


def contents(folder: Path) -> dict[str, bytes]:
    """Of the log's files by number: plain, or unpacked."""
    found = {}
    for path in folder.iterdir():
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found[path.name] = data
    return found


def wait(condition: object, log: LogFile, loop: Loop | None = None) -> None:
    deadline = time.monotonic() + 60
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        if loop is not None:
            loop.turn(0.05)
        else:
            time.sleep(0.01)
            log.settle()


@pytest.fixture(autouse=True)
def awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that pack get their share: under SCHED_IDLE they wait until no other test runs."""
    monkeypatch.setattr(packer, "be_idle", lambda: None)


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is packed before this file is there."""
    sign, true_pack = tmp_path.parent / f"{tmp_path.name}-go", packer._pack

    def slowly(source: int, target: str) -> None:
        while not sign.exists():
            time.sleep(0.005)
        true_pack(source, target)

    monkeypatch.setattr(packer, "_pack", slowly)
    yield sign
    sign.touch()  # after a failure too: no child waits for ever


def test_a_file_that_is_rotated_while_it_is_packed_keeps_its_place(tmp_path: Path, go: Path) -> None:
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=5, compress=True)
    for number in range(4):  # the first file is being packed, and moves on twice
        log.append(record(number))
    go.touch()
    wait(lambda: sum(path.suffix == ".gz" for path in tmp_path.iterdir()) == 3, log)
    log.close()
    names = ("log.3.gz", "log.2.gz", "log.1.gz", "log")
    assert contents(tmp_path) == {name: record(number) for number, name in enumerate(names)}


def test_a_file_that_is_gone_when_it_is_packed_is_forgotten(tmp_path: Path, go: Path) -> None:
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=2, compress=True)
    for number in range(5):
        log.append(record(number))
    go.touch()
    wait(lambda: (tmp_path / "log.1.gz").exists() and not (tmp_path / "log.1").exists(), log)
    log.close()
    assert contents(tmp_path) == {"log": record(4), "log.1.gz": record(3)}


def test_old_packed_files_make_room_for_plain_ones(tmp_path: Path) -> None:
    """A place that has nothing to take over is empty afterwards: else its old file would hide or be hidden."""
    (tmp_path / "log.1.gz").write_bytes(gzip.compress(record(1)))
    (tmp_path / "log.2.gz").write_bytes(gzip.compress(record(0)))
    (tmp_path / "log").write_bytes(record(2))
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=3)
    log.append(record(3))
    log.append(record(4))
    log.close()
    assert contents(tmp_path) == {"log": record(4), "log.1": record(3), "log.2": record(2)}


def test_with_a_loop_all_files_are_packed_in_time(tmp_path: Path) -> None:
    loop = Loop()
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=6, compress=True, loop=loop)
    log.append(b"".join(map(record, range(9))))
    wait(
        lambda: {path.name for path in tmp_path.iterdir()} == {"log", *(f"log.{n}.gz" for n in range(1, 6))}, log, loop
    )
    log.close()
    found = contents(tmp_path)
    assert b"".join(found[name] for name in sorted(found, reverse=True)[:5]) == b"".join(map(record, range(3, 8)))


def test_a_packed_file_names_the_inode_that_it_had(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=2, compress=True)
    log.append(record(0))
    inode = (tmp_path / "log").stat().st_ino
    log.append(record(1))
    wait((tmp_path / "log.1.gz").exists, log)
    log.close()
    assert (tmp_path / "log.1.gz").read_bytes()[10:].startswith(str(inode).encode() + b"\0")


def test_what_a_killed_shim_left_is_packed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "log.1.packing").write_bytes(b"half")
    (tmp_path / "log.1").write_bytes(record(0))
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=3, compress=True)
    wait(lambda: (tmp_path / "log.1.gz").exists() and not (tmp_path / "log.1").exists(), log)
    log.close()
    assert contents(tmp_path) == {"log": b"", "log.1.gz": record(0)}


def test_a_packing_child_holds_no_descriptor_of_its_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path.parent / f"{tmp_path.name}-seen"

    def look(source: int, target: str) -> None:
        seen.write_text(str(len(os.listdir("/proc/self/fd"))))
        raise OSError("no more")

    monkeypatch.setattr(packer, "_pack", look)
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=2, compress=True)
    log.append(record(0) + record(1))
    wait(lambda: seen.exists() and seen.read_text() != "", log)
    log.close()
    assert int(seen.read_text()) <= 6  # 0 to 2, the file, the pipe, the look
    seen.unlink()


def test_what_is_plain_at_the_end_is_packed_after_it(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=5, compress=True)
    log.append(b"".join(map(record, range(5))))
    log.close()
    names = {"log", *(f"log.{number}.gz" for number in range(1, 5))}
    deadline = time.monotonic() + 60
    while {path.name for path in tmp_path.iterdir()} != names:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert numbers_of(str(tmp_path / "log")) == list(range(5))


def test_a_child_of_an_earlier_shim_leaves_the_log_to_the_next(
    tmp_path: Path, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, true_install = tmp_path.parent / f"{tmp_path.name}-over", packer._install_alone

    def installed(path: str, max_files: int, inode: int, temporary: str) -> bool:
        try:
            return true_install(path, max_files, inode, temporary)
        finally:
            over.touch()

    monkeypatch.setattr(packer, "_install_alone", installed)
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=3, compress=True)
    log.append(record(0) + record(1))
    log.close()
    monkeypatch.setattr(packer.Packer, "begin", lambda self: None)
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=3, compress=True)
    go.touch()
    wait(over.exists, log)
    assert {path.name for path in tmp_path.iterdir()} == {"log", "log.1"}
    log.append(record(2))
    log.close()
    assert contents(tmp_path) == {"log": record(2), "log.1": record(1), "log.2": record(0)}


def test_killed_at_any_moment_a_log_has_every_record_once(tmp_path: Path) -> None:
    """The writer dies twenty times, mostly in the middle of rotations and packing; its packing children live on."""
    path = str(tmp_path / "log")
    first = 0
    for round_ in range(20):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            try:
                log = LogFile(path, max_size=20 * SIZE, max_files=4, compress=True)
                for number in range(first, first + 100_000):
                    log.append(record(number))
                    log.settle()
                    os.write(theirs, b"%06d" % number)
            finally:
                os._exit(1)
        os.close(theirs)
        told = b""
        enough = first + 30 + 37 * round_ % 101
        while not told or int(told[-6:]) < enough:
            told += os.read(ours, 6)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(ours, 60_000):
            told += more
        os.close(ours)
        seen = numbers_of(path)
        assert seen == list(range(seen[0], seen[-1] + 1)), round_
        assert seen[-1] >= int(told[-6:])
        assert len(seen) >= 3 * 20 or first == 0
        first = seen[-1] + 1


def numbers_of(path: str) -> list[int]:
    """Of all files of a log in order, after mending."""
    mend(path)
    reader = Reader(path, JSON_LINES, follows=False)
    data = b"".join(iter(reader.read, b""))
    reader.close()
    return [int(one.log) for one in JSON_LINES.decode(data)]


def test_any_number_of_files_may_be_kept(tmp_path: Path) -> None:
    """What is done at a rotation goes by the files that there are."""
    log = LogFile(str(tmp_path / "log"), max_size=SIZE, max_files=10**12, compress=True)
    for number in range(4):
        log.append(record(number))
    wait(lambda: sum(path.suffix == ".gz" for path in tmp_path.iterdir()) == 3, log)
    log.close()
    names = ("log.3.gz", "log.2.gz", "log.1.gz", "log")
    assert contents(tmp_path) == {name: record(number) for number, name in enumerate(names)}


def test_files_are_counted_by_their_names_alone(tmp_path: Path) -> None:
    for name in (
        "log",
        "log.1",
        "log.2.gz",
        "log.07",
        "log.9",
        "log.0",
        "log.x",
        "log.1.7.packing",
        "log.\u0663",
        "g.3",
    ):
        (tmp_path / name).touch()
    assert packer.numbers(str(tmp_path / "log"), 9) == [1, 2, 7]
    assert packer.numbers(str(tmp_path / "none" / "log"), 9) == []
