"""`docker commit`: what a container changed becomes a layer on its image.

The layer is kept as an uncompressed archive: its digest is its diff id, and follows from the files alone (`treetar`).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from corten.core import gc, layered, treetar
from corten.core.gc import INIT_PREFIX
from corten.core.images import Image, ImageStore
from corten.core.layers import layers_of, unpack
from corten.core.leases import CONTENT, SNAPSHOT
from corten.core.limits import DEFAULT, Limits, watched
from corten.core.lower import LowerView
from corten.errors import Conflict, InvalidArgument, NotFound, Unavailable
from corten.spec.image import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    HistoryEntry,
    ImageConfig,
    Manifest,
    RootFS,
    RunConfig,
    chain_ids,
    encode,
)
from corten.spec.reference import Reference

_OCI_TYPES = {DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}


@dataclass(frozen=True, slots=True)
class Request:
    """What to commit: the container's snapshot has its id as key."""

    container_id: str
    image_id: str
    run: RunConfig
    container: RunConfig | None = None
    """Config of the container itself."""
    command: str = ""
    """For the line of the history."""
    author: str = ""
    comment: str = ""
    reference: Reference | None = None


def commit(
    request: Request, images: ImageStore, *, check: Callable[[], None] = lambda: None, limits: Limits = DEFAULT
) -> Image:
    """The new image.  `check` is called often, and may raise to give it up.

    Raises NotFound (the image of the container is gone), Conflict (the container went), InvalidArgument (the layer is
    too large), Unavailable (the disk is about to be full), OSError.
    """
    ingested: set[str] = set()
    try:
        with gc.request(images) as lease:

            def keep(digest: str) -> None:
                images.leases.add(lease.id, CONTENT, digest)
                ingested.add(digest)

            base = _base(request, images, lease.id)
            manifest = images.manifest(base)
            _require_room(request, images, limits)
            with closing(_layer(request, images, limits)) as chunks:
                blob = images.content.ingest(watched(chunks, images.content.root, check, limits), keep=keep)
            if not images.overlay.exists(request.container_id):
                raise Conflict(f"container {request.container_id} was removed")
            is_empty = blob.digest == treetar.EMPTY_TAR
            diff_ids = [*base.config.diff_ids, *([] if is_empty else [blob.digest])]
            layers = [*manifest.layers, *([] if is_empty else [Descriptor(OCI_LAYER, blob.digest, blob.size)])]
            size = _unpacked(images, lease.id, layers, diff_ids, limits)
            config = images.content.put(_config(request, base.config, diff_ids, is_empty), keep)
            stored = images.content.put(_manifest(Descriptor(OCI_CONFIG, config.digest, config.size), layers), keep)
            check()
            return _recorded(request, images, config.digest, Descriptor(OCI_MANIFEST, stored.digest, stored.size), size)
    finally:
        gc.drop_blobs(images, ingested)


def _base(request: Request, images: ImageStore, lease_id: str) -> Image:
    """The container's image, kept with all that it has until the request ends."""
    with images.lock:
        base = images.find_id(request.image_id)
        if base is None or base.damage:
            raise NotFound(f"No such image: {request.image_id}")
        for chain_id in base.chain_ids:
            images.leases.add(lease_id, SNAPSHOT, chain_id)
        for digest in (base.id, base.manifest.digest, *images.layer_blobs(base)):
            images.leases.add(lease_id, CONTENT, digest)
        return base


def _require_room(request: Request, images: ImageStore, limits: Limits) -> None:
    """For the archive and for what is unpacked of it, holes and all: a sparse file must not fill the disk first."""
    with images.overlay.layers(request.container_id) as (upper_fd, *_):
        size = sum(node.status.st_size for node in layered.upper(upper_fd) if stat.S_ISREG(node.status.st_mode))
    if size > limits.apparent:
        raise InvalidArgument(f"files of the layer are larger than {limits.apparent} bytes")
    space = os.statvfs(images.content.root)
    if space.f_bavail * space.f_frsize - 2 * size < limits.disk_reserve:
        raise Unavailable(f"no space left for layers: less than {limits.disk_reserve} bytes would be free")


def _layer(request: Request, images: ImageStore, limits: Limits) -> Generator[bytes, None, None]:
    """The container's own layer, over those of its image: the init layer's files are no part of an image."""
    overlay = images.overlay
    parent = overlay.stat(request.container_id).parent
    with overlay.layers(request.container_id) as (upper_fd, *lower_fds):
        below = lower_fds[1:] if parent.startswith(INIT_PREFIX) else lower_fds
        yield from treetar.layer(layered.upper(upper_fd), LowerView(below), limits)


def _unpacked(
    images: ImageStore, lease_id: str, layers: Sequence[Descriptor], diff_ids: Sequence[str], limits: Limits
) -> int:
    """Makes the new layer's snapshot; the size of all of them."""
    with images.lock:
        for chain_id in chain_ids(diff_ids):
            images.leases.add(lease_id, SNAPSHOT, chain_id)
    blobs = [layer.digest for layer in layers]
    chain = unpack(layers_of(blobs, diff_ids), images.content, images.overlay, limits)
    return sum(images.overlay.stat(chain_id).size for chain_id in chain)


def _config(request: Request, base: ImageConfig, diff_ids: Sequence[str], is_empty: bool) -> bytes:
    created = now()
    line = HistoryEntry(
        created=created,
        created_by=request.command,
        author=request.author,
        comment=request.comment,
        empty_layer=is_empty,
    )
    return encode(
        msgspec.structs.replace(
            base,
            created=created,
            author=request.author,
            comment="",  # it stands in the history
            container=request.container_id,
            container_config=request.container,
            config=request.run,
            rootfs=RootFS("layers", list(diff_ids)),
            history=[*(base.history or ()), line],
        )
    )


def _manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest: layers of Docker's types are the same bytes under OCI's names."""
    typed = [
        msgspec.structs.replace(layer, media_type=_OCI_TYPES.get(layer.media_type, layer.media_type))
        for layer in layers
    ]
    return encode(Manifest(schema_version=2, media_type=OCI_MANIFEST, config=config, layers=typed))


def _recorded(request: Request, images: ImageStore, config: str, manifest: Descriptor, size: int) -> Image:
    with images.together() as tell:
        image = images.add(config, manifest, size=size, parent=request.image_id, is_composed=True)
        if request.reference is not None:
            images.point(request.reference, image.id, is_tagged=True)
            tell("tag", image.id, {**(request.run.labels or {}), "name": request.reference.tagged().familiar})
        return images.get(image.id)


def now() -> str:
    """This moment as configurations have it: RFC 3339 with nanoseconds, in UTC."""
    nanoseconds = time.time_ns()
    second = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"
