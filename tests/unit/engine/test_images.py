"""What happens in threads: archives from a request's body, and what may wait for the disk."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from corten.core.images import ImageStore
from corten.engine.images import Images
from corten.engine.inflow import in_thread_with
from corten.engine.parts import Parts
from corten.errors import Internal, InvalidArgument
from corten.spec.image import platform_text
from support import tarballs as t


async def pieces() -> AsyncIterator[bytes]:
    yield b"archive"


async def test_half_a_body_is_no_whole_one_when_the_client_goes() -> None:
    reading = asyncio.Event()
    seen: list[object] = []

    async def body() -> AsyncIterator[bytes]:
        yield bytes(1 << 20)
        reading.set()
        await asyncio.sleep(0.05)

    def work(chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                seen.append(len(chunk))
            seen.append("whole")
        except ConnectionError:
            seen.append("cut")

    task = asyncio.ensure_future(in_thread_with(body(), work))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while len(seen) < 2:
        await asyncio.sleep(0.01)
    assert seen == [1 << 20, "cut"]


async def test_a_full_disk_is_told_in_a_sentence() -> None:
    def work(chunks: Iterator[bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ingest/1")

    with pytest.raises(Internal, match=r"ingest/1: No space left on device"):
        await in_thread_with(pieces(), work)


async def test_a_client_that_has_gone_stays_the_doors_business() -> None:
    def work(chunks: Iterator[bytes]) -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await in_thread_with(pieces(), work)


class Waiting:
    """A store of images whose every call waits, as behind a lock, until it is told to go on."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.targets = SimpleNamespace(left=set())

    def __getattr__(self, name: str) -> Callable[..., None]:
        def wait(*_: object) -> None:
            assert self.told.wait(60)

        return wait


async def test_a_tag_that_waits_for_the_disk_holds_up_neither_the_loop_nor_the_pool() -> None:
    store = Waiting()
    images = Images(SimpleNamespace(images=store))  # type: ignore[arg-type]  # all that `tag` asks for
    tags = [asyncio.ensure_future(images.tag("busybox", "other", str(number))) for number in range(40)]
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "served"), 60) == "served"
    store.told.set()
    await asyncio.gather(*tags)


@pytest.mark.parametrize(("given", "made"), [("arm64", "linux/arm64"), ("linux/AMD64", "linux/amd64")])
async def test_an_imports_platform_is_read_as_everywhere(store: ImageStore, given: str, made: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield t.archive(t.entry(b"f"))

    engine = Images(cast(Parts, SimpleNamespace(images=store)))
    (line,) = [line async for line in engine.import_rootfs(body(), "new", "", "", (), given)]
    assert platform_text(store.get(line["status"]).platform) == made
    with pytest.raises(InvalidArgument, match="invalid component"):
        _ = [line async for line in engine.import_rootfs(body(), "new", "", "", (), "linux/a b")]
