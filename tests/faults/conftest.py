"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import images
from support.engine import CortenEngine
from support.faultlife import Life
from support.warmup import warm_up


@pytest.fixture(scope="module")
def warm_engine() -> Iterator[CortenEngine]:
    """An engine that had a container of each kind: what it makes once and keeps is there."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        yield engine


@pytest.fixture(scope="module")
def lived_engine() -> Iterator[CortenEngine]:
    """An engine of the module's own that has seen a whole life; its database is far from its first checkpoint."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        life = Life(engine)
        life.run()
        assert not life.failure, life.failure
        yield engine
