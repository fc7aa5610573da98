"""Pushes of images that were composed here: plain layers are sent packed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from corten.core import gc, save
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.importer import import_rootfs
from corten.core.journal import Journal
from corten.core.limits import Limits
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.errors import InvalidArgument, Unavailable
from corten.registry.cancel import Cancelled
from corten.registry.errors import RegistryDenied, coded
from corten.registry.packing import Packer
from corten.spec.image import Descriptor, digest_of
from support import tarballs
from support.pullimages import Blob, Image, several
from support.pushlab import NAME, FakeTarget, Lab, statuses

LAYERS = [tarballs.archive(tarballs.entry(name, data=name * 5000)) for name in (b"a", b"b", b"c")]
ARCHIVE = tarballs.docker_archive(LAYERS, (str(NAME),))
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def bars(told: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Words with numbers, of each layer."""
    found: dict[str, list[str]] = {}
    for one in told:
        if one.get("progressDetail") and one["status"] not in found.setdefault(one["id"], []):
            found[one["id"]].append(one["status"])
    return found


def test_plain_layers_of_an_image_that_was_composed_here_are_sent_packed(lab: Lab) -> None:
    lab.load(ARCHIVE)
    image, target = lab.images.get(str(NAME)), FakeTarget()
    told = lab.push(target)
    manifest = json.loads(target.manifests["1"])
    assert [one["mediaType"] for one in manifest["layers"]] == [GZIP] * 3
    assert [gzip.decompress(target.blobs[one["digest"]]) for one in manifest["layers"]] == LAYERS
    assert [one["size"] for one in manifest["layers"]] == [len(target.blobs[o["digest"]]) for o in manifest["layers"]]
    assert manifest["config"]["digest"] == image.id
    assert len(target.blobs) == 4, "no plain layer was sent"
    assert set(statuses(told).values()) == {"Pushed"}
    assert bars(told) == {one[7:19]: ["Preparing", "Pushing"] for one in image.config.diff_ids}
    assert told[-1]["aux"]["Digest"] == digest_of(target.manifests["1"])


def test_image_is_what_was_sent_when_the_push_is_over(lab: Lab) -> None:
    lab.load(ARCHIVE)
    target = FakeTarget()
    digest = lab.push(target)[-1]["aux"]["Digest"]
    image = lab.images.get(str(NAME))
    assert image.manifest.digest == digest
    assert [one.familiar for one in image.references] == [str(NAME), f"reg.example/test@{digest}"]
    assert lab.images.content.digests() == {digest, *target.blobs}, "the plain layers are garbage"
    assert gc.collect(lab.images).blobs == ()
    target.order.clear()
    again = lab.push(target)
    assert set(statuses(again).values()) == {"Layer already exists"}
    assert (again[-1]["aux"]["Digest"], target.order) == (digest, ["1"])
    lab.images.tag(str(NAME), "reg.example/other", "1")
    other = FakeTarget(shared={"test": set(target.blobs)})
    assert set(statuses(lab.push(other, "reg.example/other:1")).values()) == {"Mounted from test"}
    assert not lab.images.leases.list()


def test_save_that_found_the_image_before_the_push_ended_saves_what_it_is_now(lab: Lab) -> None:
    lab.load(ARCHIVE)
    found = save.resolve(lab.images, [str(NAME)])
    found += save.resolve(lab.images, [str(NAME)], lab.images.get(str(NAME)).platform)
    target = FakeTarget()
    lab.push(target)
    for one in found:
        with save.saved(lab.images, [one]) as chunks:
            data = b"".join(chunks)
        assert target.manifests["1"] in data


def test_same_image_is_packed_to_the_same_bytes_anywhere_and_loads_again(tmp_path: Path) -> None:
    labs = [Lab(tmp_path / name) for name in ("one", "two")]
    digests = set()
    for lab in labs:
        lab.load(ARCHIVE)
        digests.add(lab.push(FakeTarget())[-1]["aux"]["Digest"])
    labs[0].load(ARCHIVE)
    digests.add(labs[0].push(FakeTarget())[-1]["aux"]["Digest"])
    assert len(digests) == 1


def test_image_that_shares_a_plain_layer_keeps_it_and_takes_the_packed_one(lab: Lab) -> None:
    lab.load(ARCHIVE)
    lab.load(tarballs.docker_archive(LAYERS[:2], ("reg.example/test:2",)))
    lab.push(FakeTarget())
    other = lab.images.get("reg.example/test:2")
    assert set(lab.images.layer_blobs(other)) == {tarballs.digest(one) for one in LAYERS[:2]}
    assert set(lab.images.layer_blobs(other)) <= lab.images.content.digests()
    assert all(words == ["Pushing"] for words in bars(lab.push(FakeTarget(), "reg.example/test:2")).values())
    assert not {tarballs.digest(one) for one in LAYERS} & lab.images.content.digests()


def test_packed_layer_that_is_gone_is_made_again_and_forgotten_at_a_start(lab: Lab) -> None:
    lab.load(ARCHIVE)
    lab.load(tarballs.docker_archive(LAYERS[:2], ("reg.example/test:2",)))
    lab.push(FakeTarget())
    lab.packer.sweep()
    assert len(lab.database.query("SELECT * FROM packed_layers")) == 3
    for digest in lab.images.layer_blobs(lab.images.get(str(NAME))):
        lab.images.content.delete(digest)
    assert set(statuses(lab.push(FakeTarget(), "reg.example/test:2")).values()) == {"Pushed"}
    lab.packer.sweep()
    assert len(lab.database.query("SELECT * FROM packed_layers")) == 2


