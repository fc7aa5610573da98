"""After a crash: what is on disk and in no record, and what is in a record and not on disk.

The journal says where to look first, the disk is the truth: a test deletes the journal's tail.  `scan` only looks (and
is what `corten doctor` prints), `repair` removes.  Task directories and kernel objects are the engine's to judge: it
knows which shims live.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from corten.core import journal as j
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.layers import Layer, layers_of, sync, unpack_blob
from corten.core.limits import DEFAULT, Limits
from corten.core.metadata import Database
from corten.core.snapshots import STAGING, Overlay
from corten.errors import CortenError

log = logging.getLogger("corten.core")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What no record names, and records of what is gone."""

    snapshot_directories: tuple[str, ...] = ()
    """Names in snapshots/ without a row."""
    staging: tuple[str, ...] = ()
    ingests: tuple[str, ...] = ()
    container_directories: tuple[str, ...] = ()
    """Names in containers/ without a record."""
    task_directories: tuple[str, ...] = ()
    """`<tenant>/<id>` below the exec root without a record."""
    lost_snapshots: tuple[str, ...] = ()
    """Keys of rows whose directory is gone."""

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing."""
        return self == Leftovers()

    def lines(self) -> list[str]:
        """One sentence each."""
        return [
            *(f"snapshot directory {name}: no record" for name in self.snapshot_directories),
            *(f"staging directory {name}: no request" for name in self.staging),
            *(f"content ingest {name}: no request" for name in self.ingests),
            *(f"container directory {name}: no record" for name in self.container_directories),
            *(f"task directory {name}: no record" for name in self.task_directories),
            *(f"snapshot {key}: no directory" for key in self.lost_snapshots),
        ]


def scan(
    database: Database, overlay: Overlay, content: ContentStore, *, containers_path: str = "", tasks_path: str = ""
) -> Leftovers:
    """Compares records and disk.  While the engine runs, requests under way show up as leftovers."""
    known = {str(snapshot.id): snapshot.key for snapshot in overlay.all()}
    on_disk = set(overlay.directories())
    records = {(row[0], row[1]) for row in database.query("SELECT tenant, id FROM containers")}
    ids = {container_id for _, container_id in records}
    tasks = [f"{tenant}/{name}" for tenant in _names(tasks_path) for name in _names(os.path.join(tasks_path, tenant))]
    return Leftovers(
        snapshot_directories=tuple(sorted(on_disk - set(known))),
        staging=tuple(overlay.staged_directories()),
        ingests=tuple(content.ingests()),
        container_directories=tuple(name for name in _names(containers_path) if name not in ids),
        task_directories=tuple(name for name in tasks if tuple(name.split("/", 1)) not in records),
        lost_snapshots=tuple(key for number, key in known.items() if number not in on_disk),
    )


def repair(
    leftovers: Leftovers, images: ImageStore, journal: Journal, *, containers_path: str = "", limits: Limits = DEFAULT
) -> list[str]:
    """Throws leftovers of the disk away and brings lost layers back from their blobs; keys of what stays lost.

    The trash is the caller's to empty: that takes as long as the disk does.  A lost snapshot that nothing whole stands
    on is forgotten.  Task directories are left to the engine.
    """
    overlay = images.overlay
    for parent, names in (
        (overlay.root, leftovers.snapshot_directories),
        (os.path.join(overlay.root, STAGING), leftovers.staging),
        (containers_path, leftovers.container_directories),
    ):
        for name in names:
            overlay.trash.take(parent, name)
    for entry in journal.entries():
        if entry.kind in (j.SNAPSHOT_DIR, j.STAGING_DIR, j.CONTENT_INGEST):
            journal.done(entry.id)
    return _restore(leftovers.lost_snapshots, images, limits)


def _restore(lost: Sequence[str], images: ImageStore, limits: Limits) -> list[str]:
    """Unpacks lost layers again, parents first; what cannot be, and nothing stands on, is forgotten."""
    blobs = _layers_by_chain(images)
    missing = [key for key in lost if key not in blobs or not _is_restored(key, blobs[key], images, limits)]
    still_lost = []
    for key in reversed(missing):
        if images.overlay.children(key):
            still_lost.append(key)
        else:
            images.overlay.remove(key)
    return still_lost[::-1]


def _is_restored(key: str, layer: Layer, images: ImageStore, limits: Limits) -> bool:
    """Whether it is there again: one that is damaged, or whose parent stays lost, keeps no other from it."""
    try:
        return _restore_layer(key, layer, images, limits)
    except (CortenError, OSError) as error:
        log.warning("snapshot %s cannot be unpacked again: %s", key, error)
        return False


def _layers_by_chain(images: ImageStore) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for image in images.list():
        try:
            blobs = images.layer_blobs(image)
        except CortenError as error:
            images.tell_of_manifest(image, error)
            continue
        layers = layers_of(blobs, image.config.diff_ids)
        found.update(zip(image.chain_ids, layers, strict=True))
    return found


def _restore_layer(key: str, layer: Layer, images: ImageStore, limits: Limits) -> bool:
    overlay = images.overlay
    if not images.content.has(layer.blob):
        return False
    with overlay.stage() as staged, overlay.below(overlay.stat(key).parent) as lower:
        unpack_blob(layer, staged, images.content, lower, limits)
        sync(overlay.root)
        overlay.put_back(staged, key)
    return True


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path)) if path else []
    except (FileNotFoundError, NotADirectoryError):
        return []
