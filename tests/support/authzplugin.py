"""An authorization plugin: a real one, on a socket where dockerd and Corten look for plugins."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from support import paths

PLUGINS = Path("/run/docker/plugins")
Judge = Callable[[str, dict[str, Any]], dict[str, Any]]


def allow(method: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Whatever it is."""
    return {"Allow": True}


class Plugin:
    """A context manager.  `judge` gets `AuthZReq` or `AuthZRes` and the message; `seen` are all of them."""

    def __init__(self, judge: Judge = allow, implements: tuple[str, ...] = ("authz",)) -> None:
        self.judge = judge
        self.implements = implements
        self.name = f"{paths.mark()}{uuid.uuid4().hex[:8]}"
        self.path = PLUGINS / f"{self.name}.sock"
        self._folder = paths.scratch("authz")
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._server: _Server | None = None

    @property
    def socket(self) -> Path:
        """Where it listens; `path` leads there."""
        return self._folder / "s"

    @property
    def announce(self) -> str:
        """The shell command that makes it known where /run is another one."""
        return f"mkdir -p {PLUGINS} && ln -s {self.socket} {self.path}"

    def start(self) -> None:
        """Listens."""
        PLUGINS.mkdir(parents=True, exist_ok=True)
        self.path.symlink_to(self.socket)
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Hears nothing any more; its socket is gone."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self.socket.unlink()
            self.path.unlink()
            with suppress(OSError):  # somebody else has a plugin there
                PLUGINS.rmdir()

    def answer(self, path: str, data: bytes) -> dict[str, Any]:
        """To one question."""
        if path == "/Plugin.Activate":
            return {"Implements": list(self.implements)}
        method, asked = path.removeprefix("/AuthZPlugin."), json.loads(data)
        self.seen.append((method, asked))
        return self.judge(method, asked)

    def asked(self, method: str, uri: str) -> list[dict[str, Any]]:
        """The messages about requests whose address ends so."""
        return [one for of, one in self.seen if of == method and one["RequestUri"].partition("?")[0].endswith(uri)]

    def __enter__(self) -> Plugin:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.rmdir()


def body(message: dict[str, Any], field: str = "RequestBody") -> Any:
    """What it shows of a body; None when that is nothing."""
    return json.loads(base64.b64decode(message[field])) if message.get(field) else None


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        super().__init__(str(plugin.socket), _Handler)
        plugin.socket.chmod(0o600)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        data = self._read()
        answer = json.dumps(self.server.plugin.answer(self.path, data)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def address_string(self) -> str:
        return ""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
