"""Bytes from a thread: bounded, in order, and given up when nobody fetches them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from corten.engine.outflow import from_thread
from corten.errors import Internal, NotFound

MIB = 1 << 20


def opened(made: list[str], chunks: Callable[[], Iterator[bytes]]) -> Callable[[], object]:
    @contextmanager
    def run() -> Iterator[Iterator[bytes]]:
        made.append("open")
        try:
            yield chunks()
        finally:
            made.append("closed")

    return run


async def collected(chunks: Callable[[], Iterator[bytes]]) -> tuple[list[bytes], list[str]]:
    made: list[str] = []
    found = [piece async for piece in from_thread("test", opened(made, chunks))]  # type: ignore[arg-type]
    return found, made


async def test_small_chunks_come_together_and_large_ones_as_they_are() -> None:
    found, made = await collected(lambda: iter([b"a"] * 1000))
    assert (found, made) == ([b"a" * 1000], ["open", "closed"])
    found, _ = await collected(lambda: iter([bytes(MIB), b"b", bytes(2 * MIB)]))
    assert [len(piece) for piece in found] == [MIB, 2 * MIB + 1]
    assert (await collected(lambda: iter(())))[0] == []


async def test_errors_come_where_the_chunks_would() -> None:
    def broken(error: Exception) -> Iterator[bytes]:
        yield bytes(MIB)
        raise error

    for error, kind in ((NotFound("gone"), NotFound), (OSError(5, "Input/output error", "blob"), Internal)):
        source = from_thread("test", opened([], lambda error=error: broken(error)))  # type: ignore[arg-type,misc]
        assert len(await anext(source)) == MIB
        with pytest.raises(kind, match=r"gone|blob: Input/output error"):
            await anext(source)


@pytest.mark.parametrize("fetched", [0, 1, 3])
async def test_a_client_that_goes_away_ends_the_thread(fetched: int) -> None:
    made: list[str] = []
    count = [0]

    def endless() -> Iterator[bytes]:
        while True:
            count[0] += 1
            yield bytes(MIB)

    source = from_thread("test", opened(made, endless))  # type: ignore[arg-type]
    task = asyncio.ensure_future(anext(source))
    with contextlib.suppress(StopAsyncIteration):
        await task
    for _ in range(fetched):
        await anext(source)
    await source.aclose()
    assert made == ["open", "closed"]
    assert count[0] <= fetched + 8, "the thread ran ahead without bound"
