"""Streamed answers: JSON lines, progress, raw bytes.  A slow client slows its producer down, nothing piles
up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from corten.docker.call import Call
from corten.docker.engine_api import Json
from corten.errors import CortenError

T = TypeVar("T")


class Begun(Generic[T]):
    """An iterator whose first value is on its way.  A context manager: however it is left, the iterator is closed."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._first = asyncio.ensure_future(_next(source))

    async def __aenter__(self) -> Begun[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._first.cancel()
        await asyncio.wait([self._first])
        await close(self._source)

    async def checked(self) -> None:
        """Raises what is wrong with the arguments, before a head is out.

        An iterator checks its arguments before it waits for anything: a few turns of the loop are enough to hear of it.
        """
        for _ in range(3):
            await asyncio.sleep(0)
            if self._first.done():
                break
        if self.has_failed:
            await self._first

    async def settled(self) -> None:
        """Waits for the first value, or what came instead of one."""
        await asyncio.wait([self._first])

    @property
    def has_failed(self) -> bool:
        """Whether an error came instead of the first value."""
        return self._first.done() and isinstance(self._first.exception(), CortenError)

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            yield await self._first
        except StopAsyncIteration:
            return
        async for value in self._source:
            yield value


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


async def close(source: object) -> None:
    """Close an iterator that can be closed."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()


def json_line(value: Any) -> bytes:
    """One line of a stream, as Go's encoder ends it."""
    return msgspec.json.encode(value) + b"\n"


def progress_line(value: Any) -> bytes:
    """One message of a progress stream: Docker ends these with CR LF."""
    return msgspec.json.encode(value) + b"\r\n"


def progress_error(text: str) -> Json:
    """A failure inside a progress stream, whose 200 is already out."""
    return {"errorDetail": {"message": text}, "error": text}


async def progress(call: Call, source: AsyncIterator[Json], *, errors_in_stream: bool = False) -> web.StreamResponse:
    """A progress stream, whose head goes out with the first message.

    An error before that is an ordinary answer (in the stream all the same with `errors_in_stream`, which is how
    dockerd answers a load), a later one is the stream's last message.
    """
    async with Begun(source) as values:
        await values.settled()
        if not errors_in_stream:
            await values.checked()
        response = await call.stream()
        try:
            async for value in values:
                await response.write(progress_line(value))
        except CortenError as error:
            await response.write(progress_line(progress_error(error.text)))
    return response
