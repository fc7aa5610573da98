"""Calls in threads of their own."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from corten.engine.threads import in_own_thread


async def test_it_gives_what_the_call_returns_or_raises() -> None:
    assert await in_own_thread("x", lambda: threading.current_thread().name) == "x"
    with pytest.raises(ZeroDivisionError):
        await in_own_thread("x", lambda: 1 // 0)


async def test_it_waits_for_no_worker_of_the_pool() -> None:
    go_on = threading.Event()
    busy = [asyncio.ensure_future(asyncio.to_thread(go_on.wait)) for _ in range(64)]
    try:
        assert await asyncio.wait_for(in_own_thread("x", lambda: 7), 30) == 7
    finally:
        go_on.set()
        await asyncio.gather(*busy)


async def test_what_comes_late_is_given_back() -> None:
    go_on = threading.Event()
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def work() -> int:
        go_on.wait()
        return 7

    calling = asyncio.ensure_future(in_own_thread("x", work, late=given.set_result))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go_on.set()
    assert await asyncio.wait_for(given, 30) == 7


async def test_no_thread_to_be_had_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(BlockingIOError, match="no thread for x: can't start new thread"):
        await in_own_thread("x", os.getpid)
