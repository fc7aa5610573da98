"""Garbage: blobs and layers that no image, no container and no lease needs.

    root                       keeps
    image                      its configuration, manifest, layer blobs; the snapshots of its chain
    name                       what it stands for (`targets`)
    snapshot that is no layer  what it stands on
    lease                      its items

While an image has a damaged manifest, or a name stands for a damaged index, nobody knows which blobs are needed: none
is removed, and the log says whose it is.

Removing an image drops at once what it alone kept (`drop_layers`, `drop_blobs`); `collect` finds the rest, which only a
crash leaves behind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from corten.core.images import ImageStore
from corten.core.leases import CONTENT, SNAPSHOT, Lease
from corten.core.snapshots import Forgotten, Kind, Snapshot
from corten.errors import CortenError, FailedPrecondition

log = logging.getLogger("corten.core")

INIT_PREFIX = "init:"
"""Keys of the snapshots that stand between an image and its containers, one per chain: they go with the chain."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed."""

    blobs: tuple[str, ...]
    snapshots: tuple[str, ...]
    bytes: int


def collect(images: ImageStore) -> Collected:
    """Removes everything that nothing keeps."""
    with images.lock:
        images.leases.drop_expired()
        forgotten = _drop_snapshots(images)
        sizes = {blob.digest: blob.size for blob in images.content.blobs()}
        blobs = drop_blobs(images, set(sizes))
    discard(images, forgotten)
    snapshots = tuple(one.key for one in forgotten)
    return Collected(tuple(blobs), snapshots, sum(size for digest, size in sizes.items() if digest in blobs))


@contextmanager
def request(images: ImageStore) -> Iterator[Lease]:
    """A lease for the length of a request that makes an image; the layers of one that fails go.

    They are there before the image is: its record is what may fail then, for want of room.
    """
    try:
        with images.leases.held() as lease:
            yield lease
    except BaseException:
        try:
            with images.lock:
                forgotten = _drop_snapshots(images)
            discard(images, forgotten)
        except (CortenError, OSError) as error:
            log.warning("layers of a request that failed, removed by the next start: %s", error)
        raise


def drop_orphans(images: ImageStore, image_id: str) -> None:
    """Removes the layers of an image that went while a container of it, now gone too, stood on them."""
    with images.lock:
        forgotten = _drop_snapshots(images) if images.find_id(image_id) is None else []
    discard(images, forgotten)


def discard(images: ImageStore, forgotten: Iterable[Forgotten]) -> None:
    """Removes the files of layers; not under the lock, which nobody should have for as long as a disk takes."""
    for one in forgotten:
        images.overlay.discard(one)


def drop_blobs(images: ImageStore, digests: Iterable[str]) -> list[str]:
    """Removes those of `digests` that no image refers to and no lease holds; what was removed.

    Looked at besides: what names stood for that now stand for something else.
    """
    with images.lock:
        garbage = set(digests) | images.targets.left
        images.targets.left.clear()
        for image in images.all():
            try:
                garbage -= {image.id, image.manifest.digest, *images.layer_blobs(image)}
            except CortenError as error:
                images.tell_of_manifest(image, error)
                garbage.clear()
            except OSError as error:  # what this follows has happened; `collect` of the next start tries again
                log.warning("blobs of nobody are left: manifest of image %s: %s", image.id, error)
                garbage.clear()
        for target in images.targets.all():
            try:
                garbage -= images.targets.blobs(target)
            except CortenError as error:
                images.tell_of_target(target.reference, target.descriptor.digest, error)
                garbage.clear()
            except OSError as error:
                log.warning("blobs of nobody are left: %s: %s", target.descriptor.digest, error)
                garbage.clear()
        return [digest for digest in sorted(garbage) if _delete_blob(images, digest)]


def _delete_blob(images: ImageStore, digest: str) -> bool:
    with images.content.lock:
        if digest in images.leases.items(CONTENT) or not images.content.has(digest):
            return False
        images.content.delete(digest)
        return True


def drop_layers(images: ImageStore, chain_ids: Sequence[str]) -> list[Forgotten]:
    """Ends the layers of a chain (bottom first) from its top, down to one that is still needed; for `discard`.

    Those whose keys are not of the chain are init layers.
    """
    with images.lock:
        needed = _needed_chains(images)
        forgotten: list[Forgotten] = []
        for chain_id in reversed(chain_ids):
            if chain_id in needed or not images.overlay.exists(chain_id):
                break
            forgotten += _forget_layer(images, chain_id)
            if images.overlay.exists(chain_id):
                break
        return forgotten


def _needed_chains(images: ImageStore) -> set[str]:
    return {chain_id for image in images.all() for chain_id in image.chain_ids} | images.leases.items(SNAPSHOT)


def _forget_layer(images: ImageStore, chain_id: str) -> list[Forgotten]:
    """Ends a layer and the idle init layer on it; nothing when something else stands on it."""
    overlay = images.overlay
    children = overlay.children(chain_id)
    idle = [child for child in children if _is_init(child) and not overlay.children(child.key)]
    if len(idle) != len(children):
        return []
    return _forget(images, [*(child.key for child in idle), chain_id])


def _forget(images: ImageStore, keys: Iterable[str]) -> list[Forgotten]:
    """Ends these, down to the first on which a container was made since somebody looked."""
    forgotten: list[Forgotten] = []
    with suppress(FailedPrecondition):
        for key in keys:
            forgotten.append(images.overlay.forget(key))
    return forgotten


def _is_init(snapshot: Snapshot) -> bool:
    return snapshot.kind is Kind.COMMITTED and snapshot.key.startswith(INIT_PREFIX)


def _drop_snapshots(images: ImageStore) -> list[Forgotten]:
    """Ends committed snapshots that nothing needs, children before parents; for `discard`."""
    needed = _needed_chains(images)
    forgotten: list[Forgotten] = []
    for snapshot in reversed(images.overlay.all()):
        if snapshot.kind is not Kind.COMMITTED or snapshot.key in needed or images.overlay.children(snapshot.key):
            continue
        if _is_init(snapshot) and snapshot.parent in needed:
            continue
        forgotten += _forget(images, [snapshot.key])
    return forgotten
