"""cortend's side of the resolver (`corten.shim.resolver`): found where an earlier cortend left it, or forked anew."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from corten.core.channel import Channel
from corten.core.shims import Zygote
from corten.errors import Unavailable
from corten.shim.protocol import NAMES_SOCKET, Message, connect

log = logging.getLogger("corten.core")

_TIMEOUT_S: Final = 10.0


class Resolver:
    """One connection.  `lost` is called when the process is gone though nobody ended it."""

    def __init__(self, zygote: Zygote, exec_root: str, *, lost: Callable[[], None]) -> None:
        self._zygote = zygote
        self._exec_root = exec_root
        self._on_lost = lost
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> frozenset[str]:
        """The containers that it serves already; it is forked when none is there.  Raises Unavailable."""
        found = await self._ask("hello", {}, ())
        return frozenset(map(str, found.get("containers", ())))

    async def tell(self, op: str, *fds: int, **fields: Any) -> None:
        """One request of the list in `corten.shim.resolver`; the descriptors stay the caller's.  Raises CortenError."""
        await self._ask(op, fields, fds)

    async def end(self) -> None:
        """Ends it, if there is one."""
        try:
            sock = self._found()
        except OSError:
            return
        channel = self._joined(sock)
        try:
            await channel.request("end", {}, (), _TIMEOUT_S)
        except Unavailable as error:
            log.warning("the resolver is not ended: %s", error)
        channel.close()

    def close(self) -> None:
        """Lets go of it; it goes on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _ask(self, op: str, fields: Message, fds: Sequence[int]) -> Message:
        async with self._opening:
            if self._channel is None or not self._channel.is_open:
                self._channel = self._joined(await self._reach())
        answer, _ = await self._channel.request(op, fields, fds, _TIMEOUT_S)
        return answer

    async def _reach(self) -> socket.socket:
        try:
            return self._found()
        except OSError:  # there never was one, or it is dead
            return await self._zygote.resolver()

    def _found(self) -> socket.socket:
        return connect(self._exec_root, NAMES_SOCKET)

    def _joined(self, sock: socket.socket) -> Channel:
        return Channel(sock, name="resolver", on_event=lambda event: None, on_lost=self._lost)

    def _lost(self) -> None:
        log.warning("the resolver is gone: a new one is started")
        self._channel = None
        self._on_lost()
