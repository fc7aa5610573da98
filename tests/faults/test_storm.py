"""kill -9 of cortend in a storm of starts, at a journal write that the seed chooses; also with a journal cut short."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, killpoints, summary
from support.engine import CortenEngine
from support.faultlife import Life, named
from support.killpoints import Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import wait_for

CLIENTS = 8
LIVES = 4  # of each client, one after the other
WRITES = CLIENTS * 100 * 2  # of the journal by the event loop: somewhere in the first two lives of each
ROUNDS = 2


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has had a storm that nobody disturbed."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for life in storm(engine):
            assert not life.failure, life.failure
        yield engine


def storm(engine: CortenEngine) -> list[Life]:
    """Eight clients at once, on bridge and without network by turns; all lives that were begun."""
    begun: list[Life] = []

    def client(number: int) -> None:
        for turn in range(LIVES):
            life = Life(engine, network=("bridge", "none")[(number + turn) % 2], port="")
            begun.append(life)
            life.run()
            if life.failure:
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return begun


def stormy_kill(engine: CortenEngine, number: int) -> list[Life]:
    """A storm in which cortend dies at its n-th write to the journal; it stays dead."""
    with Trace(engine.pid, calls=("pwrite64",), only=[database(engine)], kill=("pwrite64", number)) as trace:
        lives = storm(engine)
        trace.end(died=True)
    assert trace.killed is not None
    assert trace.killed.number == number
    wait_for(lambda: not engine.is_running(), "end of the killed cortend")
    assert any(life.failure for life in lives)
    return lives


def database(engine: CortenEngine) -> Path:
    """The write-ahead log."""
    return engine.data_root / "corten.db-wal"


def judge(lives: list[Life]) -> str:
    """Every life; how many were found in which status."""
    found: dict[str, int] = {}
    for life in lives:
        status = life.judge()
        found[status] = found.get(status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in sorted(found.items()))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("turn", range(ROUNDS))
def test_cortend_killed_in_a_storm_of_starts_adopts_or_reports_every_container(warm: CortenEngine, turn: int) -> None:
    before = Snapshot.take(Subject.of(warm))
    number = random.Random(killpoints.seed() + turn).randrange(1, WRITES)
    with named(f"storm: pwrite64 {number}"):
        lives = stormy_kill(warm, number)
        warm.kill9()
        warm.start()
        found = judge(lives)
        expect_none(before)
    summary.add(killpoints.TITLE, f"storm, killed at journal write {number} (seed {killpoints.seed()}): {found}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_storms(warm: CortenEngine) -> None:
    for turn in range(20):
        test_cortend_killed_in_a_storm_of_starts_adopts_or_reports_every_container(warm, turn + 100)


@pytest.mark.timeout(120)
def test_a_journal_without_its_tail_hides_no_leftover(warm: CortenEngine) -> None:
    """The machine lost the journal's last entries; kernel and disk are scanned for what carries the engine's id."""
    before = Snapshot.take(Subject.of(warm))
    chance = random.Random(killpoints.seed() - 1)
    number = chance.randrange(1, WRITES)
    with named(f"storm with a journal cut short: pwrite64 {number}"):
        lives = stormy_kill(warm, number)
        warm.kill9()
        cut = cut_journal(warm, chance.random())
        warm.start()
        found = judge(lives)
        expect_none(before)
    summary.add(killpoints.TITLE, f"storm, journal without its last {cut} entries (seed {killpoints.seed()}): {found}")


def cut_journal(engine: CortenEngine, part: float) -> int:
    """Deletes the newest entries, at least one if there is one; how many."""
    with sqlite3.connect(engine.data_root / "corten.db") as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM journal ORDER BY id DESC")]
        tail = ids[: max(1, round(len(ids) * part))]
        connection.executemany("DELETE FROM journal WHERE id = ?", [(one,) for one in tail])
    connection.close()
    return len(tail)
