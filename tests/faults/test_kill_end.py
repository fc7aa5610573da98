"""kill -9 of cortend between the exit record of a container, which its shim writes, and the end of the cleanup.

Nobody asks for anything meanwhile: the container ends by a signal from the host.  Whatever cortend had done of
recording the exit, giving back network, task and volumes, removing and restarting, the next one does the rest, once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.api import Api
from support import images, killpoints
from support.doctor import expect_well
from support.engine import CortenEngine
from support.faultlife import logged, named
from support.killpoints import NamedTrace, Trace
from support.leaks import Snapshot, Subject, expect_none
from support.process import wait_for

CALLS = ("rename", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "fsync")
SCRIPT = 'trap "echo bye; exit 7" USR1; sleep 1000 & echo ready; wait'
ONE_RUN = b"ready\nbye\n"
pytestmark = pytest.mark.usefixtures("the_doctor_agrees")


@dataclass(frozen=True, slots=True)
class Kind:
    """What follows from the end: it stays, or is removed with its anonymous volume, or begins again."""

    name: str
    options: tuple[str, ...]
    is_removed: bool = False
    begins_again: bool = False


KINDS = (
    Kind("of a container with port and volume", ("-p", "127.0.0.1::80", "-v", "/data")),
    Kind("of a container with --rm", ("--rm", "-v", "/data"), is_removed=True),
    Kind("of a container with a policy", ("--restart", "on-failure:1", "-p", "127.0.0.1::80"), begins_again=True),
)


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen an end of each kind."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for kind in KINDS:
            ending = Ending(engine, kind)
            ending.undisturbed()
            ending.judge()
        yield engine


class Ending:
    """One container that runs, and its end."""

    def __init__(self, engine: CortenEngine, kind: Kind) -> None:
        self.engine, self.kind, self.api = engine, kind, Api(engine.socket)
        words = ("run", "-d", "--name", "ending", *kind.options, images.BUSYBOX_REF, "sh", "-c", SCRIPT)
        self.id = engine.docker(*words, check=True).stdout.strip()
        wait_for(lambda: self.log() == b"ready\n", "first line")
        self.pid = self.api.ok("GET", f"/containers/{self.id}/json")["State"]["Pid"]

    def log(self) -> bytes:
        """What it wrote, whole lines; nothing when its directory is gone."""
        try:
            return logged(self.engine.data_root / "containers" / self.id / f"{self.id}-json.log")
        except FileNotFoundError:
            return b""

    def end(self) -> None:
        """Told by nobody whom the engine knows."""
        os.kill(self.pid, signal.SIGUSR1)

    @property
    def is_over(self) -> bool:
        """Whether everything was done that follows, as far as the disk shows it."""
        if self.kind.begins_again:
            return self.log() == ONE_RUN + b"ready\n"
        folder = self.engine.data_root / "containers" / self.id
        trash = list((self.engine.data_root / "snapshots" / "trash").iterdir())
        task = self.engine.exec_root / "tasks" / "moby" / self.id
        return not task.exists() and not trash and folder.exists() != self.kind.is_removed

    def is_running(self) -> bool:
        """Whether inspect says so."""
        return bool(self.api.ok("GET", f"/containers/{self.id}/json")["State"]["Status"] == "running")

    def undisturbed(self) -> None:
        """Its end without a kill."""
        self.end()
        wait_for(lambda: self.is_over, "end of the cleanup")

    def judge(self) -> None:
        """Exit code, verdict, bytes, and what follows; then nothing is left of it."""
        wait_for(lambda: self.is_over, "end of the cleanup")
        if self.kind.begins_again:  # it may write before its start is recorded
            wait_for(self.is_running, "record of its second run")
        status, shown = self.api.call("GET", f"/containers/{self.id}/json")
        assert status == (404 if self.kind.is_removed else 200), shown
        if not self.kind.is_removed:
            verdict = shown["Corten"]["Verdict"]
            assert (verdict["Cause"], verdict["ExitCode"]) == ("exited", 7), verdict
            assert self.log() == ONE_RUN + (b"ready\n" if self.kind.begins_again else b"")
            state = shown["State"]
            seen = (state["Status"], state["ExitCode"], shown["RestartCount"])
            assert seen == (("running", 0, 1) if self.kind.begins_again else ("exited", 7, 0)), state
            self.engine.docker("rm", "-f", "-v", "ending", check=True)
        assert self.engine.docker("volume", "ls", "-q", check=True).stdout == ""


def files(engine: CortenEngine) -> list[Path]:
    """The database."""
    return [engine.data_root / "corten.db-wal", engine.data_root / "corten.db"]


Point = tuple[int, str]


def points(engine: CortenEngine, kind: Kind) -> list[tuple[str, Point]]:
    """Of two ends: messages, renames and writes of the database, by their names; and calls for files, by number."""
    ending = Ending(engine, kind)
    with NamedTrace(engine.pid, files=files(engine), threads=True) as trace:
        ending.undisturbed()
        found = [("named", point) for point in trace.end()]
    ending.judge()
    ending = Ending(engine, kind)
    with Trace(engine.pid, calls=CALLS, follow=True) as calls:
        ending.undisturbed()
        found += sorted({("call", (call.number, call.name)) for call in calls.end()})
    ending.judge()
    return found


def kill_at(engine: CortenEngine, kind: Kind, how: str, point: Point) -> bool:
    """An end with the kill, the next start, and the verdict; whether there was a kill."""
    ending = Ending(engine, kind)
    if how == "named":
        with NamedTrace(engine.pid, kill=point, files=files(engine), threads=True) as trace:
            ending.end()
            wait_for(lambda: ending.is_over or not engine.is_running(), "end or kill")
            trace.end()
    else:
        with Trace(engine.pid, calls=CALLS, kill=(point[1], point[0]), follow=True) as calls:
            ending.end()
            wait_for(lambda: ending.is_over or not engine.is_running(), "end or kill")
            calls.end(died=not engine.is_running())
    is_dead = not engine.is_running()
    engine.kill9()
    engine.start()
    ending.judge()
    return is_dead


def campaign(engine: CortenEngine, kind: Kind, most: int) -> None:
    """Kills at a sample of the points."""
    found = points(engine, kind)
    before = Snapshot.take(Subject.of(engine))

    def kill(found: tuple[str, Point]) -> bool:
        how, point = found
        with named(f"{kind.name}: {point[1]} {point[0]}"):
            landed = kill_at(engine, kind, how, point)
            expect_none(before)
            return landed

    hit = killpoints.hits(killpoints.sample(found, most), kill, least=1)
    expect_well(engine)
    killpoints.report(f"end {kind.name}", hit, len(found))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_cortend_killed_after_an_exit_record_does_the_rest_once(warm: CortenEngine, kind: Kind) -> None:
    campaign(warm, kind, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_cortend_killed_at_every_point_after_an_exit_record_does_the_rest_once(warm: CortenEngine, kind: Kind) -> None:
    campaign(warm, kind, 10**6)
