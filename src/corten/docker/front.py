"""The protocol in front of every client connection.

It buffers one request head.  Attach and exec start stay here, because what follows them is no longer HTTP;
every other request is replayed, head and body, into aiohttp's handler, and the next head is looked at when
that answer is out.  So requests of one connection run one after the other, and a connection can be handed
to a shim at any moment between two of them, with every byte accounted for.

    state    | bytes are                         | leaves when
    ---------+-----------------------------------+------------------------------------------------
    HEAD     | collected up to an empty line     | complete: BODY, RESPONSE, or COLLECT/HIJACK
    BODY     | given to aiohttp                  | body ends: RESPONSE (HEAD if already answered)
    RESPONSE | kept (pipelined), up to a limit   | answered: HEAD
    COLLECT  | the body of a hijacking request   | body ends: HIJACK
    HIJACK   | left in the kernel: no reading    | plain answer: HEAD; detached: connection is gone
    TUNNEL   | given to aiohttp: a websocket     | answered: the connection is closed
    CLOSED   | dropped                           | refused: the client has closed, or LINGER_S
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from corten.docker.authz import Peer
from corten.docker.hangup import HangupWatch, is_hung_up
from corten.docker.head import (
    HEAD_END,
    MAX_HEAD_BYTES,
    Body,
    ChunkedBody,
    Head,
    LengthBody,
    body_of,
    parse_head,
)
from corten.docker.plain import error_response
from corten.docker.status import error_body
from corten.errors import CortenError, InvalidArgument

MAX_PIPELINED_BYTES = 256 << 10
MAX_HIJACK_BODY_BYTES = 1 << 20
HEAD_TIMEOUT_S = 30.0
LINGER_S = 1.0
READ_SPINS, READ_SLEEPS = 40, 10  # turns of the loop (5–10 µs each), then sleeps of 1 ms
_NEVER_S = 10 * 365 * 86400.0


class _State(enum.Enum):
    HEAD = "head"
    BODY = "body"
    RESPONSE = "response"
    COLLECT = "collect"
    HIJACK = "hijack"
    TUNNEL = "tunnel"
    CLOSED = "closed"


class Owner(Protocol):
    """What a connection needs from the door."""

    loop: asyncio.AbstractEventLoop
    web_server: web.Server

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of every answer."""

    def opened(self, front: Front) -> None: ...
    def closed(self, front: Front) -> None: ...
    def hijack(self, front: Front, head: Head, body: bytes) -> Awaitable[None]:
        """Serve attach or exec start; ends with `front.answer`, `front.detach_fd` or `front.close`."""


class Handler(RequestHandler):
    """aiohttp's side of a connection, which tells the front when an answer is out."""

    __slots__ = ("_answered", "_owner", "peer")

    def __init__(self, owner: Owner, answered: Callable[[], None], peer: Peer | None = None) -> None:
        super().__init__(
            owner.web_server,
            loop=owner.loop,
            keepalive_timeout=_NEVER_S,
            tcp_keepalive=False,
            lingering_time=LINGER_S,
            access_log=None,  # type: ignore[arg-type]  # None turns it off
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,  # a count in aiohttp 3.14, bytes before
            auto_decompress=False,
        )
        self._answered = answered
        self._owner = owner
        self.peer = peer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's own refusals, in Docker's form: what its parser is stricter about than ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer is out")
        text = (message or str(exc)).split("\n", 1)[0].rstrip(":")
        body = error_body(text)
        headers = self._owner.headers
        response = web.Response(status=status, body=body, headers=headers, content_type="application/json")
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        result = await super().finish_response(request, resp, start_time)
        self._answered()
        return result


