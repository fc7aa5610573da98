"""A shim's wish that the helper stays when cortend and its zygote are gone: its health checks go on.

One connection to the helper, kept open (op `stay`).  When it ends, because the helper died or a new one has come in its
place, the shim asks the next one.
"""

from __future__ import annotations

import socket
import time

from corten.shim import protocol
from corten.shim.loop import Loop, Timer
from corten.shim.protocol import HELPER_SOCKET

_PAUSE_S = 0.5
_LONG_S = 5.0
_LAST_S = 3.0
_PAUSE_LIMIT_S = 60.0  # an exec looks for a helper by itself: this one is for the next end of a cortend


class Stay:
    """Owns the connection.  Life: made (and connected, or trying) → `close`."""

    __slots__ = ("_began_s", "_directory", "_is_over", "_loop", "_pause_s", "_socket", "_timer")

    def __init__(self, directory: str, loop: Loop) -> None:
        """`directory`: where the helper's socket lies."""
        self._directory = directory
        self._loop = loop
        self._pause_s = _PAUSE_S
        self._began_s = 0.0
        self._is_over = False
        self._timer: Timer | None = None
        self._socket: socket.socket | None = None
        self._ask()

    def close(self) -> None:
        """The wish is over; a second call does nothing."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._hang_up()

    def close_soon(self) -> None:
        """The container is over: what ends it, if anybody does now, needs the helper yet."""
        self._loop.call_later(_LAST_S, self.close)

    def _ask(self) -> None:
        if self._is_over:
            return
        try:
            sock = protocol.connect(self._directory, HELPER_SOCKET)
        except OSError:
            self._try_again()
            return
        self._socket = sock
        self._began_s = time.monotonic()
        self._loop.add(sock.fileno(), 0, lambda events: self._ended())  # its answer need not be read
        try:
            protocol.send(sock, protocol.encode({"op": "stay"}))
        except OSError:
            self._ended()

    def _ended(self) -> None:
        """At once after a long while; a helper for which enough others have asked ends it at once, again and again."""
        if time.monotonic() - self._began_s > _LONG_S:
            self._pause_s = _PAUSE_S
        self._hang_up()
        self._try_again()

    def _try_again(self) -> None:
        self._timer = self._loop.call_later(self._pause_s, self._ask)
        self._pause_s = min(2 * self._pause_s, _PAUSE_LIMIT_S)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
