"""`metrics-addr`: GET /metrics on a TCP port, and nothing else (dockerd's, with OpenMetrics for who asks for it).

Anybody who reaches the port is a client, so that everything that one can take has a bound:

    what                                     bound           beyond it
    clients at once                          CLIENTS         the one that was answered longest ago goes
    a request's head                         HEAD_BYTES      431
    a request's body                         none is read    answered, and the connection ends
    time without a whole request             PATIENCE_S      the connection ends
    time to take an answer                   TAKE_S          the connection ends (Prometheus gives up after 10 s)
    an answer on its way, for each client    PIECE_BYTES     the next piece waits; all share one text
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Final, Protocol

from corten.docker.head import Head, parse_head
from corten.docker.status import reason
from corten.errors import CortenError, InvalidArgument

log = logging.getLogger("corten.docker")

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
CLIENTS: Final = 64
HEAD_BYTES: Final = 8 << 10
PATIENCE_S: Final = 30.0
TAKE_S: Final = 10.0
PIECE_BYTES: Final = 64 << 10
_LINGER_S: Final = 1.0
_BACKLOG: Final = 64
_PLAIN: Final = {"Content-Type": "text/plain; charset=utf-8"}
_MORE: Final = {405: {"Allow": "GET, HEAD"}}


class Source(Protocol):
    """What is shown."""

    async def metrics_text(self, *, is_open: bool) -> bytes:
        """The scrape, in OpenMetrics or in Prometheus's own format.  The same object for who asks at the same time."""


class MetricsDoor:
    """Life: `serve` a bound socket in a running event loop, `close`.  It owns the socket."""

    def __init__(self, source: Source, *, patience_s: float = PATIENCE_S, take_s: float = TAKE_S) -> None:
        self._source = source
        self._patience_s = patience_s
        self._take_s = take_s
        self._clients: dict[asyncio.StreamWriter, None] = {}  # in the order of their last answer
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients; anybody who reaches the port may read."""
        self._server = await asyncio.start_server(self._client, sock=listener, limit=HEAD_BYTES, backlog=_BACKLOG)

    async def close(self) -> None:
        """Stop, and drop every connection."""
        if self._server is not None:
            self._server.close()
            for writer in self._clients:
                writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.transport.abort()
        self._clients[writer] = None
        writer.transport.set_write_buffer_limits(PIECE_BYTES)
        try:
            while await self._answer(reader, writer):
                self._clients[writer] = self._clients.pop(writer, None)
        except (OSError, EOFError):  # the client left, or was given up
            pass
        finally:
            self._clients.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        try:
            async with asyncio.timeout(self._patience_s):
                head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        except InvalidArgument as error:
            await self._send(writer, 400, error.text.encode() + b"\n", keep_alive=False)
            return await _linger(reader, writer)
        except asyncio.LimitOverrunError:
            await self._send(writer, 431, b"request head too long\n", keep_alive=False)
            return await _linger(reader, writer)
        goes_on = head.keep_alive and head.length == 0
        status, body, kind = await self._result(head)
        headers = {"Content-Type": kind} if kind else {}
        await self._send(writer, status, body, headers, keep_alive=goes_on, has_body=head.method != "HEAD")
        return goes_on or await _linger(reader, writer)

    async def _result(self, head: Head) -> tuple[int, bytes, str]:
        if head.target.partition("?")[0] != "/metrics":
            return 404, b"404 page not found\n", ""
        if head.method not in ("GET", "HEAD"):
            return 405, b"405 method not allowed\n", ""
        is_open = "application/openmetrics-text" in head.headers.get("accept", "")
        try:
            text = await self._source.metrics_text(is_open=is_open)
        except (CortenError, OSError) as error:
            log.warning("metrics: %s", error)
            return 500, b"the scrape failed\n", ""
        return 200, text, OPEN_METRICS if is_open else PROMETHEUS

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        keep_alive: bool,
        has_body: bool = True,
    ) -> None:
        """Raises OSError (TimeoutError is one) when the client does not take it."""
        told = _PLAIN | _MORE.get(status, {}) | (headers or {}) | {"Content-Length": str(len(body))}
        view = memoryview(body if has_body else b"")
        async with asyncio.timeout(self._take_s):
            writer.write(_head(status, told, keep_alive=keep_alive))
            for start in range(0, len(view), PIECE_BYTES):
                writer.write(view[start : start + PIECE_BYTES])
                await writer.drain()
            writer.transport.set_write_buffer_limits(0)  # drained is taken by the kernel, to the last byte
            await writer.drain()
            writer.transport.set_write_buffer_limits(PIECE_BYTES)


def _head(status: int, headers: dict[str, str], *, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason(status)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, *([] if keep_alive else ["Connection: close"]), "\r\n"]).encode("latin-1")


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Take what the client is still sending, for a moment: else a reset could overtake the answer.  False."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_LINGER_S):
            writer.write_eof()
            while await reader.read(HEAD_BYTES):
                pass
    return False
