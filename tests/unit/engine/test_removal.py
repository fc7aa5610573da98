"""The disk's part of a removal, while the disk is full."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corten.core.containers import ContainerStore
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import CONTAINER_DIR, Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.engine.container import Container, Roster
from corten.engine.parts import row
from corten.engine.record import Record, State, Status
from corten.engine.removal import Removal
from corten.engine.retry import Retries
from corten.engine.views import Views
from corten.errors import Unavailable

from .conftest import ID, Decide


class FullDisk(Overlay):
    """Twice there is no room for a removal."""

    refusals = 2

    def remove(self, key: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("corten.db: database or disk is full")
        super().remove(key)


class Parts:
    """Those that a removal needs."""

    def __init__(self, root: Path) -> None:
        self.database = Database(str(root / "corten.db"))
        self.journal = Journal(self.database)
        self.snapshots = FullDisk(str(root / "snapshots"), self.database, self.journal)
        self.images = ImageStore(self.database, ContentStore(str(root / "content")), self.snapshots)
        self.containers = ContainerStore(self.database)
        self.roster = Roster()
        self.directory = root / "container"
        self.retries = Retries(self.database.probe, first_delay_s=0.05)
        self.views = Views(self)  # type: ignore[arg-type]

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def paths(self, container_id: str) -> Any:
        return SimpleNamespace(directory=str(self.directory))

    def run_later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(work)

    def publish_after_waiters(self, event: object) -> None:
        pass

    def sync(self) -> None:
        pass

    @property
    def left(self) -> list[str]:
        """What is on the disk, and what the journal knows of it."""
        names = [one.key for one in self.snapshots.all()] + [entry.name for entry in self.journal.entries()]
        return [*names, *self.snapshots.directories(), *(["directory"] if self.directory.exists() else [])]

    async def settled(self) -> None:
        async with asyncio.timeout(60):
            while self.left:
                await asyncio.sleep(0.01)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    made.directory.mkdir()
    made.snapshots.prepare(ID)
    yield made
    made.database.close()


async def test_a_removed_container_is_gone_and_its_layer_goes_when_there_is_room(parts: Parts, decide: Decide) -> None:
    state = State(status=Status.EXITED)
    record = Record(id=ID, name="n", image_id="i", image_ref="r", created_ns=1, effective=decide(), state=state)
    parts.containers.create(row(record), durable=False)
    parts.roster.add(Container(record, parts.loop))
    streams = SimpleNamespace(drop=lambda container: None)
    await Removal(parts, streams).remove(ID, force=False, volumes=False, link=False)  # type: ignore[arg-type]
    assert ID not in parts.roster
    assert parts.left
    await parts.settled()
    assert parts.snapshots.refusals == 0


async def test_a_transient_container_that_is_being_restarted_goes_when_somebody_removes_it(
    parts: Parts, decide: Decide
) -> None:
    effective, state = decide(HostConfig={"AutoRemove": True}), State(status=Status.EXITED)
    record = Record(id=ID, name="n", image_id="i", image_ref="r", created_ns=1, effective=effective, state=state)
    parts.containers.create(row(record), durable=False)
    container = Container(record, parts.loop)
    parts.roster.add(container)
    container.keepers = 1
    removal = Removal(parts, SimpleNamespace(drop=lambda container: None))  # type: ignore[arg-type]
    removal.remove_soon(container)
    assert ID in parts.roster
    await removal.remove(ID, force=False, volumes=False, link=False)
    assert ID not in parts.roster
    await parts.settled()


async def test_a_container_that_could_not_be_made_leaves_nothing_when_there_is_room(parts: Parts) -> None:
    parts.journal.begin(CONTAINER_DIR, str(parts.directory))
    Removal(parts, SimpleNamespace()).discard_unmade(ID, "i")  # type: ignore[arg-type]
    assert parts.left
    await parts.settled()
