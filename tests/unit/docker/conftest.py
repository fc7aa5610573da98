"""A door with a fake engine for each test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator

import pytest

from unit.docker.raw_client import Client, Harness


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    """Closed, with its connections and containers, after the test."""
    with tempfile.TemporaryDirectory(prefix="corten-door-") as folder:
        harness = Harness(f"{folder}/s")
        await harness.start()
        yield harness
        await harness.close()


@pytest.fixture
async def client(harness: Harness) -> Client:
    """A connection to the door."""
    return await harness.connect()
