"""A proxy of a test's own: CONNECT and plain requests, to ports of a network namespace's loopback, whatever the name.

It asks for a user when it was given one, and notes what it was asked for.
"""

from __future__ import annotations

import base64
import http.client
import select
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from support.httpthread import HttpThread, connect, listen
from support.netns import NetNs

_HOP = {"connection", "proxy-connection", "proxy-authorization", "transfer-encoding", "keep-alive"}


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy

    def do_CONNECT(self) -> None:
        if not self._is_let_in():
            return
        with connect(("127.0.0.1", int(self.path.rpartition(":")[2])), self.owner.netns) as there:
            self.send_response(200, "Connection established")
            self.end_headers()
            relay(self.connection, there)
        self.close_connection = True

    def _plain(self) -> None:
        if not self._is_let_in():
            return
        parts = urlsplit(self.path)
        there = http.client.HTTPConnection("127.0.0.1")
        there.sock = connect(("127.0.0.1", parts.port or 80), self.owner.netns)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        there.request(self.command, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers)
        answer = there.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        there.close()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._plain
        raise AttributeError(name)

    def _is_let_in(self) -> bool:
        wanted = f"Basic {base64.b64encode(self.owner.user.encode()).decode()}"
        if not self.owner.user or self.headers.get("Proxy-Authorization") == wanted:
            self.owner.asked.append(f"{self.command} {self.path}")
            return True
        self.owner.refused += 1
        self.send_response(407)
        self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, format: str, *args: object) -> None:
        pass


class Proxy(HttpThread):
    """`asked` has a line for each request that it let through, `refused` counts the rest; `user` is `name:password`."""

    def __init__(self, *, netns: NetNs | None = None, port: int = 0, user: str = "") -> None:
        self.netns, self.user = netns, user
        self.asked: list[str] = []
        self.refused = 0
        super().__init__(_Handler, netns=netns, port=port)


def relay(one: socket.socket, other: socket.socket) -> None:
    """Copies both ways until either side ends."""
    while True:
        ready, _, _ = select.select([one, other], [], [], 30)
        if not ready:
            return
        for sock in ready:
            try:
                data = sock.recv(65536)
                (other if sock is one else one).sendall(data)
            except OSError:
                return
            if not data:
                return


class Relay:
    """What listens at `address`:`port` of a namespace and is in truth 127.0.0.1:`port` there; a context manager."""

    def __init__(self, netns: NetNs, address: str, port: int) -> None:
        self._listener = listen(netns, port, address)
        self._connect: Callable[[], socket.socket] = lambda: connect(("127.0.0.1", port), netns)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, self._connect() as there:
            relay(one, there)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
