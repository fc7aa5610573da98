"""kill -9 of cortend at every write to its journal and every message to its shims and zygote, through a whole life."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support import images, killpoints
from support.engine import CortenEngine
from support.faultlife import Life, TalkingLife, named
from support.imagelife import ImageLife
from support.killpoints import Named, NamedTrace, Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import wait_for

GATE_SAMPLE = 12
GATE_SAMPLE_OF_OTHERS = 5
LIFE_TIMEOUT_S = 3600


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen a whole life: what is made once is there, its worker threads as well."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for network in ("bridge", "none"):
            whole_life(engine, network)
        for kind in (TalkingLife, ImageLife):
            whole_life(engine, kind=kind)
        yield engine


def whole_life(engine: CortenEngine, network: str = "bridge", kind: type[Life] = Life) -> None:
    """One that nobody disturbs."""
    life = kind(engine, network=network)
    life.run()
    assert not life.failure, life.failure


def journal(engine: CortenEngine) -> Counter[tuple[str, str]]:
    """(kind, name) of every entry."""
    with sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True) as database:
        rows = Counter((str(kind), str(name)) for kind, name in database.execute("SELECT kind, name FROM journal"))
    database.close()
    return rows


@dataclass(frozen=True, slots=True)
class Writes:
    """What the event loop writes to the journal: one thread, so strace can count."""

    name: str = "cortend, journal writes of the event loop"
    life: type[Life] = Life

    def trace(self, engine: CortenEngine, kill: tuple[str, int] | None = None) -> Trace:
        """Attached to cortend's first thread."""
        only = [engine.data_root / "corten.db-wal", engine.data_root / "corten.db"]
        return Trace(engine.pid, calls=("pwrite64", "fsync"), only=only, kill=kill)

    def count(self, engine: CortenEngine) -> list[tuple[str, int]]:
        """The points of one life."""
        with self.trace(engine) as trace:
            whole_life(engine, kind=self.life)
            return [(call.name, call.number) for call in trace.end()]

    def kill_at(self, engine: CortenEngine, life: Life, point: tuple[str, int]) -> bool:
        """One life with the kill; whether there was one.  It can only be at the point."""
        with self.trace(engine, point) as trace:
            life.run()
            trace.end(died=bool(life.failure))
        killed = trace.killed
        assert killed is None or (killed.name, killed.number) == point, killed
        return killed is not None


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """What has a name: messages, and what the workers write by turns."""

    name: str
    pattern: str
    threads: bool = False
    life: type[Life] = Life

    def trace(self, engine: CortenEngine, kill: Named | None = None) -> NamedTrace:
        """Attached to cortend."""
        files = [engine.data_root / "corten.db-wal", engine.data_root / "corten.db"]
        return NamedTrace(engine.pid, kill=kill, files=files if self.threads else [], threads=self.threads)

    def count(self, engine: CortenEngine) -> list[Named]:
        """The points of one life."""
        with self.trace(engine) as trace:
            whole_life(engine, kind=self.life)
            return [point for point in trace.end() if re.match(self.pattern, point[1])]

    def kill_at(self, engine: CortenEngine, life: Life, point: Named) -> bool:
        """One life with the kill; whether there was one.  It can only be at the point."""
        with self.trace(engine, point) as trace:
            life.run()
            trace.end()
        assert trace.killed in (None, point), trace.killed
        return trace.killed is not None


Group = Writes | NamedCalls
GROUPS: tuple[Group, ...] = (
    Writes(),
    NamedCalls("cortend, journal writes of its workers", r"worker ", threads=True),
    # every message of a life comes once in every life; a ping comes by the clock
    NamedCalls("cortend, messages to shims and zygote", r"(send|receive) (?!.*\bping$)"),
    NamedCalls(
        "cortend, messages of streams, sizes and limits",
        r"(send|receive) .*\b(attach|exec_start|exec-exit|resize|update|stats)$",
        life=TalkingLife,
    ),
    NamedCalls(
        "cortend, journal writes of images, rename, restart and run --rm",
        r"(loop|worker) |rename index\.json$",
        threads=True,
        life=ImageLife,
    ),
)


def kill_at(engine: CortenEngine, group: Group, point: Any, before: Snapshot) -> bool:
    """One life with the kill at this point, the restart and the verdict; whether it landed."""
    life = group.life(engine)
    if group.kill_at(engine, life, point):
        wait_for(lambda: not engine.is_running(), "end of the killed cortend")
        restart_and_judge(engine, life, before)
        return True
    assert not life.failure, f"{life.failure}, but nothing was killed"
    return False


def restart_and_judge(engine: CortenEngine, life: Life, before: Snapshot) -> None:
    """cortend comes back, knows the container or says that it never was, and the machine is as before."""
    engine.kill9()
    engine.start()
    life.judge()
    expect_none(before)


def campaign(engine: CortenEngine, group: Group, most: int | None) -> None:
    """Kills at a sample of the points, or at all: each must be hit."""
    again = set(
        group.count(engine)
    )  # a checkpoint of the database comes in one life of a dozen: no point of every life
    points: list[Any] = [point for point in group.count(engine) if point in again]
    assert points, f"{group.name}: a life has none"
    chosen = killpoints.sample(points, most or len(points))
    before, entries = Snapshot.take(Subject.of(engine)), journal(engine)

    def kill(point: Any) -> bool:
        with named(f"{group.name}: {point[0]} {point[1]}"):
            landed = kill_at(engine, group, point, before)
            wait_for(lambda: not journal(engine) - entries, f"empty journal, but {journal(engine) - entries}")
            return landed

    hit = killpoints.hits(chosen, kill)
    killpoints.report(group.name, hit, len(points))
    assert hit == len(chosen), f"{group.name}: {hit} of {len(chosen)} points hit"
    whole_life(engine)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cortend_killed_at_a_sample_of_its_points(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, GATE_SAMPLE if group.life is Life else GATE_SAMPLE_OF_OTHERS)


@pytest.mark.slow
@pytest.mark.timeout(LIFE_TIMEOUT_S)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cortend_killed_at_every_point(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, None)
