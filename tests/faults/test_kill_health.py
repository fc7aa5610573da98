"""cortend killed again and again while health checks run, some at every moment of a probe: nothing is lost or left."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import images
from support.engine import CortenEngine
from support.process import wait_for as until

IMAGE = images.BUSYBOX_REF
NAMES = ("one", "two", "three")
_ROUNDS = 25


@pytest.fixture
def checked() -> Iterator[CortenEngine]:
    """An engine whose containers are probed all the time, each by a probe that takes another time."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for name, pause in zip(NAMES, ("0", "0.05", "0.2"), strict=True):
            options = ("--health-cmd", f"sleep {pause}; echo {name}", "--health-interval", "50ms")
            engine.docker("run", "-d", "--name", name, *options, IMAGE, "sleep", "1000", check=True)
        yield engine


def inspect(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return found


def is_well(engine: CortenEngine, name: str) -> bool:
    """Healthy, by its own words, with one probe under way at most."""
    found = inspect(engine, name)
    health = found["State"]["Health"]
    outputs = {entry["Output"] for entry in health["Log"]}
    return health["Status"] == "healthy" and outputs == {f"{name}\n"} and len(found["ExecIDs"] or ()) <= 1


@pytest.mark.slow
def test_cortend_killed_while_probes_run_finds_their_results(checked: CortenEngine) -> None:
    chance = random.Random(5)
    for _ in range(_ROUNDS):
        time.sleep(chance.random() * 0.4)
        checked.kill9()
        time.sleep(chance.random() * 0.4)
        checked.start()
        for name in NAMES:
            until(lambda: is_well(checked, name), f"{name} is well: {inspect(checked, name)}")  # noqa: B023  # at once
    checked.docker("rm", "-f", *NAMES, check=True)
    until(lambda: not list((checked.exec_root / "tasks" / "moby").glob("*")), "tasks are gone")
