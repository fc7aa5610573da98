"""How scrapes are gathered: one at a time, shared, and without the containers that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine import metrics
from corten.engine.metrics import Metrics


class Parts:
    """Containers by name; each one's sample is made by its function."""

    def __init__(self, **samples: Callable[[], Any]) -> None:
        self.roster = [SimpleNamespace(name=name, is_running=True, make=make) for name, make in samples.items()]
        self.samples = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def sample(self, container: Any) -> Any:
        self.samples += 1
        await asyncio.sleep(0)
        await self.may_end.wait()
        return container.make()


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def container_rows(table: metrics.Table, container: Any, sample: Any) -> None:
        table.add("gauge", "seen", sample["value"], {"name": container.name}, help="")

    monkeypatch.setattr(metrics, "container_rows", container_rows)
    monkeypatch.setattr(metrics, "engine_rows", lambda table, parts: None)


def made(parts: Any) -> Metrics:
    return Metrics(parts, parts.sample)


def good() -> Any:
    return {"cpu_stats": {"system_cpu_usage": 1}, "value": 7}


def test_a_container_that_cannot_be_read_never_breaks_the_scrape() -> None:
    def bad() -> Any:
        raise UnicodeDecodeError("ascii", b"\xff", 0, 1, "no")

    parts = Parts(bad=bad, odd=lambda: {"cpu_stats": {"system_cpu_usage": 1}}, empty=dict, good=good)
    text = asyncio.run(made(parts).text(is_open=False)).decode()
    assert 'seen{name="good"} 7' in text
    assert "corten_scrape_failed_containers 3" in text


def test_a_client_that_hangs_up_does_not_have_the_next_one_gather_again() -> None:
    parts = Parts(good=good)

    async def play() -> bytes:
        scrapes = made(parts)
        parts.may_end.clear()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(scrapes.text(is_open=False), 0.001)
        parts.may_end.set()
        return await scrapes.text(is_open=False)

    assert b'seen{name="good"} 7' in asyncio.run(play())
    assert parts.samples == 1


def test_clients_at_once_share_one_scrape() -> None:
    parts = Parts(good=good)

    async def play() -> list[bytes]:
        scrapes = made(parts)
        return await asyncio.gather(*(scrapes.text(is_open=True) for _ in range(10)))

    assert len({id(text) for text in asyncio.run(play())}) == 1
    assert parts.samples == 1
