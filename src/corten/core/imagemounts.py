"""Images that are mounted to be looked at: the record of each, a lease that holds its layers.

The lease is written before the mount exists and goes after it, so a crash between the two leaves a lease without a
mount, which `drop_stale` ends: at every start, and for a mount that somebody took away himself.  Who makes the mount is
the engine's business.  An image that is removed meanwhile leaves its layers until they are unmounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from corten.core import gc
from corten.core.images import ImageStore
from corten.core.leases import SNAPSHOT, Lease
from corten.errors import Conflict, Internal, InvalidArgument, NotFound
from corten.spec.image import Platform
from corten.sys import mount

_PATH, _IMAGE, _OWN = "corten.mount", "corten.image", "corten.own-directory"


@dataclass(frozen=True, slots=True)
class ImageMount:
    """One mount."""

    id: str
    """Of its lease."""
    image_id: str
    path: str
    is_own: bool
    """Whether the directory was made for it, and goes with it."""
    layers: tuple[str, ...] = ()
    """Directories, topmost first; only of a new one."""


def begin(
    images: ImageStore, ref: str, path: str, *, platform: Platform | None = None, is_own: bool = False
) -> ImageMount:
    """Takes the lease for a mount at an absolute path, which follows.

    Raises NotFound (the image, the directory), InvalidArgument (the path, an image without layers), Conflict (mounted).
    """
    path = _checked(path)
    with images.lock:
        image = images.get(ref, platform)
        if not image.chain_ids:
            raise InvalidArgument(f"image {ref} has no layers: there is nothing to mount")
        if any(one.path == path for one in listed(images)):
            raise Conflict(f"an image is mounted at {path} already")
        lease = images.leases.create(labels={_PATH: path, _IMAGE: image.id, **({_OWN: "1"} if is_own else {})})
        for chain_id in image.chain_ids:
            images.leases.add(lease.id, SNAPSHOT, chain_id)
        overlay = images.overlay
        layers = tuple(overlay.fs_path(overlay.stat(chain_id).id) for chain_id in reversed(image.chain_ids))
    return ImageMount(lease.id, image.id, path, is_own, layers)


def listed(images: ImageStore) -> Sequence[ImageMount]:
    """Every mount, oldest first."""
    return [_of(lease) for lease in images.leases.list() if _PATH in lease.labels]


def find(images: ImageStore, wanted: str) -> Sequence[ImageMount]:
    """The mounts at a path, or those of an image by name or id.  Raises NotFound when there is none."""
    every = listed(images)
    found = [one for one in every if wanted in (one.path, one.id)]
    if not found and not os.path.isabs(wanted):
        with suppress(NotFound, InvalidArgument):
            image_id = images.find(wanted).id
            found = [one for one in every if one.image_id == image_id]
    if not found:
        raise NotFound(f"no image is mounted at {wanted}")
    return found


def end(images: ImageStore, one: ImageMount) -> None:
    """Unmounts it and lets go of its layers.  Raises Conflict when something is open below it."""
    if one.path in mount.mount_points():
        try:
            mount.umount(one.path, mount.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Conflict(f"{one.path} is in use") from error
            raise Internal(f"unmount {one.path}: {error.strerror}") from error
    forget(images, one)


def forget(images: ImageStore, one: ImageMount) -> None:
    """Lets go of the layers of what is not mounted."""
    if one.is_own:
        with suppress(OSError):  # somebody put something into it
            os.rmdir(one.path)
    images.leases.delete(one.id)
    gc.drop_orphans(images, one.image_id)


def drop_stale(images: ImageStore) -> None:
    """Ends the leases of mounts that are none (any more)."""
    points = set(mount.mount_points())
    for one in listed(images):
        if one.path not in points:
            forget(images, one)


def detach_all(images: ImageStore) -> None:
    """Unmounts all, whoever uses them: their engine goes."""
    points = set(mount.mount_points())
    for one in listed(images):
        if one.path in points:
            mount.umount(one.path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _of(lease: Lease) -> ImageMount:
    return ImageMount(lease.id, lease.labels[_IMAGE], lease.labels[_PATH], _OWN in lease.labels)


def _checked(path: str) -> str:
    """The directory without links in its name, as the kernel lists mounts."""
    if not os.path.isabs(path) or "\0" in path:
        raise InvalidArgument(f"invalid mount target {path!r}: it must be an absolute path")
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise NotFound(f"mount target {path}: no such directory")
    return real
