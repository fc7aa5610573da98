"""A small registry in this process, for tests without root or network: it keeps what is pushed, and does as it is told.

Tests hang a `Rule` before the ordinary answers: it sees the request and may answer in its stead, cut the line, or only
look.  Every request is in `seen`.  It is no reference: the real one is Debian's docker-registry.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import socket
import socketserver
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""


Rule = Callable[["Handler", Seen], bool]
"""Whether it took the request: it has answered, or closed the line."""


@dataclass
class State:
    """What the registry has."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)

    def add_blob(self, data: bytes) -> str:
        """Stores a blob; its digest."""
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def add_manifest(self, repository: str, reference: str, *, media_type: str, body: bytes) -> str:
        """Stores a manifest under a tag and its digest, which is returned."""
        digest = digest_of(body)
        for key in (reference, digest):
            self.manifests[f"{repository}:{key}"] = (media_type, body)
        return digest

    def methods(self) -> list[str]:
        """`GET /v2/…` of every request so far."""
        return [f"{seen.method} {seen.path}" for seen in self.seen]


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: object) -> None:
        """Nothing: tests look at `seen`."""

    def handle_any(self) -> None:
        """Notes the request, asks the rules, then answers as a registry does."""
        parts = urlsplit(self.path)
        seen = Seen(self.command, parts.path, parse_qs(parts.query), {k.lower(): v for k, v in self.headers.items()})
        state = self.server.state
        state.seen.append(seen)
        length = int(seen.headers.get("content-length") or 0)
        self.left = length
        if any(rule(self, seen) for rule in list(state.rules)):
            return
        seen.body = self.take()
        self.ordinary(state, seen)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """`do_GET` and the like: all methods are handled alike."""
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def take(self, most: int = -1) -> bytes:
        """The body, or at most `most` bytes of it."""
        wanted = self.left if most < 0 else min(most, self.left)
        data = self.rfile.read(wanted)
        self.left -= len(data)
        return data

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        """Sends an answer; underscores in names of headers stand for dashes.  Always True, for rules."""
        self.take()
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Content-Length", str(len(body)))
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> bool:
        """An error as the specification has it."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        return self.answer(status, body, Content_Type="application/json", **headers)

    def cut(self) -> bool:
        """Breaks the line."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def ordinary(self, state: State, seen: Seen) -> None:
        """What a registry does."""
        path = seen.path.removeprefix("/v2/")
        if not path:
            self.answer(200, b"{}")
        elif "/manifests/" in path:
            self._manifest(state, seen, *path.split("/manifests/"))
        elif "/blobs/uploads/" in path:
            self._upload(state, seen, *path.split("/blobs/uploads/"))
        elif "/blobs/" in path:
            self._blob(state, seen, path.split("/blobs/")[1])
        elif path.endswith("/tags/list"):
            name = path.removesuffix("/tags/list")
            tags = [key.removeprefix(f"{name}:") for key in state.manifests if key.startswith(f"{name}:")]
            self.answer(200, json.dumps({"name": name, "tags": [tag for tag in tags if ":" not in tag]}).encode())
        else:
            self.answer(404, b"404 page not found\n", Content_Type="text/plain")

    def _manifest(self, state: State, seen: Seen, name: str, reference: str) -> None:
        if seen.method == "PUT":
            digest = state.add_manifest(name, reference, media_type=seen.headers["content-type"], body=seen.body)
            self.answer(201, Docker_Content_Digest=digest)
            return
        found = state.manifests.get(f"{name}:{reference}")
        if found is None:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        media_type, body = found
        self.answer(200, body, Content_Type=media_type, Docker_Content_Digest=digest_of(body))

    def _blob(self, state: State, seen: Seen, digest: str) -> None:
        data = state.blobs.get(digest)
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
            return
        start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if "range" not in seen.headers:
            self.answer(200, data, Content_Type="application/octet-stream")
            return
        self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")

    def _upload(self, state: State, seen: Seen, name: str, upload: str) -> None:
        if seen.method == "POST":
            if (mounted := seen.query.get("mount", [""])[0]) in state.blobs:
                self.answer(201, Docker_Content_Digest=mounted)
                return
            upload = uuid.uuid4().hex
            state.uploads[upload] = bytearray()
        elif upload not in state.uploads:
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
            return
        data = state.uploads[upload]
        data += seen.body
        place = f"/v2/{name}/blobs/uploads/{upload}?_state=x"
        if seen.method == "PUT":
            self._finish(state, seen, upload)
        elif seen.method == "DELETE":
            del state.uploads[upload]
            self.answer(204)
        else:
            self.answer(204 if seen.method == "GET" else 202, Location=place, Range=f"0-{max(0, len(data) - 1)}")

    def _finish(self, state: State, seen: Seen, upload: str) -> None:
        data = bytes(state.uploads[upload])
        if seen.query["digest"][0] != digest_of(data):
            self.refuse(400, "DIGEST_INVALID")
            return
        del state.uploads[upload]
        self.answer(201, Docker_Content_Digest=state.add_blob(data))


class Server(http.server.ThreadingHTTPServer):
    """The registry, on a free port of loopback."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = State()
        self.scheme = "http" if context is None else "https"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def server_bind(self) -> None:
        """As any TCP server: HTTPServer would look its own name up, which takes a second without a name server."""
        socketserver.TCPServer.server_bind(self)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The root of the protocol."""
        return f"{self.scheme}://127.0.0.1:{self.port}/v2"

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that go away are what is tested."""


def digest_of(data: bytes) -> str:
    """`sha256:` of it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A running registry."""
    server = Server(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
