"""kill -9 of a shim at every message and every file that it renames into place; of the zygote; and of the helper, which
does the runtime's work for all shims.

The first two are traced from the zygote on, so a shim is seen from its birth; the helper is traced itself.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import images, killpoints
from support.engine import CortenEngine
from support.faultlife import Life, TalkingLife, named
from support.killpoints import Named, NamedTrace, Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import is_alive, wait_for

GATE_SAMPLE = 14
GATE_SAMPLE_OF_THE_HELPER = 8
GATE_SAMPLE_OF_STREAMS = 5


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen a whole life."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        whole_life(engine)
        whole_life(engine, TalkingLife)
        yield engine


def whole_life(engine: CortenEngine, kind: type[Life] = Life) -> None:
    """One that nobody disturbs."""
    life = kind(engine)
    life.run()
    assert not life.failure, life.failure


def pid_of(pattern: str) -> int:
    """The pid of the one process with this command line, as soon as there is one."""
    found: list[str] = []

    def is_there() -> bool:
        done = subprocess.run(["pgrep", "-f", "--", pattern], check=False, stdout=subprocess.PIPE, text=True)
        found[:] = done.stdout.split()
        return len(found) == 1

    wait_for(is_there, pattern)
    return int(found[0])


def zygote_of(engine: CortenEngine) -> int:
    """The pid of the engine's zygote."""
    return pid_of(f"corten-shim --zygote --exec-root {engine.exec_root}")


def helper_of(engine: CortenEngine) -> int:
    """The pid of the zygote's helper; the zygote makes another as soon as one dies."""
    return pid_of(f"corten-shim helper {engine.exec_root}")


@dataclass(frozen=True, slots=True)
class Group:
    """Points of one kind of process: `wanted` are those that count of what its tracer names."""

    what: str
    wanted: Callable[[Named], bool]
    life: type[Life] = Life

    def trace(self, engine: CortenEngine, kill: Named | None = None) -> NamedTrace:
        """Of the zygote and of all that it forks."""
        return NamedTrace(zygote_of(engine), forks=True, kill=kill)

    def judge(self, life: Life) -> None:
        """After a death: the engine has noticed, nothing of the life runs any more, or it goes on."""
        wait_for(lambda: settled(life), f"end of {life.name}")
        life.judge(lost=True)


@dataclass(frozen=True, slots=True)
class Helpers(Group):
    """Of the helper: every thread, also at messages for which one waits."""

    def trace(self, engine: CortenEngine, kill: Named | None = None) -> NamedTrace:
        """It has been forked long before: it is traced itself."""
        return NamedTrace(helper_of(engine), threads=True, late=True, kill=kill)

    def judge(self, life: Life) -> None:
        """No shim is lost with its helper: no exit code and no byte either."""
        life.judge()


def is_of_the_shim(point: Named) -> bool:
    """Messages and renames of the zygote's children."""
    return point[1].startswith("child ")


def is_of_the_zygote(point: Named) -> bool:
    """Its own messages."""
    return not is_of_the_shim(point)


def is_talk(point: Named) -> bool:
    """What only a life with streams has."""
    return (
        re.search(r"(^| )(attach|exec_start|exec|exec-exit|resize|update|stats|rename state.json)$", point[1])
        is not None
    )


SHIM = Group("shim, messages and renames", is_of_the_shim)
ZYGOTE = Group("zygote, messages", is_of_the_zygote)
HELPER = Helpers("helper, messages and renames", lambda point: True)
TALKING_SHIM = Group(
    "shim, messages of streams, sizes and limits", lambda point: is_of_the_shim(point) and is_talk(point), TalkingLife
)
TALKING_HELPER = Helpers("helper, messages of execs with streams, and of limits", is_talk, TalkingLife)


def count(engine: CortenEngine, group: Group) -> list[Named]:
    """The points of one life."""
    with group.trace(engine) as trace:
        whole_life(engine, group.life)
        return [point for point in trace.end() if group.wanted(point)]


def kill_at(engine: CortenEngine, group: Group, point: Named, before: Snapshot) -> bool:
    """One life with the kill, and the verdict; whether it landed."""
    life = group.life(engine)
    with group.trace(engine, point) as trace:
        life.run()
        trace.end()
    assert trace.killed in (None, point), trace.killed
    if trace.killed is not None:
        group.judge(life)
    else:
        assert not life.failure, f"{life.failure}, but nothing was killed"
    expect_none(before)
    return trace.killed is not None


def settled(life: Life) -> bool:
    """Whether the engine has noticed: nothing of the life runs any more."""
    state = life.state()
    return state is None or state["Status"] in ("created", "exited")


def campaign(engine: CortenEngine, group: Group, most: int | None) -> None:
    """Counts, then kills at a sample of the points, or at all: each must be hit."""
    points = count(engine, group)
    chosen = killpoints.sample(points, most or len(points))
    before = Snapshot.take(Subject.of(engine))

    def kill(point: Named) -> bool:
        with named(f"{group.what}: {point[0]} {point[1]}"):
            return kill_at(engine, group, point, before)

    hit = killpoints.hits(chosen, kill)
    killpoints.report(group.what, hit, len(points))
    assert hit == len(chosen), f"{hit} of {len(chosen)} points hit"
    whole_life(engine, group.life)


@pytest.mark.timeout(240)
def test_shim_killed_at_a_sample_of_its_points(warm: CortenEngine) -> None:
    campaign(warm, SHIM, GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_shim_killed_at_every_point(warm: CortenEngine) -> None:
    campaign(warm, SHIM, None)


def with_a_neighbour(engine: CortenEngine, group: Group, most: int | None) -> None:
    """The containers that live stay; a verb that the death hits is done by the next one or refused in words."""
    other = Life(engine, network="none")
    other.do("create", "start")
    campaign(engine, group, most)
    other.do("exec", "kill", "wait")
    other.judge()


def test_zygote_killed_at_every_message(warm: CortenEngine) -> None:
    with_a_neighbour(warm, ZYGOTE, None)


@pytest.mark.timeout(240)
def test_helper_killed_at_a_sample_of_its_points(warm: CortenEngine) -> None:
    with_a_neighbour(warm, HELPER, GATE_SAMPLE_OF_THE_HELPER)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_helper_killed_at_every_point(warm: CortenEngine) -> None:
    with_a_neighbour(warm, HELPER, None)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("group", [TALKING_SHIM, TALKING_HELPER], ids=lambda group: group.what)
def test_streams_under_a_death_at_a_sample_of_the_points(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, GATE_SAMPLE_OF_STREAMS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("group", [TALKING_SHIM, TALKING_HELPER], ids=lambda group: group.what)
def test_streams_under_a_death_at_every_point(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, None)


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
