"""Whether an engine serves another client all the while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from support.engine import CortenEngine

PATIENCE_S = 4.0  # a ping takes a millisecond; a machine that runs other tests takes longer


@contextmanager
def served(engine: CortenEngine) -> Iterator[None]:
    """Another client asks all the time, and is answered in time."""
    over, slowest = threading.Event(), [0.0]

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            answered = engine.answers()
            slowest[0] = max(slowest[0], time.monotonic() - began if answered else 99)
            over.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert slowest[0] < PATIENCE_S