class Front(asyncio.Protocol):
    """One client connection.  See the module's table."""

    __slots__ = (
        "_answered_early",
        "_body",
        "_collected",
        "_eof",
        "_handler",
        "_head",
        "_head_timer",
        "_owner",
        "_pending",
        "_reading_paused",
        "_scanned",
        "_state",
        "_task",
        "_watch",
        "peer",
        "transport",
    )

    def __init__(self, owner: Owner, peer: Peer | None = None) -> None:
        """`peer`: who speaks, when a certificate says so."""
        self._owner = owner
        self.peer = peer
        self._state = _State.HEAD
        self._handler: Handler | None = None
        self._pending = b""
        self._scanned = 0
        self._body: Body | None = None
        self._collected = bytearray()
        self._head: Head | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._watch: HangupWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._answered_early = False
        self._reading_paused = False
        self._eof = False
        self.transport: asyncio.Transport | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _State.CLOSED
        self.transport = None
        self._pending = b""
        self._cancel_timer()
        if self._watch is not None:
            self._watch.close()
        if self._handler is not None:
            self._handler.connection_lost(exc)
        self._owner.closed(self)

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def eof_received(self) -> bool:
        """Keep a half-closed connection open until its answer is out; True keeps the transport."""
        self._eof = True
        if self._state is _State.HIJACK:
            return True
        if self._state is not _State.RESPONSE or not self._is_half_closed():
            return False
        self.watch_hangup(self._abort)
        return True

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        self._process(data)

    # the states

    def _process(self, data: bytes) -> None:
        while data:
            match self._state:
                case _State.HEAD:
                    data = self._take_head(data)
                case _State.BODY:
                    data = self._take_body(data, b"")
                case _State.COLLECT:
                    data = self._collect(data)
                case _State.RESPONSE | _State.HIJACK:
                    self._keep(data)
                    return
                case _State.TUNNEL:
                    assert self._handler is not None
                    self._handler.data_received(data)
                    return
                case _State.CLOSED:
                    return

    def _keep(self, data: bytes) -> None:
        self._pending = data
        if len(data) > MAX_PIPELINED_BYTES:
            self._pause_reading()

    def _take_head(self, data: bytes) -> bytes:
        if data[:1] in (b"\r", b"\n"):  # empty lines before a request line are ignored (RFC 9112 §2.2)
            data = data.lstrip(b"\r\n")
            self._scanned = 0
        found = HEAD_END.search(data, max(0, self._scanned - 3))
        if found is None or found.end() > MAX_HEAD_BYTES:
            return self._wait_for_head(data)
        self._scanned = 0
        self._cancel_timer()
        raw = data[: found.end()]
        try:
            head = parse_head(raw)
        except InvalidArgument as error:
            return self._refuse(*_refusal(raw, error))
        rest = data[found.end() :]
        return self._start_hijack(head, rest) if head.is_hijack else self._start_request(head, raw, rest)

    def _wait_for_head(self, data: bytes) -> bytes:
        if len(data) > MAX_HEAD_BYTES:
            return self._refuse(431, "request header fields too large")
        self._pending = data
        self._scanned = len(data)
        if data and self._head_timer is None:
            self._head_timer = self._owner.loop.call_later(HEAD_TIMEOUT_S, self._head_timed_out)
        return b""

    def _head_timed_out(self) -> None:
        self._head_timer = None
        self._refuse(408, "timed out waiting for the request header")

    def _start_request(self, head: Head, raw: bytes, rest: bytes) -> bytes:
        self._head = head
        self._body = body_of(head)
        self._answered_early = False
        self._state = _State.BODY
        if self._handler is None:
            assert self.transport is not None
            self._handler = Handler(self._owner, self._answered, self.peer)
            self._handler.connection_made(self.transport)
        if head.is_websocket:
            self._state = _State.TUNNEL
            self._handler.data_received(raw + rest)
            return b""
        return self._take_body(rest, raw)

    def _take_body(self, data: bytes, prefix: bytes) -> bytes:
        assert self._body is not None
        assert self._handler is not None
        try:
            used = 0 if self._body.done else self._body.feed(data)
        except InvalidArgument as error:
            if prefix:
                return self._refuse(400, error.text)
            self._state = _State.CLOSED  # half an answer may be out already
            self._abort()
            return b""
        if self._body.done:
            self._state = _State.HEAD if self._answered_early else _State.RESPONSE
        self._handler.data_received(prefix + data[:used] if used or prefix else data)
        return data[used:]

    def _answered(self) -> None:
        if self._state is _State.BODY:
            self._answered_early = True
        elif self._state is _State.RESPONSE:
            self._next()
        elif self._state is _State.TUNNEL:
            self.close()

    def _next(self) -> None:
        if self._pending:  # the state stays until then: the client's end of the stream may come in between
            self._owner.loop.call_soon(self._process_pending)
        else:
            self._state = _State.HEAD
            if self._eof:
                self.close()
        self._resume_reading()

    def _process_pending(self) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.HEAD
        data, self._pending = self._pending, b""
        self._scanned = 0
        self._process(data)
        if self._eof and self._state is _State.HEAD:
            self.close()

    # hijacking requests

    def _start_hijack(self, head: Head, rest: bytes) -> bytes:
        self._head = head
        self._collected.clear()
        if head.length > MAX_HIJACK_BODY_BYTES:
            return self._refuse(413, "request body too large")
        self._body = ChunkedBody(MAX_HIJACK_BODY_BYTES) if head.length < 0 else LengthBody(head.length)
        self._state = _State.COLLECT
        if self._body.done:
            return self._hijack(rest)
        if head.expects_continue and not rest:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return rest

    def _collect(self, data: bytes) -> bytes:
        body = self._body
        assert body is not None
        try:
            used = body.feed(data)
        except InvalidArgument as error:
            return self._refuse(400, error.text)
        if isinstance(body, LengthBody):
            self._collected += data[:used]
        return self._hijack(data[used:]) if body.done else b""

    def _hijack(self, rest: bytes) -> bytes:
        assert self._head is not None
        self._state = _State.HIJACK
        self._pause_reading()
        self._pending = rest
        body = bytes(self._body.decoded if isinstance(self._body, ChunkedBody) else self._collected)
        self._collected.clear()
        self._task = asyncio.ensure_future(self._owner.hijack(self, self._head, body))
        return b""

    @property
    def initial(self) -> bytes:
        """What was read behind the request of a hijack."""
        return self._pending

    async def flushed(self) -> None:
        """Wait until the answers to earlier requests have left for the kernel."""
        while self.transport is not None and self.transport.get_write_buffer_size():
            await asyncio.sleep(0.001)  # pipelining and hijacking at once: nobody in practice

    async def read_by_client(self) -> None:
        """Wait, a few ms at most, until the client has taken what was written from its socket.

        Some clients (docker-py: http.client's buffered reader) lose what comes in the same read as the head of a
        hijacked answer.  On a unix socket SIOCOUTQ tells what the peer has not read yet; on TCP nothing does.
        """
        if self.transport is None or self.transport.get_extra_info("socket").family != socket.AF_UNIX:
            return
        for turn in range(READ_SPINS + READ_SLEEPS):
            await asyncio.sleep(0 if turn < READ_SPINS else 0.001)
            if self.transport is None or not _unread_bytes(self.fileno()):
                return

    def write_now(self, data: bytes) -> None:
        """Write a head of a few hundred bytes straight to the socket, after `flushed`.  Raises OSError."""
        if self.transport is None:
            raise BrokenPipeError("the client is gone")
        os.write(self.fileno(), data)

    def fileno(self) -> int:
        """The connection's descriptor."""
        assert self.transport is not None
        descriptor: int = self.transport.get_extra_info("socket").fileno()
        return descriptor

    def client_fd(self) -> int:
        """As `fileno`; raises OSError when the client is gone."""
        if self.transport is None:
            raise BrokenPipeError("the client is gone")
        return self.fileno()

    def detach_fd(self) -> int:
        """A duplicate of the socket; the event loop lets go of its own without shutting the connection down."""
        if self.transport is None:
            raise BrokenPipeError("the client is gone")
        descriptor = os.dup(self.fileno())
        self._abort()
        return descriptor

    def answer(self, response: bytes, *, keep_alive: bool) -> None:
        """End a hijacking request with an ordinary answer."""
        self._write(response)
        if not keep_alive or self._eof:
            self.close()
            return
        self._next()

    def watch_hangup(self, callback: Callable[[], None]) -> None:
        """Run `callback` once when the client has gone for good."""
        if self._watch is not None:
            self._watch.close()
        self._watch = HangupWatch(self._owner.loop, self.client_fd(), callback)

    # small things

    def _is_half_closed(self) -> bool:
        """Whether a unix client only shut its writing side.  On TCP that cannot be told from a close."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        return sock.family == socket.AF_UNIX and not is_hung_up(sock.fileno())

    def _refuse(self, status: int, text: str) -> bytes:
        """Answer and hang up; what still comes is read and dropped, or a reset would overtake the answer."""
        self._state = _State.CLOSED
        self._pending = b""
        self._cancel_timer()
        self._write(error_response(status, text, self._owner.headers, keep_alive=False))
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self._head_timer = self._owner.loop.call_later(LINGER_S, self.close)
        return b""

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close the connection once what was written is out."""
        if self.transport is not None:
            self.transport.close()

    def _abort(self) -> None:
        if self.transport is not None:
            if self._watch is not None:
                self._watch.close()
            self.transport.abort()

    def _pause_reading(self) -> None:
        if self.transport is not None and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None and not self._eof:
                self.transport.resume_reading()

    def _cancel_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _unread_bytes(fd: int) -> int:
    """What the peer of a unix socket has not read yet (unix(7), SIOCOUTQ)."""
    answer = fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(answer, sys.byteorder)


def _refusal(raw: bytes, error: CortenError) -> tuple[int, str]:
    if raw.startswith(b"PRI * HTTP/2.0"):
        return 505, "HTTP/2 is not supported yet"
    return 400, error.text
