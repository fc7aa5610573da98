"""Attach and exec start: the requests after which a connection is a stream of the container.

The engine gets the connection as a `ClientStream`, writes its head when nothing can fail any more, and
hands the socket itself to the shim; from then on no byte passes through this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

from corten.docker.call import check_content_type
from corten.docker.engine_api import AttachOptions, Engine
from corten.docker.front import Front
from corten.docker.head import Head
from corten.docker.plain import error_response, plain_response, stdout_frame, stream_head
from corten.docker.query import Query
from corten.docker.status import status_of
from corten.docker.versions import MIN_VERSION, Version, negotiate, split_version
from corten.errors import CortenError
from corten.spec.docker import ExecStartConfig
from corten.spec.docker_parse import parse_body


class HijackedStream:
    """`engine_api.ClientStream` over a front."""

    __slots__ = ("_front", "_head", "is_detached", "is_head_written")

    def __init__(self, front: Front, head: bytes) -> None:
        self._front = front
        self._head = head
        self.is_head_written = False
        self.is_detached = False

    @property
    def initial(self) -> bytes:
        return self._front.initial

    def fileno(self) -> int:
        return self._front.client_fd()

    def write_head(self) -> None:
        if not self.is_head_written:
            self._front.write_now(self._head)
            self.is_head_written = True

    def detach_fd(self) -> int:
        descriptor = self._front.detach_fd()
        self.is_detached = True
        return descriptor

    def on_hangup(self, callback: Callable[[], None]) -> None:
        self._front.watch_hangup(callback)

    def close(self) -> None:
        if not self.is_detached:
            self._front.close()


class Hijacker:
    """Serves one hijacking request: parse, check, hand over, or answer as plain HTTP."""

    __slots__ = ("_engine", "_front", "_head", "_headers", "_oldest", "_path", "_query", "_version")

    def __init__(
        self, engine: Engine, front: Front, head: Head, headers: Mapping[str, str], oldest: Version = MIN_VERSION
    ) -> None:
        self._oldest = oldest
        self._engine = engine
        self._front = front
        self._head = head
        self._headers = headers
        path, _, query = head.target.partition("?")
        self._query = Query(query)
        self._version: Version = (0, 0)
        self._path = path

    async def serve(self, body: bytes, permit: Callable[[], Awaitable[None]]) -> None:
        """Ends with the connection handed over, answered or closed.  Raises nothing that is the client's doing.

        `permit` is awaited before anything is done; it raises CortenError for who is not to.
        """
        await self._front.flushed()
        try:
            await permit()
            text, path = split_version(unquote(self._path))
            self._version = negotiate(text, self._oldest)
            if path.startswith("/exec/"):
                await self._exec_start(path.removeprefix("/exec/").removesuffix("/start"), body)
            else:
                await self._attach(path.removeprefix("/containers/").removesuffix("/attach"))
        except CortenError as error:
            self._refuse(error)
        except OSError:  # the client went away between two steps
            self._front.close()

    async def _attach(self, ref: str) -> None:
        query = self._query
        options = AttachOptions(
            stdin=query.flag("stdin"),
            stdout=query.flag("stdout"),
            stderr=query.flag("stderr"),
            stream=query.flag("stream"),
            logs=query.flag("logs"),
            detach_keys=query.text("detachKeys"),
        )
        tty = await self._engine.attach_check(ref, options)
        stream = self._stream(tty, {})
        try:
            await self._engine.container_attach(ref, options, stream)
        except CortenError:
            if not stream.is_head_written:
                raise
            stream.close()

    async def _exec_start(self, exec_id: str, body: bytes) -> None:
        check_content_type(self._head.headers.get("content-type", ""), bool(body))
        config = parse_body(body, ExecStartConfig)[0] if body else ExecStartConfig()
        size = config.console_size if config.tty and self._version >= (1, 42) else None
        tty = await self._engine.exec_check(exec_id, config.tty)
        if config.detach:
            await self._engine.exec_start(exec_id, True, size, None)
            answer = plain_response(200, b"", self._headers, keep_alive=self._head.keep_alive)
            self._front.answer(answer, keep_alive=self._head.keep_alive)
            return
        stream = self._stream(tty, self._headers)
        stream.write_head()
        await self._front.read_by_client()
        try:
            await self._engine.exec_start(exec_id, False, size, stream)
        except CortenError as error:
            self._tell(stream, error, tty)

    def _stream(self, tty: bool, headers: Mapping[str, str]) -> HijackedStream:
        is_multiplexed = not tty and self._version >= (1, 42)
        return HijackedStream(self._front, stream_head(self._head.wants_upgrade, is_multiplexed, headers))

    def _tell(self, stream: HijackedStream, error: CortenError, tty: bool) -> None:
        """An exec that could not start says so on its stdout, as dockerd's do; its exit code is in inspect."""
        if stream.is_detached:
            return
        text = error.text + "\r\n"
        self._front.write_now(text.encode() if tty else stdout_frame(text))
        stream.close()

    def _refuse(self, error: CortenError) -> None:
        # What the client sent behind its request was meant as stdin: such a connection cannot go on as HTTP.
        keep_alive = self._head.keep_alive and not self._front.initial
        answer = error_response(status_of(error), error.text, self._headers, keep_alive=keep_alive)
        self._front.answer(answer, keep_alive=keep_alive)
