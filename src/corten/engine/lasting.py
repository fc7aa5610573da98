"""Operations that go on to their end when the client who asked for them goes away (design.md §5).

The door cancels a request whose client is gone.  A stop that has sent its signal must still kill, a restart must
still start: here a verb runs in a task of its own, and only the waiting for it is cancelled.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

log = logging.getLogger("corten.engine")

P = ParamSpec("P")
T = TypeVar("T")

_END_S: Final = 1.0  # that verbs under way have when the engine closes; a stop may wait for minutes
_UNDO_S: Final = 5.0


class Lasting:
    """The verbs under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def verb(self, operation: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """`operation` as one that lasts."""

        @functools.wraps(operation)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            task = asyncio.get_running_loop().create_task(operation(*args, **kwargs), name=operation.__qualname__)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(_report)
                raise

        return run

    async def close(self) -> None:
        """Let what is under way end, for a moment; then what it did is undone, unless a shim hangs in that too.

        What is not undone by then is in the journal: the next start does it.
        """
        for time_s in (_END_S, _UNDO_S, _END_S):
            if not self._tasks:
                return
            _, left = await asyncio.wait(list(self._tasks), timeout=time_s)
            for task in left:
                task.cancel()
        if left:
            log.warning("left to the next start: %s", ", ".join(sorted(task.get_name() for task in left)))


def _report(task: asyncio.Task[Any]) -> None:
    """The error of a verb that nobody waits for any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s, whose client is gone: %s", task.get_name(), error)
