"""Connections that are not a plain socket: TLS and ssh.  Either becomes one end of a socket pair, so that everyone else
may poll it, and shut its writing side alone, as a hijacked stream does at the end of stdin.

The TLS files are those of Docker's CLI: ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH or the configuration's folder.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from corten import errors

if TYPE_CHECKING:
    import ssl

_CHUNK = 65536
_FULL = 1 << 20  # what is decrypted and not taken yet


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM; an empty one is not used.  Without `is_verified` the engine may be anyone."""

    authority: str
    certificate: str
    key: str
    is_verified: bool


def tls_of(given: Mapping[str, Any], folder: str, environ: Mapping[str, str]) -> Tls | None:
    """From the flags `tls`, `tlsverify` and the three files; None for no TLS (docker/cli cli/flags/options.go)."""
    verify = given["tlsverify"]
    is_verified = bool(environ.get("DOCKER_TLS_VERIFY")) if verify is None else bool(verify)
    if not (given["tls"] or environ.get("DOCKER_TLS") or verify is not None or is_verified):
        return None
    folder = environ.get("DOCKER_CERT_PATH") or folder
    authority = given["tlscacert"] or os.path.join(folder, "ca.pem")
    return Tls(authority, _there(given, folder, "cert"), _there(given, folder, "key"), is_verified)


def _there(given: Mapping[str, Any], folder: str, name: str) -> str:
    """One that was not named and is not there is not used."""
    path = os.path.join(folder, f"{name}.pem")
    return given[f"tls{name}"] or (path if os.path.exists(path) else "")


def context_of(tls: Tls) -> ssl.SSLContext:
    """Raises `InvalidArgument` naming the file that cannot be used."""
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.is_verified:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    for path in filter(None, (tls.authority, tls.certificate, tls.key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise errors.InvalidArgument(f"unable to resolve docker endpoint: open {path}: {reason}") from error
    try:
        if tls.authority:
            made.load_verify_locations(tls.authority)
        elif tls.is_verified:  # of a context without a ca.pem
            made.load_default_certs()
        if tls.certificate or tls.key:
            made.load_cert_chain(tls.certificate, tls.key or None, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        files = ", ".join(filter(None, (tls.authority, tls.certificate, tls.key)))
        raise errors.InvalidArgument(f"unable to use the TLS files {files}: {error}") from error
    return made


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def over_tls(raw: socket.socket, host: str, context: ssl.SSLContext) -> socket.socket:
    """The clear end of a TLS connection over `raw`, which is taken over.  Raises OSError, also for a bad handshake."""
    tunnel = _TlsTunnel(raw, host, context)
    try:
        tunnel.shake_hands()
    except OSError:
        raw.close()
        raise
    near, far = socket.socketpair()
    threading.Thread(target=tunnel.run, args=(far,), daemon=True).start()
    return near


class _TlsTunnel:
    """Copies between a pair's end and a TLS connection, both ways, until either is closed."""

    def __init__(self, raw: socket.socket, host: str, context: ssl.SSLContext) -> None:
        import ssl

        self._ssl = ssl
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._to_far = b""
        self._to_raw = b""
        self._is_writing = True  # the near side has not ended
        self._is_ended = False  # the engine has

    def shake_hands(self) -> None:
        """Blocking."""
        while True:
            try:
                self._tls.do_handshake()
            except self._ssl.SSLWantReadError:
                self._raw.sendall(self._outgoing.read())
                data = self._raw.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("the engine closed the connection in the TLS handshake") from None
                self._incoming.write(data)
            else:
                self._raw.sendall(self._outgoing.read())
                return

    def run(self, far: socket.socket) -> None:
        """In a thread of its own; closes both."""
        self._raw.setblocking(False)
        far.setblocking(False)
        with far, self._raw, contextlib.suppress(OSError):
            self._decrypt()
            while not (self._is_ended and not self._to_far):
                self._turn(far)

    def _turn(self, far: socket.socket) -> None:
        reading = [self._raw] if len(self._to_far) < _FULL and not self._is_ended else []
        if self._is_writing and not self._to_raw:
            reading.append(far)
        writing = [one for one, data in ((far, self._to_far), (self._raw, self._to_raw)) if data]
        readable, writable, _ = select.select(reading, writing, [])
        if self._raw in readable:
            data = self._raw.recv(_CHUNK)
            self._is_ended = not data
            self._incoming.write(data)
            self._decrypt()
        if far in readable:
            self._encrypt(far.recv(_CHUNK))
        if far in writable:
            self._to_far = self._to_far[far.send(self._to_far) :]
        if self._raw in writable:
            self._to_raw = self._to_raw[self._raw.send(self._to_raw) :]

    def _decrypt(self) -> None:
        while not self._is_ended:
            try:
                data = self._tls.read(_CHUNK)
            except self._ssl.SSLWantReadError:
                break
            except self._ssl.SSLError:  # its end, or an alert: what it said before is passed on
                data = b""
            self._is_ended = not data
            self._to_far += data
        self._to_raw += self._outgoing.read()

    def _encrypt(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
        else:
            self._is_writing = False
            with contextlib.suppress(self._ssl.SSLError):  # wants the engine's own end, which comes later
                self._tls.unwrap()
        self._to_raw += self._outgoing.read()


# ssh


def ssh_argv(host: str) -> list[str]:
    """What `ssh://[USER@]HOST[:PORT][/SOCKET]` runs.  Raises `InvalidArgument` in the words of Docker's CLI."""
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError as error:
        raise _wrong(str(error).lower()) from None
    if parts.password is not None:
        raise _wrong("plain-text password is not supported")
    if not parts.hostname:
        raise _wrong("no host specified")
    if parts.query or parts.fragment:
        raise _wrong(
            f"extra {'query' if parts.query else 'fragment'} after the host: {parts.query or parts.fragment!r}"
        )
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    argv += ["-l", unquote(parts.username)] if parts.username else []
    argv += ["-p", str(port)] if port else []
    remote = [
        "corten",
        *(("-H", f"unix://{parts.path}") if parts.path not in ("", "/") else ()),
        "system",
        "dial-stdio",
    ]
    return [*argv, "--", parts.hostname, *map(_shell_word, remote)]


def _shell_word(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _wrong(reason: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"ssh host connection is not valid: {reason}")


def over_ssh(argv: Sequence[str]) -> socket.socket:
    """A socket that is the program's stdin and stdout; it ends with the program.  Raises OSError."""
    near, far = socket.socketpair()
    with far:
        try:
            child = subprocess.Popen(argv, stdin=far.fileno(), stdout=far.fileno(), start_new_session=True)
        except OSError:
            near.close()
            raise
    threading.Thread(target=child.wait, daemon=True).start()
    return near
