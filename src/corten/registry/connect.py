"""Connections to registries: one urllib3 manager per (TLS terms, proxy), whose connections can be ended from outside.

What urllib3 and http.client leave unbounded is bounded here: the addresses of a name, the head of an answer, trailers.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
from typing import Any
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

from corten.registry.dial import dial
from corten.registry.endpoint import Tls
from corten.registry.errors import RegistryError
from corten.registry.watch import hold

POOLS = 16
CONNECTIONS = 8
"""Kept per host: three downloads and five uploads by default."""

PRELIMINARY_MAX = 6
"""Go's limit is five."""
TRAILERS_MAX = 32
TRAILER_MAX = 8 << 10

FilesState = tuple[tuple[int, ...], ...]
"""Of each file what stat(2) says of it; empty for one that is not there."""


class _Head:
    """Gives the lines of an answer's head, and knows the last one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last = b""

    def readline(self, limit: int) -> bytes:
        """The next line; empty when the connection ended."""
        self.last = self._file.readline(limit)
        return self.last

    def close(self) -> None:
        """Closes the file: http.client does, when there is no head at all."""
        self._file.close()


class _Bounded(http.client.HTTPResponse):
    """An answer whose head is whole, and whose preliminaries and trailers end.

    http.client takes a head that breaks off for one that ends, and reads the others for as long as they come.
    """

    _preliminary = 0

    def begin(self) -> None:
        file: Any = self.fp
        head = _Head(file)
        self.fp: Any = head
        try:
            super().begin()
        except http.client.BadStatusLine:
            if head.last.endswith(b"\n"):
                raise
            raise http.client.RemoteDisconnected("the connection ended within the first line of an answer") from None
        finally:
            if self.fp is head:
                self.fp = file
        if not head.last:
            raise http.client.RemoteDisconnected("the connection ended within the head of an answer")
        for length in self.headers.get_all("Content-Length") or ():
            if not (length.isascii() and length.isdigit()):  # of a negative one http.client would read to the end
                raise http.client.HTTPException(f"net/http: bad Content-Length {length[:40]!r}")

    def _read_status(self) -> Any:
        self._preliminary += 1
        if self._preliminary > PRELIMINARY_MAX:
            raise http.client.HTTPException("net/http: too many 1xx informational responses")
        return super()._read_status()  # type: ignore[misc] # private, and the same since Python 2

    def _read_and_discard_trailer(self) -> None:
        for _ in range(TRAILERS_MAX):
            line = self.fp.readline(TRAILER_MAX + 1)
            if line in (b"\r\n", b"\n", b""):
                return
            if len(line) > TRAILER_MAX:
                break
        raise http.client.HTTPException("net/http: trailers are too long")


class _Plain(HTTPConnection):
    response_class = _Bounded

    def _new_conn(self) -> socket.socket:
        sock = dial(self)
        hold(sock, is_ready=True)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            hold(self.sock, is_ready=True)
        super().request(*args, **kwargs)


class _Secure(HTTPSConnection):
    response_class = _Bounded

    def _new_conn(self) -> socket.socket:
        return dial(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            hold(self.sock, is_ready=True)
        super().request(*args, **kwargs)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure

    def _validate_conn(self, conn: Any) -> None:
        """Connects before the request; without urllib3's warning where the user wants no verification."""
        if conn.is_closed:
            conn.connect()


def manager_of(tls: Tls, proxy: str) -> urllib3.PoolManager:
    """A manager of its own.  Raises RegistryError for a certificate that cannot be read or a proxy that is none."""
    terms: dict[str, Any] = {"num_pools": POOLS, "maxsize": CONNECTIONS, "ssl_context": context_of(tls)}
    manager = _through(proxy, terms) if proxy else urllib3.PoolManager(**terms)
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return manager


def _through(proxy: str, terms: dict[str, Any]) -> urllib3.ProxyManager:
    try:
        user = parse_url(proxy).auth
        basic = base64.b64encode(unquote(user or "").encode()).decode()
        headers = {"Proxy-Authorization": f"Basic {basic}"} if user else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **terms)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise RegistryError(f"invalid proxy: {type(error).__name__}") from None  # its URL may hold a password


def context_of(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 and later, with the system's roots and those of `tls`; as lenient with certificates as Go is."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # Go: what is in the pool of roots is trusted
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13's default refuses what openssl(1) makes
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in tls.ca_files:
        _load(path, lambda path=path: context.load_verify_locations(cafile=path))
    for certificate, key in reversed(tls.client_certs):  # the last one of a kind of key is shown
        _load(certificate, lambda cert=certificate, key=key: context.load_cert_chain(cert, key, _no_password))
    return context


def state_of(tls: Tls) -> FilesState:
    """What tells whether the files of `tls` are still those that they were: who writes one anew changes it."""
    return tuple(_state(path) for path in (*tls.ca_files, *(path for pair in tls.client_certs for path in pair)))


def _state(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _load(path: str, load: Any) -> None:
    try:
        load()
    except OSError as error:  # ssl.SSLError is one
        raise RegistryError(f"cannot load certificate {path}: {error.strerror or error}") from error


def _no_password() -> str:
    """Instead of a question on the terminal."""
    return ""
