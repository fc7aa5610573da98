"""What is found and mended after a crash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from corten.core import archive, recovery
from corten.core.containers import ContainerRecord, ContainerStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.recovery import Leftovers, repair, scan
from support import tarballs as t

ONE, TWO = (t.archive(t.entry(b"f%d" % n, data=b"x" * n)) for n in (1, 2))


def found(store: ImageStore, tmp_path: Path) -> Leftovers:
    return scan(
        store.database,
        store.overlay,
        store.content,
        containers_path=str(tmp_path / "data/containers"),
        tasks_path=str(tmp_path / "tasks"),
    )


def test_nothing_is_left_over_in_an_orderly_engine(store: ImageStore, tmp_path: Path) -> None:
    archive.load([t.docker_archive([ONE, TWO])], store)
    store.overlay.prepare("c", store.get("test:1").chain)
    assert found(store, tmp_path).is_clean
    assert found(store, tmp_path).lines() == []


def test_what_no_record_names_is_found_and_removed(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    ContainerStore(store.database).create(ContainerRecord(id="c1"))
    for path in ("containers/c1", "containers/dead", "snapshots/77/fs/deep", "snapshots/staging/half/fs"):
        (tmp_path / "data" / path).mkdir(parents=True)
    (tmp_path / "data/content/ingest/part").touch()
    for path in ("moby/c1", "moby/gone", "k8s.io/c1"):
        (tmp_path / "tasks" / path).mkdir(parents=True)
    journal.begin("snapshot-dir", "77")
    left = found(store, tmp_path)
    assert left.lines() == [
        "snapshot directory 77: no record",
        "staging directory half: no request",
        "content ingest part: no request",
        "container directory dead: no record",
        "task directory k8s.io/c1: no record",
        "task directory moby/gone: no record",
    ]
    assert repair(left, store, journal, containers_path=str(tmp_path / "data/containers")) == []
    assert journal.entries() == []
    assert os.listdir(tmp_path / "data/containers") == ["c1"]
    assert found(store, tmp_path).snapshot_directories == found(store, tmp_path).staging == ()


def test_leftovers_are_found_without_the_journals_help(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    store.overlay.prepare("c")
    with store.database.transaction() as tx:
        tx.execute("DELETE FROM journal")
        tx.execute("DELETE FROM snapshots")
    left = found(store, tmp_path)
    assert len(left.snapshot_directories) == 1
    repair(left, store, journal)
    assert found(store, tmp_path).is_clean


def test_lost_layers_come_back_from_their_blobs(store: ImageStore, journal: Journal, tmp_path: Path) -> None:
    archive.load([t.docker_archive([ONE, TWO])], store)
    image = store.get("test:1")
    mounts = store.overlay.prepare("c", image.chain)
    for chain_id in image.chain_ids:
        shutil.rmtree(Path(store.overlay.fs_path(store.overlay.stat(chain_id).id)).parent)
    left = found(store, tmp_path)
    assert left.lost_snapshots == image.chain_ids
    assert repair(left, store, journal) == []
    assert found(store, tmp_path).is_clean
    files = [os.listdir(store.overlay.fs_path(store.overlay.stat(chain_id).id)) for chain_id in image.chain_ids]
    assert files == [["f1"], ["f2"]]
    assert store.overlay.mounts("c") == mounts


def test_a_lost_snapshot_that_cannot_come_back_is_forgotten_or_reported(
    store: ImageStore, journal: Journal, tmp_path: Path
) -> None:
    store.overlay.prepare("a")
    store.overlay.commit("a", "base")
    store.overlay.prepare("c", "base")
    shutil.rmtree(Path(store.overlay.fs_path(store.overlay.stat("base").id)).parent)
    assert repair(found(store, tmp_path), store, journal) == ["base"]
    shutil.rmtree(Path(store.overlay.fs_path(store.overlay.stat("c").id)).parent)
    assert repair(found(store, tmp_path), store, journal) == []
    assert store.overlay.all() == []


def lose(store: ImageStore, *chain_ids: str) -> None:
    for chain_id in chain_ids:
        shutil.rmtree(Path(store.overlay.fs_path(store.overlay.stat(chain_id).id)).parent)


def test_a_layer_that_cannot_come_back_keeps_no_other_from_it(
    store: ImageStore, journal: Journal, tmp_path: Path
) -> None:
    archive.load([t.docker_archive([ONE, TWO])], store)
    archive.load([t.docker_archive([TWO], tags=("other:1",))], store)
    image, other = store.get("test:1"), store.get("other:1")
    blob = store.layer_blobs(image)[0]
    Path(store.content.root, "blobs", *blob.split(":")).write_bytes(b"damaged")
    lose(store, *image.chain_ids, *other.chain_ids)
    assert repair(found(store, tmp_path), store, journal) == []
    assert [one.key for one in store.overlay.all()] == [other.chain]
    assert os.listdir(store.overlay.fs_path(store.overlay.stat(other.chain).id)) == ["f2"]
    archive.load([t.docker_archive([ONE, TWO])], store)
    assert all(store.overlay.exists(key) for key in image.chain_ids)
    assert found(store, tmp_path).is_clean


def test_a_layer_that_came_back_is_on_the_disk_before_it_has_its_place(
    store: ImageStore, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.load([t.docker_archive([ONE])], store)
    lose(store, *store.get("test:1").chain_ids)
    done: list[str] = []
    monkeypatch.setattr(recovery, "sync", lambda path: done.append(f"sync {path}"))
    monkeypatch.setattr(store.overlay, "put_back", lambda *_: done.append("put back"))
    assert repair(found(store, tmp_path), store, journal) == []
    assert done == [f"sync {store.overlay.root}", "put back"]
