"""Messages from a thread to a client."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from corten.engine.relay import Outbox, Tell, relayed
from corten.errors import Internal, NotFound
from corten.spec import progress


def _collect(work: Any, *, stop: Any = lambda: None) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        return [message async for message in relayed("test", work, stop=stop)]

    return asyncio.run(run())


def test_messages_arrive_in_the_order_in_which_they_were_told() -> None:
    messages = [progress.status(str(number)) for number in range(100)]

    def work(tell: Tell) -> None:
        for message in messages:
            tell(message)

    assert _collect(work) == messages


def test_error_of_the_work_comes_after_its_messages() -> None:
    def work(tell: Tell) -> None:
        tell(progress.status("first"))
        raise NotFound("no such thing")

    async def run() -> dict[str, Any]:
        source = relayed("test", work, stop=lambda: None)
        first = await anext(source)
        with pytest.raises(NotFound, match="no such thing"):
            await anext(source)
        return first

    assert asyncio.run(run()) == {"status": "first"}


def test_error_of_the_system_is_internal() -> None:
    def work(tell: Tell) -> None:
        raise OSError(28, "No space left on device", "file")

    with pytest.raises(Internal, match="file: No space left on device"):
        _collect(work)


def test_bars_that_wait_are_replaced_by_newer_ones_behind_what_was_said_since() -> None:
    async def run() -> list[dict[str, Any]]:
        outbox = Outbox(asyncio.get_running_loop())
        outbox.tell(progress.moved("Pushing", "a", current=1, total=1))
        outbox.tell(progress.status("Verifying", "a"))
        outbox.tell(progress.moved("Pushing", "a", current=2, total=2))
        outbox.close()
        return [message async for message in outbox]

    assert [message["status"] for message in asyncio.run(run())] == ["Verifying", "Pushing"]


def test_bars_that_follow_each_other_at_once_are_left_out_but_for_a_full_one() -> None:
    def work(tell: Tell) -> None:
        for number in range(1, 1001):
            tell(progress.moved("Pushing", "a", current=number, total=1000))

    got = _collect(work)
    assert len(got) < 10
    assert got[-1]["progressDetail"] == {"current": 1000, "total": 1000}


def test_client_that_goes_away_stops_the_work() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def work(tell: Tell) -> None:
        tell(progress.status("first"))
        stopped.wait(60)
        ended.set()

    async def run() -> None:
        source = relayed("test", work, stop=stopped.set)
        assert await anext(source) == {"status": "first"}
        await source.aclose()  # type: ignore[attr-defined]  # it is a generator
        await asyncio.to_thread(ended.wait, 10)

    asyncio.run(run())
    assert stopped.is_set()
    assert ended.is_set()
