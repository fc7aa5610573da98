"""Collects the zombies that a child subreaper inherits (prctl(2), PR_SET_CHILD_SUBREAPER): external runtimes need one.

Children that are waited for by descriptor are left to whoever waits; while a request is under way nothing is collected,
because the runtime's processes are not known yet.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from corten.shim.loop import READ, Loop

_WALL = 0x40000000
_PATIENCE_S = 0.05


class OrphanReaper:
    """Woken by SIGCHLD through a pipe (`signal.set_wakeup_fd`)."""

    def __init__(self, loop: Loop, *, is_busy: Callable[[], bool], known: Callable[[], set[int]]) -> None:
        self._loop = loop
        self._is_busy = is_busy
        self._known = known
        self._is_planned = False
        self._wakeup, send = os.pipe()
        for fd in (self._wakeup, send):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        loop.add(self._wakeup, READ, self._woken)

    def _woken(self, events: int) -> None:
        os.read(self._wakeup, 4096)
        self._plan()

    def _plan(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_later(_PATIENCE_S, self._collect)

    def _collect(self) -> None:
        self._is_planned = False
        if self._is_busy() or not self._collect_unknown():
            self._plan()

    def _collect_unknown(self) -> bool:
        """False when a zombie is left for whoever waits for it."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
            except ChildProcessError:
                return True
            if found is None:
                return True
            if found.si_pid in self._known():
                return False
            os.waitpid(found.si_pid, _WALL)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """A handler, so that the wakeup descriptor is written; unlike SIG_IGN it is not inherited by what is launched."""
