"""The end of a task when the machine refuses what the end needs: it is told all the same."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corten.errors import CortenError, Internal
from corten.runtime.cgroups import Cgroup, CgroupPaths, Counters
from corten.shim.backend import Launched, Phases, Steps, Streams
from corten.shim.loop import Loop, Sleep
from corten.shim.task import Task


class BrokenCgroup(Cgroup):
    """A cgroup whose files cannot be read any more, as far as `refuses` says."""

    __slots__ = ("refuses",)

    def __init__(self, refuses: str) -> None:
        super().__init__(CgroupPaths("v1", {}, ""))
        self.refuses = refuses

    def counters(self) -> Counters:
        self._refuse("counters")
        return Counters(2, 3)

    def pids(self) -> list[int]:
        self._refuse("pids")
        return []

    def _refuse(self, what: str) -> None:
        if what == self.refuses:
            raise OSError(errno.ENODEV, "no such device")


class Sleeper:
    """A `Backend` without a container: its init is a child of this process, in this pid namespace."""

    rootfs_fd = -1
    execs_beside = True

    def __init__(self, refuses: str) -> None:
        self._cgroup = BrokenCgroup(refuses)
        self._refuses = refuses
        self.child: subprocess.Popen[bytes] | None = None

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        self.child = subprocess.Popen(["sh", "-c", "echo last words"], stdout=streams.stdio[1])
        yield from ()
        return Launched(self.child.pid, os.pidfd_open(self.child.pid))

    def start(self) -> Steps[None]:
        yield from ()

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        return (yield from self.create(streams, Phases()))

    def stand_by(self, loop: Loop) -> None:
        pass

    def signal_all(self, signum: int) -> Steps[None]:
        if self._refuses == "signal_all":
            raise OSError(errno.ENODEV, "no such device")
        yield from ()

    def pause(self) -> Steps[None]:
        yield from ()

    def resume(self) -> Steps[None]:
        yield from ()

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        yield from ()

    def delete(self, *, force: bool) -> Steps[None]:
        yield from ()

    def give_up(self) -> None:
        return

    def cgroup(self) -> Cgroup | None:
        return self._cgroup

    def wait_trace(self) -> None:
        return

    def write_trace(self, path: str, phases: Phases) -> Steps[None]:
        yield from ()


def play(loop: Loop, job: Callable[[], Steps[Any]]) -> None:
    def steps() -> Steps[None]:
        yield from job()

    loop.start(steps())


@pytest.mark.parametrize(("refuses", "oom_kills"), [("signal_all", 2), ("pids", 2), ("counters", 0), ("nothing", 2)])
def test_an_end_is_told_though_the_cgroup_refuses(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], refuses: str, oom_kills: int
) -> None:
    events: list[dict[str, Any]] = []
    loop = Loop()
    task = Task(str(tmp_path), loop, events.append)
    backend = Sleeper(refuses)
    play(loop, lambda: task.create(backend, tty=False, stdin=False, size=None, log=None))
    play(loop, task.start)
    deadline = time.monotonic() + 60
    while task.state != "stopped" and time.monotonic() < deadline:
        loop.turn(0.05)
    assert [event["event"] for event in events][-1:] == ["exit"]
    assert (events[-1]["status"], events[-1]["oom_kill_count"]) == (0, oom_kills)
    assert json.loads((tmp_path / "exit").read_text()) == {k: v for k, v in events[-1].items() if k != "event"}
    complaint = "OSError: [Errno 19] no such device"
    assert capfd.readouterr().err.count(complaint) == (refuses != "nothing")
    play(loop, lambda: task.delete(force=True))
    assert task.state == "deleted"
    assert backend.child is not None
    backend.child.returncode = 0  # the task has reaped it


class Clinging(Sleeper):
    """Its container cannot be made, and what was made of it not be removed at the first try."""

    def __init__(self) -> None:
        super().__init__("nothing")
        self.deletes = 0

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        yield from ()
        raise Internal("create: no")

    def delete(self, *, force: bool) -> Steps[None]:
        yield from ()
        self.deletes += 1
        if self.deletes == 1:
            raise Internal("delete: busy")


def test_what_is_left_of_a_failed_create_is_there_to_delete(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    task = Task(str(tmp_path), loop, lambda event: None)
    backend = Clinging()
    with pytest.raises(Internal, match="create: no"):
        play(loop, lambda: task.create(backend, tty=False, stdin=False, size=None, log=None))
    assert "delete: busy" in capfd.readouterr().err
    assert task.state == "new"
    assert task.has_container
    play(loop, lambda: task.delete(force=True))
    assert (task.state, task.has_container, backend.deletes) == ("deleted", False, 2)


class Dying(Sleeper):
    """Its init ends under a verb of the runtime's.

    how: `unseen`, before anybody has collected it, and the verb fails; `told`, and that is told before the verb ends.
    """

    def __init__(self, how: str) -> None:
        super().__init__("nothing")
        self.how = how
        self.task: Task | None = None
        self.resumed = 0

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        self.child = subprocess.Popen(["sleep", "1000"], stdout=streams.stdio[1])
        yield from ()
        return Launched(self.child.pid, os.pidfd_open(self.child.pid))

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        yield from self._end()
        raise Internal("exec: setns: no such process")

    def pause(self) -> Steps[None]:
        yield from self._end()

    def resume(self) -> Steps[None]:
        self.resumed += 1
        yield from self._end()

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        yield from self._end()

    def _end(self) -> Steps[None]:
        assert self.child is not None
        assert self.task is not None
        if self.how == "lives":
            raise Internal("runtime: no")
        self.child.send_signal(signal.SIGKILL)
        if self.how == "unseen":
            os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
            raise Internal("runtime: no such process")
        while self.task.state != "stopped":
            yield Sleep(0.001)


def asked(loop: Loop, job: Callable[[], Steps[Any]]) -> list[str]:
    """How a verb ended: [] while it is under way, then the words of its error, or "" without one."""
    out: list[str] = []

    def steps() -> Steps[None]:
        try:
            yield from job()
        except CortenError as error:
            out.append(f"{error.kind}: {error}")
        else:
            out.append("")

    loop.start(steps())
    return out


OVER = "failed-precondition: container is stopped"


@pytest.mark.parametrize(
    ("verb", "how", "words"),
    [
        ("pause", "unseen", OVER),
        ("pause", "told", OVER),
        ("pause", "lives", "internal: runtime: no"),
        ("resume", "unseen", OVER),
        ("resume", "told", OVER),
        ("resume", "lives", "internal: runtime: no"),
        ("update", "unseen", OVER),
        ("update", "told", ""),
        ("update", "lives", "internal: runtime: no"),
        ("exec", "unseen", OVER),
        ("exec", "lives", "internal: runtime: no"),
    ],
)
def test_a_verb_whose_container_ends_under_it_is_told_so(tmp_path: Path, verb: str, how: str, words: str) -> None:
    events: list[dict[str, Any]] = []
    loop = Loop()
    backend = Dying(how)
    task = backend.task = Task(str(tmp_path), loop, events.append)
    play(loop, lambda: task.create(backend, tty=False, stdin=False, size=None, log=None))
    play(loop, task.start)
    task.state = "paused" if verb == "resume" else task.state
    jobs: dict[str, Callable[[], Steps[Any]]] = {
        "pause": task.pause,
        "resume": task.resume,
        "update": lambda: task.update({}),
        "exec": lambda: task.exec("e", {}, tty=False, stdin=False, size=None, client=None),
    }
    before = task.state
    answer = asked(loop, jobs[verb])
    deadline = time.monotonic() + 30
    assert backend.child is not None
    while not answer or (how == "told" and task.state != "stopped"):
        assert time.monotonic() < deadline
        loop.turn(0.05)
    assert answer == [words]
    assert task.execs == {}
    if how == "lives":
        assert task.state == before
        backend.child.kill()
    while task.state != "stopped":
        assert time.monotonic() < deadline
        loop.turn(0.05)
    assert [event["event"] for event in events][-1] == "exit"
    assert backend.resumed == (verb == "resume" or (verb == "pause" and how != "lives"))
    backend.child.returncode = 0  # the task has reaped it
