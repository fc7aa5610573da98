"""Bytes that a client sends and a thread uses: the body of a request as a blocking iterator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Final, TypeVar

from corten.engine.threads import disk_error, in_own_thread

T = TypeVar("T")

_CHUNK_BYTES: Final = 1 << 20


async def in_thread_with(body: AsyncIterator[bytes], work: Callable[[Iterator[bytes]], T]) -> T:
    """Run `work` in a thread over the chunks of a request's body.  Its errors are raised, the disk's as Internal.

    The thread is its own: a client that sends slowly, or stops, holds up nobody else.
    """
    loop = asyncio.get_running_loop()
    source = Chunks(body, loop)
    try:
        return await in_own_thread("archive", lambda: work(iter(source)))
    except ConnectionError:  # the client's
        raise
    except OSError as error:
        raise disk_error(error) from error
    finally:
        source.close()


class Chunks:
    """The body as a blocking iterator for one thread: pieces of at least a MiB, so that hops are few."""

    def __init__(self, body: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._body = body
        self._loop = loop
        self._closed = False
        self._pending: Future[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Raises ConnectionAbortedError once it was closed: half an archive must not look like a whole one."""
        while True:
            chunk = b"" if self._closed else self._fetched()
            if self._closed:
                raise ConnectionAbortedError("the client went away")
            if not chunk:
                return
            yield chunk

    def _fetched(self) -> bytes:
        self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        if self._closed:
            self._pending.cancel()
        try:
            return self._pending.result()
        except CancelledError:
            return b""

    async def _next(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for piece in self._body:
            parts.append(piece)
            size += len(piece)
            if size >= _CHUNK_BYTES:
                break
        return b"".join(parts)

    def close(self) -> None:
        """Nothing more is to be read: the thread that waits for a chunk, or asks for the next, hears of it."""
        self._closed = True
        if self._pending is not None:
            self._pending.cancel()
