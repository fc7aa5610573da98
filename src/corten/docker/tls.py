"""TLS in front of the door: what a TCP client sends is decrypted, and reaches a front through a socket pair.

A connection that becomes a container's stream is handed to a shim, which knows no TLS: it gets one end of the pair, and
the other stays here.  So such a stream ends with this process, as the container does not.

asyncio's own TLS closes a connection whose client has only ended its writing (RFC 8446 §6.1, close_notify), which is
how `docker run -i` says that its stdin has ended: so the records go through SSLObject here.

    from       | what                    | becomes
    -----------+-------------------------+--------------------------------------------------
    client     | close_notify            | the pair's writing side is shut: stdin has ended
    client     | end of TCP              | the pair is closed: the client is gone
    door, shim | end of the pair         | close_notify; the connection is closed when all is written
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from corten.docker.authz import Peer
from corten.docker.hangup import HangupWatch

log = logging.getLogger("corten.docker")

HANDSHAKE_S: Final = 30.0
LINGER_S: Final = 1.0
_CHUNK: Final = 65536
_PLAIN_ANSWER: Final = (
    b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)


def peer_of(tls: ssl.SSLObject) -> Peer | None:
    """The client by its certificate, where that was asked for and checked."""
    found, encoded = tls.getpeercert(), tls.getpeercert(binary_form=True)
    if not found or encoded is None:
        return None
    subject = cast(tuple[tuple[tuple[str, str], ...], ...], found.get("subject", ()))
    names = [value for pairs in subject for key, value in pairs if key == "commonName"]
    return Peer(names[0] if names else "", ssl.DER_cert_to_PEM_cert(encoded))


class TlsConnection(asyncio.Protocol):
    """The client's side.

    `make_front` makes the protocol of the door's end of the pair, once the handshake is done and who speaks is known.
    """

    def __init__(self, context: ssl.SSLContext, make_front: Callable[[Peer | None], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._make_front = make_front
        self._transport: asyncio.Transport | None = None
        self._inner: _Inner | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_ended = False  # the client has ended its writing, or nothing of it is wanted any more

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = self._loop.call_later(HANDSHAKE_S, transport.abort)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._cancel_timer()
        if self._inner is not None:
            self._inner.close()

    def eof_received(self) -> bool:
        """The client is gone: nobody half-closes TCP below TLS."""
        return False

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            return
        self._incoming.write(data)
        try:
            if self._inner is not None:
                self._pass_on(self._inner)
            elif self._opening is None:
                self._shake_hands()
        except ssl.SSLError as error:
            self._fail(error)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_reading()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_reading()

    # the handshake

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        self._flush()
        self._cancel_timer()
        self._pause(True)
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        """Make the pair: a front at one end, ourselves at the other."""
        try:
            door_end, own_end = socket.socketpair()
        except OSError as error:  # no descriptor is left
            log.warning("a TLS connection is dropped: %s", error)
            self.close()
            return
        door_end.setblocking(False)
        own_end.setblocking(False)
        await self._loop.connect_accepted_socket(partial(self._make_front, peer_of(self._tls)), door_end)
        _, self._inner = await self._loop.connect_accepted_socket(lambda: _Inner(self), own_end)
        if self._transport is None:
            self._inner.close()
            return
        self._pause(False)
        self.data_received(b"")

    def _fail(self, error: ssl.SSLError) -> None:
        """Tell the client by the alert that OpenSSL wrote, or in HTTP when that was what it spoke."""
        if self._transport is None:
            return
        peer = self._transport.get_extra_info("peername")
        log.info("TLS of %s: %s", peer[0] if peer else "a client", error.reason or error)
        self._is_ended = True
        self._cancel_timer()
        if error.reason == "HTTP_REQUEST":
            self._outgoing.read()
            self._transport.write(_PLAIN_ANSWER)
        self._flush()
        if self._inner is not None:
            self._inner.close()
        self._linger()

    def _linger(self) -> None:
        """Close after a moment in which what still comes is dropped: a reset would overtake what was written."""
        if self._transport is not None:
            self._transport.write_eof()
            self._timer = self._loop.call_later(LINGER_S, self._transport.close)

    # afterwards

    def _pass_on(self, inner: _Inner) -> None:
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self._end(inner)
                break
            inner.write(data)
        self._flush()

    def _end(self, inner: _Inner) -> None:
        self._is_ended = True
        inner.write_eof()

    def send(self, data: bytes) -> None:
        """Encrypt and send what the door or a shim wrote."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()

    def send_end(self) -> None:
        """The door's side has ended its writing."""
        with contextlib.suppress(ssl.SSLError):  # wants the client's close_notify, which need not come
            self._tls.unwrap()
        self._flush()

    def hang_up(self) -> None:
        """The door's side is gone altogether."""
        self._cancel_timer()
        self._is_ended = True
        self._linger()

    def hold(self, is_full: bool) -> None:
        """Whether the door's side takes no more for now."""
        self._pause(is_full)

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    def _pause(self, is_wanted: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if is_wanted:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


class _Inner(asyncio.Protocol):
    """Our end of the pair."""

    def __init__(self, outer: TlsConnection) -> None:
        self._outer = outer
        self._transport: asyncio.Transport | None = None
        self._watch: HangupWatch | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._watch is not None:
            self._watch.close()
        self._outer.hang_up()

    def data_received(self, data: bytes) -> None:
        self._outer.send(data)

    def eof_received(self) -> bool:
        """What is left of the other direction goes on until that ends as well."""
        self._outer.send_end()
        if self._transport is not None:
            descriptor = self._transport.get_extra_info("socket").fileno()
            self._watch = HangupWatch(asyncio.get_running_loop(), descriptor, self.close)
        return True

    def pause_writing(self) -> None:
        self._outer.hold(True)

    def resume_writing(self) -> None:
        self._outer.hold(False)

    def write(self, data: bytes) -> None:
        """To the door's side."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """The client has no more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        """The client takes no more for now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """It does again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Once what was written is out."""
        if self._transport is not None:
            self._transport.close()
