"""A removal that ends at any of its steps: after a start nothing half-made is visible, and nothing is left on the disk.

Every change of the disk and every commit is a step.  The process "dies" at the n-th: from then on no step works, so
what `finally` still does has no effect either.  Then everything is opened anew as a start of the engine does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corten.core import archive, dataroot, gc, recovery
from corten.core.content import ContentStore
from corten.core.images import Image, ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.rmi import remove_image, remove_platforms
from corten.core.snapshots import Overlay
from corten.spec.image import OCI_INDEX, Descriptor, Index, Platform, encode
from corten.spec.reference import parse
from support import tarballs as t

BASE, ONE, TWO, OTHER = (t.archive(t.entry(name, data=name)) for name in (b"base", b"one", b"two", b"other"))
STEPS = ("unlink", "rename", "rmdir", "mkdir", "fsync")


class DeadError(BaseException):
    """The process is no more."""


@dataclass(slots=True)
class Life:
    """How many steps are left."""

    steps: int

    def step(self) -> None:
        """One more, unless it is over."""
        self.steps -= 1
        if self.steps < 0:
            raise DeadError


@contextmanager
def mortal(life: Life) -> Iterator[None]:
    """Steps count."""
    with pytest.MonkeyPatch.context() as patch:

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **given: Any) -> Any:
                life.step()
                return real(*args, **given)

            return call

        for name in STEPS:
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(Database, "_check_open", counted(Database._check_open))  # before every commit
        yield


@contextmanager
def started(folder: Path) -> Iterator[ImageStore]:
    """As a start of the engine opens and mends it."""
    root = dataroot.open_data_root(str(folder))
    database = Database(root.join("corten.db"))
    journal, content = Journal(database), ContentStore(root.join("content"))
    overlay = Overlay(root.join("snapshots"), database, journal)
    store = ImageStore(database, content, overlay)
    recovery.repair(recovery.scan(database, overlay, content), store, journal)
    gc.collect(store)
    overlay.trash.empty()
    yield store
    database.close()
    root.close()


def taken_in(store: ImageStore, layer: bytes, *tags: str, architecture: str = "amd64") -> Image:
    config = t.image_config([BASE, layer], architecture=architecture)
    (found, *_) = archive.load([t.docker_archive([BASE, layer], tags, config=config)], store)
    return store.get(found.image_id)


def fill(store: ImageStore) -> None:
    """`kept:1`, and `two:1`, which stands for an index of two platforms; all share a layer."""
    taken_in(store, OTHER, "kept:1")
    amd, arm = taken_in(store, ONE), taken_in(store, TWO, architecture="arm64")
    manifests = [Descriptor(x.manifest.media_type, x.manifest.digest, x.manifest.size) for x in (amd, arm)]
    blob = store.content.put(encode(Index(schema_version=2, manifests=manifests, media_type=OCI_INDEX)))
    store.point(parse("two:1"), amd.id, target=Descriptor(OCI_INDEX, blob.digest, blob.size))
    gc.drop_blobs(store, ())


def check(store: ImageStore, folder: Path) -> frozenset[str]:
    """What is there is whole, and is all there is on the disk; names and architectures."""
    blobs: set[str] = set()
    for image in store.all():
        assert not image.damage
        blobs |= {image.id, image.manifest.digest, *store.layer_blobs(image)}
    for target in store.targets.all():
        blobs |= store.targets.blobs(target)
    assert {blob.digest for blob in store.content.blobs()} == blobs
    assert {one.key for one in store.overlay.all()} == {chain for image in store.all() for chain in image.chain_ids}
    assert recovery.scan(store.database, store.overlay, store.content).is_clean
    assert os.listdir(folder / "snapshots/trash") == []
    assert (store.content.ingests(), store.leases.list()) == ([], [])
    return frozenset(f"{image.repo_tags} {image.config.architecture}" for image in store.all())


def rmi_of_a_name(store: ImageStore) -> None:
    remove_image(store, "two:1", [])


def rmi_of_a_platform(store: ImageStore) -> None:
    remove_platforms(store, "two:1", [Platform("amd64", "linux")], [])


def rmi_by_id(store: ImageStore) -> None:
    remove_image(store, store.get("kept:1").id, [])


def a_tag_in_its_place(store: ImageStore) -> None:
    store.tag("kept:1", "two", "1")
    gc.drop_blobs(store, ())


def a_collection(store: ImageStore) -> None:
    store.unpoint(parse("two:1"))
    for image in list(store.all()):
        if not image.references:
            store.forget(image.id)
    gc.collect(store)


KEPT, AMD, ARM = "['kept:1'] amd64", "['two:1'] amd64", "[] arm64"
BEFORE = frozenset({KEPT, AMD, ARM})


@pytest.mark.parametrize(
    ("work", "allowed"),
    [
        (rmi_of_a_name, [{KEPT}]),
        (rmi_of_a_platform, [{KEPT, "['two:1'] arm64"}]),
        (rmi_by_id, [{AMD, ARM}]),
        (a_tag_in_its_place, [{"['kept:1', 'two:1'] amd64", "[] amd64", ARM}]),
        (a_collection, [{KEPT, "[] amd64", ARM}, {KEPT, "[] amd64"}, {KEPT, ARM}, {KEPT}]),
    ],
)
def test_a_removal_that_ends_anywhere_leaves_all_or_nothing(
    tmp_path: Path, work: Callable[[ImageStore], None], allowed: list[set[str]]
) -> None:
    seen: set[frozenset[str]] = set()
    for steps in range(400):
        folder = tmp_path / str(steps)
        with started(folder) as store:
            fill(store)
            assert check(store, folder) == BEFORE
            life = Life(steps)
            with mortal(life):
                try:
                    work(store)
                    is_done = True
                except DeadError:
                    is_done = False
        with started(folder) as store:
            seen.add(check(store, folder))
        if is_done:
            break
    assert is_done
    assert steps > 2
    assert seen - {BEFORE} <= {frozenset(one) for one in allowed}
    assert frozenset(allowed[-1 if len(allowed) > 1 else 0]) in seen
