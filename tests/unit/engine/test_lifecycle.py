"""What the verbs leave when a step fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine.container import Container, Roster
from corten.engine.lifecycle import Lifecycle
from corten.engine.record import Record
from corten.errors import NotFound

from .conftest import Decide


async def test_a_rename_that_comes_too_late_leaves_the_new_name_to_others(decide: Decide) -> None:
    roster = Roster()
    record = Record(id="a" * 64, name="old", image_id="i", image_ref="i", created_ns=1, effective=decide())
    container = Container(record, asyncio.get_running_loop())
    roster.reserve_name("old", container.id)
    roster.add(container)

    def save(*_: object) -> None:
        raise NotFound("No such container")  # removed while the rename waited for the lock

    unused: Any = None
    parts: Any = SimpleNamespace(roster=roster, save=save)
    life = Lifecycle(parts, unused, unused, unused, unused)
    with pytest.raises(NotFound):
        await life.rename("old", "new")
    assert not roster.is_taken("new")
    assert roster.is_taken("old")
