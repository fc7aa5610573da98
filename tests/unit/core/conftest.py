"""A store of images in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core import dataroot
from corten.core.content import ContentStore
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    root = dataroot.open_data_root(str(tmp_path / "data"))
    opened = Database(root.join("corten.db"))
    yield opened
    opened.close()
    root.close()


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database)


@pytest.fixture
def overlay(tmp_path: Path, database: Database, journal: Journal) -> Overlay:
    return Overlay(str(tmp_path / "data/snapshots"), database, journal)


@pytest.fixture
def store(tmp_path: Path, database: Database, overlay: Overlay, bus: EventBus) -> ImageStore:
    return ImageStore(database, ContentStore(str(tmp_path / "data/content")), overlay, bus.publish)
