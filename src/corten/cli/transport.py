"""HTTP to the engine's socket: requests, JSON streams and hijacked connections.

`http.client` does HTTP; only the connection itself (a unix or TCP socket) and what happens after a `101` are ours.
Docker API, "Attach to a container" describes the hijack.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from corten import errors
from corten.spec.endpoint import tcp_endpoint

if TYPE_CHECKING:
    from corten.cli.tunnel import Tls

API_VERSION = "1.51"
DEFAULT_HOST = "unix:///run/corten/corten.sock"


class Answer(errors.CortenError):
    """An error that the engine answered; mixed with the error kind of its status."""


class _InvalidArgument(Answer, errors.InvalidArgument): ...


class _PermissionDenied(Answer, errors.PermissionDenied): ...


class _NotFound(Answer, errors.NotFound): ...


class _NotModified(Answer, errors.NotModified): ...


class _Conflict(Answer, errors.Conflict): ...


class _NotImplemented(Answer, errors.NotImplemented): ...


class _Unavailable(Answer, errors.Unavailable): ...


class Internal(Answer, errors.Internal):
    """The engine's own failure, also one that came in the middle of a stream."""


STATUS_KINDS: dict[int, type[Answer]] = {
    304: _NotModified,
    400: _InvalidArgument,
    403: _PermissionDenied,
    404: _NotFound,
    409: _Conflict,
    501: _NotImplemented,
    503: _Unavailable,
}


class ConnectFailed(errors.Unavailable):
    """Nobody answers on the engine's socket."""


class SocketConnection(http.client.HTTPConnection):
    """An `HTTPConnection` over an already connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("corten")
        self.sock = sock


def default_host() -> str:
    """The engine's address: `CORTEN_HOST`, else `DOCKER_HOST`, else the default socket."""
    return os.environ.get("CORTEN_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def check_host(host: str) -> None:
    """Raises `InvalidArgument` unless it is `unix:///PATH`, `tcp://[ADDRESS][:PORT]` or `ssh://[USER@]HOST`."""
    scheme, separator, rest = host.partition("://")
    if scheme == "ssh" and separator:
        from corten.cli.tunnel import ssh_argv

        ssh_argv(host)
        return
    if scheme == "unix" and rest:
        return
    if scheme == "tcp" and separator:
        with suppress(ValueError):
            tcp_endpoint(rest)
            return
    raise errors.InvalidArgument(
        f'unable to parse host "{host}": give unix:///path.sock, tcp://address:port or ssh://host'
    )


def connect(host: str, tls: Tls | None = None) -> socket.socket:
    """A connected stream socket for a host that `check_host` takes; `tls` is for tcp:// alone.

    Raises `InvalidArgument` for another form and `ConnectFailed` when nobody listens.
    """
    check_host(host)
    scheme, _, rest = host.partition("://")
    try:
        if scheme == "unix":
            return connect_unix(rest)
        if scheme == "tcp" and tls is None:
            return socket.create_connection(tcp_endpoint(rest))
        from corten.cli import tunnel

        if tls is None or scheme == "ssh":
            return tunnel.over_ssh(tunnel.ssh_argv(host))
        context = tunnel.context_of(tls)
        address = tcp_endpoint(rest)
        return tunnel.over_tls(socket.create_connection(address), address[0], context)
    except OSError as error:
        if reason := getattr(error, "verify_message", "") or getattr(error, "reason", ""):  # of ssl.SSLError
            raise ConnectFailed(f"error during connect: tls: {host}: {str(reason).lower()}") from error
        raise ConnectFailed(f"cannot connect to the corten engine at {host}. Is cortend running?") from error


def connect_unix(path: str) -> socket.socket:
    """Connects through the socket's directory descriptor, so that the path may be longer than 108 bytes."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    dir_fd = -1
    try:
        dir_fd = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(f"/proc/self/fd/{dir_fd}/{os.path.basename(path)}")
    except OSError:
        sock.close()
        raise
    finally:
        if dir_fd >= 0:
            os.close(dir_fd)
    return sock


def raise_for_status(status: int, body: bytes) -> None:
    """Turns an error answer into the error kind of its status, with the engine's own text."""
    if status < 300:
        return
    try:
        text = json.loads(body)["message"].strip()  # as docker's client does
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace").strip() or http.client.responses.get(status, str(status))
    raise STATUS_KINDS.get(status, Internal)(text)


class Client:
    """A client of one engine; connections are kept and used one request at a time."""

    def __init__(self, host: str, tls: Tls | None = None) -> None:
        self.host = host
        self.tls = tls
        self._idle: SocketConnection | None = None

    def dial(self) -> socket.socket:
        """A new connection, nothing sent."""
        return connect(self.host, self.tls)

    def json(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: object = None) -> Any:
        """The decoded answer; `None` for an empty one.  Raises the error kind of the answer's status."""
        connection = self._idle or SocketConnection(self.dial())
        self._idle = None
        response = self._send(connection, method, path, query, body)
        data = response.read()
        raise_for_status(response.status, data)
        if not response.will_close:
            self._idle = connection
        return json.loads(data) if data.strip() else None

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """A streaming answer on a connection of its own; the caller reads and closes it."""
        connection = SocketConnection(self.dial())
        response = self._send(connection, method, path, query, body, headers)
        if response.status >= 300:
            raise_for_status(response.status, response.read())
        return response

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """The JSON values of a stream with one value a line."""
        response = self.open(method, path, query=query, body=body, headers=headers)
        for line in response:
            if line.strip():
                yield json.loads(line)

    def hijack(
        self, path: str, *, query: Mapping[str, Any] | None = None, body: object = None
    ) -> tuple[socket.socket, bytes]:
        """The raw connection after `101`, and bytes of the stream that arrived with the head."""
        sock = self.dial()
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"POST {_target(path, query)} HTTP/1.1\r\nHost: corten\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        sock.sendall(head.encode() + data)
        raw = b""
        while b"\r\n\r\n" not in raw:
            chunk = sock.recv(65536)
            if not chunk:
                raise errors.Unavailable("the engine closed the connection")
            raw += chunk
        head_bytes, _, rest = raw.partition(b"\r\n\r\n")
        status = int(head_bytes.split(b" ", 2)[1])
        if status not in (101, 200):
            raise_for_status(status, _rest_of_body(sock, head_bytes, rest))
        return sock, rest

    def _send(
        self,
        connection: SocketConnection,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: object,
        extra: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = dict(extra or {})
        data: Any = body
        if body is not None and not hasattr(body, "read") and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        elif body is not None:
            headers["Content-Type"] = "application/x-tar"
        try:
            connection.request(
                method, _target(path, query), body=data, headers=headers, encode_chunked=hasattr(body, "read")
            )
            return connection.getresponse()
        except (ConnectionError, http.client.HTTPException) as error:
            raise errors.Unavailable(f"the engine at {self.host} closed the connection: {error}") from error


def _is_absent(value: object) -> bool:
    """A zero is a value: `stop -t 0` waits for nothing."""
    return value is None or value is False or value in ("", [])


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    given = {key: _query_text(value) for key, value in (query or {}).items() if not _is_absent(value)}
    return f"/v{API_VERSION}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")


def _query_text(value: Any) -> str | list[str]:
    """A list is a parameter that stands several times."""
    if value is True:
        return "1"
    if isinstance(value, list):
        return [str(item) for item in value]
    return value if isinstance(value, str) else json.dumps(value)


def _rest_of_body(sock: socket.socket, head: bytes, rest: bytes) -> bytes:
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(rest) < length:
        chunk = sock.recv(65536)
        if not chunk:
            break
        rest += chunk
    sock.close()
    return rest
