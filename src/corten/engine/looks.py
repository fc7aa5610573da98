"""Looks at files that somebody else answers for: a container's /etc/passwd, a client's bind source.

Behind them may be FUSE, NFS or a disk that has died, and a thread that asks may never come back.  So every look has a
thread of its own, a time, and a subject: a path of the host, or a container for its own files.  Who asks for a subject
that does not answer waits for the one look under way and is then refused, however many containers ask; all other
subjects are served, up to a bound for those that do not answer.  The host's paths and the containers' files have a
`Looks` each, so neither uses up the bound of the other.  The thread is a daemon: no end of cortend waits for it.
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


class NoAnswer(Unavailable):
    """A file system did not answer in time; it may yet."""


class _Look:
    """One under way."""

    __slots__ = ("began_s", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.began_s = loop.time()
        self.future: asyncio.Future[_Outcome] = loop.create_future()


class Looks:
    """All looks of one kind in an engine."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._under_way: dict[str, _Look] = {}

    async def look(self, what: str, subject: str, work: Callable[[], T]) -> T:
        """`work()` in a thread; one at a time for `subject`, which is a `what`.

        Raises what `work` raises (errors of ours and of the system), NoAnswer when it does not end in time (it goes on,
        and keeps its place until it does) or when too many do not end.
        """
        loop = asyncio.get_running_loop()
        named = f"{what} {subject}"
        while (other := self._under_way.get(subject)) is not None:
            await self._wait(other, named)
        if len(self._under_way) >= _MAX_THREADS:
            raise NoAnswer(f"{named}: {_MAX_THREADS} others do not answer already")
        self._under_way[subject] = mine = _Look(loop)

        def end(outcome: _Outcome) -> None:
            del self._under_way[subject]
            mine.future.set_result(outcome)

        def run() -> None:
            outcome: _Outcome = None, Internal(f"{named}: the look failed")
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
            del self._under_way[subject]
            raise Unavailable(f"{named}: {error}") from error
        value, failed = await self._wait(mine, named)
        if failed is not None:
            raise failed
        found: T = value
        return found

    async def _wait(self, look: _Look, named: str) -> _Outcome:
        """Until it ends or its time is over; a client that goes away ends the waiting alone."""
        left_s = look.began_s + self._timeout_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.wait([look.future], timeout=left_s)
        if not look.future.done():
            why = "a file system in the way does not respond"
            raise NoAnswer(f"{named}: no answer within {self._timeout_s:g} s: {why}")
        return look.future.result()
