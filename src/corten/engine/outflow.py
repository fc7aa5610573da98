"""Bytes that a thread makes and a client fetches: a bounded queue between the two.

A client that reads slowly slows the thread down; one that goes away ends it at its next piece, and what the thread
holds (leases, descriptors) is given back there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from corten.engine.threads import disk_error, in_own_thread

_PIECE_BYTES: Final = 1 << 20
_WAITING: Final = 4


class _Gone(Exception):
    """Nobody fetches any more."""


async def from_thread(
    name: str, opened: Callable[[], AbstractContextManager[Iterable[bytes]]]
) -> AsyncGenerator[bytes, None]:
    """The chunks of what `opened()` gives inside its `with`, made in a thread of their own, in pieces of about a MiB.

    Who stops before the end closes it (`contextlib.aclosing`), and waits so until the thread uses nothing any more.
    What `opened` or the chunks raise is raised here, errors of the disk as Internal.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
    gone = False

    def produce() -> None:
        with opened() as chunks:
            for piece in _joined(chunks):
                if gone:
                    raise _Gone
                asyncio.run_coroutine_threadsafe(pieces.put(piece), loop).result()

    async def run() -> None:
        try:
            with contextlib.suppress(_Gone):
                await in_own_thread(name, produce)
        finally:
            if not gone:
                await pieces.put(None)

    producer = asyncio.ensure_future(run())
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        await producer
    except OSError as error:
        raise disk_error(error) from error
    finally:
        gone = True
        while not producer.done():  # the thread may wait for room
            while not pieces.empty():
                pieces.get_nowait()
            await asyncio.wait([producer], timeout=0.05)
        if not producer.cancelled():
            producer.exception()


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Small chunks put together, so that hops between threads are few."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= _PIECE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
