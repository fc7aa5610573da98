"""Following a launch whose trace pipe somebody else writes to, as a container with CAP_SYS_PTRACE can."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator

import pytest

from corten.errors import Internal
from corten.launch.ops import Plan, Setsid
from corten.launch.spawn import Launch
from corten.runtime import launching
from corten.runtime.trace import Trace

STARTED, STEP_FAILED = 65536, 22


def record(index: int, kind: int, value: int) -> bytes:
    return struct.pack("=IIQ", index, kind, value)


class Pipe:
    """A `Running` of one step and the write end of its trace pipe.

    `elder` is a child of ours from before the launcher, `child` one from after it, `stranger` no child of ours.
    """

    def __init__(self) -> None:
        self.elder = subprocess.Popen(["sleep", "1000"])
        time.sleep(0.03)  # three clock ticks
        self.launcher = subprocess.Popen(["sleep", "1000"])
        self.child = subprocess.Popen(["sleep", "1000"])
        outer = subprocess.Popen(["sh", "-c", "sleep 1000 >/dev/null & echo $!; wait"], stdout=subprocess.PIPE)
        assert outer.stdout is not None
        self.outer, self.stranger = outer, int(outer.stdout.readline())
        read_fd, self.write_fd = os.pipe()
        self.running = launching.Running(Launch(Plan((Setsid(),), ()), self.launcher.pid, read_fd), Trace())

    def close(self) -> None:
        os.kill(self.stranger, signal.SIGKILL)
        self.outer.wait()
        assert self.outer.stdout is not None
        self.outer.stdout.close()
        for process in (self.child, self.launcher, self.elder):
            process.kill()
            process.wait()
        if self.running.pidfd >= 0:
            os.close(self.running.pidfd)
        self.running.launch.close()
        os.close(self.write_fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_only_a_child_of_ours_is_taken_and_only_once(pipe: Pipe) -> None:
    forged = [pipe.stranger, os.getppid(), 0, 1 << 40, (1 << 64) - 1, pipe.launcher.pid, pipe.elder.pid]
    os.write(pipe.write_fd, b"".join(record(0, STARTED, pid) for pid in forged))
    pipe.running.follow()
    assert (pipe.running.pid, pipe.running.pidfd) == (0, -1)
    os.write(pipe.write_fd, record(0, STARTED, pipe.child.pid) + record(0, STARTED, pipe.outer.pid))
    pipe.running.follow()
    assert pipe.running.pid == pipe.child.pid


def test_a_forged_failure_ends_the_start_and_no_process_of_the_host(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "EXEC_TIMEOUT_S", 0.05)  # the pipe stays open
    os.write(pipe.write_fd, record(0, STARTED, pipe.stranger) + record(0, STEP_FAILED, 0))
    with pytest.raises(Internal):
        pipe.running.follow()
    pipe.running.abandon()
    os.kill(pipe.stranger, 0)


def test_a_step_that_the_plan_has_not_is_passed_over(pipe: Pipe) -> None:
    os.write(pipe.write_fd, record(1, STEP_FAILED, 0) + record(1, 65537, 0))
    pipe.running.follow()
    assert (pipe.running.failure, pipe.running.waiting) == (None, -1)


def test_a_pipe_that_is_held_open_is_given_up(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "EXEC_TIMEOUT_S", 0.05)
    began = time.monotonic()
    with pytest.raises(Internal, match="not executed in time"):
        pipe.running.follow_to_exec()
    assert time.monotonic() - began < 10


def test_the_death_of_the_process_ends_the_plan_though_the_pipe_is_open(pipe: Pipe) -> None:
    os.write(pipe.write_fd, record(0, STARTED, pipe.child.pid))
    pipe.running.follow()
    pipe.child.kill()
    pipe.running.follow()
    assert pipe.running.executed


def test_what_somebody_else_has_collected_is_abandoned_all_the_same(pipe: Pipe) -> None:
    os.write(pipe.write_fd, record(0, STARTED, pipe.child.pid))
    pipe.running.follow()
    for process in (pipe.launcher, pipe.child):
        process.kill()
        process.wait()
    pipe.running.abandon()
    assert pipe.running.pidfd == -1
