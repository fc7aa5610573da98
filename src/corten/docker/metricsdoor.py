"""`metrics-addr`: GET /metrics on a TCP port, and nothing else (dockerd's, with OpenMetrics for who asks for it)."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Protocol

from aiohttp import web

log = logging.getLogger("corten.docker")

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE_S = 30.0


class Source(Protocol):
    """What is shown."""

    async def metrics_text(self, *, is_open: bool) -> str:
        """The scrape, in OpenMetrics or in Prometheus's own format."""


class MetricsDoor:
    """Life: `serve` a bound socket in a running event loop, `close`.  It owns the socket."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._web = web.Server(self._handle, keepalive_timeout=_PATIENCE_S, handler_cancellation=True)
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients; anybody who reaches the port may read."""
        self._server = await asyncio.get_running_loop().create_server(self._web, sock=listener, backlog=64)

    async def close(self) -> None:
        """Stop, and drop every connection."""
        if self._server is not None:
            self._server.close()
            await self._web.shutdown(timeout=1.0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/metrics":
            return web.Response(status=404, text="404 page not found\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="405 method not allowed\n", headers={"Allow": "GET, HEAD"})
        is_open = "application/openmetrics-text" in request.headers.get("Accept", "")
        text = await self._source.metrics_text(is_open=is_open)
        return web.Response(body=text.encode(), headers={"Content-Type": OPEN_METRICS if is_open else PROMETHEUS})
