"""Which images a prune takes, and that a forecast says what the removal then does."""

from __future__ import annotations

import time

import pytest

from corten.core import archive, prune
from corten.core.images import Image, ImageStore
from corten.core.rmi import Removal, What, remove_image
from corten.spec.image import OCI_INDEX, Descriptor, Index, encode
from corten.spec.reference import parse
from support import tarballs as t

BASE, ONE, TWO, THREE = (t.archive(t.entry(name, data=name * 9)) for name in (b"base", b"one", b"two", b"three"))


def loaded(store: ImageStore, *layers: bytes, tags: tuple[str, ...] = (), **fields: object) -> Image:
    config = t.image_config(layers, **fields)
    (found, *_) = archive.load(t.chunked(t.docker_archive(layers, tags, config=config)), store)
    return store.get(found.image_id)


def everything(_: Image) -> bool:
    return True


def chosen(store: ImageStore, *used: Image, is_all: bool = False) -> set[str]:
    return {image.id for image in prune.candidates(store, {one.id for one in used}, everything, is_all=is_all)}


def sizes(store: ImageStore) -> dict[str, int]:
    return {one.key: one.size for one in store.overlay.all()}


def test_without_all_only_images_without_a_tag_go(store: ImageStore) -> None:
    named, bare, pinned = loaded(store, BASE, tags=("a:1",)), loaded(store, ONE), loaded(store, TWO)
    store.point(parse(f"b@{t.digest(b'x')}"), pinned.id)
    assert chosen(store) == {bare.id, pinned.id}
    assert chosen(store, bare) == {pinned.id}
    assert chosen(store, is_all=True) == {named.id, bare.id, pinned.id}


def test_an_index_goes_as_a_whole_or_not_at_all(store: ImageStore) -> None:
    amd, arm = loaded(store, BASE, ONE), loaded(store, BASE, TWO, architecture="arm64")
    manifests = [Descriptor(x.manifest.media_type, x.manifest.digest, x.manifest.size) for x in (amd, arm)]
    blob = store.content.put(encode(Index(schema_version=2, manifests=manifests, media_type=OCI_INDEX)))
    store.point(parse("a:1"), amd.id, target=Descriptor(OCI_INDEX, blob.digest, blob.size))
    assert chosen(store) == set()
    assert chosen(store, arm, is_all=True) == set()
    assert chosen(store, is_all=True) == {amd.id}
    planned = prune.forecast(store, [store.get("a:1")], set())
    done = remove_image(store, "a:1", [])
    assert sorted(map(repr, planned.removals)) == sorted(map(repr, done))
    assert not store.all()


def test_an_index_is_used_when_any_of_its_images_is(store: ImageStore) -> None:
    amd, arm = loaded(store, BASE, ONE), loaded(store, BASE, TWO, architecture="arm64")
    manifests = [Descriptor(x.manifest.media_type, x.manifest.digest, x.manifest.size) for x in (amd, arm)]
    blob = store.content.put(encode(Index(schema_version=2, manifests=manifests, media_type=OCI_INDEX)))
    store.point(parse("a:1"), amd.id, target=Descriptor(OCI_INDEX, blob.digest, blob.size))
    moment = time.time_ns()

    def unused() -> set[str]:
        found = prune.candidates(store, (), everything, is_all=True, unused_since_ns=moment)
        return {image.id for image in found}

    assert unused() == {amd.id}
    store.touch(arm.id)
    assert unused() == set()
    store.point(parse("b:1"), arm.id)
    assert unused() == {amd.id}, "it stays for its own name"
    store.touch(amd.id)
    assert unused() == set()


@pytest.mark.parametrize("names", [("a:1",), ("a:1", "b:2")])
def test_a_forecast_is_what_the_removal_then_does(store: ImageStore, names: tuple[str, ...]) -> None:
    kept = loaded(store, BASE, ONE, tags=("kept:1",))
    gone = loaded(store, BASE, TWO, THREE, tags=names)
    before = sizes(store)
    planned = prune.forecast(store, [gone], {kept.id})
    assert store.get(names[0]).id == gone.id
    done = [removal for name in names for removal in remove_image(store, name, [])]
    assert sorted(map(repr, planned.removals)) == sorted(map(repr, done))
    freed = sum(size for key, size in before.items() if key not in sizes(store))
    assert planned.size == freed == 9 * len("twothree")


def test_a_forecast_leaves_layers_that_a_container_stands_on(store: ImageStore) -> None:
    gone = loaded(store, BASE, ONE, tags=("a:1",))
    store.overlay.prepare("container", gone.chain_ids[0])
    planned = prune.forecast(store, [gone], set())
    assert planned.size == 9 * len("one")
    assert Removal(What.DELETED, gone.chain_ids[0]) not in planned.removals
    store.overlay.remove("container")
    store.overlay.prepare("container", gone.chain)
    assert prune.forecast(store, [gone], set()).size == 0


def test_a_forecast_counts_parents_without_a_name(store: ImageStore) -> None:
    parent = loaded(store, BASE)
    child = loaded(store, BASE, ONE, tags=("a:1",))
    with store.database.transaction() as tx:
        tx.execute("UPDATE images SET parent = ? WHERE id = ?", (parent.id, child.id))
    assert chosen(store) == set()
    planned = prune.forecast(store, [store.get("a:1")], set())
    assert planned.size == 9 * len("baseone")
    assert len(remove_image(store, "a:1", [])) == len(planned.removals)
    assert not store.all()


def test_the_last_use_is_the_latest_of_all_uses(store: ImageStore) -> None:
    image = loaded(store, BASE, tags=("a:1",))
    assert prune.last_use_ns(image) == image.added_ns > 0
    store.touch(image.id)
    assert prune.last_use_ns(store.get("a:1")) > image.added_ns


def test_two_images_of_one_index_with_a_name_each_go_both(store: ImageStore) -> None:
    amd, arm = loaded(store, BASE, ONE), loaded(store, BASE, TWO, architecture="arm64")
    manifests = [Descriptor(x.manifest.media_type, x.manifest.digest, x.manifest.size) for x in (amd, arm)]
    blob = store.content.put(encode(Index(schema_version=2, manifests=manifests, media_type=OCI_INDEX)))
    target = Descriptor(OCI_INDEX, blob.digest, blob.size)
    store.point(parse("a:1"), amd.id, target=target)
    store.point(parse(f"a@{blob.digest}"), arm.id, target=target)
    assert chosen(store) == set()
    assert chosen(store, amd, is_all=True) == chosen(store, arm, is_all=True) == set()
    assert chosen(store, is_all=True) == {amd.id, arm.id}
    store.unpoint(parse("a:1"))
    assert chosen(store) == {arm.id}
    remove_image(store, arm.id, [])
    assert not store.all()
