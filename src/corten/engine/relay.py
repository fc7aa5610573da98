"""Progress of a thread's work as a stream for a client: told from any thread, read in the event loop.

A client that reads slowly, or not at all, holds up no work and costs no memory: of the bars of one layer only the
newest waits.  A client that goes away stops the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from corten.engine.threads import disk_error, in_own_thread
from corten.errors import CortenError

Json = dict[str, Any]
Tell = Callable[[Json], None]
"""Takes a message (corten.spec.progress); for any thread."""

BAR_S: Final = 0.1
"""Between two bars of one layer."""


async def relayed(name: str, work: Callable[[Tell], None], *, stop: Callable[[], None]) -> AsyncIterator[Json]:
    """The messages that `work`, in a thread of its own, tells; at the end its error, the disk's as Internal.

    `stop`, called when nobody reads any more, makes `work` end soon.
    """
    outbox = Outbox(asyncio.get_running_loop())
    task = asyncio.ensure_future(in_own_thread(name, lambda: work(outbox.tell)))
    task.add_done_callback(lambda _: outbox.close())
    try:
        async for message in outbox:
            yield message
        await _ended(task)
    finally:
        if not task.done():
            stop()
        with contextlib.suppress(BaseException):  # nobody waits for it any more
            if task.done():
                task.exception()
            else:
                task.add_done_callback(_forget)


async def _ended(task: asyncio.Future[None]) -> None:
    try:
        await asyncio.shield(task)
    except CortenError:
        raise
    except OSError as error:
        raise disk_error(error) from error


def _forget(task: asyncio.Future[None]) -> None:
    if not task.cancelled():
        task.exception()


class Outbox:
    """Messages on their way from threads to one reader in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: dict[object, Json] = {}
        self._bars: dict[str, float] = {}
        self._news = asyncio.Event()
        self._is_closed = False

    def tell(self, message: Json) -> None:
        """Queues a message.  A bar is left out when the last one of its layer is too fresh, unless it is full."""
        with self._lock:
            key: object = object()
            if "progress" in message:
                if not self._is_due(message):
                    return
                key = message.get("id", "")
                self._waiting.pop(key, None)
            is_news = not self._waiting
            self._waiting[key] = message
        if is_news:
            self._wake()

    def close(self) -> None:
        """No more messages come; for the loop."""
        self._is_closed = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Json]:
        while True:
            await self._news.wait()
            self._news.clear()
            is_last = self._is_closed
            with self._lock:
                batch, self._waiting = self._waiting, {}
            for message in batch.values():
                yield message
            if is_last:
                return

    def _is_due(self, message: Json) -> bool:
        subject, now_s = str(message.get("id", "")), time.monotonic()
        detail = message.get("progressDetail") or {}
        is_full = detail.get("current") == detail.get("total")
        if not is_full and now_s - self._bars.get(subject, 0.0) < BAR_S:
            return False
        self._bars[subject] = now_s
        return True

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._news.set)
