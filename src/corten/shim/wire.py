"""A courier's connection to a server: udp, tcp, tls, unix and unixgram; made again when it breaks."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from corten.shim.protocol import Message

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 10.0


def option(order: Message, name: str) -> str:
    """An option of the driver; '' where it is not given."""
    options = order.get("options")
    return str(options.get(name, "")) if isinstance(options, dict) else ""


def attributes_of(order: Message) -> dict[str, str]:
    """What goes with each line."""
    found = order.get("attributes")
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def address_of(order: Message) -> tuple[str, str, int]:
    """(scheme, host or path, port)."""
    found = order.get("address")
    if not isinstance(found, list | tuple) or len(found) != 3:
        return "", "", 0
    return str(found[0]), str(found[1]), int(found[2])


class Wire:
    """One server.  `retries` and `pause_s`: how often a broken connection is made again, and after how long."""

    def __init__(
        self, scheme: str, host: str, port: int, order: Message, *, retries: int = 1, pause_s: float = 0.0
    ) -> None:
        self._scheme = scheme
        self._host = host
        self._port = port
        self._order = order
        self._retries = retries
        self._pause_s = pause_s
        self._socket: socket.socket | None = None
        self._security: ssl.SSLContext | None = None

    def connect(self) -> None:
        """Raises OSError with Go's words in front: `dial tcp 127.0.0.1:514: connect: connection refused`.

        Raises ValueError for a certificate that cannot be read.
        """
        self.close()
        if self._scheme in ("tls", "tcp+tls") and self._security is None:
            self._security = _security(self._order)
        try:
            self._socket = self._open()
        except OSError as error:
            host = f"[{self._host}]" if ":" in self._host else self._host
            where = self._host if self._scheme.startswith("unix") else f"{host}:{self._port}"
            kind = "tcp" if self._scheme in ("tls", "tcp+tls") else self._scheme
            step = "lookup" if isinstance(error, socket.gaierror) else "connect"
            why = (error.strerror or str(error)).lower()
            raise OSError(error.errno, f"dial {kind} {where}: {step}: {why}") from error

    def send(self, data: bytes) -> None:
        """All of `data`.  Raises OSError when the connection is broken and cannot be made again."""
        for attempt in range(self._retries + 1):
            try:
                if self._socket is None:
                    self.connect()
                assert self._socket is not None
                self._socket.sendall(data)
            except OSError:
                self.close()
                if attempt == self._retries:
                    raise
                time.sleep(self._pause_s)
            else:
                return

    def receive(self, size: int, timeout_s: float) -> bytes:
        """What the server says.  Raises OSError, TimeoutError among them."""
        if self._socket is None:
            raise OSError("not connected")
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(size)
        finally:
            self._socket.settimeout(None)

    def close(self) -> None:
        """Forget the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._scheme.startswith("unix"):
            kind = socket.SOCK_DGRAM if self._scheme == "unixgram" else socket.SOCK_STREAM
            made = socket.socket(socket.AF_UNIX, kind)
            try:
                made.connect(self._host)
            except OSError:
                made.close()
                raise
            return made
        if self._scheme == "udp":
            family, kind, _, _, where = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind)
            made.connect(where)
            return made
        made = socket.create_connection((self._host, self._port), CONNECT_TIMEOUT_S)
        made.settimeout(None)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._security is None:
            return made
        return self._security.wrap_socket(made, server_hostname=self._host)


def _security(order: Message) -> ssl.SSLContext:
    import ssl

    authority, certificate = option(order, "syslog-tls-ca-cert"), option(order, "syslog-tls-cert")
    try:
        context = ssl.create_default_context(cafile=authority or None)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ValueError(f'could not read CA certificate "{authority}": open {authority}: {why}') from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    options = order.get("options")
    if isinstance(options, dict) and "syslog-tls-skip-verify" in options:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        key = option(order, "syslog-tls-key")
        try:
            context.load_cert_chain(certificate, key or None)
        except OSError as error:
            names = f'certificate: "{certificate}", key: "{key}"'
            raise ValueError(f"could not load X509 key pair ({names}): {error.strerror or error}") from error
    return context