def test_packed_layer_that_the_disk_damaged_takes_no_sound_one_s_place(lab: Lab) -> None:
    lab.load(ARCHIVE)
    lab.load(tarballs.docker_archive(LAYERS[:1], ("reg.example/test:2",)))
    lab.push(FakeTarget())
    (digest, *_) = lab.images.layer_blobs(lab.images.get(str(NAME)))
    blob, target = Path(lab.images.content.root, "blobs", "sha256", digest[7:]), FakeTarget()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"x")
    lab.push(target, "reg.example/test:2")
    assert target.blobs[digest] == blob.read_bytes() == whole


def test_layers_that_others_left_plain_stay_plain(lab: Lab) -> None:
    bare, target = several(3, compression="none"), FakeTarget()
    lab.have(bare)
    lab.push(target)
    assert target.manifests["1"] == bare.manifest.data
    lab.load(tarballs.oci_archive(LAYERS, "reg.example/test:2"))
    lab.push(target, "reg.example/test:2")
    assert target.manifests["2"] == tarballs.oci_manifest(LAYERS)


def test_manifest_that_somebody_else_brings_too_is_no_more_our_own(lab: Lab) -> None:
    lab.load(ARCHIVE)
    image = lab.images.get(str(NAME))
    made = lab.images.content.read(image.manifest.digest)
    blobs = [Blob("", lab.images.content.read(one)) for one in (image.id, *lab.images.layer_blobs(image))]
    lab.have(Image(Blob(image.manifest.media_type, made), tuple(blobs)))
    lab.load(ARCHIVE)
    target = FakeTarget()
    lab.push(target)
    assert target.manifests["1"] == made


def test_name_that_stands_for_what_others_made_of_the_same_image_is_pushed_as_that(lab: Lab) -> None:
    lab.load(ARCHIVE)
    lab.load(tarballs.oci_archive(LAYERS, "reg.example/test:2"))
    target = FakeTarget()
    lab.push(target, "reg.example/test:2")
    assert target.manifests["2"] == tarballs.oci_manifest(LAYERS)
    lab.push(target)
    assert json.loads(target.manifests["1"])["layers"][0]["mediaType"] == GZIP
    lab.push(target, "reg.example/test:2")
    assert target.manifests["2"] == tarballs.oci_manifest(LAYERS)


def test_imported_image_is_packed_after_a_restart_too(lab: Lab) -> None:
    import_rootfs([LAYERS[0]], lab.images, reference=NAME)
    database = Database(lab.database.path)
    overlay = Overlay(lab.images.overlay.root, database, Journal(database))
    lab.images = ImageStore(database, ContentStore(lab.images.content.root), overlay)
    lab.packer, target = Packer(lab.images), FakeTarget()
    lab.push(target, platform=lab.images.get(str(NAME)).platform)
    assert [one["mediaType"] for one in json.loads(target.manifests["1"])["layers"]] == [GZIP]


def test_failed_push_of_plain_layers_changes_nothing(lab: Lab) -> None:
    lab.load(ARCHIVE)
    before, target = lab.looks(), FakeTarget()

    def refuse(reference: str, descriptor: Descriptor, *, body: bytes) -> None:
        raise coded("DENIED", 403)

    target.put_manifest = refuse  # type: ignore[method-assign]
    with pytest.raises(RegistryDenied):
        lab.push(target)
    assert len(target.blobs) == 4
    assert lab.looks() == before
    assert not lab.images.leases.list()


def test_push_that_is_given_up_while_it_packs_changes_nothing(lab: Lab) -> None:
    lab.load(ARCHIVE)
    before, target = lab.looks(), FakeTarget()
    lab.on_told = lambda one: lab.cancel.cancel() if one.get("progressDetail") else None
    with pytest.raises(Cancelled):
        lab.push(target)
    assert target.manifests == {}
    assert lab.looks() == before


def test_plain_layer_that_the_disk_damaged_is_not_sent(lab: Lab) -> None:
    lab.load(ARCHIVE)
    digest = tarballs.digest(LAYERS[1])
    blob = Path(lab.images.content.root, "blobs", "sha256", digest[7:])
    blob.write_bytes(LAYERS[1].replace(b"b", b"x", 1))
    before, target = lab.looks(), FakeTarget()
    with pytest.raises(InvalidArgument, match=f"content {digest}: damaged on disk"):
        lab.push(target)
    assert target.manifests == {}
    assert lab.looks() == before


def test_layers_are_not_packed_where_the_disk_is_about_to_be_full(lab: Lab) -> None:
    lab.load(ARCHIVE)
    before = lab.looks()
    lab.packer = Packer(lab.images, limits=Limits(disk_reserve=1 << 62))
    with pytest.raises(Unavailable, match="no space left for layers"):
        lab.push(FakeTarget())
    assert lab.looks() == before


def test_two_pushes_of_one_image_at_once_end_with_the_same_manifest(lab: Lab) -> None:
    lab.load(ARCHIVE)
    lab.images.tag(str(NAME), "reg.example/other", "1")
    outer, inner = FakeTarget(), FakeTarget()

    def meanwhile(_: Descriptor) -> None:
        outer.on_upload = lambda _: None
        lab.push(inner, "reg.example/other:1")

    outer.on_upload = meanwhile
    digest = lab.push(outer)[-1]["aux"]["Digest"]
    assert inner.manifests["1"] == outer.manifests["1"]
    assert lab.images.get(str(NAME)).manifest.digest == digest
    assert {one.familiar for one in lab.images.get(str(NAME)).references if one.is_canonical} == {
        f"reg.example/{name}@{digest}" for name in ("other", "test")
    }
    assert lab.images.content.digests() == {digest, *outer.blobs}
