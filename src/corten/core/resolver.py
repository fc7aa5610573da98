"""cortend's side of the resolver (`corten.shim.resolver`): found where an earlier cortend left it, or forked anew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from corten.core.channel import Channel
from corten.core.shims import Zygote
from corten.errors import Unavailable
from corten.shim.protocol import NAMES_SOCKET, connect

log = logging.getLogger("corten.core")

_TIMEOUT_S: Final = 10.0
_DEATH_S: Final = 10.0
_TITLE: Final = b"corten-shim names"
_PEER: Final = struct.Struct("3i")


class Resolver:
    """One connection.  `lost` is called when the process is gone though nobody ended it."""

    def __init__(self, zygote: Zygote, exec_root: str, *, lost: Callable[[], None]) -> None:
        self._zygote = zygote
        self._exec_root = exec_root
        self._on_lost = lost
        self._channel: Channel | None = None

    @property
    def is_open(self) -> bool:
        """There is one, and it is connected."""
        return self._channel is not None and self._channel.is_open

    def is_there(self) -> bool:
        """Whether an earlier cortend left one."""
        try:
            self._found().close()
        except OSError:
            return False
        return True

    async def open(self) -> frozenset[str]:
        """The containers that it serves already; it is forked when none is there, or none answers.

        Raises Unavailable.
        """
        self.close()
        try:
            return await self._greeted(self._found())
        except OSError:  # there never was one, or it is dead
            return await self._greeted(await self._zygote.resolver())
        except Unavailable as error:
            log.warning("%s: another takes its place", error)
            await asyncio.to_thread(kill, self._exec_root)
            return await self._greeted(await self._zygote.resolver())

    async def _greeted(self, sock: socket.socket) -> frozenset[str]:
        self.close()
        self._channel = channel = Channel(sock, name="resolver", on_event=lambda event: None, on_lost=self._lost)
        found, _ = await channel.request("hello", {}, (), _TIMEOUT_S)
        return frozenset(map(str, found.get("containers", ())))

    async def tell(self, op: str, *fds: int, **fields: Any) -> None:
        """One request of the list in `corten.shim.resolver`; the descriptors stay the caller's.

        Raises CortenError; Unavailable when it is gone.
        """
        if self._channel is None:
            raise Unavailable("resolver is gone")
        await self._channel.request(op, fields, fds, _TIMEOUT_S)

    def close(self) -> None:
        """Lets go of it; it goes on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _found(self) -> socket.socket:
        return connect(self._exec_root, NAMES_SOCKET)

    def _lost(self) -> None:
        log.warning("the resolver is gone: a new one is started")
        self._channel = None
        self._on_lost()


def kill(exec_root: str) -> None:
    """Kills an engine's resolver, if there is one; returns when it is dead."""
    with contextlib.suppress(ProcessLookupError):
        pid = pid_of(exec_root)
        if not pid:
            return
        pidfd = os.pidfd_open(pid)
        try:
            if pid_of(exec_root) == pid and _is_resolver(pid):  # still: a pid may be used again
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], _DEATH_S)
        finally:
            os.close(pidfd)


def pid_of(exec_root: str) -> int:
    """The pid of an engine's resolver, answering or not (unix(7), SO_PEERCRED); 0 when there is none."""
    try:
        with connect(exec_root, NAMES_SOCKET) as sock:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    except OSError:
        return 0
    return int(_PEER.unpack(raw)[0])


def _is_resolver(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().startswith(_TITLE)
    except OSError:
        return False
