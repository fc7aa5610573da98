"""kill -9 of cortend at every write to its journal and every message to its shims and zygote, through a whole life."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import images, killpoints
from support.engine import CortenEngine
from support.faultlife import Life, named
from support.killpoints import Call, Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import wait_for

JOURNAL_CALLS = ("pwrite64", "fsync")
MESSAGE_CALLS = ("sendto", "sendmsg", "recvmsg")
GATE_SAMPLE = 12
ATTEMPTS = 4
LIFE_TIMEOUT_S = 1800


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen a whole life: what is made once is there, its worker threads as well."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for network in ("bridge", "none"):
            whole_life(engine, network)
        yield engine


def whole_life(engine: CortenEngine, network: str = "bridge") -> None:
    """One that nobody disturbs."""
    life = Life(engine, network=network)
    life.run()
    assert not life.failure, life.failure


def journal(engine: CortenEngine) -> Counter[tuple[str, str]]:
    """(kind, name) of every entry."""
    with sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True) as database:
        rows = Counter((str(kind), str(name)) for kind, name in database.execute("SELECT kind, name FROM journal"))
    database.close()
    return rows


def workers(engine: CortenEngine) -> list[int]:
    """cortend's threads but its first, which has the event loop."""
    return sorted(int(path.name) for path in Path(f"/proc/{engine.pid}/task").iterdir() if path.name != str(engine.pid))


@dataclass(frozen=True, slots=True)
class Group:
    """Points of one kind: where strace sits, what it counts, of which calls."""

    name: str
    calls: tuple[str, ...]
    messages: bool = False
    in_workers: bool = False

    def trace(self, engine: CortenEngine, kill: tuple[str, int] | None = None) -> Trace:
        """Attached to the threads of this group."""
        only = [] if self.messages else [engine.data_root / "corten.db-wal", engine.data_root / "corten.db"]
        pids = workers(engine) if self.in_workers else [engine.pid]
        return Trace(*pids, calls=self.calls, only=only, kill=kill)

    def points(self, calls: Sequence[Call]) -> list[tuple[str, int, str]]:
        """(call, number in its thread, label), each once."""
        wanted = [call for call in calls if call.is_message or not self.messages]
        return list(dict.fromkeys((call.name, call.number, self.label(call)) for call in wanted))

    def label(self, call: Call) -> str:
        """What the call is about, known before it happens: of a receive that is not its message."""
        return call.label if self.messages and call.name != "recvmsg" else ""


GROUPS = (
    Group("cortend, journal writes of the event loop", JOURNAL_CALLS),
    Group("cortend, journal writes of its workers", JOURNAL_CALLS, in_workers=True),
    Group("cortend, messages to shims and zygote", MESSAGE_CALLS, messages=True),
)


def count(engine: CortenEngine, group: Group) -> list[tuple[str, int, str]]:
    """The points of one life."""
    with group.trace(engine) as trace:
        whole_life(engine)
        points = group.points(trace.end())
    assert points, f"{group.name}: a life has none"
    return points


def kill_at(engine: CortenEngine, group: Group, point: tuple[str, int, str], before: Snapshot) -> bool:
    """One life with the kill at this point, the restart and the verdict; whether the kill landed at the point.

    Messages of HTTP are counted between those to shims, and their number varies: what a call was is looked up in the
    log, and the number corrected for the next attempt.
    """
    name, number, label = point
    for _ in range(ATTEMPTS):
        life = Life(engine)
        with group.trace(engine, (name, number)) as trace:
            life.run()
            calls = trace.end(died=bool(life.failure))
        killed = trace.killed
        if killed is None:
            assert not life.failure, f"{life.failure}, but nothing was killed"
            number -= 1
            continue
        assert (killed.name, killed.number) == (name, number), killed
        wait_for(lambda: not engine.is_running(), "end of the killed cortend")
        restart_and_judge(engine, life, before)
        if not group.messages or (killed.is_message and group.label(killed) == label):
            return True
        number = _again(calls, name, label, number)
    return False


def _again(calls: Sequence[Call], name: str, label: str, number: int) -> int:
    """The number to try next: where the label was in this run, else one further."""
    found = [call.number for call in calls if (call.name, call.label) == (name, label) and call.is_message]
    return found[-1] if found and label else number + 1


def restart_and_judge(engine: CortenEngine, life: Life, before: Snapshot) -> None:
    """cortend comes back, knows the container or says that it never was, and the machine is as before."""
    engine.kill9()
    engine.start()
    life.judge()
    expect_none(before)


def campaign(engine: CortenEngine, group: Group, most: int | None) -> None:
    """Kills at a sample of the points, or at all."""
    points = count(engine, group)
    chosen = killpoints.sample(points, most or len(points))
    before, entries = Snapshot.take(Subject.of(engine)), journal(engine)
    hit = 0
    for point in chosen:
        with named(f"{group.name}: {point[0]} {point[1]} {point[2]}"):
            hit += kill_at(engine, group, point, before)
            wait_for(lambda: not journal(engine) - entries, f"empty journal, but {journal(engine) - entries}")
    killpoints.report(group.name, hit, len(points))
    # which receive finds what varies from run to run: a message may be missed in all attempts, a journal write not
    least = math.ceil(0.8 * len(chosen)) if group.messages else len(chosen)
    assert hit >= least, f"{group.name}: {hit} of {len(chosen)} points hit"
    whole_life(engine)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cortend_killed_at_a_sample_of_its_points(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(LIFE_TIMEOUT_S)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cortend_killed_at_every_point(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, None)
