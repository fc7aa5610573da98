"""kill -9 of a shim at every message and every file that it renames into place, of the zygote and its helpers likewise.

Both are traced from the zygote on, so a shim is seen from its birth.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import images, killpoints
from support.engine import CortenEngine
from support.faultlife import Life, named
from support.killpoints import Named, NamedTrace, Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import is_alive, wait_for

GATE_SAMPLE = 14
ATTEMPTS = 3


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen a whole life."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        whole_life(engine)
        yield engine


def whole_life(engine: CortenEngine) -> None:
    """One that nobody disturbs."""
    life = Life(engine)
    life.run()
    assert not life.failure, life.failure


def zygote_of(engine: CortenEngine) -> int:
    """The pid of the engine's zygote."""
    pattern = f"corten-shim --zygote --exec-root {engine.exec_root}"
    done = subprocess.run(["pgrep", "-f", "--", pattern], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def is_of_the_shim(point: Named) -> bool:
    """Messages and renames of the zygote's children but those that make a network namespace."""
    return point[1].startswith("child ") and not is_of_the_zygote(point)


def is_of_the_zygote(point: Named) -> bool:
    """Its own messages and those of the children that it has for network namespaces."""
    return not point[1].startswith("child ") or point[1].endswith(" netns")


def count(engine: CortenEngine, wanted: Callable[[Named], bool]) -> list[Named]:
    """The points of one life, of the zygote and of all that it forks."""
    with NamedTrace(zygote_of(engine), forks=True) as trace:
        whole_life(engine)
        return [point for point in trace.end() if wanted(point)]


def kill_at(engine: CortenEngine, point: Named, before: Snapshot) -> bool:
    """Lives with the kill, and the verdict, until it landed; a message may come while its receive has begun."""
    for _ in range(ATTEMPTS):
        life = Life(engine)
        with NamedTrace(zygote_of(engine), forks=True, kill=point) as trace:
            life.run()
            trace.end()
        assert trace.killed in (None, point), trace.killed
        if trace.killed is not None:
            wait_for(lambda: settled(life), f"end of {life.name}")  # noqa: B023
            life.judge(lost=True)
        else:
            assert not life.failure, f"{life.failure}, but nothing was killed"
        expect_none(before)
        if trace.killed is not None:
            return True
    return False


def settled(life: Life) -> bool:
    """Whether the engine has noticed: nothing of the life runs any more."""
    state = life.state()
    return state is None or state["Status"] in ("created", "exited")


def campaign(engine: CortenEngine, what: str, wanted: Callable[[Named], bool], most: int | None) -> None:
    """Counts, then kills at a sample of the points, or at all: each must be hit."""
    points = count(engine, wanted)
    chosen = killpoints.sample(points, most or len(points))
    before = Snapshot.take(Subject.of(engine))
    hit = 0
    for point in chosen:
        with named(f"{what}: {point[0]} {point[1]}"):
            hit += kill_at(engine, point, before)
    killpoints.report(what, hit, len(points))
    assert hit == len(chosen), f"{hit} of {len(chosen)} points hit"
    whole_life(engine)


@pytest.mark.timeout(240)
def test_shim_killed_at_a_sample_of_its_points(warm: CortenEngine) -> None:
    campaign(warm, "shim, messages and renames", is_of_the_shim, GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_shim_killed_at_every_point(warm: CortenEngine) -> None:
    campaign(warm, "shim, messages and renames", is_of_the_shim, None)


def test_zygote_and_its_helpers_killed_at_every_message(warm: CortenEngine) -> None:
    """The containers that live stay, and a start that the death hits is made by the next zygote or refused in words."""
    other = Life(warm, network="none")
    other.do("create", "start")
    campaign(warm, "zygote and its helpers, messages", is_of_the_zygote, None)
    other.do("kill", "wait")
    other.judge()


def test_no_byte_that_a_shim_wrote_is_lost_and_no_line_is_torn(warm: CortenEngine) -> None:
    """Killed at writes of its log, chosen by the seed, while its container writes without end; the other goes on."""
    other = Life(warm, network="none")
    other.do("create", "start")
    before = Snapshot.take(Subject.of(warm))
    for number in killpoints.sample(range(1, 400), 4):
        with named(f"shim: write {number} of its log"):
            flood(warm, number)
    expect_none(before)
    other.do("kill", "wait")
    other.judge()


def flood(engine: CortenEngine, number: int) -> None:
    """One container that counts; its shim dies at the n-th write to the log: what was written is all there."""
    name = f"flood{number}"
    script = "i=0; while true; do i=$((i+1)); echo line $i; done"
    engine.docker("run", "-d", "--name", name, images.BUSYBOX_REF, "sh", "-c", script, check=True)
    ident = engine.docker("inspect", "-f", "{{.Id}}", name, check=True).stdout.strip()
    log = engine.data_root / "containers" / ident / f"{ident}-json.log"
    shim = int(subprocess.run(["pgrep", "-f", f"corten-shim moby/{ident}"], check=True, capture_output=True).stdout)
    with Trace(shim, calls=("write", "writev", "pwrite64"), only=[log], kill=("write", number)) as trace:
        wait_for(lambda: not is_alive(shim), "death of the shim")
        calls = trace.end(died=True)
    assert trace.killed is not None
    assert trace.killed.number == number
    written = log.read_bytes()
    assert all(call.name == "write" for call in calls)
    status = ["inspect", "-f", "{{.State.ExitCode}} {{.State.Error}}", name]
    wait_for(lambda: engine.docker(*status).stdout == "137 shim lost\n", "verdict")
    assert log.read_bytes().startswith(written.rpartition(b"\n")[0]), "bytes that the shim had written are lost"
    lines = engine.docker("logs", name, check=True).stdout.splitlines()
    assert lines[:-1] == [f"line {index}" for index in range(1, len(lines))]
    assert f"line {len(lines)}".startswith(lines[-1]), lines[-1]
    assert Path(log).read_bytes().endswith(b"\n")
    engine.docker("rm", name, check=True)
