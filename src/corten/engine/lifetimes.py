"""Ends of runs that a policy has set a time to (docs/policies.md): the engine stops them, and the verdict names it.

The time counts from the start of the run, which is recorded: a cortend that comes later goes on counting, and stops at
once what should have ended while there was none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from corten.core.asker import Asker
from corten.engine import times
from corten.engine.container import Container
from corten.engine.lasting import Lasting
from corten.engine.lifecycle import Lifecycle
from corten.engine.parts import Parts
from corten.errors import CortenError

log = logging.getLogger("corten.engine")

_AGAIN_S: Final = 10.0


class Lifetimes:
    """One timer for each running container with a lifetime."""

    def __init__(self, parts: Parts, life: Lifecycle, lasting: Lasting) -> None:
        self._parts = parts
        self._life = life
        self._end_lasting = lasting.verb(self._end)
        self._tasks: set[asyncio.Task[None]] = set()
        self.armed: Sequence[Callable[[Container], None]] = ()  # who hears of beginnings and ends as well
        self.disarmed: Sequence[Callable[[Container], None]] = ()

    def arm(self, container: Container) -> None:
        """A run has begun, or was found by this cortend."""
        self._cancel(container)
        for hear in self.armed:
            hear(container)
        lifetime = container.record.effective.lifetime
        if lifetime is None or not container.is_running:
            return
        lasted_s = (times.now_ns() - container.record.state.started_ns) / times.SECOND_NS
        self._call(container, max(0.0, min(lifetime.seconds, lifetime.seconds - lasted_s)))

    def disarm(self, container: Container) -> None:
        """The run is over."""
        self._cancel(container)
        for hear in self.disarmed:
            hear(container)

    def _cancel(self, container: Container) -> None:
        if container.lifetime_timer is not None:
            container.lifetime_timer.cancel()
            container.lifetime_timer = None

    def _call(self, container: Container, delay_s: float) -> None:
        started_ns = container.record.state.started_ns
        container.lifetime_timer = self._parts.loop.call_later(delay_s, self._due, container, started_ns)

    def _due(self, container: Container, started_ns: int) -> None:
        container.lifetime_timer = None
        if container.is_running and container.record.state.started_ns == started_ns:
            task = self._parts.loop.create_task(self._end_lasting(container), name="end of a lifetime")
            self._tasks.add(task)  # not of the background, for which the start of the engine waits: a stop lasts
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the end of a lifetime failed", exc_info=error)

    async def _end(self, container: Container) -> None:
        lifetime = container.record.effective.lifetime
        if lifetime is None:
            return
        log.info("container %s is stopped for %s: %s", container.id, lifetime.policy, lifetime.reason)
        try:
            await self._life.end(container, Asker(by=lifetime.policy, operation=lifetime.reason))
        except CortenError as error:
            log.warning("container %s is not stopped for %s: %s", container.id, lifetime.policy, error)
            if container.is_running and container.lifetime_timer is None:
                self._call(container, _AGAIN_S)
