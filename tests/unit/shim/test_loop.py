"""The epoll loop: handlers, timers, jobs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from corten.shim.loop import READ, Job, Loop, Readable, Sleep

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_handler_runs_when_its_descriptor_is_ready(pipe: Pipe) -> None:
    loop = Loop()
    seen: list[int] = []
    loop.add(pipe[0], READ, seen.append)
    os.write(pipe[1], b"x")
    loop.turn()
    assert seen == [READ]


def test_a_handler_that_was_removed_in_the_same_round_is_not_called(pipe: Pipe) -> None:
    loop = Loop()
    other = os.dup(pipe[0])
    called: list[int] = []

    def first(fd: int, rival: int) -> None:
        called.append(fd)
        loop.remove(rival)

    loop.add(pipe[0], READ, lambda events: first(pipe[0], other))
    loop.add(other, READ, lambda events: first(other, pipe[0]))
    os.write(pipe[1], b"x")
    loop.turn()
    os.close(other)
    assert len(called) == 1


def test_timers_run_in_their_order_and_not_after_cancel() -> None:
    loop = Loop()
    seen: list[str] = []
    loop.call_later(0.02, lambda: seen.append("late"))
    loop.call_later(0.01, lambda: seen.append("early"))
    loop.call_later(0.0, lambda: seen.append("never")).cancel()
    deadline = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < deadline:
        loop.turn()
    assert seen == ["early", "late"]


def test_a_job_waits_for_descriptors_and_time(pipe: Pipe) -> None:
    loop = Loop()
    seen: list[bool | str] = []

    def job() -> Job:
        seen.append((yield Readable(pipe[0], 0.01)))
        yield Sleep(0.01)
        os.write(pipe[1], b"x")
        seen.append((yield Readable(pipe[0], 5)))
        seen.append("end")

    loop.start(job())
    deadline = time.monotonic() + 60
    while seen[-1:] != ["end"] and time.monotonic() < deadline:
        loop.turn()
    assert seen == [False, True, "end"]


@pytest.mark.parametrize("seconds", [float(1 << 31), 1e18])
def test_a_time_that_epoll_cannot_count_is_waited_for_in_parts(seconds: float, pipe: Pipe) -> None:
    loop = Loop()
    seen: list[int] = []
    loop.call_later(seconds, lambda: seen.append(-1))
    loop.add(pipe[0], READ, seen.append)
    os.write(pipe[1], b"x")
    loop.turn()
    assert seen == [READ]


def test_cancelled_timers_of_a_far_time_do_not_pile_up() -> None:
    loop = Loop()
    kept = [loop.call_later(1e6, lambda: None) for _ in range(100)]
    for _ in range(5000):
        loop.call_later(1e6, lambda: None).cancel()
    assert len(loop._timers) < 300
    assert {id(timer) for timer in kept} <= {id(entry[2]) for entry in loop._timers}
