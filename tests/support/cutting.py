"""A line that can be cut: a TCP proxy before a registry, which counts bytes, stops at one and breaks connections off.

    with CuttingProxy(registry.port, netns=engine.netns) as line:
        line.cut_at(100_000, 250_000)      # whoever is sent those bytes finds his connection ended
        line.hold_at(500_000)              # nothing flows any more from there on …
        line.wait_held()
        line.go_on()                       # … until here

Bytes are counted from the proxy's start over all connections: those that clients get, or (`uploads`) those that they
send.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

from support.httpthread import connect, listen
from support.netns import NetNs

_PIECE = 1 << 14  # a mark is met exactly, whatever comes at once
_BUFFER = 1 << 18  # what is sent and not counted yet is no more than some of these
_RESET = struct.pack("ii", 1, 0)
_WAIT_S = 30


class CuttingProxy:
    """At `host`, to a loopback port of the same namespace; a context manager that closes every connection."""

    def __init__(self, port: int, *, netns: NetNs | None = None, uploads: bool = False) -> None:
        self._target = ("127.0.0.1", port)
        self._netns = netns
        self._uploads = uploads
        self._listener = listen(netns)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.count = 0
        """Bytes that came by so far."""
        self.cuts = 0
        """Connections that were broken off."""
        self.resets = False
        """Whether a broken connection is reset: then what the client has not read yet is lost with it."""
        self._marks: list[int] = []
        self._hold: int | None = None
        self._held, self._going = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._broken: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, *counts: int) -> None:
        """Breaks off the connection on which each of these bytes goes by."""
        with self._lock:
            self._marks = sorted({*self._marks, *counts})

    def hold_at(self, count: int) -> None:
        """Lets that many bytes go by, and no more until `go_on`."""
        with self._lock:
            self._held.clear()
            self._going.clear()
            self._hold = count

    def wait_held(self) -> None:
        """Returns when that byte was reached."""
        assert self._held.wait(_WAIT_S), f"{self.count} bytes came by, and no more"

    def go_on(self) -> None:
        """Lets bytes go by again."""
        with self._lock:
            self._hold = None
            self._going.set()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = connect(self._target, self._netns)
        except OSError:  # the registry is down
            client.close()
            return
        for end in (client, server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        with self._lock:
            self._open |= {client, server}
        pairs = ((client, server, self._uploads), (server, client, not self._uploads))
        threads = [threading.Thread(target=self._pump, args=pair, daemon=True) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {client, server}
            self._broken -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, target: socket.socket, is_counted: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                if is_counted and not self._passes(len(piece), source, target):
                    return
                target.sendall(piece)
        if source not in self._broken:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_WR if end is target else socket.SHUT_RD)

    def _passes(self, size: int, *ends: socket.socket) -> bool:
        """Counts a piece; False when it was the last of its connection."""
        with self._lock:
            is_held = self._hold is not None and self.count + size > self._hold
        if is_held:
            self._held.set()
            self._going.wait()
        with self._lock:
            self.count += size
            if not self._marks or self.count < self._marks[0]:
                return True
            self._marks.pop(0)
            self.cuts += 1
            self._broken |= {*ends}
        for end in ends:
            with suppress(OSError):
                if self.resets:  # close(2) sends it, when nobody reads any more
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RD if self.resets else socket.SHUT_RDWR)
        return False

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
