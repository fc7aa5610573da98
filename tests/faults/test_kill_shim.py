"""kill -9 of a shim at every message and every file that it renames into place, of the zygote and its helpers likewise.

A shim is caught as it is born: strace stops it at listen(2), before it has read or sent anything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support import images, killpoints
from support.engine import CortenEngine
from support.faultlife import Life, named
from support.killpoints import Call, Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import is_alive, wait_for

SHIM_CALLS = ("sendto", "sendmsg", "recvmsg", "rename")
ZYGOTE_CALLS = ("sendto", "sendmsg", "recvmsg")
GATE_SAMPLE = 14
ATTEMPTS = 3
Point = tuple[str, int]


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


class Newborn:
    """The shim of the next start: stopped at its listen(2), traced, and let go with its kill point set."""

    def __init__(self, engine: CortenEngine) -> None:
        self._birth = Trace(zygote_of(engine), calls=("listen",), stop=True, follow=True)
        self.pid = 0

    def trace(self, kill: Point | None) -> Trace:
        """Waits until it is born; returns the trace that it runs under."""
        with self._birth as birth:
            wait_for(lambda: bool(birth.stopped()), "shim at its listen")
            self.pid = birth.stopped()[0]
            birth.end()
        trace = Trace(self.pid, calls=SHIM_CALLS, kill=kill)
        os.kill(self.pid, signal.SIGCONT)
        return trace


def traced_life(engine: CortenEngine, kill: Point | None) -> tuple[Life, Sequence[Call], Call | None]:
    """A life whose shim is killed at a point (or not at all): the life, the shim's calls, the one that killed it."""
    life = Life(engine)
    newborn = Newborn(engine)
    client = threading.Thread(target=life.run)
    client.start()
    try:
        with newborn.trace(kill) as trace:
            client.join()
            died = kill is not None and (bool(life.failure) or not is_alive(newborn.pid))
            calls = trace.end(died=died)
            return life, calls, trace.killed
    finally:
        client.join()


def points_of(calls: Sequence[Call]) -> list[Point]:
    """Messages and renames; what else the shim sends is not counted."""
    return [(call.name, call.number) for call in calls if call.is_message or call.name == "rename"]


def kill_at(engine: CortenEngine, point: Point, before: Snapshot) -> bool:
    """One life with the kill, and the verdict; whether the kill landed, in a few attempts."""
    for _ in range(ATTEMPTS):
        life, _, killed = traced_life(engine, point)
        if killed is not None:
            assert (killed.name, killed.number) == point, killed
            wait_for(lambda: settled(life), f"end of {life.name}")  # noqa: B023
            life.judge(lost=True)
        else:
            assert not life.failure, f"{life.failure}, but nothing was killed"
        expect_none(before)
        if killed is not None:
            return True
    return False


def settled(life: Life) -> bool:
    """Whether the engine has noticed: nothing of the life runs any more."""
    state = life.state()
    return state is None or state["Status"] in ("created", "exited")


def campaign(engine: CortenEngine, most: int | None) -> None:
    """Counts, then kills at a sample of the points, or at all."""
    points = points_of(traced_life(engine, None)[1])
    chosen = killpoints.sample(points, most or len(points))
    before = Snapshot.take(Subject.of(engine))
    hit = 0
    for point in chosen:
        with named(f"shim: {point[0]} {point[1]}"):
            hit += kill_at(engine, point, before)
    killpoints.report("shim, messages and renames", hit, len(points))
    # how often a receive finds its socket empty varies: the last numbers are not reached by every life
    assert hit >= len(chosen) * 0.9, f"{hit} of {len(chosen)} points hit"
    whole_life(engine)


@pytest.mark.timeout(240)
def test_shim_killed_at_a_sample_of_its_points(warm: CortenEngine) -> None:
    campaign(warm, GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_shim_killed_at_every_point(warm: CortenEngine) -> None:
    campaign(warm, None)


def test_zygote_and_its_helpers_killed_at_every_message(warm: CortenEngine) -> None:
    """The containers that live stay, and a start that the death hits is made by the next zygote or refused in words."""
    other = Life(warm, network="none")
    other.do("create", "start")
    with Trace(zygote_of(warm), calls=ZYGOTE_CALLS, follow=True) as trace:
        whole_life(warm)
        calls = trace.end()
    shims = {call.thread for call in calls if call.name == "recvmsg"} - {str(zygote_of(warm))}
    points = list(dict.fromkeys(point for call in calls if call.thread not in shims for point in points_of([call])))
    before = Snapshot.take(Subject.of(warm))
    hit = 0
    for point in points:
        with named(f"zygote: {point[0]} {point[1]}"):
            life = Life(warm)
            with Trace(zygote_of(warm), calls=ZYGOTE_CALLS, kill=point, follow=True) as trace:
                life.run()
                trace.end()
            assert trace.killed is not None, "nothing was killed"
            hit += 1
            wait_for(lambda: settled(life), f"end of {life.name}")  # noqa: B023
            life.judge(lost=True)
            expect_none(before)
    killpoints.report("zygote and its helpers, messages", hit, len(points))
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
