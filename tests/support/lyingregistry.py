"""A registry in memory that is honest but for one lie, and the trap that wants its clients' credentials.

It keeps every request.  A lie gets each request first, and answers it or leaves it.  What never ends ends here after
`ENOUGH` bytes or `PATIENCE_S` seconds, which a test takes for harm that was done.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from support import images
from support.certificates import Pair
from support.httpthread import HttpThread
from support.netns import NetNs
from support.pullimages import Image

ENOUGH = 512 << 20
PATIENCE_S = 60.0
_ROUTE = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<reference>.*)")


class Exchange:
    """One request, and the ways to answer it."""

    def __init__(self, handler: _Handler, body: bytes) -> None:
        self._handler = handler
        self.owner: LyingRegistry = handler.owner
        self.method = handler.command
        self.target = handler.path
        self.headers = {key.lower(): value for key, value in handler.headers.items()}
        self.body = body
        parts = urlsplit(handler.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        found = _ROUTE.fullmatch(parts.path)
        self.repository, self.kind, self.reference = found.group(1, 2, 3) if found else ("", "", "")
        if self.kind == "blobs" and self.reference.startswith("uploads/"):
            self.kind, self.reference = "uploads", self.reference.removeprefix("uploads/")

    def reply(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bool:
        """An ordinary answer; a HEAD gets the length alone.  True."""
        sent = {"Content-Length": str(len(body))} | dict(headers or {})
        lines = "".join(f"{key}: {value}\r\n" for key, value in sent.items())
        self.raw(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + (b"" if self.method == "HEAD" else body))
        return True

    def raw(self, *parts: bytes) -> bool:
        """Bytes as they are.  True."""
        for part in parts:
            self._handler.wfile.write(part)
            self.owner.sent += len(part)
        return True

    def pour(self, part: bytes, *, pause: float = 0, start: bytes = b"") -> bool:
        """`start`, then `part` again and again until the client has gone; notes in `poured_out` that it never did."""
        end, sent = time.monotonic() + PATIENCE_S, 0
        self.raw(start)
        while sent < ENOUGH and time.monotonic() < end and not self.owner.closing.is_set():
            self.raw(part)
            sent += len(part)
            if pause:
                self.owner.closing.wait(pause)
        self.owner.poured_out += 0 if self.owner.closing.is_set() else 1
        return self.hang_up()

    def silence(self) -> bool:
        """Nothing more is said until the client goes, or the patience is over."""
        connection = self._handler.connection
        connection.settimeout(0.1)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and not self.owner.closing.is_set():
            try:
                if not connection.recv(1):
                    return self.hang_up()
            except TimeoutError:
                continue
        self.owner.poured_out += 0 if self.owner.closing.is_set() else 1
        return self.hang_up()

    def hang_up(self) -> bool:
        """The connection ends after this answer.  True."""
        self._handler.close_connection = True
        return True


Lie = Callable[[Exchange], bool]
"""True: it was answered."""


@dataclass(slots=True)
class Held:
    """What one repository has."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    owner: LyingRegistry

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Any method at all."""
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        exchange = Exchange(self, self._body())
        self.owner.asked.append(exchange)
        try:
            if not any(lie(exchange) for lie in self.owner.lies):
                _honest(exchange)
        except OSError:  # the client went away, which is its right
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: object) -> None:
        pass


class LyingRegistry(HttpThread):
    """The registry.  `basic` (name, password) asks for credentials; `lies` are tried in order."""

    def __init__(
        self,
        *lies: Lie,
        netns: NetNs | None = None,
        tls: Pair | None = None,
        basic: tuple[str, str] | None = None,
    ) -> None:
        self.lies = list(lies)
        if basic is not None:
            self.lies.append(wants_basic(*basic))
        self.asked: list[Exchange] = []
        self.held: dict[str, Held] = {}
        self.sent = 0
        self.poured_out = 0
        self.closing = threading.Event()
        super().__init__(_Handler, netns=netns, tls=tls)

    def close(self) -> None:
        """Whatever is being poured stops."""
        self.closing.set()
        super().close()

    def add(self, image: Image, repository: str, *tags: str) -> str:
        """An image or index, by its digest and by tags.  Its reference."""
        held = self.held.setdefault(repository, Held())
        for child in image.children:
            self.add(child, repository)
        held.blobs |= {blob.digest: blob.data for blob in image.blobs}
        self.add_manifest(repository, image.manifest.media_type, image.manifest.data, *tags)
        return f"{self.host}/{repository}{':' + tags[0] if tags else '@' + image.digest}"

    def add_manifest(self, repository: str, media_type: str, data: bytes, *tags: str) -> str:
        """Any document as a manifest.  Its digest."""
        held = self.held.setdefault(repository, Held())
        for name in (images.digest(data), *tags):
            held.manifests[name] = (media_type, data)
        return images.digest(data)

    def heard(self, header: str) -> list[str]:
        """The values of a header in all requests (name in lower case)."""
        return [one.headers[header] for one in self.asked if header in one.headers]


def wants_basic(name: str, password: str) -> Lie:
    """401 for everybody else: no lie."""
    right = f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"

    def lie(exchange: Exchange) -> bool:
        if exchange.headers.get("authorization") == right:
            return False
        return exchange.reply(401, {"WWW-Authenticate": 'Basic realm="tests"'}, UNAUTHORIZED)

    return lie


UNAUTHORIZED = b'{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}'


def _honest(exchange: Exchange) -> bool:
    """The protocol as it should be."""
    held = exchange.owner.held.setdefault(exchange.repository, Held())
    match exchange.kind, exchange.method:
        case "", _:
            return exchange.reply(200, {"Content-Type": "application/json"}, b"{}")
        case "manifests", "PUT":
            return _take_manifest(exchange, held)
        case "manifests", _:
            return _give_manifest(exchange, held)
        case "blobs", _:
            return _give_blob(exchange, held)
        case "tags", _:
            names = ", ".join(f'"{name}"' for name in held.manifests if ":" not in name)
            return exchange.reply(200, {}, f'{{"name": "x", "tags": [{names}]}}'.encode())
        case "uploads", _:
            return _take_blob(exchange, held)
    return exchange.reply(404)


def _give_manifest(exchange: Exchange, held: Held) -> bool:
    if exchange.reference not in held.manifests:
        return exchange.reply(404, {}, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
    media_type, data = held.manifests[exchange.reference]
    return exchange.reply(200, {"Content-Type": media_type, "Docker-Content-Digest": images.digest(data)}, data)


def _take_manifest(exchange: Exchange, held: Held) -> bool:
    digest = images.digest(exchange.body)
    for name in (exchange.reference, digest):
        held.manifests[name] = (exchange.headers.get("content-type", ""), exchange.body)
    return exchange.reply(201, {"Docker-Content-Digest": digest, "Location": exchange.target})


def _give_blob(exchange: Exchange, held: Held) -> bool:
    if exchange.reference not in held.blobs:
        return exchange.reply(404, {}, b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown to registry"}]}')
    data = held.blobs[exchange.reference]
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.headers.get("range", ""))
    if asked is None:
        return exchange.reply(200, {"Accept-Ranges": "bytes"}, data)
    first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    return exchange.reply(206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1])


def _take_blob(exchange: Exchange, held: Held) -> bool:
    """POST, PATCH and PUT; what was uploaded so far lies among the blobs under the upload's name."""
    if exchange.method == "POST":
        name = secrets.token_hex(8)
        held.blobs[name] = b""
        where = f"/v2/{exchange.repository}/blobs/uploads/{name}"
        return exchange.reply(202, {"Location": where, "Range": "0-0"})
    sofar = held.blobs.get(exchange.reference, b"") + exchange.body
    held.blobs[exchange.reference] = sofar
    if exchange.method == "PATCH":
        return exchange.reply(202, {"Location": exchange.target, "Range": f"0-{len(sofar) - 1}"})
    digest = exchange.query.get("digest", "")
    if digest != images.digest(sofar):
        return exchange.reply(400, {}, b'{"errors": [{"code": "DIGEST_INVALID", "message": "digest invalid"}]}')
    held.blobs[digest] = held.blobs.pop(exchange.reference)
    return exchange.reply(201, {"Location": f"/v2/{exchange.repository}/blobs/{digest}"})


