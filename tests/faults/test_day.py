"""A scripted day: real clients among many containers, cortend killed at random moments all along; at its end state,
kernel and disk agree, no line of a log is lost, and every exit code and verdict is true."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support import images, killpoints, paths, summary
from support.day import Client, Day
from support.daybox import ABSENT, RUNNING, TERM_CODE, Ending, Untrue
from support.daylife import KILLED_BY_CLIENT
from support.doctor import expect_well
from support.engine import CortenEngine
from support.leaks import ALLOWED, Allowed, Snapshot, Subject, expect_none
from support.warmup import warm_up

TITLE = "a scripted day"
KEPT = Allowed(r"descriptor, cortend: memfd corten-launch", "the launcher, since a copy with a running container")
pytestmark = pytest.mark.usefixtures("the_doctor_agrees")


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """One that had a container of each kind."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        yield engine


@pytest.fixture
def witnesses() -> Iterator[Path]:
    """Where containers write what their logs must have."""
    folder = paths.scratch("witnesses")
    yield folder
    shutil.rmtree(folder)


def test_the_judge_of_a_day_bites(engine: CortenEngine, witnesses: Path) -> None:
    day = Day(engine, witnesses, clients=1, boxes=1, seed=4)
    client, box = day.clients[0], day.boxes[0]
    day.each(Client.morning)
    client.kill(box)
    day.judge()
    log = next((engine.data_root / "containers" / box.id).glob("*-json.log"))
    lines = log.read_bytes().splitlines(keepends=True)
    if len(lines) == 1:
        lines.append(lines[0].replace(b"0.1", b"0.2"))
    for wrong, words in (
        (lines[1:], "behind number 0"),
        (lines[:1] + lines, "behind number 1"),
        ([], "lines in the log, and its witness has"),
        ([*lines, lines[0].replace(b"0.1", b"1.1")], "runs that never were"),
    ):
        log.write_bytes(b"".join(wrong))
        with pytest.raises(Untrue, match=words):
            day.judge()
    log.write_bytes(b"".join(lines))
    for name, value, words in (
        ("endings", (Ending(TERM_CODE, "exited"),), "the verdict is"),
        ("endings", (replace(KILLED_BY_CLIENT, sender="unknown"),), "the verdict is"),
        ("state", RUNNING, "must be running and is"),
        ("state", ABSENT, "must be absent"),
        ("pids", 77, "pids limit is not 77"),
        ("most_runs", 0, "ran 1 times"),
        ("token", "lost", "No such file|Could not find"),
    ):
        true = getattr(box, name)
        setattr(box, name, value)
        with pytest.raises(Untrue, match=words):
            day.judge()
        setattr(box, name, true)
    client.kept["day-nobody"] = "lost"
    with pytest.raises(Untrue, match="day-nobody"):
        day.judge()
    del client.kept["day-nobody"]
    day.judge()
    day.remove()


def whole_day(engine: CortenEngine, witnesses: Path, *, clients: int, boxes: int, operations: int, kills: int) -> None:
    """Morning, day, evening; then a night with a death in which nothing is done, and a clean place."""
    before = Snapshot.take(Subject.of(engine))
    day = Day(engine, witnesses, clients=clients, boxes=boxes, seed=killpoints.seed())
    try:
        day.each(Client.morning)
        day.live(operations, kills=kills)
        day.judge()
        expect_well(engine)
        engine.kill9()
        expect_well(engine)
        day.eras.kill(day.clients[0].chance)
        day.judge()
        day.remove()
        expect_well(engine)
        expect_none(before, allowed=(*ALLOWED, KEPT))
    except BaseException as error:
        error.add_note(f"seed {killpoints.seed()}")
        raise
    done = sum((client.done for client in day.clients), Counter[str]())
    doubts = sum(client.doubts for client in day.clients)
    words = ", ".join(f"{count} {name}" for name, count in done.most_common())
    summary.add(
        TITLE, f"{len(day.boxes)} containers, cortend killed {kills + 1} times, {doubts} answers in doubt: {words}"
    )


@pytest.mark.timeout(120)
def test_a_short_day_of_deaths_leaves_nothing_untrue(engine: CortenEngine, witnesses: Path) -> None:
    whole_day(engine, witnesses, clients=3, boxes=3, operations=30, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_day_of_500_operations_with_50_containers(engine: CortenEngine, witnesses: Path) -> None:
    whole_day(engine, witnesses, clients=5, boxes=10, operations=500, kills=40)
