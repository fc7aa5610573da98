"""`docker import`."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from collections.abc import Callable
from itertools import chain

import pytest

from corten.core import archive, limits
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.importer import import_rootfs
from corten.core.limits import Limits
from corten.errors import InvalidArgument, Unavailable
from corten.spec.image import OCI_LAYER, OCI_LAYER_GZIP
from corten.spec.reference import parse
from support import tarballs as t

ROOTFS = t.archive(t.directory(b"bin"), t.entry(b"bin/sh", data=b"#!"))


def test_a_root_filesystem_that_cannot_be_named_is_no_image(store: ImageStore, bus: EventBus) -> None:
    with store.database.transaction() as tx:
        tx.execute("CREATE TRIGGER forbidden BEFORE INSERT ON tags BEGIN SELECT RAISE(ABORT, 'forbidden'); END")
    with pytest.raises(sqlite3.IntegrityError):
        import_rootfs([ROOTFS], store, reference=parse("new:1"))
    assert not store.list()
    with bus.subscribe(since_ns=0) as events:
        assert not events.drain()


@pytest.mark.parametrize("packed", [False, True])
def test_a_root_filesystem_becomes_an_image(store: ImageStore, bus: EventBus, packed: bool) -> None:
    data = gzip.compress(ROOTFS) if packed else ROOTFS
    image = import_rootfs([data], store, reference=parse("new:1"), message="made", changes=["CMD /bin/sh"])
    assert image.repo_tags == ["new:1"]
    assert (image.size, list(image.config.diff_ids)) == (2, [t.digest(ROOTFS)])
    assert image.config.run.cmd == ["/bin/sh", "-c", "/bin/sh"]
    assert (image.config.os, image.config.comment, image.config.history[0].comment) == ("linux", "made", "made")  # type: ignore[index]
    manifest = json.loads(store.content.read(image.manifest.digest))
    assert manifest["layers"][0]["mediaType"] == (OCI_LAYER_GZIP if packed else OCI_LAYER)
    assert os.listdir(store.overlay.fs_path(store.overlay.stat(image.chain).id)) == ["bin"]
    with bus.subscribe(since_ns=0) as events:
        assert [event.action for event in events.drain()] == ["tag", "import"]


def test_without_a_name_it_is_found_by_its_id(store: ImageStore) -> None:
    image = import_rootfs([ROOTFS], store)
    assert image.is_dangling
    assert image.config.comment == "Imported from -"
    assert (image.config.created or "").endswith("Z")
    assert store.get(image.id).id == image.id


@pytest.mark.parametrize("data", [b"garbage" * 1000, gzip.compress(ROOTFS)[:-4], ROOTFS[:1000]])
def test_what_is_no_archive_leaves_nothing(store: ImageStore, data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        import_rootfs([data], store)
    assert not [*store.list(), *store.content.blobs(), *store.overlay.all(), *store.leases.list()]


@pytest.mark.parametrize("take", [import_rootfs, archive.load])
def test_an_archive_does_not_fill_the_disk_for_everybody(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, take: Callable[..., object]
) -> None:
    monkeypatch.setattr(limits, "_SPACE_EVERY", 1 << 20)
    taken = []
    endless = (taken.append(number) or bytes(1 << 20) for number in range(64))  # type: ignore[func-returns-value]
    with pytest.raises(Unavailable, match="no space left for layers"):
        take(chain([t.header(b"large", size=1 << 26)], endless), store, limits=Limits(disk_reserve=1 << 60))
    assert len(taken) < 8
    assert not [*store.list(), *store.content.blobs(), *store.content.ingests(), *store.leases.list()]


def test_changes_are_looked_at_before_the_archive_is_read(store: ImageStore) -> None:
    with pytest.raises(InvalidArgument, match="not a valid change command"):
        import_rootfs(iter(()), store, changes=["RUN x"])
