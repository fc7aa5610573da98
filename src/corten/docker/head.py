"""One HTTP/1.1 request head, and where its body ends.

Only what the front needs to know before it gives a request away: the request line, the framing of the body
(RFC 9112 §6) and whether the connection is about to leave HTTP.  Anything on which two readers of the same
bytes could differ (both Content-Length and Transfer-Encoding, several lengths, folded lines) is refused
here, so that the front and aiohttp's parser can never disagree about where the next request begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from corten.errors import InvalidArgument

MAX_LINE_BYTES = 1 << 20  # request line, and any one header
MAX_HEAD_BYTES = (2 << 20) + (64 << 10)
MAX_CHUNK_LINE_BYTES = 4096

HEAD_END = re.compile(rb"\r?\n\r?\n")
_HIJACKED = re.compile(r"(?:/v[0-9.]+)?/(?:containers/[^?]+/attach|exec/[^/?]+/start)(?:\?|$)")
_WEBSOCKET = re.compile(r"(?:/v[0-9.]+)?/containers/[^?]+/attach/ws(?:\?|$)")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")


@dataclass(frozen=True, slots=True)
class Head:
    """A parsed head.  `length` is the body's, in bytes, or -1 when it is chunked."""

    method: str
    target: str
    headers: dict[str, str]
    length: int = 0
    keep_alive: bool = True

    @property
    def is_hijack(self) -> bool:
        """Attach and exec start: the connection may become a raw stream, with or without Upgrade."""
        return self.method == "POST" and _HIJACKED.match(self.target) is not None

    @property
    def is_websocket(self) -> bool:
        """Attach over a websocket: behind its head the connection belongs to one answer."""
        is_asked = self.headers.get("upgrade", "").lower() == "websocket"
        return self.method == "GET" and is_asked and _WEBSOCKET.match(self.target) is not None

    @property
    def wants_upgrade(self) -> bool:
        return "upgrade" in self.headers

    @property
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(data: bytes) -> Head:
    """The head in `data`, which ends in an empty line.  Raises InvalidArgument."""
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    method, target, version = _request_line(lines[0])
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if line:
            _add_header(headers, line)
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return Head(method, target, headers, _body_length(headers), keep_alive)


def _request_line(line: bytes) -> tuple[str, str, str]:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgument("request line too long")
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.match(parts[0]) or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise InvalidArgument("malformed HTTP request")
    target = parts[1].decode("latin-1")
    if target.startswith(("http://", "https://")):  # absolute form: some clients put the host in
        target = "/" + target.split("/", 3)[3] if target.count("/") >= 3 else "/"
    return parts[0].decode(), target, parts[2].decode()


def _add_header(headers: dict[str, str], line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidArgument("request header too long")
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.match(name):
        raise InvalidArgument("malformed HTTP header")
    key = name.decode().lower()
    text = value.strip(b" \t").decode("latin-1")
    if key in headers and key in ("content-length", "transfer-encoding") and headers[key] != text:
        raise InvalidArgument(f"conflicting {key} headers")
    headers[key] = text


def _body_length(headers: dict[str, str]) -> int:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise InvalidArgument(f"unsupported transfer encoding: {coding!r}")
        if length is not None:
            raise InvalidArgument("both content-length and transfer-encoding are set")
        return -1
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise InvalidArgument(f"bad content-length: {length[:40]!r}")
    return int(length)


class Body(Protocol):
    """Follows a body through the bytes of a connection."""

    done: bool

    def feed(self, data: bytes) -> int:
        """How many bytes of `data` still belong to the body.  Raises InvalidArgument."""


class LengthBody:
    """A body of a known number of bytes."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        taken = min(self.left, len(data))
        self.left -= taken
        self.done = self.left == 0
        return taken


class ChunkedBody:
    """A chunked body.  `decoded` collects the data when asked to, at most `limit` bytes of it.

    State | consumes                      | then
    ------+-------------------------------+--------------------------
    size  | a line: hex size [; extension]| data, or trailer when 0
    data  | `left` bytes                  | crlf
    crlf  | an empty line                 | size
    trailer | lines up to an empty one    | done
    """

    __slots__ = ("_line", "decoded", "done", "left", "limit", "state")

    def __init__(self, limit: int = -1) -> None:
        self.state = "size"
        self.left = 0
        self.done = False
        self.limit = limit
        self.decoded = bytearray()
        self._line = bytearray()

    def feed(self, data: bytes) -> int:
        position = 0
        while position < len(data) and not self.done:
            if self.state == "data":
                position += self._take_data(data, position)
            else:
                position += self._take_line(data, position)
        return position

    def _take_data(self, data: bytes, position: int) -> int:
        taken = min(self.left, len(data) - position)
        self.left -= taken
        if self.limit >= 0:
            if len(self.decoded) + taken > self.limit:
                raise InvalidArgument("request body too large")
            self.decoded += data[position : position + taken]
        if not self.left:
            self.state = "crlf"
        return taken

    def _take_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > MAX_CHUNK_LINE_BYTES:
            raise InvalidArgument("malformed chunked body: line too long")
        if end >= 0:
            line = bytes(self._line).rstrip(b"\r\n")
            self._line.clear()
            self._step(line)
        return stop - position

    def _step(self, line: bytes) -> None:
        if self.state == "size":
            digits = line.split(b";")[0].strip(b" \t")
            if not digits or len(digits) > 15 or any(digit not in b"0123456789abcdefABCDEF" for digit in digits):
                raise InvalidArgument("malformed chunked body: bad size")
            self.left = int(digits, 16)
            self.state = "data" if self.left else "trailer"
        elif self.state == "crlf":
            if line:
                raise InvalidArgument("malformed chunked body: data longer than its size")
            self.state = "size"
        elif not line:
            self.done = True


def body_of(head: Head) -> LengthBody | ChunkedBody:
    """The tracker of this head's body."""
    return ChunkedBody() if head.length < 0 else LengthBody(head.length)
