"""Verbs that outlive their clients, and the end of the engine."""

from __future__ import annotations

import asyncio

import pytest

from corten.engine import lasting
from corten.engine.lasting import Lasting


async def test_a_verb_goes_on_without_its_client() -> None:
    done = asyncio.Event()

    async def stop() -> None:
        await asyncio.sleep(0.01)
        done.set()

    client = asyncio.create_task(Lasting().verb(stop)())
    await asyncio.sleep(0)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    await asyncio.wait_for(done.wait(), 60)


async def test_the_end_waits_neither_for_a_start_nor_for_its_undoing_when_a_shim_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lasting, "_END_S", 0.01)
    monkeypatch.setattr(lasting, "_UNDO_S", 0.01)
    steps, hung = [], asyncio.Event()

    async def start() -> None:
        try:
            await hung.wait()
        finally:
            steps.append("shutdown")
            try:
                await hung.wait()
            finally:
                steps.append("network")

    verbs = Lasting()
    client = asyncio.create_task(verbs.verb(start)())
    await asyncio.sleep(0)
    await asyncio.wait_for(verbs.close(), 60)
    assert steps == ["shutdown", "network"]
    with pytest.raises(asyncio.CancelledError):
        await client
