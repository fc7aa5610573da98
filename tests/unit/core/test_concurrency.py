"""Requests that meet: loads of the same layers, removals and collections in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from corten.core import archive, gc
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.init import init_layer
from corten.core.journal import Journal
from corten.core.layers import Layer, unpacked
from corten.core.metadata import Database
from corten.core.rmi import remove_image
from corten.core.snapshots import Overlay, Snapshot
from corten.errors import CortenError, InvalidArgument, NotFound
from support import tarballs as t

LAYERS = [t.archive(t.directory(b"d"), t.entry(b"d/%d" % n, data=b"x" * 3000 * n)) for n in range(1, 5)]
ROUNDS = 16


def together(*jobs: Callable[[], object]) -> list[BaseException]:
    """Runs jobs in threads; what they raised."""
    raised: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except (CortenError, OSError, LookupError, AssertionError) as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_the_same_image_from_several_clients_at_once(store: ImageStore) -> None:
    data = t.docker_archive(LAYERS)
    assert together(*[lambda: archive.load([data], store)] * 4) == []
    assert len(store.list()) == 1
    assert len(store.overlay.all()) == len(store.overlay.directories()) == len(LAYERS)
    assert store.leases.list() == []


def test_loads_removals_and_collections_leave_an_orderly_store(store: ImageStore) -> None:
    images = {f"test:{n}": t.docker_archive(LAYERS[:n], (f"test:{n}",)) for n in range(1, 5)}

    def load() -> None:
        for data in list(images.values()) * (ROUNDS // 4):
            (loaded,) = archive.load([data], store)
            assert loaded.reference is not None

    def remove() -> None:
        for name in list(images) * ROUNDS:
            try:
                remove_image(store, name, [])
            except NotFound:
                continue

    def collect() -> None:
        for _ in range(ROUNDS):
            gc.collect(store)

    def tag() -> None:
        for name in list(images) * ROUNDS:
            try:
                store.tag(name, "again", "1")
            except NotFound:
                continue

    assert together(load, load, remove, collect, tag) == []
    for image in store.list():
        assert all(store.overlay.exists(chain_id) for chain_id in image.chain_ids)
        assert all(store.content.has(digest) for digest in store.layer_blobs(image))
    for name in [name for image in store.list() for name in image.repo_tags]:
        remove_image(store, name, [], force=True)
    gc.collect(store)
    assert not [*store.list(), *store.overlay.all(), *store.content.blobs(), *store.leases.list()]
    assert not [*store.overlay.directories(), *store.overlay.staged_directories()]


class SlowDisk(Overlay):
    """Begins to remove files when it is told to; says when it was asked."""

    def __init__(self, root: str, database: Database, journal: Journal) -> None:
        super().__init__(root, database, journal)
        self.asked, self.told = threading.Event(), threading.Event()

    def remove_directory(self, snapshot_id: int) -> None:
        """As the base has it, later."""
        self.asked.set()
        assert self.told.wait(60)
        super().remove_directory(snapshot_id)


@pytest.mark.parametrize("removes", ["rmi", "the last container", "collection"])
def test_nobody_waits_for_the_files_of_an_image_that_is_removed(
    tmp_path: Path, database: Database, journal: Journal, removes: str
) -> None:
    disk = SlowDisk(str(tmp_path / "data/snapshots"), database, journal)
    store = ImageStore(database, ContentStore(str(tmp_path / "data/content")), disk)
    for number in (1, 3):
        archive.load([t.docker_archive(LAYERS[number - 1 : number], (f"test:{number}",))], store)
    gone = store.get("test:3")
    if removes != "rmi":
        store.unpoint(gone.references[0])
        store.forget(gone.id)
    jobs: dict[str, Callable[[], object]] = {
        "rmi": lambda: remove_image(store, "test:3", []),
        "the last container": lambda: gc.drop_orphans(store, gone.id),
        "collection": lambda: gc.collect(store),
    }
    removing = threading.Thread(target=jobs[removes])
    removing.start()
    assert disk.asked.wait(60)
    others = threading.Thread(target=lambda: store.tag("test:1", "while", "it-goes"))
    others.start()
    others.join(60)
    is_free = not others.is_alive()
    disk.told.set()
    for thread in (removing, others):
        thread.join()
    assert is_free
    assert [image.repo_tags for image in store.list()] == [["test:1", "while:it-goes"]]
    assert len(disk.directories()) == len(disk.all()) == 1
    assert journal.entries() == []


def test_a_container_that_is_made_while_its_image_goes_keeps_the_layers(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.load([t.docker_archive([t.archive(t.entry(b"f"))])], store)
    image = store.get("test:1")
    init = init_layer(store.overlay, image.chain)
    children = store.overlay.children

    def looked(key: str) -> list[Snapshot]:
        found = children(key)
        if key == init and not found:
            store.overlay.prepare("made-meanwhile", init)
        return found

    monkeypatch.setattr(store.overlay, "children", looked)
    done = remove_image(store, "test:1", [])
    assert [one.subject for one in done] == ["test:1", image.id]
    assert [one.key for one in store.overlay.all()] == [image.chain, init, "made-meanwhile"]
    monkeypatch.undo()
    store.overlay.remove("made-meanwhile")
    gc.drop_orphans(store, image.id)
    assert store.overlay.all() == []


def test_an_unpacking_that_fails_waits_for_no_more_of_any_layer(store: ImageStore) -> None:
    stopped = threading.Event()
    waits: list[bool] = []

    class Arriving:
        """A layer that is no archive and one of which nothing has come, both on their way."""

        def chunks(self, digest: str, /) -> Generator[bytes, None, None]:
            if digest == "bad":
                yield b"garbage" * 1000
            waits.append(stopped.wait(60))
            raise LookupError("given up")

    layers = [Layer("late", t.digest(b"late")), Layer("bad", t.digest(b"bad"), 1)]
    with pytest.raises(InvalidArgument), unpacked(layers, Arriving(), store.overlay, stop=stopped.set):
        pass
    assert waits == [True, True]
    assert not store.overlay.staged_directories()
