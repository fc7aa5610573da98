"""`docker save`: the archive is a docker-archive and an OCI layout, the same bytes every time, whole or cut."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from corten.core import archive, gc
from corten.core.content import ContentStore
from corten.core.events import EventBus
from corten.core.images import Image, ImageStore
from corten.core.journal import Journal
from corten.core.leases import CONTENT
from corten.core.metadata import Database
from corten.core.save import resolve, saved
from corten.core.snapshots import Overlay
from corten.errors import Internal, NotFound
from corten.spec.image import Platform
from support import tarballs as t

ONE, TWO = (t.archive(t.directory(b"d"), t.entry(b"d/%d" % n, data=b"x" * n)) for n in (1, 2))


def loaded(store: ImageStore, *layers: bytes, tags: tuple[str, ...] = ("test:1",)) -> Image:
    archive.load([t.docker_archive(layers, tags, gzip_layers=True)], store)
    return store.get(tags[0])


def archived(store: ImageStore, *names: str) -> bytes:
    with saved(store, resolve(store, names)) as chunks:
        return b"".join(chunks)


def files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened if one.isfile()}  # type: ignore[union-attr]


@pytest.fixture
def other(tmp_path: Path) -> ImageStore:
    """A second engine's store."""
    os.mkdir(tmp_path / "other")
    database = Database(str(tmp_path / "other/corten.db"))
    overlay = Overlay(str(tmp_path / "other/snapshots"), database, Journal(database))
    return ImageStore(database, ContentStore(str(tmp_path / "other/content")), overlay, EventBus().publish)


def test_what_is_saved_is_loaded_elsewhere_with_the_same_digests(store: ImageStore, other: ImageStore) -> None:
    image = loaded(store, ONE, TWO, tags=("test:1", "reg.example:5000/a/b:2"))
    found = archive.load([archived(store, "test:1", "reg.example:5000/a/b:2")], other)
    assert archive.messages(found) == ["Loaded image: test:1\n", "Loaded image: reg.example:5000/a/b:2\n"]
    there = other.get("test:1")
    assert (there.id, there.manifest, there.chain) == (image.id, image.manifest, image.chain)
    assert {one.digest for one in other.content.blobs()} == {one.digest for one in store.content.blobs()}


def test_the_documents_name_every_image_twice(store: ImageStore) -> None:
    image = loaded(store, ONE, tags=("test:1", "test:2"))
    found = files(archived(store, "test:1", "test:2"))
    layer = image.manifest and store.manifest(image).layers[0].digest.removeprefix("sha256:")
    (entry,) = json.loads(found["manifest.json"])
    assert entry == {
        "Config": f"blobs/sha256/{image.id.removeprefix('sha256:')}",
        "RepoTags": ["test:1", "test:2"],
        "Layers": [f"blobs/sha256/{layer}"],
    }
    index = json.loads(found["index.json"])
    assert [one["annotations"] for one in index["manifests"]] == [
        {"io.containerd.image.name": f"docker.io/library/test:{tag}", "org.opencontainers.image.ref.name": tag}
        for tag in ("1", "2")
    ]
    assert {one["digest"] for one in index["manifests"]} == {image.manifest.digest}
    assert json.loads(found["repositories"]) == {"test": {"1": layer, "2": layer}}
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert gzip.decompress(found[f"blobs/sha256/{layer}"]) == ONE


def test_the_same_images_are_the_same_bytes(store: ImageStore, other: ImageStore) -> None:
    loaded(store, ONE, TWO)
    archive.load([archived(store, "test:1")], other)
    assert archived(other, "test:1") == archived(store, "test:1")


def test_entries_are_in_order_and_of_nobody(store: ImageStore) -> None:
    loaded(store, ONE)
    with tarfile.open(fileobj=io.BytesIO(archived(store, "test:1"))) as opened:
        members = opened.getmembers()
    assert [one.name for one in members] == sorted(one.name for one in members)
    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in members} == {(0, 0, "", "", 0)}


def names(store: ImageStore, *wanted: str) -> list[Sequence[str]]:
    return [[reference.familiar for reference in one.references] for one in resolve(store, wanted)]


def test_a_name_without_a_tag_means_all_its_tags_and_an_id_none(store: ImageStore) -> None:
    image = loaded(store, ONE, tags=("test:1", "test:2", "other:1"))
    assert names(store, "test") == [["test:1", "test:2"]]
    assert names(store, "test:2", "test:2", "other:1") == [["test:2", "other:1"]]
    assert names(store, image.id) == names(store, image.id[7:19]) == [[]]
    assert names(store, image.id, "test:1") == [["test:1"]]


def test_an_image_without_a_name_is_saved_and_loaded_by_its_id(store: ImageStore, other: ImageStore) -> None:
    image = loaded(store, ONE)
    data = archived(store, image.id)
    assert "repositories" not in files(data)
    assert json.loads(files(data)["manifest.json"])[0]["RepoTags"] is None
    assert archive.messages(archive.load([data], other)) == [f"Loaded image ID: {image.id}\n"]


def test_what_is_not_there_cannot_be_saved(store: ImageStore) -> None:
    loaded(store, ONE)
    for name in ("nothing", "test:9", "sha256:" + "0" * 64):
        with pytest.raises(NotFound):
            resolve(store, ["test:1", name])
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        resolve(store, ["test:1"], Platform("riscv64", "linux"))
    (found,) = resolve(store, ["test:1"], Platform("amd64", "linux"))
    assert found.image.id == store.get("test:1").id


def test_a_layer_that_the_disk_damaged_ends_the_archive_before_its_end(store: ImageStore) -> None:
    image = loaded(store, ONE)
    (layer,) = store.layer_blobs(image)
    path = Path(store.content.root) / "blobs/sha256" / layer.removeprefix("sha256:")
    good = path.read_bytes()
    for bad in (good[:-1] + b"!", good[:-1], good + b"!"):
        with saved(store, resolve(store, ["test:1"])) as chunks:
            path.write_bytes(bad)
            with pytest.raises(Internal, match="damaged on disk"):
                for _ in chunks:
                    pass
        path.write_bytes(good)
    path.unlink()
    with pytest.raises(NotFound), saved(store, resolve(store, ["test:1"])):
        pass
    assert not store.leases.list()


def test_blobs_stay_while_they_are_being_saved(store: ImageStore) -> None:
    image = loaded(store, ONE)
    with saved(store, resolve(store, ["test:1"])) as chunks:
        assert image.id in store.leases.items(CONTENT)
        for reference in image.references:
            store.unpoint(reference)
        store.forget(image.id)
        gc.collect(store)
        assert len(files(b"".join(chunks))) == 7
    gc.collect(store)
    assert not list(store.content.blobs())
