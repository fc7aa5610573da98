"""Shims that hang: noticed by a ping that is not answered, told once, and tried again.

Nothing waits for such a shim: list and inspect need none, stop goes around it.  An adopted container whose shim hung is
kept as running until its shim answers or somebody stops it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from corten.core.shims import ShimClient
from corten.engine.container import Container
from corten.engine.events import container_event
from corten.engine.parts import Parts
from corten.errors import CortenError, Unavailable

log = logging.getLogger("corten.engine")

PERIOD_S: Final = 60.0
SPACING_S: Final = 2.0  # between two pings at least: what the watch costs does not grow with the containers
RETRY_S: Final = 2.0


class ShimWatch:
    """One engine's watch.  `adopt` is tried for containers whose shim never answered."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.adopt: Callable[[Container], Awaitable[None]] | None = None

    async def run(self) -> None:
        """Until cancelled: every shim is asked in its turn, once in a period while they are few.

        Whoever needs a silent one finds out at once; this is for those that nobody has asked anything.
        """
        while True:
            running = [one for one in self._parts.roster if one.is_running]
            pause_s = max(SPACING_S, PERIOD_S / max(1, len(running)))
            for container in running:
                await self._look(container)
                await asyncio.sleep(pause_s)
            if not running:
                await asyncio.sleep(PERIOD_S)

    async def _look(self, container: Container) -> None:
        shim = container.task.shim if container.task is not None else None
        if container.is_running and shim is not None:
            await self._ping(container, shim)

    async def _ping(self, container: Container, shim: ShimClient) -> None:
        try:
            await shim.ping()
        except Unavailable:
            if container.is_running and shim.is_open:
                self.unresponsive(container)
        except CortenError as error:
            log.warning("container %s: %s", container.id, error)
        else:
            container.is_unresponsive = False

    def unresponsive(self, container: Container) -> None:
        """Tell it once, and try to adopt when there is no connection."""
        if container.is_unresponsive:
            return
        container.is_unresponsive = True
        log.warning("shim of container %s does not respond", container.id)
        self._parts.bus.publish(container_event(container.record, "shim-unresponsive"))
        if container.task is not None and container.task.shim is None:
            self._parts.loop.call_later(RETRY_S, self._retry, container)

    def _retry(self, container: Container) -> None:
        if self.adopt is not None and container.is_running and container.task is not None:
            container.is_unresponsive = False
            self._parts.run_later(_awaited(self.adopt(container)))


async def _awaited(work: Awaitable[None]) -> None:
    await work
