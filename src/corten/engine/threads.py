"""A call in a thread of its own: for what lasts as long as somebody else wants, and for what must wait for nobody.

The loop's pool has a few workers, for what is short; a client that sends its image slowly would hold one of them.
The threads are daemons: no end of cortend waits for the disk (corten.daemon.leaving).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from corten.errors import Internal

T = TypeVar("T")


class NoThread(BlockingIOError):
    """The system has none."""


def disk_error(error: OSError) -> Internal:
    """The disk's, as the API tells it: the file where it is known, and why."""
    return Internal(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))


class OwnThread(threading.Thread):
    """One of a call; it may be at work below the data root."""


async def in_own_thread(name: str, work: Callable[[], T], *, late: Callable[[T], None] | None = None) -> T:
    """`work()` in a new thread that ends with it; returns or raises what it does.

    `late` gets the value for which nobody waits any more, in the loop.  Raises NoThread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def give(value: T) -> None:
        if not future.cancelled():
            future.set_result(value)
        elif late is not None:
            late(value)

    def refuse(error: BaseException) -> None:
        if not future.cancelled():
            future.set_exception(error)

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            try:
                value = work()
            except BaseException as error:  # outermost of this thread: raised again in the caller's
                loop.call_soon_threadsafe(refuse, error)
            else:
                loop.call_soon_threadsafe(give, value)

    try:
        OwnThread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThread(errno.EAGAIN, f"no thread for {name}: {error}") from error
    return await future