# Conditions, to make lies from.


def on(kinds: str, lie: Lie, *, methods: Iterable[str] = ("GET",)) -> Lie:
    """The lie for requests of these kinds (words of `manifests blobs tags uploads`) alone."""
    chosen, among = set(kinds.split()), set(methods)
    return lambda exchange: exchange.kind in chosen and exchange.method in among and lie(exchange)


def changed(kind: str, change: Callable[[bytes], bytes], headers: Mapping[str, str] | None = None) -> Lie:
    """The true content of a kind, made into something else; for HEAD and GET."""

    def lie(exchange: Exchange) -> bool:
        held = exchange.owner.held.get(exchange.repository, Held())
        if exchange.kind != kind or exchange.method not in {"GET", "HEAD"}:
            return False
        if kind == "blobs":
            if exchange.reference not in held.blobs:
                return False
            return exchange.reply(200, headers, change(held.blobs[exchange.reference]))
        if exchange.reference not in held.manifests:
            return False
        media_type, data = held.manifests[exchange.reference]
        honest = {"Content-Type": media_type, "Docker-Content-Digest": images.digest(data)}
        return exchange.reply(200, honest | dict(headers or {}), change(data))

    return lie


class Trap(LyingRegistry):
    """Another host: it serves what it is given and keeps what clients tell it."""

    @property
    def caught(self) -> list[str]:
        """Credentials, cookies and tokens that reached it, in headers, bodies or addresses."""
        secret = ("authorization", "cookie", "x-registry-auth", "proxy-authorization")
        found = [f"{name}: {one.headers[name]}" for one in self.asked for name in secret if name in one.headers]
        words = (b"s3cret", base64.b64encode(b"s3cret")[:-2], b"refresh_token", b"grant_type")
        found += [f"body: {one.body!r}" for one in self.asked if any(word in one.body for word in words)]
        return found + [f"target: {one.target}" for one in self.asked if "s3cret" in one.target]
