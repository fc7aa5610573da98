"""Attach over a websocket: `GET /containers/{id}/attach/ws`.

Docker API ContainerAttachWebsocket.  The streams go through this process: the shim has one end of a socket pair, the
other is pumped to and from frames (RFC 6455, aiohttp's), binary ones as dockerd's.  stdout and stderr come as one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from corten.core import asker
from corten.docker.call import Call
from corten.docker.engine_api import AttachOptions
from corten.errors import CortenError, InvalidArgument, PermissionDenied

_CHUNK_BYTES = 64 << 10


class PairStream:
    """`engine_api.ClientStream` over one end of a socket pair."""

    initial = b""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._on_hangup: Callable[[], None] = lambda: None

    def fileno(self) -> int:
        if self._end.fileno() < 0:
            raise BrokenPipeError("the client is gone")
        return self._end.fileno()

    def write_head(self) -> None:
        """The answer to the handshake is out."""

    def detach_fd(self) -> int:
        self.fileno()
        return self._end.detach()

    def on_hangup(self, callback: Callable[[], None]) -> None:
        self._on_hangup = callback

    def close(self) -> None:
        self._end.close()

    def hung_up(self) -> None:
        """The client has gone; nothing is kept here, unless the shim has it."""
        self._on_hangup()
        self._end.close()


async def attach(call: Call) -> web.StreamResponse:
    """Until the container or the client closes; errors before the handshake are ordinary answers."""
    options = _options(call)
    await call.engine.attach_check(call.args[0], options)
    response = web.WebSocketResponse()
    if not response.can_prepare(call.request):
        raise InvalidArgument("bad websocket handshake")
    _check_origin(call.request)
    response.headers.update(call.headers)
    call.is_started = True
    await response.prepare(call.request)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = PairStream(theirs)
    with closing(ours):
        pump = asyncio.ensure_future(_pump(response, ours))  # from the first byte on: a log may be longer than a buffer
        try:
            await call.engine.container_attach(call.args[0], options, stream)
            await pump
        except CortenError as error:  # it has gone since it was asked
            await _ended(pump)
            await response.close(code=1011, message=error.text.encode()[:120])
        finally:
            stream.hung_up()
            await _ended(pump)
    return response


async def _ended(pump: asyncio.Future[None]) -> None:
    pump.cancel()
    await asyncio.wait([pump])
    if not pump.cancelled():
        pump.exception()  # told to whoever waited for it


def _options(call: Call) -> AttachOptions:
    """Before 1.42 the streams cannot be chosen."""
    query, all_streams = call.query, call.version < (1, 42)
    return AttachOptions(
        stdin=all_streams or query.flag("stdin"),
        stdout=all_streams or query.flag("stdout"),
        stderr=all_streams or query.flag("stderr"),
        stream=query.flag("stream"),
        logs=query.flag("logs"),
        detach_keys=query.text("detachKeys"),
        is_raw=True,
    )


def _check_origin(request: web.BaseRequest) -> None:
    """A browser connects wherever a page tells it to, and says whose page that is.  Raises PermissionDenied."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    origin = request.headers.get("Origin", "")
    if sock is None or not origin:
        return
    if sock.family == socket.AF_UNIX and not asker.of_socket(sock, "").address:  # it has one behind TLS
        return
    if urlsplit(origin).netloc != request.headers.get("Host", ""):
        raise PermissionDenied(f"websocket from the page of another host: {origin}")


async def _pump(response: web.WebSocketResponse, ours: socket.socket) -> None:
    """Both ways, until either side ends."""
    into = asyncio.ensure_future(_into(response, ours))
    out = asyncio.ensure_future(_out(response, ours))
    try:
        await asyncio.wait([into, out], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (into, out):
            task.cancel()
        await asyncio.wait([into, out])
        with suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)  # who still writes a log into it need not wait
    with suppress(ConnectionError):
        await response.close()


async def _into(response: web.WebSocketResponse, ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async for message in response:
        if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
            data = message.data.encode() if isinstance(message.data, str) else message.data
            with suppress(ConnectionError):  # the container takes no input
                await loop.sock_sendall(ours, data)


async def _out(response: web.WebSocketResponse, ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):  # either is gone
        while data := await loop.sock_recv(ours, _CHUNK_BYTES):
            await response.send_bytes(data)
