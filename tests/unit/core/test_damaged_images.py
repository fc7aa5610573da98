"""A disk damaged a configuration or a manifest: the other images go on, and there is a way out."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from corten.core import archive, gc
from corten.core.images import Image, ImageStore
from corten.core.rmi import What, remove_image
from corten.errors import Internal
from support import tarballs as t

ONE, TWO, THREE = (t.archive(t.directory(b"d"), t.entry(b"d/%d" % n, data=b"x" * n)) for n in (1, 2, 3))

Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "flipped": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


def load(store: ImageStore, name: str, *layers: bytes) -> Image:
    config = t.image_config(layers, author=name)
    archive.load(t.chunked(t.docker_archive(layers, (name,), config=config), 10_000), store)
    return store.get(name)


def blob(store: ImageStore, digest: str) -> Path:
    return Path(store.content.root) / "blobs" / digest.replace(":", "/")


@pytest.fixture(params=list(DAMAGES.values()), ids=list(DAMAGES))
def damage(request: pytest.FixtureRequest) -> Damage:
    found: Damage = request.param
    return found


@pytest.fixture
def later(store: ImageStore) -> Callable[[], ImageStore]:
    """The store of the next cortend, which remembers nothing."""
    return lambda: ImageStore(store.database, store.content, store.overlay)


def test_the_others_are_listed_and_the_log_names_it_once(
    store: ImageStore, later: Callable[[], ImageStore], damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = load(store, "bad:1", ONE), load(store, "good:1", TWO)
    damage(blob(store, bad.id))
    store = later()
    with caplog.at_level(logging.ERROR):
        assert [[image.id for image in store.list()] for _ in range(3)] == [[good.id]] * 3
    (line,) = caplog.messages
    assert line.startswith(f"image bad:1 ({bad.id[7:19]}) cannot be read: content {bad.id}: ")
    assert line.endswith(": load it again, or remove it")
    with pytest.raises(Internal, match=r"^image bad:1 \(.{12}\) cannot be read: .*: load it again, or remove it$"):
        store.get("bad:1")


def test_a_load_makes_it_whole_again(store: ImageStore, later: Callable[[], ImageStore], damage: Damage) -> None:
    bad = load(store, "bad:1", ONE)
    damage(blob(store, bad.id))
    store = later()
    load(store, "bad:1", ONE)
    assert later().get("bad:1") == bad


@pytest.mark.parametrize("document", ["id", "manifest"])
def test_its_removal_works_and_takes_its_layers(
    store: ImageStore, later: Callable[[], ImageStore], damage: Damage, document: str
) -> None:
    bad, good = load(store, "bad:1", ONE, THREE), load(store, "good:1", ONE, TWO)
    damage(blob(store, bad.id if document == "id" else bad.manifest.digest))
    store = later()
    done = [one.what for one in remove_image(store, "bad:1", ())]
    assert done == [What.UNTAGGED, What.DELETED, What.DELETED]
    assert {snapshot.key for snapshot in store.overlay.all()} == set(good.chain_ids)
    gc.collect(store)
    assert {one.digest for one in store.content.blobs()} == {good.id, good.manifest.digest, *store.layer_blobs(good)}


@pytest.mark.parametrize("document", ["id", "manifest"])
def test_the_removal_of_another_leaves_what_it_stands_on(
    store: ImageStore, later: Callable[[], ImageStore], damage: Damage, document: str
) -> None:
    bad, _ = load(store, "bad:1", ONE, THREE), load(store, "good:1", ONE, TWO)
    layers = set(store.layer_blobs(bad))
    damage(blob(store, bad.id if document == "id" else bad.manifest.digest))
    store = later()
    remove_image(store, "good:1", ())
    gc.collect(store)
    assert {snapshot.key for snapshot in store.overlay.all()} == set(bad.chain_ids)
    assert layers <= {one.digest for one in store.content.blobs()}


def test_a_load_with_another_manifest_replaces_a_damaged_one(store: ImageStore, damage: Damage) -> None:
    bad = load(store, "bad:1", ONE)
    damage(blob(store, bad.manifest.digest))
    config = t.image_config([ONE], author="bad:1")
    data = t.docker_archive([ONE], ("bad:1",), config=config, gzip_layers=True)
    archive.load(t.chunked(data, 10_000), store)
    again = store.get("bad:1")
    assert again.id == bad.id
    assert all(store.content.has(digest) for digest in store.layer_blobs(again))


def test_an_image_without_its_manifest_is_listed_and_the_log_names_it_once(
    store: ImageStore, later: Callable[[], ImageStore], damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    bad = load(store, "bad:1", ONE)
    damage(blob(store, bad.manifest.digest))
    store = later()
    garbage = store.content.put(b"nobody's").digest
    with caplog.at_level(logging.ERROR):
        assert [[image.id for image in store.list()] for _ in range(3)] == [[bad.id]] * 3
        assert [gc.drop_blobs(store, [garbage]) for _ in range(3)] == [[], [], []]
    (line,) = caplog.messages
    assert line.startswith(f"manifest of image bad:1 ({bad.id[7:19]}) cannot be read: content {bad.manifest.digest}: ")
    assert line.endswith(": load it again, or remove it; until then no blob is removed")
    assert store.get("bad:1").id == bad.id
    load(store, "bad:1", ONE)
    assert gc.drop_blobs(store, [garbage]) == [garbage]


@pytest.mark.parametrize("document", ["id", "manifest"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_an_error_that_says_nothing_of_the_blob_is_no_damage(
    store: ImageStore, later: Callable[[], ImageStore], monkeypatch: pytest.MonkeyPatch, number: int, document: str
) -> None:
    image, tag = load(store, "good:1", ONE), "good:1"
    digest = image.id if document == "id" else image.manifest.digest
    store, read = later(), store.content.read

    def fail(asked: str) -> bytes:
        if asked == digest:
            raise OSError(number, os.strerror(number))
        return read(asked)

    with monkeypatch.context() as patch:
        patch.setattr(store.content, "read", fail)
        if document == "id":
            for ask in (store.list, lambda: store.get(tag)):
                with pytest.raises(OSError, match=re.escape(os.strerror(number))):
                    ask()
        else:
            assert [one.id for one in store.list()] == [image.id]
            garbage = store.content.put(b"nobody's").digest
            assert gc.drop_blobs(store, [garbage]) == []
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            remove_image(store, tag, ())
    assert store.get(tag).references == image.references
    assert [one.id for one in store.list()] == [image.id]


def test_a_sector_that_cannot_be_read_is_damage(
    store: ImageStore, later: Callable[[], ImageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = load(store, "bad:1", ONE)
    store = later()

    def fail(digest: str) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store.content, "read", fail)
    assert store.list() == []
    with pytest.raises(Internal, match=f"content {bad.id}: Input/output error: load it again, or remove it"):
        store.get("bad:1")
