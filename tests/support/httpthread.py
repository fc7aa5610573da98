"""An HTTP server of a test's own in a thread, on a loopback port of the machine or of a network namespace."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from corten.sys import netns as sys_netns
from support.certificates import Pair
from support.netns import NetNs


def listen(netns: NetNs | None = None, port: int = 0, address: str = "127.0.0.1") -> socket.socket:
    """A listening socket on loopback: of `netns` for as long as it is open, else of the test's own namespace."""

    def make() -> socket.socket:
        return socket.create_server((address, port))

    return make() if netns is None else _inside(netns, make)


def connect(address: tuple[str, int], netns: NetNs | None = None, timeout: float = 30) -> socket.socket:
    """A connection to loopback there."""

    def make() -> socket.socket:
        return socket.create_connection(address, timeout)

    return make() if netns is None else _inside(netns, make)


def free_port(netns: NetNs | None = None) -> int:
    """A port that nobody listens at."""
    with listen(netns) as probe:
        port: int = probe.getsockname()[1]
        return port


def _inside(netns: NetNs, make: Any) -> socket.socket:
    fd = os.open(netns.path, os.O_RDONLY)
    try:
        made: socket.socket = sys_netns.inside(fd, make)
        return made
    finally:
        os.close(fd)


class _Server(ThreadingHTTPServer):
    """Over a socket that listens already; a client that goes away is no news."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class HttpThread:
    """Serves `handler` until the end of the with block; `handler.owner` is this object."""

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        *,
        netns: NetNs | None = None,
        tls: Pair | None = None,
        port: int = 0,
    ) -> None:
        listener = listen(netns, port)
        self.port: int = listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'http' if tls is None else 'https'}://{self.host}"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            listener = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
        bound = type(handler.__name__, (handler,), {"owner": self, "protocol_version": "HTTP/1.1"})
        self._server = _Server(listener, bound)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes no more connections; what is being answered goes on by itself."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
