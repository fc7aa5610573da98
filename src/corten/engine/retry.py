"""What the database refused, tried again: on a disk that is full, a database that somebody holds or that is damaged.

    later(what, error, again) ─► [the queue] ─ delay ─ probe in a thread ─► every `again()` of the queue, once
                                      ▲                     │ refused                    │ refused: `later` again
                                      └─── delay doubled ◄──┴────────────────────────────┘

One queue for all, so that a database that never gets well costs one try a minute and not one per container; one line
of the log per cause.  The probe asks whether somebody holds the database and does not wait for him, as every try would,
in the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from corten.engine.threads import in_own_thread
from corten.errors import Unavailable

log = logging.getLogger("corten.engine")

FIRST_DELAY_S: Final = 2.0
LAST_DELAY_S: Final = 60.0


class Retries:
    """The queue of one engine."""

    def __init__(
        self, probe: Callable[[], None], *, first_delay_s: float = FIRST_DELAY_S, last_delay_s: float = LAST_DELAY_S
    ) -> None:
        """`probe` blocks; it raises Unavailable or OSError while there is no use in trying."""
        self._probe = probe
        self._first_delay_s, self._last_delay_s = first_delay_s, last_delay_s
        self._delay_s = first_delay_s
        self._queue: list[Callable[[], object]] = []
        self._causes: set[str] = set()
        self._rounds: asyncio.Task[None] | None = None

    def later(self, what: str, error: Exception, again: Callable[[], object]) -> None:
        """Calls `again` in the loop when it is time; `what` failed with `error`."""
        level = logging.DEBUG if str(error) in self._causes else logging.WARNING
        self._causes.add(str(error))
        log.log(level, "%s, tried again: %s", what, error)
        self._queue.append(again)
        if self._rounds is None:
            self._rounds = asyncio.get_running_loop().create_task(self._run(), name="retries")

    async def wait(self, what: str, error: Exception) -> None:
        """The same, for a caller that tries by itself after this."""
        turn = asyncio.Event()
        self.later(what, error, turn.set)
        await turn.wait()

    async def _run(self) -> None:
        """Until nobody waits, and nobody has come again in the time of one round."""
        try:
            while self._queue:
                await asyncio.sleep(self._delay_s)
                self._delay_s = min(2 * self._delay_s, self._last_delay_s)
                if await self._is_well():
                    queue, self._queue = self._queue, []
                    for again in queue:
                        again()
                    await asyncio.sleep(min(self._first_delay_s, self._delay_s))  # whose try fails is back by then
        finally:
            self._rounds = None
        log.info("what was refused is done: %s", "; ".join(sorted(self._causes)))
        self._causes.clear()
        self._delay_s = self._first_delay_s

    async def _is_well(self) -> bool:
        try:
            await in_own_thread("probe", self._probe)
        except (Unavailable, OSError) as error:
            log.debug("no use in trying yet: %s", error)
            return False
        return True
