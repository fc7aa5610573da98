"""How many transfers an engine has at once (`max-concurrent-uploads`): a counter that may be changed while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from corten.registry.cancel import Cancel


class Slots:
    """At most `limit` holders at a time; who waits is let in as soon as one ends.  Thread-safe."""

    def __init__(self, limit: Callable[[], int]) -> None:
        """`limit` is asked each time, for a reload may change it; 0 or less is no limit."""
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, cancel: Cancel, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Holds one; calls `waiting` when there is none yet.  Raises Cancelled."""
        undo = cancel.on_cancel(self._wake)
        try:
            with self._changed:
                if self._is_full() and not cancel.is_set:
                    waiting()
                self._changed.wait_for(lambda: cancel.is_set or not self._is_full())
                cancel.check()
                self._held += 1
        finally:
            undo()
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    def _is_full(self) -> bool:
        limit = self._limit()
        return limit > 0 and self._held >= limit

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
