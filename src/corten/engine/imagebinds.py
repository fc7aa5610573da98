"""`--mount type=image`: the files of an image, read only, in a container of another.

The image is in use as long as the container is there: `rmi` and `image prune` leave it.  At each start its layers are
mounted together at a place that no container reaches (`volumemounts`), and the container gets that.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from corten.core.images import ImageStore
from corten.core.snapshots import lowerdir
from corten.engine.mountspec import MountPoint
from corten.errors import CortenError, InvalidArgument
from corten.shim.rootfs import RootMount, make_detached


def resolved(point: MountPoint, images: ImageStore) -> MountPoint:
    """With the image's id.  Raises InvalidArgument: for a 404 the CLI would pull the container's own image."""
    try:
        image = images.get(point.name)
    except CortenError as error:
        raise InvalidArgument(error.text) from error
    if not image.chain_ids:
        raise InvalidArgument(f"image {point.name} has no layers: there is nothing to mount")
    return replace(point, source=image.id)


def detached(point: MountPoint, images: ImageStore, scratch: str, *, owners: Sequence[str] = ()) -> int:
    """The mount of a resolved one, which no path leads to; the caller's.  Raises NotFound, Internal.

    `owners`: options of `shim.idmapped`.
    """
    image, overlay = images.get(point.source), images.overlay
    layers = [overlay.fs_path(overlay.stat(chain_id).id) for chain_id in reversed(image.chain_ids)]
    return merged(layers, scratch, owners=owners)


def merged(layers: Sequence[str], scratch: str, *, owners: Sequence[str] = ()) -> int:
    """Layers, topmost first, as one read-only mount that no path leads to; the caller's.  Raises Internal."""
    if len(layers) == 1:
        return make_detached(RootMount("bind", layers[0], ["ro", *owners]), scratch)
    return make_detached(RootMount("overlay", "overlay", [lowerdir(layers), "ro", *owners]), scratch)
