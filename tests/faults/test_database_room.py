"""A disk that is completely full, and stays so: the database goes on in room of its own (`core/dbroom.py`)."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from corten.core.leases import CONTENT, Leases
from corten.core.metadata import Database
from corten.errors import Unavailable
from support import images, imagestate, paths
from support.faultlife import Life
from support.leaks import Snapshot, Subject, expect_none
from support.loopdisk import LoopDisk
from support.smallengine import SmallEngine
from support.warmup import warm_up

DISK_MIB = 32
ENGINE_DISK_MIB = 64
ROUNDS = 300  # of five pages at least: the log is begun again
KINDS = ("ext4", "ext4 with blocks of 1 KiB", "tmpfs")


class Disk(Protocol):
    """What can be filled."""

    path: Path

    def fill(self) -> None:
        """To the last byte."""


class Tmpfs:
    """Without a device."""

    def __init__(self) -> None:
        self.path = paths.scratch("room")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "room", self.path], check=True)

    def fill(self) -> None:
        """To the last byte."""
        with (self.path / "ballast").open("ab", buffering=0) as stream:
            write_until_full(stream.fileno())

    def close(self) -> None:
        """Gone."""
        subprocess.run(["umount", self.path], check=True)
        shutil.rmtree(self.path)


def write_until_full(fd: int) -> None:
    """In the end by single pages."""
    for size in (1 << 16, 1 << 12, 1 << 10):
        try:
            while True:
                os.write(fd, bytes(size))
        except OSError:
            continue


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    with ExitStack() as stack:
        if request.param == "tmpfs":
            yield stack.enter_context(closing(Tmpfs()))
        else:
            block_bytes = 4096 if request.param == "ext4" else 1024
            yield stack.enter_context(LoopDisk(DISK_MIB, number=5, block_bytes=block_bytes))


@contextmanager
def opened(disk: Disk) -> Iterator[Database]:
    database = Database(str(disk.path / "corten.db"))
    try:
        yield database
    finally:
        database.close()


def expect_full(disk: Disk) -> None:
    """Nobody else finds more than the few pages that a checkpoint gives back."""
    other = disk.path / "other"
    with other.open("wb", buffering=0) as stream:
        write_until_full(stream.fileno())
    assert other.stat().st_size <= 1 << 18
    other.unlink()


def live(database: Database, rounds: int) -> None:
    """What every request does, also one that fails."""
    leases = Leases(database)
    for number in range(rounds):
        with leases.held() as lease:
            leases.add(lease.id, CONTENT, f"sha256:{number:064}")
        assert leases.list() == []
        assert not database.query("SELECT id FROM leases")


@pytest.mark.parametrize("before", [0, 40, 90, 140])
def test_leases_of_requests_end_on_a_full_disk_wherever_the_log_has_come_to(disk: Disk, before: int) -> None:
    with opened(disk) as database:
        live(database, before)
        disk.fill()
        expect_full(disk)
        live(database, ROUNDS)
        expect_full(disk)
        assert database.query("PRAGMA integrity_check") == [("ok",)]


def test_what_needs_more_than_the_room_is_refused_in_words_and_what_does_not_goes_on(disk: Disk) -> None:
    with opened(disk) as database:
        disk.fill()
        for size in (1 << 19, 1 << 22):
            with pytest.raises(Unavailable, match=r"^corten\.db: database or disk is full$"):
                database.set_meta("large", "x" * size)
            assert database.meta("large") == ""
            live(database, ROUNDS)
        assert database.query("PRAGMA integrity_check") == [("ok",)]


def test_a_reader_in_the_middle_holds_nothing_up_for_longer_than_he_reads(disk: Disk) -> None:
    with opened(disk) as database, closing(sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)) as reader:
        live(database, 1)
        disk.fill()
        for _ in range(20):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM journal").fetchall()
            live(database, 20)
            reader.execute("COMMIT")
            live(database, 20)


def test_a_database_that_was_closed_or_killed_works_on_a_full_disk_when_it_is_opened_again(disk: Disk) -> None:
    with opened(disk) as database:
        live(database, 100)
    disk.fill()
    expect_full(disk)
    for _ in range(5):
        with opened(disk) as database:
            live(database, 30)
        pid = os.fork()
        if not pid:  # nobody closes anything
            status = 1
            try:
                live(Database(str(disk.path / "corten.db")), 30)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        expect_full(disk)
    with opened(disk) as database:
        assert database.query("PRAGMA integrity_check") == [("ok",)]


def test_on_a_full_disk_ends_are_recorded_removals_done_and_cortend_started_again() -> None:
    with LoopDisk(ENGINE_DISK_MIB, number=6) as disk, (engine := SmallEngine(disk)):
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        before = Snapshot.take(Subject.of(engine))
        lives = [Life(engine, port="") for _ in range(3)]
        for life in lives:
            life.do("create", "start")
        disk.fill()
        lives[0].do("kill", "wait", "remove")
        disk.fill()  # what the removal gave back
        engine.restart()
        lives[1].do("kill", "wait")
        engine.kill9()
        engine.start()
        lives[1].do("remove")
        disk.fill()
        lives[2].do("kill", "wait", "remove")
        expect_none(before)
        disk.fill()
        engine.docker("rmi", images.BUSYBOX_REF, check=True)
        imagestate.judge(engine)
        assert "database or disk is full" not in engine.log.read_text(errors="replace")
