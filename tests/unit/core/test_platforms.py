"""Names that stand for an index: which image a user gets, what is kept, what goes with the name."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from corten.core import archive, gc
from corten.core.images import Image, ImageStore
from corten.core.metadata import CORE_SCHEMA, Database
from corten.core.rmi import Use, remove_image, remove_platforms
from corten.errors import Conflict, NotFound
from corten.spec.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Platform, encode
from corten.spec.reference import parse
from support import tarballs as t

BASE, AMD, ARM = (t.archive(t.entry(name, data=name)) for name in (b"base", b"amd", b"arm"))
AMD64, ARM64, S390X = (Platform(architecture, "linux") for architecture in ("amd64", "arm64", "s390x"))
NOT_HERE = Descriptor(OCI_MANIFEST, t.digest(b"elsewhere"), 9, platform=S390X)
NAME = parse("test:1")
CONTAINER = "c0ffee" + "0" * 58


def taken_in(store: ImageStore, layer: bytes, architecture: str) -> Image:
    config = t.image_config([BASE, layer], architecture=architecture)
    (found,) = archive.load(t.chunked(t.docker_archive([BASE, layer], [], config=config)), store)
    return store.get(found.image_id)


def described(image: Image) -> Descriptor:
    return Descriptor(image.manifest.media_type, image.manifest.digest, image.manifest.size, platform=image.platform)


def stored(store: ImageStore, *manifests: Descriptor) -> Descriptor:
    data = encode(Index(schema_version=2, manifests=list(manifests), media_type=OCI_INDEX))
    blob = store.content.put(data)
    return Descriptor(OCI_INDEX, blob.digest, blob.size)


def two_platforms(store: ImageStore) -> tuple[Image, Image, Descriptor]:
    """`test:1` stands for an index of three platforms, of which two are here; it points to amd64."""
    amd, arm = taken_in(store, AMD, "amd64"), taken_in(store, ARM, "arm64")
    index = stored(store, described(amd), NOT_HERE, described(arm))
    store.point(NAME, amd.id, target=index)
    return store.get(amd.id), store.get(arm.id), index


def is_empty(store: ImageStore) -> bool:
    return not [*store.all(), *store.overlay.all(), *store.content.blobs()]


def test_a_name_of_an_index_gives_the_image_of_each_platform_that_is_here(store: ImageStore) -> None:
    amd, arm, _ = two_platforms(store)
    assert store.get("test:1").id == store.get("test:1", AMD64).id == amd.id
    assert store.get("test:1", Platform("aarch64", "linux", "v8")).id == arm.id
    with pytest.raises(NotFound, match="platform: wanted linux/s390x, actual: linux/amd64"):
        store.get("test:1", S390X)
    with pytest.raises(NotFound, match="wanted linux/arm64, actual: linux/amd64"):
        store.get(amd.id, ARM64)


def test_the_platforms_of_a_name_are_those_of_its_index_in_order(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    assert store.target("test:1") == index
    assert store.target(arm.id) == arm.manifest
    found = [(variant.platform.architecture, image and image.id) for variant, image in store.platforms("test:1")]
    assert found == [("amd64", amd.id), ("s390x", None), ("arm64", arm.id)]
    assert [(v.platform, image and image.id) for v, image in store.platforms(arm.id)] == [(ARM64, arm.id)]


def test_an_image_that_an_index_reaches_is_not_dangling_and_no_garbage(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    assert (amd.is_dangling, arm.is_dangling, arm.reached_by, arm.repo_tags) == (False, False, (NAME,), [])
    assert gc.collect(store).blobs == ()
    store.unpoint(NAME)
    assert store.get(arm.id).is_dangling
    assert gc.collect(store).blobs == (index.digest,)


def test_the_layout_on_disk_names_the_index(store: ImageStore) -> None:
    _, arm, index = two_platforms(store)
    entries = json.loads(Path(store.content.root, "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in entries] == [arm.manifest.digest, index.digest]


def test_a_second_name_stands_for_the_same(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    store.tag("test:1", "mirror.example/test", "2")
    assert store.target("mirror.example/test:2") == index
    remove_image(store, "test:1", [])
    assert store.get("mirror.example/test:2", ARM64).id == arm.id
    store.tag(amd.id, "single")
    assert store.target("single") == amd.manifest


def test_with_the_last_name_go_all_images_of_its_index(store: ImageStore) -> None:
    two_platforms(store)
    remove_image(store, "test:1", [])
    assert is_empty(store)


def test_of_an_index_whose_name_goes_stays_what_is_named_or_used(store: ImageStore) -> None:
    amd, arm, _ = two_platforms(store)
    store.tag(amd.id, "single")
    remove_image(store, "test:1", [Use(CONTAINER, arm.id, is_running=False)])
    assert {one.id for one in store.list()} == {amd.id, arm.id}
    assert store.get(arm.id).is_dangling
    remove_image(store, arm.id, [])
    remove_image(store, "single", [])
    assert is_empty(store)


def test_one_platform_can_be_removed_by_its_id(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    remove_image(store, arm.id, [])
    assert [(variant.image_id, image and image.id) for variant, image in store.platforms("test:1")] == [
        (amd.id, amd.id), ("", None), ("", None),
    ]  # fmt: skip
    assert store.content.has(index.digest)
    assert not store.content.has(arm.manifest.digest)


def test_a_manifest_that_is_not_the_images_own_is_kept_with_its_layers(store: ImageStore) -> None:
    amd = taken_in(store, AMD, "amd64")
    manifest = store.manifest(amd)
    other_layers = [store.content.put(data + bytes(512)) for data in (BASE, AMD)]
    document = json.loads(encode(manifest))
    for layer, blob in zip(document["layers"], other_layers, strict=True):
        layer.update(digest=blob.digest, size=blob.size)
    blob = store.content.put(json.dumps(document).encode())
    store.point(NAME, amd.id, target=Descriptor(OCI_MANIFEST, blob.digest, blob.size))
    assert gc.collect(store).blobs == ()
    assert store.get(amd.id).reached_by == ()
    remove_image(store, "test:1", [])
    assert is_empty(store)


def test_nested_indexes_are_followed_once_and_not_in_a_circle(store: ImageStore) -> None:
    amd, arm = taken_in(store, AMD, "amd64"), taken_in(store, ARM, "arm64")
    inner = stored(store, described(arm), described(arm))
    outer = stored(store, described(amd), inner, inner)
    store.point(NAME, amd.id, target=outer)
    assert [image and image.id for _, image in store.platforms("test:1")] == [amd.id, arm.id]
    assert gc.collect(store).blobs == ()
    remove_image(store, "test:1", [])
    assert is_empty(store)


def test_a_damaged_index_keeps_every_blob_and_its_name_can_be_removed(
    store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    amd, arm, index = two_platforms(store)
    path = Path(store.content.root, "blobs/sha256", index.digest[7:])
    path.write_bytes(b"{}")
    reopened = ImageStore(store.database, store.content, store.overlay)
    assert {one.id for one in reopened.list()} == {amd.id, arm.id}
    stray = reopened.content.put(b"stray")
    assert gc.collect(reopened).blobs == ()
    assert "what test:1 stands for cannot be read" in caplog.text
    remove_image(reopened, "test:1", [])
    assert stray.digest in gc.collect(reopened).blobs
    assert [one.id for one in reopened.list()] == [arm.id]


def test_an_older_database_gets_the_columns(tmp_path: Path) -> None:
    path = str(tmp_path / "corten.db")
    old = sqlite3.connect(path)
    old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
    for statement in CORE_SCHEMA[0]:
        old.execute(statement)
    old.execute("INSERT INTO meta VALUES ('schema:core', '1')")
    old.execute(
        "INSERT INTO images (id, manifest, media_type, manifest_size, chain, size, added_ns)"
        " VALUES ('sha256:a', 'sha256:b', 'm', 1, '', 0, 0)"
    )
    old.execute("INSERT INTO tags VALUES ('docker.io/library/test:1', 'sha256:a')")
    old.commit()
    old.close()
    database = Database(path)
    rows = database.query("SELECT * FROM tags")
    assert database.query("SELECT composed FROM images") == [(0,)], "who knows where its manifest was sent to"
    database.close()
    assert rows == [("docker.io/library/test:1", "sha256:a", "", "", 0)]


def test_rmi_of_a_platform_leaves_the_others_under_the_name(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    removed = remove_platforms(store, "test:1", [AMD64], [])
    assert [one.subject for one in removed] == [amd.id, amd.chain]
    assert (store.get("test:1").id, store.target("test:1")) == (arm.id, index)
    with pytest.raises(NotFound, match="wanted linux/amd64, actual: linux/arm64"):
        remove_platforms(store, "test:1", [AMD64], [])
    assert [one.subject for one in remove_platforms(store, "test:1", [ARM64], [])][:2] == ["test:1", arm.id]
    assert is_empty(store)


def test_rmi_of_a_platform_refuses_what_is_used_or_has_another_name(store: ImageStore) -> None:
    amd, arm, _ = two_platforms(store)
    running = Use(CONTAINER, arm.id, is_running=True)
    with pytest.raises(Conflict, match="image is being used by running container c0ffee"):
        remove_platforms(store, "test:1", [ARM64], [running], force=True)
    store.tag(amd.id, "single")
    with pytest.raises(Conflict, match="image is referenced in multiple repositories"):
        remove_platforms(store, "test:1", [AMD64], [])
    assert store.get("test:1").id == amd.id
    remove_platforms(store, "test:1", [AMD64], [], force=True)
    assert [one.id for one in store.list()] == [arm.id]


def test_what_a_name_stood_for_goes_when_it_stands_for_something_else(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    other = taken_in(store, t.archive(t.entry(b"other", data=b"o")), "amd64")
    store.tag(other.id, "test", "1")
    gc.drop_blobs(store, ())
    assert not store.content.has(index.digest)
    assert {image.id: image.is_dangling for image in store.list()} == {amd.id: True, arm.id: True, other.id: False}
    assert store.content.has(arm.manifest.digest)


def test_a_name_that_comes_back_in_the_same_change_keeps_its_index(store: ImageStore) -> None:
    amd, arm, index = two_platforms(store)
    store.point(NAME, arm.id, target=index)
    assert gc.drop_blobs(store, ()) == []
    assert (store.get("test:1").id, store.get(amd.id).reached_by) == (arm.id, (NAME,))
