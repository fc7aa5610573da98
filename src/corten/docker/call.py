"""One ordinary request as the operations see it, and the kinds of answers they give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from corten.docker.engine_api import Engine
from corten.docker.query import Query
from corten.docker.status import error_body
from corten.docker.versions import MAX_VERSION, Version
from corten.errors import InvalidArgument
from corten.spec.docker_parse import parse_body

MAX_JSON_BYTES = 16 << 20

T = TypeVar("T", bound=msgspec.Struct)


class Call:
    """A request on its way to its operation; `version` and `args`, the variable parts of the path, are found first."""

    __slots__ = (
        "_held",
        "_is_invited",
        "args",
        "engine",
        "headers",
        "is_cgroup2",
        "is_started",
        "query",
        "request",
        "version",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        engine: Engine,
        query: Query,
        *,
        headers: Mapping[str, str],
        is_cgroup2: bool,
    ) -> None:
        self.request = request
        self.engine = engine
        self.query = query
        self.version: Version = MAX_VERSION
        self.args: tuple[str, ...] = ()
        self.headers = headers
        self.is_cgroup2 = is_cgroup2
        self.is_started = False  # the head of a stream is out
        self._is_invited = False
        self._held = b""  # of the body, read ahead

    # the body

    async def hold(self, limit: int) -> bytes:
        """The whole body, read ahead of the operation, which gets it all the same.  Raises OverflowError."""
        held = bytearray()
        async for piece in self.body():
            held += piece
            if len(held) > limit:
                raise OverflowError
        self._held = bytes(held)
        return self._held

    async def body(self) -> AsyncIterator[bytes]:
        """The body piece by piece; asks for it first when the client waits to be asked (Expect)."""
        self.invite()
        if self._held:
            yield self._held
        async for piece in self.request.content.iter_any():
            yield piece

    def invite(self) -> None:
        """Send `100 Continue` if the client waits for it (RFC 9110 §10.1.1)."""
        transport = self.request.transport
        if self.is_expecting and transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._is_invited = True

    @property
    def is_expecting(self) -> bool:
        """Whether the client still waits for `100 Continue`."""
        return not self._is_invited and self.request.headers.get("Expect", "").lower() == "100-continue"

    async def json_bytes(self) -> bytes:
        """The whole body of a JSON request, checked as dockerd checks it.  Raises InvalidArgument."""
        length = self.request.content_length
        if length is not None and length > MAX_JSON_BYTES:
            raise InvalidArgument("request body too large")
        check_content_type(self.request.headers.get("Content-Type", ""), self.request.can_read_body)
        collected = bytearray()
        async for piece in self.body():
            collected += piece
            if len(collected) > MAX_JSON_BYTES:
                raise InvalidArgument("request body too large")
        return bytes(collected)

    async def json(self, cls: type[T]) -> T:
        """The JSON body as a value, all zero when there is none.  Raises InvalidArgument naming the field."""
        data = await self.json_bytes()
        return parse_body(data, cls)[0] if data else cls()

    # answers

    def answer(self, value: Any, status: int = 200) -> web.Response:
        """A JSON answer."""
        body = msgspec.json.encode(value) + b"\n"
        return web.Response(status=status, body=body, headers=self.headers, content_type="application/json")

    def empty(self, status: int = 204) -> web.Response:
        """An answer without a body."""
        return web.Response(status=status, headers=self.headers)

    def error(self, status: int, text: str) -> web.Response:
        """`{"message": text}`; 304 has no body."""
        if status == 304:
            return self.empty(304)
        body = error_body(text)
        return web.Response(status=status, body=body, headers=self.headers, content_type="application/json")

    async def stream(
        self, content_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """A streamed answer whose head is sent at once."""
        response = web.StreamResponse(headers={**self.headers, **(headers or {}), "Content-Type": content_type})
        if self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        self.is_started = True
        await response.prepare(self.request)
        return response


def check_content_type(text: str, has_body: bool) -> None:
    """Refuse a body that does not say it is JSON, in dockerd's words.  Raises InvalidArgument."""
    if not text and not has_body:
        return
    media_type = text.partition(";")[0].strip().lower()
    if not media_type:
        raise InvalidArgument(f"malformed Content-Type header ({text}): mime: no media type")
    if media_type != "application/json":
        raise InvalidArgument(f"unsupported Content-Type header ({text}): must be 'application/json'")
