"""The watch over shims: what it costs does not grow with the containers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine.shimwatch import PERIOD_S, ShimWatch

HOUR_S = 3600.0


class Over(Exception):
    """The time of the test."""


def pings_in_an_hour(count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which containers are asked, in turn."""
    asked: list[int] = []
    clock = [0.0]

    async def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] >= HOUR_S:
            raise Over

    def container(number: int) -> Any:
        async def ping() -> None:
            asked.append(number)

        shim = SimpleNamespace(ping=ping, is_open=True)
        return SimpleNamespace(is_running=True, task=SimpleNamespace(shim=shim), is_unresponsive=False)

    parts: Any = SimpleNamespace(roster=[container(number) for number in range(count)])
    monkeypatch.setattr("corten.engine.shimwatch.asyncio.sleep", sleep)
    with pytest.raises(Over):
        asyncio.run(ShimWatch(parts).run())
    return asked


def test_few_shims_are_asked_once_in_a_period_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pings_in_an_hour(10, monkeypatch)
    assert len(asked) == pytest.approx(10 * HOUR_S / PERIOD_S, abs=10)


def test_many_are_asked_no_more_often_in_sum_and_each_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    some, many = (pings_in_an_hour(count, monkeypatch) for count in (100, 1000))
    assert len(some) == len(many)
    assert many[:1000] == list(range(1000))
