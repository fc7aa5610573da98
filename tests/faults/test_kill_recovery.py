"""kill -9 of cortend while it recovers from a kill -9, at every write to its journal: recovery can be begun again."""

from __future__ import annotations

import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from support import killpoints, paths
from support.engine import CortenEngine
from support.faultlife import Life, named
from support.killpoints import Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import NotReady, wait_for

pytestmark = pytest.mark.usefixtures("the_doctor_agrees")

STEPS = ("create", "start", "exec", "pause", "unpause")
GATE_SAMPLE = 6
INTERRUPTED_AT = 40  # the journal write of a start at which cortend died first: its container is half made


def database(engine: CortenEngine) -> Path:
    """The write-ahead log."""
    return engine.data_root / "corten.db-wal"


def unfinished(engine: CortenEngine) -> list[Life]:
    """Lives in every state, a start among them that a kill interrupted, and one that ends while cortend is dead."""
    lives = [Life(engine, port="") for _ in STEPS]
    for count, life in enumerate(lives, 1):
        life.do(*STEPS[:count])
    ending, half = Life(engine, port=""), Life(engine, port="")
    ending.do("create", "start")
    state = ending.state()
    assert state is not None
    with Trace(engine.pid, calls=("pwrite64",), only=[database(engine)], kill=("pwrite64", INTERRUPTED_AT)) as trace:
        half.run()
        trace.end(died=True)
    assert trace.killed is not None
    engine.kill9()
    os.kill(state["Pid"], signal.SIGUSR1)
    ending.asked.append("kill")
    record = engine.exec_root / "tasks" / "moby" / ending.id / "exit"
    wait_for(record.exists, "exit record")
    return [*lives, ending, half]


def traced_start(engine: CortenEngine, number: int) -> tuple[int, bool]:
    """Starts cortend with a kill at the n-th write (0: none): (writes begun, whether it was killed there)."""
    folder = paths.scratch("strace")
    log = folder / "log"
    prefix = ["strace", "-D", "-o", str(log), "-e", "trace=pwrite64", "-P", str(database(engine))]
    if number:
        prefix += ["-e", f"inject=pwrite64:signal=KILL:when={number}"]
    with suppress(NotReady):  # the last writes come at the time of the first answer
        engine.start(prefix)
    engine.kill9()
    wait_for(lambda: "+++ killed by SIGKILL +++" in log.read_text(errors="replace"), "end of the log")
    text = log.read_text(errors="replace")
    shutil.rmtree(folder)
    landed = re.search(r"pwrite64\(.*= \?\n\+\+\+ killed by SIGKILL", text) is not None
    return text.count("pwrite64("), landed


def judge(engine: CortenEngine, lives: list[Life], before: Snapshot) -> None:
    """cortend comes back at last: every life is adopted or reported, and nothing is left."""
    engine.start()
    for life in lives:
        life.judge()
    expect_none(before)


def count(engine: CortenEngine, before: Snapshot) -> int:
    """The writes that every recovery has until it answers: the fewer of two."""
    found = []
    for _ in range(2):
        lives = unfinished(engine)
        found.append(traced_start(engine, 0)[0])
        judge(engine, lives, before)
    return min(found)


def kill_at(engine: CortenEngine, number: int, before: Snapshot) -> bool:
    """One recovery with the kill, the next one without it, and the verdict; whether it landed."""
    lives = unfinished(engine)
    writes, landed = traced_start(engine, number)
    assert not landed or writes == number
    judge(engine, lives, before)
    return landed


def campaign(engine: CortenEngine, most: int | None) -> None:
    """Counts the writes of a recovery, then kills at a sample of them, or at all: each must be hit."""
    before = Snapshot.take(Subject.of(engine))
    existing = count(engine, before)
    chosen = killpoints.sample(range(1, existing + 1), most or existing)

    def kill(number: int) -> bool:
        with named(f"recovery: pwrite64 {number}"):
            return kill_at(engine, number, before)

    # the last write may come after the answer, when the harness has ended cortend already
    hit = killpoints.hits(chosen, kill)
    killpoints.report("cortend in recovery, journal writes", hit, existing)
    assert hit == len(chosen), f"{hit} of {len(chosen)} points hit"


@pytest.mark.timeout(180)
def test_recovery_killed_at_a_sample_of_its_points_is_begun_again(lived_engine: CortenEngine) -> None:
    campaign(lived_engine, GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_recovery_killed_at_every_point_is_begun_again(lived_engine: CortenEngine) -> None:
    campaign(lived_engine, None)
