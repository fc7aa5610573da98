"""The door as a whole: connections in, one call into the engine each, answers out."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import unquote

from aiohttp import web

from corten.core import asker
from corten.docker.authz import MAX_BODY_BYTES, Asked, Authorization, shows_body
from corten.docker.call import Call
from corten.docker.engine_api import Engine
from corten.docker.front import Front, Handler
from corten.docker.head import Head
from corten.docker.hijack import Hijacker
from corten.docker.query import Query
from corten.docker.routes import Router
from corten.docker.status import status_of
from corten.docker.tls import TlsConnection
from corten.docker.versions import MAX_VERSION, MIN_VERSION, Version, negotiate, split_version, version_text
from corten.errors import CortenError, Internal

log = logging.getLogger("corten.docker")


class Door:
    """Serves Docker's API for one engine.

    Life: make it inside a running event loop, `serve` each listening socket, `close`.  It owns the sockets it was
    given and the connections on them, except those whose descriptor went to a shim.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        version: str,
        is_cgroup2: bool = False,
        is_experimental: bool = False,
        oldest: Version = MIN_VERSION,
        authorization: Authorization | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.web_server = web.Server(self._handle, handler_cancellation=True)
        self._headers = {
            "Api-Version": version_text(MAX_VERSION),
            "Docker-Experimental": str(is_experimental).lower(),
            "Ostype": "linux",
            "Server": f"Corten/{version} (linux)",
        }
        self._engine = engine
        self._is_cgroup2 = is_cgroup2
        self._oldest = oldest
        self._authorization = authorization or Authorization()
        self._router = Router()
        self._servers: list[asyncio.Server] = []
        self._fronts: set[Front] = set()

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of every answer."""
        return self._headers

    async def serve(
        self, listener: socket.socket, *, tls: Callable[[], ssl.SSLContext | None] = lambda: None
    ) -> asyncio.Server:
        """Accept on a bound stream socket, unix or TCP.  Where `tls` gives a context, a client speaks TLS with that."""

        def make() -> asyncio.Protocol:
            secured = tls()
            return Front(self) if secured is None else TlsConnection(secured, partial(Front, self))

        # not create_unix_server: that of Python 3.13 removes the file, whose name is the listener's business
        server = await self.loop.create_server(make, sock=listener, backlog=1024)
        self._servers.append(server)
        return server

    async def close(self) -> None:
        """Stop accepting, and drop every connection that is still ours."""
        for server in self._servers:
            server.close()
        for front in list(self._fronts):
            front.close()
        await self.web_server.shutdown(timeout=1.0)

    # front.Owner

    def opened(self, front: Front) -> None:
        self._fronts.add(front)

    def closed(self, front: Front) -> None:
        self._fronts.discard(front)

    async def hijack(self, front: Front, head: Head, body: bytes) -> None:
        """Serve attach or exec start; the outermost frame of such a request."""
        started = time.perf_counter()
        asked = Asked.of(head.method, head.target, head.headers, body, front.peer)
        try:
            hijacker = Hijacker(self._engine, front, head, self._headers, self._oldest)
            await hijacker.serve(body, partial(self._authorization.request, asked))
        except Exception:  # outermost of a connection: a defect must not take others with it
            log.exception("%s %s failed", head.method, head.target)
            front.close()
        self._log(head.method, head.target, 101, started)

    # ordinary requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request; the outermost frame of it, where errors become answers."""
        started = time.perf_counter()
        path, _, query = request.raw_path.partition("?")
        call = Call(request, self._engine, Query(query), headers=self._headers, is_cgroup2=self._is_cgroup2)
        if request.method in ("POST", "DELETE"):  # nothing else ends a container
            transport = request.transport
            sock = transport.get_extra_info("socket") if transport is not None else None
            asker.set_client(sock, f"{request.method} {request.raw_path}")
        asked: Asked | None = None
        try:
            asked = await self._permitted(call)
            response = await self._serve(call, unquote(path))
        except CortenError as error:
            if call.is_started:
                raise ConnectionAbortedError(error.text) from error
            response = call.error(status_of(error), error.text)
        except ConnectionError:  # the client is gone: there is nobody to tell
            raise
        except Exception as error:  # outermost of a request: a defect is answered 500
            log.exception("%s %s failed", request.method, request.raw_path)
            if call.is_started:  # half an answer cannot be taken back: only a cut stream says that it failed
                raise ConnectionAbortedError(str(error)) from error
            response = call.error(500, f"internal error: {error}")
        if asked is not None:
            response = await self._judged(call, asked, response)
        if call.is_expecting:  # its body was never asked for, and may or may not come
            response.force_close()
        self._log(request.method, request.raw_path, response.status, started)
        return response

    async def _permitted(self, call: Call) -> Asked | None:
        """What the authorization plugins were asked about a request and have allowed; None without plugins."""
        if not self._authorization.is_on:
            return None
        request, body = call.request, b""
        if shows_body(unquote(request.raw_path.partition("?")[0]), request.headers.get("Content-Type", "")):
            try:
                body = await call.hold(MAX_BODY_BYTES)
            except OverflowError:
                raise Internal(
                    f"request body too large for authorization plugin: size exceeds {MAX_BODY_BYTES} bytes"
                ) from None
        peer = request.protocol.peer if isinstance(request.protocol, Handler) else None
        asked = Asked.of(request.method, request.raw_path, request.headers, body, peer)
        await self._authorization.request(asked)
        return asked

    async def _judged(self, call: Call, asked: Asked, response: web.StreamResponse) -> web.StreamResponse:
        """The answer, or a plugin's refusal of it; what is on its way already, or an error, stays."""
        body = response.body if isinstance(response, web.Response) else b""
        shown = bytes(body) if isinstance(body, bytes | bytearray) else b""
        asked.answer(response.status, response.headers.items(), response.headers.get("Content-Type", ""), shown)
        try:
            await self._authorization.response(asked)
        except CortenError as error:
            if not response.prepared and not call.is_started and response.status < 400:
                return call.error(status_of(error), error.text)
            log.warning("%s %s: too late: %s", call.request.method, call.request.raw_path, error.text)
        return response

    async def _serve(self, call: Call, path: str) -> web.StreamResponse:
        text, path = split_version(path)
        found = self._router.find(call.request.method, path)
        if found is None:
            return call.error(404, "page not found")
        call.version = negotiate(text, self._oldest)
        operation, call.args = found
        return await operation(call)

    @staticmethod
    def _log(method: str, target: str, status: int, started: float) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s: %d in %.1f ms", method, target, status, (time.perf_counter() - started) * 1e3)
