"""Streamed answers: JSON lines, progress, raw bytes.  A slow client slows its producer down, nothing piles
up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from corten.docker.call import Call
from corten.docker.engine_api import Json
from corten.errors import CortenError

T = TypeVar("T")


async def begin(source: AsyncIterator[T]) -> asyncio.Task[T]:
    """Start to fetch the first value, so that what is wrong with the arguments is raised before the head is out.

    An iterator checks its arguments before it waits for anything: a few turns of the loop are enough to hear of it.
    """
    task = asyncio.ensure_future(_next(source))
    for _ in range(3):
        await asyncio.sleep(0)
        if task.done():
            break
    if task.done() and isinstance(task.exception(), CortenError):
        await task
    return task


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


async def chain(first: asyncio.Task[T], source: AsyncIterator[T]) -> AsyncIterator[T]:
    """The first value and all others; closes `source` when it is left."""
    try:
        try:
            yield await first
        except StopAsyncIteration:
            return
        async for value in source:
            yield value
    finally:
        first.cancel()
        await close(source)


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
    first = asyncio.ensure_future(_next(source))
    try:
        await asyncio.wait([first])
    except asyncio.CancelledError:
        first.cancel()
        raise
    if isinstance(first.exception(), CortenError) and not errors_in_stream:
        await first
    response = await call.stream()
    values = chain(first, source)
    try:
        async for value in values:
            await response.write(progress_line(value))
    except CortenError as error:
        await response.write(progress_line(progress_error(error.text)))
    finally:
        await close(values)
    return response
