"""Archives of images for several platforms: saved and loaded as what their names stand for."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from corten.core import archive, gc
from corten.core.content import ContentStore
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.rmi import remove_image
from corten.core.save import resolve, saved
from corten.core.snapshots import Overlay
from corten.errors import InvalidArgument, NotFound
from corten.spec.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor, Index, Manifest, Platform
from corten.spec.image import encode as encoded
from support import tarballs as t

AMD64, ARM64, S390X = (Platform(name, "linux") for name in ("amd64", "arm64", "s390x"))
NAME = "docker.io/library/test:1"
MISSING = Descriptor(OCI_MANIFEST, t.digest(b"elsewhere"), 9, platform=S390X)


class Layout:
    """An OCI layout on its way to be an archive."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def blob(self, media_type: str, data: bytes, **more: object) -> Descriptor:
        self.blobs[t.digest(data)] = data
        return Descriptor(media_type, t.digest(data), len(data), **more)  # type: ignore[arg-type]

    def image(self, architecture: str, **more: object) -> Descriptor:
        layer = t.archive(t.entry(b"arch", data=architecture.encode()))
        config = self.blob(OCI_CONFIG, t.image_config([layer], architecture=architecture))
        manifest = Manifest(
            schema_version=2, media_type=OCI_MANIFEST, config=config, layers=[self.blob(OCI_LAYER, layer)]
        )
        return self.blob(OCI_MANIFEST, encoded(manifest), **({"platform": Platform(architecture, "linux")} | more))

    def index(self, *manifests: Descriptor, name: str = "") -> Descriptor:
        annotations = {"io.containerd.image.name": name} if name else None
        data = encoded(Index(schema_version=2, media_type=OCI_INDEX, manifests=list(manifests)))
        return self.blob(OCI_INDEX, data, annotations=annotations)

    def archive(self, *listed: Descriptor) -> bytes:
        parts = [t.entry(b"blobs/sha256/" + key[7:].encode(), data=data) for key, data in self.blobs.items()]
        document = encoded(Index(schema_version=2, manifests=list(listed)))
        return t.archive(*parts, t.entry(b"index.json", data=document))


def two_platforms() -> tuple[bytes, Descriptor]:
    layout = Layout()
    index = layout.index(MISSING, layout.image("arm64"), layout.image("amd64"), name=NAME)
    return layout.archive(index), index


def architectures(store: ImageStore) -> set[str]:
    return {image.config.architecture for image in store.all()}


@pytest.fixture
def other(tmp_path: Path) -> ImageStore:
    """A second engine's store."""
    os.mkdir(tmp_path / "other")
    database = Database(str(tmp_path / "other/corten.db"))
    overlay = Overlay(str(tmp_path / "other/snapshots"), database, Journal(database))
    return ImageStore(database, ContentStore(str(tmp_path / "other/content")), overlay, EventBus().publish)


def archived(store: ImageStore, *names: str, platform: Platform | None = None) -> bytes:
    with saved(store, resolve(store, names, platform)) as chunks:
        return b"".join(chunks)


def test_a_named_index_brings_all_its_platforms_and_this_machines_first(store: ImageStore) -> None:
    data, index = two_platforms()
    assert archive.messages(archive.load([data], store)) == ["Loaded image: test:1\n"]
    assert store.target("test:1").digest == index.digest
    assert store.get("test:1").config.architecture == archive.host_platform().architecture
    assert store.get("test:1", ARM64).config.architecture == "arm64"
    assert not [image for image in store.all() if image.is_dangling]
    assert gc.collect(store).blobs == ()
    remove_image(store, "test:1", [])
    gc.collect(store)
    assert not [*store.content.blobs()]


