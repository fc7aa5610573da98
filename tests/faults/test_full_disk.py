"""The database cannot be written: a full disk, somebody else's lock.  What is refused is refused in words, and undone.

A full disk at the n-th write is injected by strace (ENOSPC from that write on): every write is a point.  One test has a
disk that is really full.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support import images, killpoints, paths, peers
from support.engine import CortenEngine
from support.faultlife import EXIT_CODE, Life, Refused, named
from support.killpoints import Trace
from support.leaks import ALLOWED, Allowed, Snapshot, Subject, expect_none
from support.process import wait_for

GATE_SAMPLE = 7
WORK = Allowed(r"file, under data-root: .*work/work/", "overlayfs made it at the mount, and it stays")


def disk(engine: CortenEngine, full_from: int | None = None, *, workers: bool = False) -> Trace:
    """The journal's writes by cortend's event loop (and its workers), with no room from the given one on."""
    threads = [int(path.name) for path in Path(f"/proc/{engine.pid}/task").iterdir()] if workers else [engine.pid]
    full = None if full_from is None else ("pwrite64", full_from)
    return Trace(*threads, calls=("pwrite64",), only=[engine.data_root / "corten.db-wal"], full=full)


def journal(engine: CortenEngine) -> list[tuple[str, str]]:
    """(kind, name) of every entry."""
    with sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True) as database:
        rows = [(str(kind), str(name)) for kind, name in database.execute("SELECT kind, name FROM journal")]
    database.close()
    return rows


def await_no_task(engine: CortenEngine) -> None:
    """Until the cleanup after an exit has ended."""
    wait_for(lambda: not any(kind == "task-dir" for kind, _ in journal(engine)), "end of the task")


def writes_of(engine: CortenEngine, *steps: str) -> int:
    """How many writes the event loop makes for some steps of a life; the life is brought to its end."""
    life = Life(engine)
    for step in ("create", "start", "kill", "wait", "remove"):
        if step not in steps:
            life.do(step)
            continue
        await_no_task(engine)
        with disk(engine) as trace:
            life.do(step)
            count = len(trace.end())
    return count


def test_a_start_that_finds_no_room_for_any_of_its_writes_is_undone_and_can_be_tried_again(
    lived_engine: CortenEngine,
) -> None:
    count = writes_of(lived_engine, "start")
    before, entries = Snapshot.take(Subject.of(lived_engine)), journal(lived_engine)
    chosen = killpoints.sample(range(1, count + 1), GATE_SAMPLE)
    for number in chosen:
        with named(f"start, no room from journal write {number} on"):
            life = Life(lived_engine)
            life.do("create")
            created = Snapshot.take(Subject.of(lived_engine))
            with disk(lived_engine, number) as trace:
                with pytest.raises(Refused, match=r"503: .*corten\.db: database or disk is full"):
                    life.do("start")
                assert len(trace.end()) >= number
            state = life.state()
            assert state is not None
            assert (state["Status"], state["Pid"]) == ("created", 0)
            assert "disk is full" in state["Error"]
            own = Allowed(rf"file, under data-root: containers/{life.id}/.*", "its log and hosts stay")
            expect_none(created, allowed=(*ALLOWED, own, WORK))
            life.do("start", "exec", "kill", "wait", "remove")
            expect_none(before)
            assert journal(lived_engine) == entries
    killpoints.report("start on a full disk, journal writes", len(chosen), count)


def test_a_removal_that_finds_no_room_changes_nothing_and_can_be_tried_again(lived_engine: CortenEngine) -> None:
    count = writes_of(lived_engine, "remove")
    before, entries = Snapshot.take(Subject.of(lived_engine)), journal(lived_engine)
    for number in killpoints.sample(range(1, count + 1), GATE_SAMPLE):
        with named(f"remove, no room from journal write {number} on"):
            life = Life(lived_engine)
            life.do("create", "start", "kill", "wait")
            await_no_task(lived_engine)
            with disk(lived_engine, number) as trace:
                with pytest.raises(Refused, match=r"503: .*corten\.db: database or disk is full"):
                    life.do("remove")
                trace.end()
            state = life.state()
            assert state is not None
            assert (state["Status"], state["ExitCode"]) == ("exited", 7)
            life.do("remove")
            expect_none(before)
            assert journal(lived_engine) == entries


def test_a_container_that_removes_itself_on_a_full_disk_goes_when_there_is_room(lived_engine: CortenEngine) -> None:
    before, entries = Snapshot.take(Subject.of(lived_engine)), journal(lived_engine)
    name = "selfish"
    lived_engine.docker("run", "-d", "--rm", "--name", name, images.BUSYBOX_REF, "sleep", "1000", check=True)
    with disk(lived_engine, 1, workers=True) as trace:
        client = subprocess.Popen(
            [str(peers.docker_cli()), "-H", lived_engine.host, "kill", name], stdout=subprocess.DEVNULL
        )
        wait_for(lambda: trace.log.read_text().count("ENOSPC") > 2, "writes without room")
        trace.end()
    assert client.wait(60) == 0
    wait_for(lambda: not lived_engine.docker("ps", "-aq", "-f", f"name={name}").stdout, "removal", timeout=60)
    expect_none(before)
    lived_engine.docker("run", "--rm", images.BUSYBOX_REF, "true", check=True)  # the next one takes the rest along
    wait_for(lambda: journal(lived_engine) == entries, f"journal without leftovers, but {journal(lived_engine)}")


def test_a_database_that_somebody_else_holds_refuses_a_start_and_a_removal_in_words(lived_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(lived_engine))
    life = Life(lived_engine)
    life.do("create")
    created = Snapshot.take(Subject.of(lived_engine))
    holder = sqlite3.connect(lived_engine.data_root / "corten.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        for step in ("start", "remove"):
            with pytest.raises(Refused, match=r"503: .*corten\.db: database is locked"):
                life.do(step)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    expect_none(created)
    life.do("start", "exec", "kill", "wait", "remove")
    expect_none(before)


class SmallEngine(CortenEngine):
    """An engine one of whose roots, "data_root" or "exec_root", is on a disk of its own."""

    def __init__(self, disk: Path, root: str) -> None:
        self._disk = disk
        self._root = root
        super().__init__()

    def start(self, prefix: Sequence[str] = ()) -> None:
        """On that disk."""
        setattr(self, self._root, self._disk / "root")
        super().start(prefix)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of sixteen megabytes."""
    folder = paths.scratch("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)
    shutil.rmtree(folder)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 16))
        except OSError:
            return ballast


