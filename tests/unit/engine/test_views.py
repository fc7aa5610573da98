"""Trees of a container's files that are being made: who waits for them, and what becomes of those that nobody wants."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine.views import Views
from corten.errors import Internal

CONTAINER: Any = SimpleNamespace(id="c")


def trees() -> Views:
    parts: Any = SimpleNamespace(loop=asyncio.get_running_loop())
    return Views(parts)


class Work:
    """Makes the descriptor of a tree when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.begun = threading.Event()
        self.ends: list[str] = []

    def __call__(self) -> int:
        self.begun.set()
        assert self.let.wait(60)
        return os.open("/", os.O_PATH)

    def at_end(self) -> None:
        self.ends.append("end")


async def abandoned(views: Views, work: Work) -> None:
    """Somebody asks for a tree and goes away while it is made."""
    asked = asyncio.create_task(views._made(CONTAINER, work, work.at_end))
    while not work.begun.is_set():
        await asyncio.sleep(0.01)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked


async def test_a_start_waits_for_a_tree_that_is_being_made_though_nobody_wants_it_any_more() -> None:
    views, work, before = trees(), Work(), len(os.listdir("/proc/self/fd"))
    await abandoned(views, work)
    leaving = asyncio.create_task(views.leave("c", "a start"))
    await asyncio.sleep(0.1)
    assert not leaving.done()
    assert not work.ends
    work.let.set()
    await leaving
    assert work.ends == ["end"]
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


async def test_a_tree_that_cannot_be_made_ends_at_once_and_says_what_it_was() -> None:
    views, work = trees(), Work()

    def failing() -> int:
        raise FileNotFoundError(2, "No such file or directory", "/source")

    with pytest.raises(Internal, match=r"^/source: No such file or directory$"):
        await views._made(CONTAINER, failing, work.at_end)
    assert work.ends == ["end"]
    await views.leave("c", "a start", patience_s=0)


async def test_a_tree_lasts_until_its_last_user_is_gone() -> None:
    views, work = trees(), Work()
    work.let.set()
    view = await views._made(CONTAINER, work, work.at_end)
    assert view.hold()
    view.release()
    await asyncio.sleep(0)
    assert not work.ends
    view.release()
    await views.leave("c", "a start")
    assert work.ends == ["end"]
    assert not view.hold()
