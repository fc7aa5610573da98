"""Looks at files that somebody else answers for: a container's /etc/passwd, a client's bind source.

Behind them may be FUSE, NFS or a disk that has died, and a thread that asks may never come back.  So every look has a
thread of its own, a time, and an owner: who is stalled waits for the one look under way and is then refused, all others
are served.  The thread is a daemon: no end of cortend waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from corten.errors import CortenError, Internal, Unavailable

T = TypeVar("T")

TIMEOUT_S: Final = 5.0
_MAX_THREADS: Final = 64

_Outcome = tuple[Any, BaseException | None]


class _Look:
    """One under way."""

    __slots__ = ("began_s", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.began_s = loop.time()
        self.future: asyncio.Future[_Outcome] = loop.create_future()


class Looks:
    """All looks of one engine."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._under_way: dict[str, _Look] = {}

    async def look(self, whose: str, what: str, work: Callable[[], T]) -> T:
        """`work()` in a thread; one at a time for `whose`.

        Raises what `work` raises (errors of ours and of the system), Internal when it does not end in time (it goes on,
        and keeps its place until it does), Unavailable when too many do not end.
        """
        loop = asyncio.get_running_loop()
        while (other := self._under_way.get(whose)) is not None:
            await self._wait(other, whose, what)
        if len(self._under_way) >= _MAX_THREADS:
            raise Unavailable(f"{what} of {whose}: {_MAX_THREADS} file systems do not answer already")
        self._under_way[whose] = mine = _Look(loop)

        def end(outcome: _Outcome) -> None:
            del self._under_way[whose]
            mine.future.set_result(outcome)

        def run() -> None:
            outcome: _Outcome = None, Internal(f"{what} of {whose}: the look failed")
            try:
                outcome = work(), None
            except (CortenError, OSError) as error:
                outcome = None, error
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(end, outcome)

        try:
            threading.Thread(target=run, name="look", daemon=True).start()
        except RuntimeError as error:
            del self._under_way[whose]
            raise Unavailable(f"{what} of {whose}: {error}") from error
        value, failed = await self._wait(mine, whose, what)
        if failed is not None:
            raise failed
        found: T = value
        return found

    async def _wait(self, look: _Look, whose: str, what: str) -> _Outcome:
        """Until it ends or its time is over; a client that goes away ends the waiting alone."""
        left_s = look.began_s + self._timeout_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.wait([look.future], timeout=left_s)
        if not look.future.done():
            why = "a file system in the way does not respond"
            raise Internal(f"{what} of {whose}: no answer within {self._timeout_s:g} s: {why}")
        return look.future.result()
