"""An epoll loop: descriptors, timers and jobs.  No asyncio: a shim has to stay below a megabyte (design.md §7).

A job is a generator that yields what it waits for:

    yield Readable(fd, timeout_s)     → True, or False when the time is up
    yield Sleep(seconds)              → True

so that a slow external runtime does not stop the container's output.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable, Generator
from typing import NamedTuple

from corten.shim.rest import Rest

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
HANGUP = select.EPOLLHUP | select.EPOLLERR
_LONGEST_S = 86400.0  # of a wait: epoll counts milliseconds in an int, and a health check may be told to come in years
_SWEEP_AT = 64


class Readable(NamedTuple):
    """Wait until `fd` is readable (or hung up), at most `timeout_s` seconds; None waits for ever."""

    fd: int
    timeout_s: float | None = None


class Sleep(NamedTuple):
    """Wait `seconds`."""

    seconds: float


Job = Generator[Readable | Sleep, bool, None]
Handler = Callable[[int], object]


class Timer:
    """A call to come; `cancel` is idempotent."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Level-triggered; handlers get the epoll event mask, and their errors pass through `turn`."""

    __slots__ = ("_epoll", "_handlers", "_masks", "_order", "_rest", "_sweep_at", "_timers")

    def __init__(self, rest: Rest | None = None) -> None:
        """`rest`: what an idle process does about its memory."""
        self._epoll = select.epoll()
        self._rest = rest or Rest()
        self._handlers: dict[int, Handler] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._sweep_at = _SWEEP_AT

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Watch a descriptor that is not watched yet; `events` 0 still reports hang-up and error."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler
        self._masks[fd] = events

    def watches(self, fd: int) -> bool:
        """Whether `fd` is being watched."""
        return fd in self._handlers

    def change(self, fd: int, events: int) -> None:
        """Other events for a watched descriptor."""
        if self._masks[fd] != events:
            self._epoll.modify(fd, events)
            self._masks[fd] = events

    def remove(self, fd: int) -> None:
        """Stop watching; must come before the descriptor is closed.  An unwatched one is ignored."""
        if self._handlers.pop(fd, None) is not None:
            del self._masks[fd]
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call once, not before `seconds` from now (monotonic)."""
        timer = Timer(callback)
        if len(self._timers) >= self._sweep_at:
            self._sweep()
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def _sweep(self) -> None:
        """Forget the cancelled ones: far ones would stay until their time comes, one for each probe of a check."""
        self._timers = [entry for entry in self._timers if entry[2].callback is not None]
        heapq.heapify(self._timers)
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._timers))

    def start(self, job: Job) -> None:
        """Run a job up to its first wait, and on from there as it is ready."""
        self._resume(job, first=True)

    def turn(self, limit_s: float | None = None) -> None:
        """One wait, at most `limit_s`, and everything that is ready after it."""
        for fd, events in self._rest.poll(self._epoll, self._patience(limit_s)):
            handler = self._handlers.get(fd)
            if handler is not None:  # a handler before it in this round may have removed it
                handler(events)
        self._run_timers()

    def _patience(self, limit_s: float | None) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return limit_s
        left = min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST_S)
        return left if limit_s is None else min(left, limit_s)

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def _resume(self, job: Job, value: bool = True, first: bool = False) -> None:
        try:
            wait = next(job) if first else job.send(value)
        except StopIteration:
            return
        if isinstance(wait, Sleep):
            self.call_later(wait.seconds, lambda: self._resume(job))
        else:
            self._resume_when_readable(job, wait)

    def _resume_when_readable(self, job: Job, wait: Readable) -> None:
        timer: Timer | None = None

        def resume(value: bool) -> None:
            self.remove(wait.fd)
            if timer is not None:
                timer.cancel()
            self._resume(job, value)

        if wait.timeout_s is not None:
            timer = self.call_later(wait.timeout_s, lambda: resume(False))
        self.add(wait.fd, READ, lambda events: resume(True))
