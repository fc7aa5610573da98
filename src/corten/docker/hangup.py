"""Notices that a client has closed its end altogether, without reading from its socket.

epoll reports EPOLLHUP for a descriptor even when asked for nothing: on a unix socket once both directions
are shut (unix(7)), on TCP after a reset.  An epoll descriptor is itself readable when it has something to
report, so an event loop can watch it although the socket's own readiness is not watched at all.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


def is_hung_up(fd: int) -> bool:
    """Whether the peer of a socket has closed both directions."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


class HangupWatch:
    """Calls back once, in the event loop, when `fd` hangs up.  `close` it before `fd` is closed."""

    __slots__ = ("_callback", "_epoll", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._epoll = select.epoll(1)
        self._epoll.register(fd, 0)
        loop.add_reader(self._epoll.fileno(), self._fire)

    def _fire(self) -> None:
        self.close()
        self._callback()

    def close(self) -> None:
        """Stop watching; the second call does nothing."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