def test_a_disk_that_is_really_full_refuses_a_start_in_words_removes_and_recovers_with_room(small_disk: Path) -> None:
    with SmallEngine(small_disk, "data_root") as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("run", "--rm", images.BUSYBOX_REF, "true", check=True)
        before = Snapshot.take(Subject.of(engine))
        life, other = Life(engine), Life(engine, port="")
        life.do("create")
        other.do("create", "start")
        ballast = fill(small_disk)
        for _ in range(3):
            with pytest.raises(Refused, match=r"full|No space"):
                life.do("start")
        life.do("remove")
        other.do("kill", "wait", "remove")
        ballast.unlink()
        again = Life(engine)
        again.do("create", "start", "exec", "kill", "wait", "remove")
        expect_none(before)


def test_an_end_is_told_and_its_shim_ends_though_there_is_no_room_for_the_record_nor_for_a_complaint(
    small_disk: Path,
) -> None:
    with SmallEngine(small_disk, "exec_root") as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("run", "--rm", images.BUSYBOX_REF, "true", check=True)
        before = Snapshot.take(Subject.of(engine))
        life = Life(engine)
        life.do("create", "start")
        ballast = fill(small_disk)
        life.do("kill", "wait")
        state = life.state()
        assert state is not None
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", EXIT_CODE, "")
        life.do("remove")
        ballast.unlink()
        expect_none(before)
