"""User namespaces of containers whose users are mapped (`userns-remap`), made by the launcher.

Each container has one of its own, and with it a network namespace that belongs to it: whoever is root in there has no
right over any other.  They are made before the shim is told to create the container, which joins both by path.  One
more, in which nobody ever is, holds the map for the mounts of layers (mount_setattr(2), MOUNT_ATTR_IDMAP).
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from dataclasses import dataclass
from typing import Final

from corten.core.owners import IdMap
from corten.engine.liveroot import collected
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, Unavailable
from corten.launch.mountops import GUARDED, PROC_SUPER_MAGIC, FsMount
from corten.launch.nsops import MakeUserNamespace
from corten.launch.ops import (
    CLONE_NEWNET,
    CLONE_NEWUSER,
    LoopbackUp,
    Op,
    Open,
    Plan,
    SendFd,
    SetDumpable,
    Setns,
    Unshare,
)
from corten.launch.spawn import Launcher

_SOCKET: Final = "socket"
_DATA: Final = b"."
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A user namespace and a network namespace of its own, with `lo` up: descriptors, the holder's."""

    user_fd: int
    network_fd: int

    def close(self) -> None:
        """Both."""
        os.close(self.user_fd)
        os.close(self.network_fd)


def plan(id_map: IdMap, *, joined: str = "", network: bool) -> Plan:
    """Make the user namespace, or open the one that is joined, and hand it out; then make the network's inside."""
    ops: list[Op] = [SetDumpable()]
    if joined:
        ops.append(Open("user", joined, 0))
    else:
        ops += [
            FsMount("proc", "proc", ("subset=pid",), GUARDED, magic=PROC_SUPER_MAGIC),
            MakeUserNamespace("user", "proc", *id_map.lines()),
        ]
    ops.append(SendFd(_SOCKET, "user", _DATA))
    if network:
        ops += [
            Setns("user", CLONE_NEWUSER),
            Unshare(CLONE_NEWNET),
            LoopbackUp(),
            Open("network", "/proc/self/ns/net", 0),
            SendFd(_SOCKET, "network", _DATA),
        ]
    return Plan(tuple(ops), (_SOCKET,))


class UserNamespaces:
    """Those of one engine.  Thread-safe; what makes one blocks for about a millisecond."""

    def __init__(self) -> None:
        self._launcher: Launcher | None = None
        self._lock = threading.Lock()
        self._maps: dict[IdMap, int] = {}
        self._spare: tuple[IdMap, asyncio.Future[Pair]] | None = None

    def make(self, id_map: IdMap, *, joined: str = "") -> Pair:
        """A new pair; `joined` is the path of a user namespace to take.  Blocks.  Raises Unavailable."""
        user_fd, network_fd = self._run(plan(id_map, joined=joined, network=True), 2)
        return Pair(user_fd, network_fd)

    async def pair(self, id_map: IdMap, *, joined: str = "") -> Pair:
        """The same without blocking; one with new namespaces is kept ready for the next start."""
        if joined:
            return await self._make(id_map, joined)
        known, spare = self._spare or (None, None)
        self._spare = None
        if spare is not None and known != id_map:
            spare.add_done_callback(_drop)
            spare = None
        try:
            found = await spare if spare is not None else None
        except CortenError:  # what kept the spare one from being made is no reason for this start to fail
            found = None
        found = found or await self._make(id_map)
        if self._spare is None:
            self._spare = id_map, asyncio.ensure_future(self._make(id_map))
            self._spare[1].add_done_callback(_take_error)
        return found

    async def _make(self, id_map: IdMap, joined: str = "") -> Pair:
        work = functools.partial(self.make, id_map, joined=joined)
        making = in_own_thread("userns", work, late=Pair.close)
        try:
            return await asyncio.wait_for(making, _TIMEOUT_S)
        except TimeoutError:
            raise Unavailable("user namespace: the kernel makes none") from None

    def close(self) -> None:
        """Let go of the spare pair, and of the maps: their paths end."""
        with self._lock:
            while self._maps:
                os.close(self._maps.popitem()[1])
        if self._spare is not None:
            self._spare[1].add_done_callback(_drop)
            self._spare = None

    def path(self, id_map: IdMap) -> str:
        """The path of the user namespace that holds a map, as long as this process is there.  Raises Unavailable."""
        with self._lock:
            if id_map not in self._maps:
                self._maps[id_map] = self._run(plan(id_map, network=False), 1)[0]
            return fd_path(self._maps[id_map])

    def _run(self, steps: Plan, count: int) -> list[int]:
        self._launcher = self._launcher or Launcher()
        found, why = collected(self._launcher, steps, {}, count)
        if why:
            raise Unavailable(f"user namespace: {why}")
        return found


def fd_path(fd: int) -> str:
    """A path to one of this process's descriptors that other processes of root can open."""
    return f"/proc/{os.getpid()}/fd/{fd}"


def _drop(made: asyncio.Future[Pair]) -> None:
    """Nobody wants it any more."""
    if not made.cancelled() and made.exception() is None:
        made.result().close()


def _take_error(made: asyncio.Future[Pair]) -> None:
    """Without a spare one the next start makes its own."""
    if not made.cancelled():
        made.exception()