def test_what_a_name_stands_for_survives_save_and_load(store: ImageStore, other: ImageStore) -> None:
    data, index = two_platforms()
    archive.load([data], store)
    found = archived(store, "test:1")
    archive.load([found], other)
    assert other.target("test:1").digest == index.digest
    assert architectures(other) == {"amd64", "arm64"}
    assert archived(other, "test:1") == found
    with tarfile.open(fileobj=io.BytesIO(found)) as opened:
        (listed,) = json.load(opened.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
        (entry,) = json.load(opened.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert (listed["mediaType"], listed["digest"]) == (OCI_INDEX, index.digest)
    assert (entry["RepoTags"], len(entry["Layers"])) == (["test:1"], 1)


def test_one_platform_alone_is_saved(store: ImageStore, other: ImageStore) -> None:
    archive.load([two_platforms()[0]], store)
    archive.load([archived(store, "test:1", platform=ARM64)], other)
    assert architectures(other) == {"arm64"}
    assert other.get("test:1").manifest == store.get("test:1", ARM64).manifest
    with pytest.raises(NotFound, match=r"does not provide the specified platform \(linux/s390x\)"):
        resolve(store, ["test:1"], S390X)


def test_one_platform_alone_is_loaded(store: ImageStore) -> None:
    data, index = two_platforms()
    archive.load([data], store, platform=ARM64)
    assert architectures(store) == {"arm64"}
    assert store.get("test:1").config.architecture == "arm64"
    assert store.target("test:1").digest == index.digest
    remove_image(store, "test:1", [])
    with pytest.raises(NotFound, match="no image for the requested platform"):
        archive.load([data], store, platform=S390X)
    for plain in (t.docker_archive([t.archive(t.entry(b"x"))]), t.oci_archive([t.archive(t.entry(b"x"))])):
        with pytest.raises(NotFound, match=r"no image for the requested platform \(linux/arm64\)"):
            archive.load([plain], store, platform=ARM64)
        assert len(archive.load([plain], store, platform=AMD64)) == 1
    remove_image(store, "test:1", [])
    gc.collect(store)
    assert not [*store.all(), *store.content.blobs()]


def test_attestations_are_kept_and_are_no_images(store: ImageStore, other: ImageStore) -> None:
    layout = Layout()
    image = layout.image("amd64")
    config = layout.blob(OCI_CONFIG, b"{}")
    layer = layout.blob("application/vnd.in-toto+json", b'{"says": "so"}')
    manifest = Manifest(schema_version=2, media_type=OCI_MANIFEST, config=config, layers=[layer])
    annotations = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.digest}
    unknown = Platform("unknown", "unknown")
    said = layout.blob(OCI_MANIFEST, encoded(manifest), platform=unknown, annotations=annotations)
    archive.load([layout.archive(layout.index(image, said, name=NAME))], store)
    assert architectures(store) == {"amd64"}
    assert store.content.has(layer.digest)
    assert gc.collect(store).blobs == ()
    archive.load([archived(store, "test:1")], other)
    assert {blob.digest for blob in other.content.blobs()} == {blob.digest for blob in store.content.blobs()}


def test_the_name_moves_and_what_it_stood_for_goes(store: ImageStore) -> None:
    data, index = two_platforms()
    archive.load([data], store)
    archive.load([t.docker_archive([t.archive(t.entry(b"x"))], ["test:1"])], store)
    assert not store.content.has(index.digest)
    assert len(store.all()) == 3


def nested(depth: int) -> bytes:
    layout = Layout()
    descriptor = layout.image("amd64")
    for _ in range(depth):
        descriptor = layout.index(descriptor)
    return layout.archive(layout.index(descriptor, name=NAME))


def test_indexes_in_indexes_are_followed_to_a_depth(store: ImageStore) -> None:
    archive.load([nested(2)], store)
    assert store.get("test:1").config.architecture == "amd64"
    assert gc.collect(store).blobs == ()
    with pytest.raises(NotFound):
        archive.load([nested(9)], store)


def test_an_index_that_lies_is_refused_and_leaves_nothing(store: ImageStore) -> None:
    layout = Layout()
    image = layout.image("amd64")
    layout.blobs[image.digest] = layout.blobs[image.digest].replace(b"manifest", b"manifesto")
    for data in (
        layout.archive(layout.index(image, name=NAME)),
        layout.archive(layout.index(*[Descriptor(OCI_INDEX, t.digest(b"x"), 1)] * 2000, name=NAME)),
    ):
        with pytest.raises(InvalidArgument):
            archive.load([data], store)
        assert not [*store.all(), *store.content.blobs(), *store.overlay.all()]
