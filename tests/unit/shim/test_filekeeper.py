"""json-file and local with mode=non-blocking: a courier keeps the file, and tells in it what was dropped.  It is a real
process, and a disk that does not take anything is one that is stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from corten.engine.logfiles import Reader
from corten.engine.logformats import LENGTH_PREFIXED
from corten.errors import Internal
from corten.shim import courier
from corten.shim.courier import KEEPER, Courier
from corten.shim.log import Log
from corten.shim.logfile import is_written
from corten.shim.loop import Loop

OUT, ERR = 1, 2
DROPPED = re.compile(r"corten: (\d+) bytes of output were dropped here \(mode=non-blocking\)\n")


class Play:
    """One in a loop that is turned here."""

    def __init__(self, path: Path, *, limit: int = 1 << 20, driver: str = "json-file", opts: Any = None) -> None:
        self.loop = Loop()
        self.path = path
        log = {"path": str(path), "driver": driver, "opts": opts or {}, "attrs": {}}
        self.courier = Courier({"driver": KEEPER, "limit": limit, "log": log}, self.loop, set())
        self.log = Log(None, courier=self.courier)

    def run(self, job: Generator[Any, bool, None]) -> None:
        over: list[bool] = []

        def whole() -> Generator[Any, bool, None]:
            yield from job
            over.append(True)

        self.loop.start(whole())
        self.until(lambda: bool(over))

    def begin(self) -> Play:
        self.run(self.courier.begin())
        return self

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            self.loop.turn(0.02)

    def end(self) -> None:
        for stream in (OUT, ERR):
            self.log.end(stream)
        self.run(self.log.settle())
        self.log.close()

    def hang(self) -> None:
        os.kill(self.courier.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.courier.pid, signal.SIGCONT)

    @property
    def records(self) -> list[tuple[str, str]]:
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [(one["stream"], one["log"]) for one in found]


def test_the_file_is_whole_as_soon_as_the_end_is_told(tmp_path: Path) -> None:
    play = Play(tmp_path / "x.log").begin()
    assert play.log.is_kept_by_courier
    for number in range(1000):
        play.log.write(OUT, b"%d\n" % number)
    play.log.write(ERR, b"unfinished")
    play.end()
    assert play.records == [*(("stdout", f"{number}\n") for number in range(1000)), ("stderr", "unfinished")]
    assert play.courier.pid == 0


def test_who_hangs_makes_nobody_wait_and_what_was_dropped_is_told_in_its_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    play = Play(tmp_path / "x.log", limit=100_000).begin()
    play.hang()
    line, count = b"x" * 999 + b"\n", 2000
    for _ in range(count):
        play.log.write(OUT, line)
        play.loop.turn(0)
        assert not play.log.is_full
    assert play.courier.pending <= 100_000
    play.go_on()
    play.until(lambda: not play.courier.pending)
    play.log.write(OUT, b"after\n")
    play.end()
    *kept, told, last = play.records
    assert set(kept) == {("stdout", line.decode())}
    assert last == ("stdout", "after\n")
    dropped = DROPPED.fullmatch(told[1])
    assert told[0] == "stderr"
    assert dropped is not None
    assert int(dropped[1]) == play.courier.dropped == (count - len(kept)) * len(line)
    assert f"{dropped[1]} bytes of output were dropped" in capfd.readouterr().err


def test_what_is_dropped_last_is_told_as_well(tmp_path: Path) -> None:
    play = Play(tmp_path / "x.log", limit=1000).begin()
    play.hang()
    for _ in range(1000):
        play.log.write(OUT, b"x" * 999 + b"\n")
    play.go_on()
    play.end()
    assert DROPPED.fullmatch(play.records[-1][1])


def test_lines_that_were_begun_end_where_something_is_missing(tmp_path: Path) -> None:
    play = Play(tmp_path / "x.log").begin()
    play.log.write(OUT, b"whole\nbeg")
    play.courier._gap = 7
    play.log.write(OUT, b"end\n")
    play.end()
    told = "corten: 7 bytes of output were dropped here (mode=non-blocking)\n"
    assert play.records == [
        *(("stdout", "whole\n"), ("stdout", "beg"), ("stderr", "\n"), ("stderr", told)),
        ("stdout", "end\n"),
    ]


def test_files_are_rotated_and_packed(tmp_path: Path) -> None:
    play = Play(tmp_path / "x.log", opts={"max-size": 4000, "max-file": 3, "compress": True}).begin()
    for number in range(400):
        play.log.write(OUT, b"%04d\n" % number)
    play.end()
    deadline = time.monotonic() + 30
    while not {"x.log.1.gz", "x.log.2.gz"} <= set(os.listdir(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert play.records[-1] == ("stdout", "0399\n")


def test_local_is_kept_as_well(tmp_path: Path) -> None:
    play = Play(tmp_path / "c.log", driver="local").begin()
    play.log.write(OUT, b"one\ntwo\n")
    play.end()
    reader = Reader(str(play.path), LENGTH_PREFIXED)
    assert [record.log for record in LENGTH_PREFIXED.decode(reader.read())] == ["one\n", "two\n"]
    reader.close()


def test_the_next_one_waits_until_the_one_before_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert not is_written(str(path))
    first = Play(path).begin()
    assert is_written(str(path))
    first.hang()
    first.log.write(OUT, b"first\n")
    second = Play(path)
    over: list[bool] = []

    def begin() -> Generator[Any, bool, None]:
        yield from second.courier.begin()
        over.append(True)

    second.loop.start(begin())
    for _ in range(10):
        second.loop.turn(0.02)
    assert not over
    first.go_on()
    first.end()
    second.until(lambda: bool(over))
    second.log.write(OUT, b"second\n")
    second.end()
    assert second.records == [("stdout", "first\n"), ("stdout", "second\n")]
    assert not is_written(str(path))


def test_one_that_dies_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "_AGAIN_S", 0.05)
    play = Play(tmp_path / "x.log").begin()
    play.log.write(OUT, b"before\n")
    play.until(lambda: play.path.stat().st_size > 0)
    os.kill(play.courier.pid, signal.SIGKILL)
    play.until(lambda: not play.courier.pid)
    play.log.write(OUT, b"after\n")
    play.end()
    assert play.records == [("stdout", "before\n"), ("stdout", "after\n")]


def test_a_file_that_does_not_open_fails_the_beginning(tmp_path: Path) -> None:
    with pytest.raises(Internal, match=r"failed to initialize logging driver: .*No such file"):
        Play(tmp_path / "missing" / "x.log").begin()


def test_an_end_waits_no_longer_than_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "END_S", 1)
    play = Play(tmp_path / "x.log").begin()
    play.hang()
    play.log.write(OUT, b"x\n")
    pid = play.courier.pid
    play.end()
    os.kill(pid, signal.SIGKILL)
