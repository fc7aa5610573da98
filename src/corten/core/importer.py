"""`docker import`: a root filesystem in a tar archive becomes an image of one layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from corten.core import gc
from corten.core.archive import LAYER_TYPES, host_platform
from corten.core.changes import apply_changes
from corten.core.commit import now
from corten.core.images import Image, ImageStore
from corten.core.layers import Layer, unpack
from corten.core.leases import CONTENT, SNAPSHOT
from corten.core.limits import DEFAULT, Limits, with_room
from corten.core.streams import Ahead, Hashed, decompressed, detect
from corten.errors import InvalidArgument
from corten.spec.image import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    HistoryEntry,
    ImageConfig,
    Manifest,
    Platform,
    RootFS,
    RunConfig,
    chain_ids,
    encode,
)
from corten.spec.reference import Reference


def import_rootfs(
    chunks: Iterable[bytes],
    images: ImageStore,
    *,
    reference: Reference | None = None,
    message: str = "",
    changes: Sequence[str] = (),
    platform: Platform | None = None,
    limits: Limits = DEFAULT,
) -> Image:
    """The image of the archive in `chunks`, packed or not, under `reference` when one is given.

    Raises InvalidArgument (the archive, the changes), Unavailable (the disk).
    """
    run = apply_changes(RunConfig(), changes)
    ingested: set[str] = set()
    try:
        with gc.request(images) as lease:

            def keep(digest: str) -> None:
                images.leases.add(lease.id, CONTENT, digest)
                ingested.add(digest)

            blob = images.content.ingest(with_room(chunks, images.content.root, limits), keep=keep)
            diff_id = _diff_id(images, blob.digest, limits)
            with images.lock:
                images.leases.add(lease.id, SNAPSHOT, chain_ids([diff_id])[0])
            (chain,) = unpack([Layer(blob.digest, diff_id)], images.content, images.overlay, limits)
            config = images.content.put(_config(diff_id, run, message, platform or host_platform()), keep)
            manifest = Manifest(
                schema_version=2,
                media_type=OCI_MANIFEST,
                config=Descriptor(OCI_CONFIG, config.digest, config.size),
                layers=[Descriptor(_media_type(images, blob.digest), blob.digest, blob.size)],
            )
            stored = images.content.put(encode(manifest), keep)
            descriptor = Descriptor(OCI_MANIFEST, stored.digest, stored.size)
            with images.together() as tell:
                size = images.overlay.stat(chain).size
                image = images.add(config.digest, descriptor, size=size, is_composed=True)
                if reference is not None:
                    images.point(reference, image.id, is_tagged=True)
                    tell("tag", image.id, {**(run.labels or {}), "name": reference.tagged().familiar})
                tell("import", image.id, {"name": image.id})
                return images.get(image.id)
    finally:
        gc.drop_blobs(images, ingested)


def _diff_id(images: ImageStore, digest: str, limits: Limits) -> str:
    hashed = Hashed(decompressed(images.content.chunks(digest), limits))
    with Ahead(hashed) as ahead:
        for _ in ahead:
            pass
    return hashed.digest


def _media_type(images: ImageStore, digest: str) -> str:
    with images.content.open(digest) as file:
        compression = detect(file.read(16))
    if compression not in LAYER_TYPES:
        raise InvalidArgument(f"archives packed with {compression.value} are not supported")
    return LAYER_TYPES[compression]


def _config(diff_id: str, run: RunConfig, message: str, platform: Platform) -> bytes:
    created = now()
    comment = message or "Imported from -"
    return encode(
        ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created=created,
            comment=comment,
            config=run,
            rootfs=RootFS("layers", [diff_id]),
            history=[HistoryEntry(created=created, comment=comment)],
        )
    )
