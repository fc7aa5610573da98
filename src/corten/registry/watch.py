"""What can end a request from outside: the client who went away, or a peer that takes too long.

A thread that reads from a socket cannot be told anything; but when another thread shuts the socket down, the read
returns.  A Watch holds a descriptor of its own for the connection of a request, so that neither TLS (which takes the
socket object over) nor urllib3 (which gives the connection back) can take it away.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator

TICK = 0.5
"""Seconds between two looks of a Watchdog."""
_IDLE_TICKS = 20

_local = threading.local()


class Watch:
    """The connection of one request, from before it exists until its answer is read.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_tripped = False
        self.deadline = math.inf
        """The moment (time.monotonic) at which a Watchdog trips it."""
        self.is_ready = False
        """Whether there was a connection, with TLS where that is wanted, over which HTTP could be spoken."""

    def hold(self, fd: int, *, is_ready: bool) -> None:
        """Takes a descriptor of the connection, in place of an earlier one."""
        with self._lock:
            self.is_ready = is_ready
            self._drop()
            self._socket = socket.socket(fileno=os.dup(fd))
            if self.is_tripped:
                self._shut()

    def trip(self) -> None:
        """Ends the connection, now or as soon as there is one."""
        with self._lock:
            self.is_tripped = True
            self._shut()

    def close(self) -> None:
        """Gives the descriptor back; the connection stays."""
        with self._lock:
            self._drop()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Watchdog:
    """Trips watches whose deadline has passed: one thread for all, which is there while there is something to watch.

    A timeout of a socket bounds the silence of a peer; only this bounds one that says a byte now and then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._is_running = False

    def guard(self, watch: Watch) -> None:
        """Looks after it from now on."""
        with self._lock:
            self._watches.add(watch)
            if not self._is_running:
                threading.Thread(target=self._run, name="registry-watchdog", daemon=True).start()
                self._is_running = True

    def release(self, watch: Watch) -> None:
        """Looks after it no more."""
        with self._lock:
            self._watches.discard(watch)

    def _run(self) -> None:
        idle = 0
        while True:
            time.sleep(TICK)
            with self._lock:
                watches = list(self._watches)
                idle = 0 if watches else idle + 1
                if idle >= _IDLE_TICKS:
                    self._is_running = False
                    return
            now = time.monotonic()
            for watch in watches:
                if now > watch.deadline and not watch.is_tripped:
                    watch.trip()


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """While this lasts, connections of this thread are held by `watch`."""
    _local.watch = watch
    try:
        yield
    finally:
        _local.watch = None


def current() -> Watch | None:
    """The watch of this thread."""
    found: Watch | None = getattr(_local, "watch", None)
    return found


def hold(sock: socket.socket, *, is_ready: bool) -> None:
    """Lets the watch of this thread, if any, hold the connection."""
    watch = current()
    if watch is not None:
        watch.hold(sock.fileno(), is_ready=is_ready)
