"""Tells of kills for want of memory while the container runs.

v1   an eventfd registered in cgroup.event_control for memory.oom_control (cgroup-v1/memory.rst, "OOM Control")
v2   memory.events, whose open file reports EPOLLPRI when a counter changes (cgroup-v2.rst)

Either only says that something happened: the count is read then.  v1 says it before the kill (mm/memcontrol-v1.c,
mem_cgroup_oom_notify), so the count is looked at until it has changed, for some seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from corten.runtime.cgroups import Cgroup
from corten.shim.loop import PRIORITY, READ, Loop

_FIRST_LOOK_S = 0.02  # doubled each time
_LAST_LOOK_S = 3.0


class OomWatch:
    """A registration; `close` ends it."""

    __slots__ = ("_cgroup", "_fds", "_kills", "_loop", "_open", "_watched")

    def __init__(self, cgroup: Cgroup, loop: Loop, watched: int, fds: list[int]) -> None:
        self._cgroup = cgroup
        self._loop = loop
        self._watched = watched
        self._fds = fds
        self._kills = 0
        self._open = 0  # notifications whose kill was not seen yet

    @classmethod
    def open(cls, cgroup: Cgroup, loop: Loop, on_oom: Callable[[int], None]) -> OomWatch | None:
        """None where the container has no memory cgroup; `on_oom` gets all kills so far, maybe one number twice."""
        directory = cgroup.paths.directory("memory")
        try:
            watched, fds, events = _open_v2(directory) if cgroup.paths.mode == "v2" else _open_v1(directory)
        except OSError:  # no memory controller here, or the container is already gone
            return None
        watch = cls(cgroup, loop, watched, fds)
        loop.add(watched, events, lambda ready: watch._ready(on_oom))
        return watch

    def close(self) -> None:
        """Stop watching.  Must come before the cgroup is removed: that is an event as well."""
        self._loop.remove(self._watched)
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _ready(self, on_oom: Callable[[int], None]) -> None:
        if self._cgroup.paths.mode == "v2":
            os.pread(self._watched, 4096, 0)  # rearms the notification
            on_oom(self._cgroup.counters().oom_kills)
            return
        is_looking = self._open > 0
        self._open += os.eventfd_read(self._watched)
        if not is_looking:
            self._look(on_oom, _FIRST_LOOK_S)

    def _look(self, on_oom: Callable[[int], None], pause_s: float) -> None:
        if not self._fds:  # closed
            return
        kills = self._cgroup.counters().oom_kills
        if kills == self._kills and pause_s < _LAST_LOOK_S:
            self._loop.call_later(pause_s, lambda: self._look(on_oom, pause_s * 2))
            return
        self._open = max(0, self._open - (kills - self._kills)) if kills != self._kills else 0
        self._kills = kills
        on_oom(kills)
        if self._open:
            self._loop.call_later(_FIRST_LOOK_S, lambda: self._look(on_oom, _FIRST_LOOK_S))


def _open_v1(directory: str) -> tuple[int, list[int], int]:
    control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        register = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(register, b"%d %d" % (event, control))
        finally:
            os.close(register)
    finally:
        os.close(control)
    return event, [event], READ


def _open_v2(directory: str) -> tuple[int, list[int], int]:
    fd = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    os.pread(fd, 4096, 0)
    return fd, [fd], PRIORITY
