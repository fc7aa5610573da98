"""How a request that nobody waits for any more ends: one object, handed down to every thread that works for it.

A thread checks it between pieces of work, waits by it, and registers what must happen at once: a connection that it
reads from is shut down, so that the read returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancelled(Exception):  # no CortenError: nobody is left who could be told
    """The request was given up by its client; raised out of whatever was going on for it."""


class Cancel:
    """Set once, never taken back.  Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}

    @property
    def is_set(self) -> bool:
        """Whether the request was given up."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Gives the request up: every callback runs once, in this thread.  Again: nothing."""
        with self._lock:
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises Cancelled when the request was given up."""
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Sleeps; raises Cancelled as soon as the request is given up."""
        if self._event.wait(seconds):
            raise Cancelled

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Registers what happens when the request is given up; at once when it was.  Returns what takes it back.

        The callback must not raise, and must not block: it runs in the thread that cancels.
        """
        key = object()
        with self._lock:
            is_late = self._event.is_set()
            if not is_late:
                self._callbacks[key] = callback
        if is_late:
            callback()
        return lambda: self._forget(key)

    def _forget(self, key: object) -> None:
        with self._lock:
            self._callbacks.pop(key, None)
