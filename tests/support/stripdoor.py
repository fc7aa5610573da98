"""A door before the engine's door that takes one named thing out of every request: an option, a filter, the act itself.

A check that still passes when its option is taken out proves nothing: it has no bite.  The proxy speaks HTTP/1.1 on
unix sockets; it parses requests alone.  Answers, and everything after a hijack, are copied as they come.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

from support import paths

BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Body:
    """Takes `field` (dotted) out of the JSON body of requests to `path` (a glob, without the version)."""

    field: str
    path: str = "/containers/create"


@dataclass(frozen=True, slots=True)
class Query:
    """Takes a parameter out of the query; `filters.status` takes one filter out of the JSON of `filters`."""

    name: str
    path: str = "*"


@dataclass(frozen=True, slots=True)
class Act:
    """Takes the whole request out: it is answered with `status` and never reaches the engine."""

    path: str
    method: str = "POST"
    status: str = "204 No Content"


Strip = Body | Query | Act


@dataclass(slots=True)
class Request:
    """A parsed head, and the body when it had a length."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The value of a header, "" when it is absent."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def path(self) -> str:
        """The path without version and query."""
        path = self.target.partition("?")[0]
        first, _, rest = path.removeprefix("/").partition("/")
        return f"/{rest}" if first.startswith("v1.") else path

    def encode(self) -> bytes:
        """The request as it goes on the wire; Content-Length follows the body."""
        headers = [
            (key, str(len(self.body)) if key.lower() == "content-length" else value) for key, value in self.headers
        ]
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{key}: {value}" for key, value in headers)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def strip(request: Request, rule: Strip) -> bool:
    """Applies a rule in place; whether it took something out."""
    if not fnmatch.fnmatch(request.path, rule.path):
        return False
    match rule:
        case Body():
            return _strip_body(request, rule.field)
        case Query():
            return _strip_query(request, rule.name)
        case Act():
            return request.method == rule.method


def _strip_body(request: Request, field: str) -> bool:
    if not request.body:
        return False
    document: Any = json.loads(request.body)
    *parents, last = field.split(".")
    place = document
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not isinstance(place, dict) or place.pop(last, None) in (None, "", 0, [], {}, False):
        return False
    request.body = json.dumps(document).encode()
    return True


def _strip_query(request: Request, name: str) -> bool:
    path, _, query = request.target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    key, _, inner = name.partition(".")
    kept = []
    for pair in pairs:
        if pair[0] != key:
            kept.append(pair)
        elif inner:
            filters = json.loads(pair[1])
            if inner not in filters:
                return False
            filters.pop(inner)
            kept.append((key, json.dumps(filters)))
    request.target = f"{path}?{urlencode(kept)}" if kept else path
    return kept != pairs


class StripDoor:
    """A context manager: listens on `socket`, passes on to `engine`, applies `rule`; `hits` counts what it took out."""

    def __init__(self, engine: Path, rule: Strip) -> None:
        self.engine = engine
        self.rule = rule
        self.hits = 0
        self.folder = paths.scratch("door")
        self.socket = self.folder / "s"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection, until both directions have ended."""
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self.engine))
            answers = threading.Thread(target=_guarded, args=(copy, server, client), daemon=True)
            answers.start()
            _guarded(self._requests, client, server)
            answers.join()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        """Passes request after request, then, once one asks for a hijack, the bytes as they come."""
        with client.makefile("rb", BUFFER) as stream:
            self._pass_on(cast("BufferedReader", stream), client, server)

    def _pass_on(self, stream: BufferedReader, client: socket.socket, server: socket.socket) -> None:
        while (request := read_head(stream.readline)) is not None:
            chunked = request.header("transfer-encoding").lower() == "chunked"
            if not chunked and (length := int(request.header("content-length") or 0)):
                request.body = stream.read(length)
            if strip(request, self.rule):
                self.hits += 1
                if isinstance(self.rule, Act):
                    if chunked:
                        copy_chunks(stream.readline, stream.read, None)
                    client.sendall(f"HTTP/1.1 {self.rule.status}\r\nContent-Length: 0\r\n\r\n".encode())
                    continue
            server.sendall(request.encode())
            if chunked:
                copy_chunks(stream.readline, stream.read, server)
            if request.path.endswith("/attach") or (
                request.path.startswith("/exec/") and request.path.endswith("/start")
            ):
                copy_rest(stream.read1, server)
                return
        server.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Stops listening; connections end with their clients."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self.folder)

    def __enter__(self) -> StripDoor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _guarded(act: Callable[[socket.socket, socket.socket], None], source: socket.socket, target: socket.socket) -> None:
    """Runs one direction of a connection; a peer that goes away ends both."""
    try:
        act(source, target)
    except OSError:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def read_head(readline: Callable[[], bytes]) -> Request | None:
    """The next request's head; None when the client has no more."""
    first = readline()
    if not first.strip():
        return None
    method, target, _ = first.decode("latin-1").split(" ", 2)
    headers = []
    while line := readline().strip():
        key, _, value = line.decode("latin-1").partition(":")
        headers.append((key, value.strip()))
    return Request(method, target, headers)


def copy_chunks(readline: Callable[[], bytes], read: Callable[[int], bytes], server: socket.socket | None) -> None:
    """Passes on a chunked body, chunk by chunk (RFC 9112 §7.1); without a server it is only read."""
    while True:
        line = readline()
        size = int(line.split(b";")[0], 16)
        chunk = line + read(size + 2)
        if server is not None:
            server.sendall(chunk)
        if size == 0:
            return


def copy_rest(read: Callable[[int], bytes], server: socket.socket) -> None:
    """Passes on everything until the client's half-close."""
    while data := read(BUFFER):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)


def copy(source: socket.socket, target: socket.socket) -> None:
    """Passes on bytes until end of file, then half-closes."""
    while data := source.recv(BUFFER):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
