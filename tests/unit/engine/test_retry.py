"""What was refused is tried again, by all together."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from corten.core.metadata import Database
from corten.engine.retry import Retries
from corten.errors import Unavailable

FULL = Unavailable("corten.db: database or disk is full")


class Disk:
    """Refuses until it is told otherwise; counts."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries
        self.is_full = True
        self.tries = 0
        self.done: set[str] = set()

    def write(self, name: str) -> None:
        self.tries += 1
        if self.is_full:
            self.retries.later(f"record of {name} cannot be written", FULL, lambda: self.write(name))
        else:
            self.done.add(name)


async def test_all_are_tried_together_and_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(Retries(lambda: None, first_delay_s=0.02, last_delay_s=0.16))
    names = {f"container {number}" for number in range(50)}
    with caplog.at_level(logging.INFO, "corten.engine"):
        for name in names:
            disk.write(name)
        await asyncio.sleep(1)
        rounds = disk.tries / len(names)
        assert 3 <= rounds <= 10  # 50 of them would be without a back-off
        disk.is_full = False
        async with asyncio.timeout(60):
            while disk.done != names:
                await asyncio.sleep(0.01)
            while "what was refused is done" not in caplog.text:
                await asyncio.sleep(0.01)
    assert [one.message for one in caplog.records if one.levelno == logging.WARNING] == [
        f"record of {next(iter(names))} cannot be written, tried again: {FULL}"
    ]


async def test_what_is_refused_later_on_is_told_again_and_tried_soon(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(Retries(lambda: None, first_delay_s=0.02, last_delay_s=60))
    for _ in range(2):
        caplog.clear()
        disk.is_full = True
        with caplog.at_level(logging.INFO, "corten.engine"):
            disk.write("it")
            assert "cannot be written, tried again" in caplog.text
            disk.is_full = False
            async with asyncio.timeout(60):
                while "what was refused is done" not in caplog.text:
                    await asyncio.sleep(0.01)


async def test_who_waits_is_woken_and_who_gave_up_is_not() -> None:
    retries = Retries(lambda: None, first_delay_s=0.02)
    gone = asyncio.ensure_future(retries.wait("it", FULL))
    stays = asyncio.ensure_future(retries.wait("it", FULL))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 60)
    assert gone.cancelled()


async def test_a_database_that_somebody_holds_stops_neither_the_loop_nor_other_readers(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "corten.db"))
    disk = Disk(Retries(database.probe, first_delay_s=0.02))
    disk.is_full = False
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        disk.retries.later("it", Unavailable("corten.db: database is locked"), lambda: disk.write("it"))
        slowest = 0.0
        until = time.monotonic() + 0.5
        while (began := time.monotonic()) < until:
            database.query("SELECT 1")
            await asyncio.sleep(0.001)
            slowest = max(slowest, time.monotonic() - began)
        assert disk.tries == 0
        assert slowest < 0.3
        assert not database.is_in_transaction
        other.execute("ROLLBACK")
    async with asyncio.timeout(60):
        while not disk.done:
            await asyncio.sleep(0.01)
    database.close()
