"""`docker logs` beside everything else that one event loop does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corten.docker.engine_api import LogOptions
from corten.engine.container import Container
from corten.engine.logconfig import LogPlace
from corten.engine.logfiles import Reader
from corten.engine.logformats import JSON_LINES
from corten.engine.logs import LogStream
from corten.engine.record import Record, Status
from corten.shim.logfile import mend

from .conftest import Decide

LINE = b'{"log":"x\\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}\n'


async def test_a_long_log_that_no_filter_lets_through_holds_up_nobody(decide: Decide, tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(LINE * 100_000)  # 50 blocks
    record = Record(id="a" * 64, name="x", image_id="i", image_ref="i", created_ns=1, effective=decide())
    container = Container(record, asyncio.get_running_loop())
    options = LogOptions(stdout=True, since="1893456000")  # 2030
    stream = LogStream(lambda: container, lambda _: LogPlace(str(path), JSON_LINES, mend), options)
    await stream.open()
    turns, is_over = 0, False

    async def count() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    assert [piece async for piece in stream] == []
    is_over = True
    await counting
    assert turns > 40


async def test_a_container_that_ends_while_its_log_is_opened_ends_who_follows_it(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(LINE)
    record = Record(id="a" * 64, name="x", image_id="i", image_ref="i", created_ns=1, effective=decide())
    container = Container(record.with_state(status=Status.RUNNING), asyncio.get_running_loop())

    async def to_thread(work: Callable[..., Any], *args: Any, **more: Any) -> Any:
        done = work(*args, **more)
        if work is Reader:
            container.record = container.record.with_state(status=Status.EXITED)
            container.resolve_waiters("next-exit")
        return done

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    options = LogOptions(stdout=True, follow=True)
    stream = LogStream(lambda: container, lambda _: LogPlace(str(path), JSON_LINES, mend), options)
    await stream.open()
    async with asyncio.timeout(60):
        pieces = [piece async for piece in stream]
    assert b"".join(pieces).endswith(b"x\n")
