"""Archives that the engine fetches itself, from a server in this process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corten.core import dataroot
from corten.core.content import ContentStore
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.engine.parts import Parts
from corten.engine.webimport import WebImport
from corten.errors import Internal
from corten.registry.transport import Transport
from support import registryserver
from support import tarballs as t
from support.registryserver import Handler, Seen

ARCHIVE = t.archive(t.entry(b"file", data=b"content"))
_BASIC = "Basic bWU6aHVzaA=="  # me:hush


def only_me(handler: Handler, seen: Seen) -> bool:
    is_me = seen.headers.get("authorization") == _BASIC and seen.path == "/rootfs.tar"
    return handler.answer(200, ARCHIVE) if is_me else handler.answer(404, b"not here")


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    root = dataroot.open_data_root(str(tmp_path / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    return ImageStore(database, ContentStore(root.join("content")), overlay, EventBus().publish)


async def imported(images: ImageStore, url: str) -> list[str]:
    """What is told, without bars."""
    transport = Transport()
    parts = cast(Parts, SimpleNamespace(images=images, registries=SimpleNamespace(transport=transport)))
    told: list[dict[str, Any]] = [one async for one in WebImport(parts).import_url(url, "", "", "", (), "")]
    transport.close()
    return [one["status"] for one in told if not one.get("progress")]


async def test_who_fetches_is_proved_and_stands_in_no_image(images: ImageStore) -> None:
    with registryserver.serving() as server:
        server.state.rules.append(only_me)
        place = f"127.0.0.1:{server.port}"
        told = await imported(images, f"http://me:hush@{place}/rootfs.tar")
        with pytest.raises(Internal) as refused:
            await imported(images, f"http://me:hush@{place}/other.tar")
    image = images.get(told[-1])
    assert told[0] == f"Downloading from http://xxxxx:xxxxx@{place}/rootfs.tar"
    assert image.config.comment == f"Imported from http://xxxxx:xxxxx@{place}/rootfs.tar"
    assert b"hush" not in images.content.read(image.id)
    assert refused.value.text == f"failed to GET http://xxxxx:xxxxx@{place}/other.tar with status 404: not here"
