"""What the verbs leave when a step fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from corten.engine.container import Container, Roster
from corten.engine.lifecycle import Lifecycle
from corten.engine.record import Record
from corten.errors import NotFound
from corten.spec.docker_parse import parse_create

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


async def test_an_image_that_goes_while_a_bind_source_is_looked_at_makes_no_container() -> None:
    images = {"busybox"}

    def get(name: str, platform: object) -> object:
        if name not in images:
            raise NotFound(f"No such image: {name}")
        return SimpleNamespace(id="i")

    async def look(what: str, subject: str, work: Callable[[], bool]) -> bool:
        images.clear()  # rmi, beside a file system that takes its time
        return work()

    body = {"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/mnt"}]}}
    roster = Roster()
    unused: Any = None
    parts: Any = SimpleNamespace(
        roster=roster,
        images=SimpleNamespace(get=get),
        host_looks=SimpleNamespace(look=look),
        policies=SimpleNamespace(functions=()),
    )
    life = Lifecycle(parts, unused, unused, unused, unused)
    with pytest.raises(NotFound, match="No such image: busybox"):
        await life.create(parse_create(msgspec.json.encode(body)), "new", "")
    assert not roster.is_taken("new")
