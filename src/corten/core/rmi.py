"""Removing images, as `docker rmi` does it: names first, then the image, then what nobody else needs of it.

Rules and texts follow dockerd (moby daemon/images/image_delete.go):

    asked by   other names              used by             without force          with force
    name       some                     anything            untag                  untag
    name       none                     a container         conflict               untag, keep the image while it runs
    id         of several repositories  -                   conflict (soft)        untag all, delete
    id, name   -                        running container   conflict (hard)        conflict (hard)
    id, name   -                        stopped container   conflict (soft)        delete
    id, name   -                        a child image       conflict (hard)        conflict (hard)

With a name that stands for an index go the other images of that index that nothing else names or uses: a user who asked
for the name did not mean to keep them.  A damaged image is removed like any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from corten.core.gc import discard, drop_blobs, drop_layers
from corten.core.images import Image, ImageStore, Tell, is_id_prefix, short_id
from corten.core.snapshots import Forgotten
from corten.errors import Conflict, CortenError
from corten.spec.image import Platform
from corten.spec.reference import Reference, parse


@dataclass(frozen=True, slots=True)
class Use:
    """A container and the image that it is made of."""

    container_id: str
    image_id: str
    is_running: bool


class What(StrEnum):
    """What was done: the keys of Docker's answer."""

    UNTAGGED = "Untagged"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class Removal:
    """One line of the answer: a name, an image id or a chain id."""

    what: What
    subject: str


def remove_image(
    images: ImageStore, ref: str, uses: Sequence[Use], *, force: bool = False, prune: bool = True
) -> list[Removal]:
    """Removes a name or an image; what was done, in order.

    `prune` also removes untagged parents.  Names and image go together: a crash leaves both or neither.

    Raises:
        NotFound: no such image.
        Conflict: in Docker's words.
    """
    removing = _Removing(images, uses)
    try:
        with images.lock:
            _remove(removing, ref, force=force, prune=prune)
    finally:
        discard(images, removing.forgotten)
    return removing.done


def remove_platforms(
    images: ImageStore, ref: str, platforms: Sequence[Platform], uses: Sequence[Use], *, force: bool = False
) -> list[Removal]:
    """Removes the images of some platforms of the index that a name stands for; what was done, in order.

    The name stays as long as another platform is here, and points to that.  Where it stands for one image it is removed
    as by `remove_image`.

    Raises:
        NotFound: no such image, or none of this platform.
        Conflict: in Docker's words.
    """
    removing = _Removing(images, uses)
    try:
        with images.lock:
            chosen = {image.id: image for image in (images.get(ref, platform) for platform in platforms)}
            here = {image.id for _, image in images.platforms(ref) if image is not None}
            if here <= set(chosen):
                _remove(removing, ref, force=force, prune=True)
            else:
                with images.together() as tell:
                    for image in chosen.values():
                        _remove_variant(removing, image, force, tell)
                _drop(removing)
    finally:
        discard(images, removing.forgotten)
    return removing.done


def _remove_variant(removing: _Removing, image: Image, force: bool, tell: Tell) -> None:
    images = removing.images
    for name in image.references:
        target = images.targets.of(name)
        variants = images.targets.variants(target.descriptor) if target is not None else ()
        others = [one.image_id for one in variants if one.image_id != image.id and images.find_id(one.image_id)]
        if target is not None and others:
            images.point(name, others[0], target=target.descriptor)
    _delete(removing, image, tell, force=force, is_quiet=False)


@dataclass(frozen=True, slots=True)
class _Removing:
    """One request."""

    images: ImageStore
    uses: Sequence[Use]
    done: list[Removal] = field(default_factory=list)
    forgotten: list[Forgotten] = field(default_factory=list)
    """Layers whose files are still there."""
    blobs: set[str] = field(default_factory=set)
    """What the names and images that are gone had."""
    companions: dict[str, None] = field(default_factory=dict)
    """Images, by id, of the indexes that those names stood for."""
    deleted: list[Image] = field(default_factory=list)
    """Whose layers are still there."""


def _remove(removing: _Removing, ref: str, *, force: bool, prune: bool) -> None:
    images = removing.images
    image = images.find(ref)
    with images.together() as tell:
        if is_id_prefix(image.id, ref):
            _untag_by_id(removing, image, force, tell)
            is_gone = _delete(removing, image, tell, force=force, is_quiet=False)
        elif _untag_by_name(removing, image, ref, force, tell):
            is_gone = False
        else:
            is_gone = _delete(removing, image, tell, force=force, is_quiet=True)
        _delete_companions(removing, tell)
    _drop(removing)
    parent = images.find_id(image.parent) if prune and is_gone and image.parent else None
    while parent is not None and parent.is_dangling:
        with images.together() as tell:
            is_gone = _delete(removing, parent, tell, force=False, is_quiet=True)
        _drop(removing)
        parent = images.find_id(parent.parent) if is_gone and parent.parent else None


def _untag_by_name(removing: _Removing, image: Image, ref: str, force: bool, tell: Tell) -> bool:
    """Removes the name; True when others are left and the image stays."""
    images = removing.images
    used_by = next((use for use in removing.uses if use.image_id == image.id), None)
    if not force and _is_single(image.references) and used_by is not None:
        raise Conflict(
            f'conflict: unable to remove repository reference "{ref}" (must force) - container'
            f" {short_id(used_by.container_id)} is using its referenced image {short_id(image.id)}"
        )
    name = parse(ref).stored()
    _untag(removing, image, name, tell)
    left = images.references(image.id)
    if not name.is_canonical and not any(one.name == name.name and not one.is_canonical for one in left):
        for digest_name in [one for one in left if one.name == name.name]:
            _untag(removing, image, digest_name, tell)
        left = images.references(image.id)
    return bool(left)


def _untag_by_id(removing: _Removing, image: Image, force: bool, tell: Tell) -> None:
    if not _is_single(image.references):
        return
    _refuse_conflict(removing.images, image, removing.uses, force=force, several_names=False)
    for name in image.references:
        _untag(removing, image, name, tell)


def _untag(removing: _Removing, image: Image, name: Reference, tell: Tell) -> None:
    targets = removing.images.targets
    if (target := targets.of(name)) is not None:
        with contextlib.suppress(CortenError):  # a damaged index: collect() finds what only it knew
            removing.companions.update(dict.fromkeys(one.image_id for one in targets.variants(target.descriptor)))
    removing.images.unpoint(name)
    tell("untag", image.id, {"name": image.id})
    removing.done.append(Removal(What.UNTAGGED, name.familiar))


def _is_single(names: Sequence[Reference]) -> bool:
    """Whether all names are one tag, its digests, or digests of one repository."""
    if len(names) <= 1:
        return True
    tags = [name for name in names if not name.is_canonical]
    if len(tags) > 1:
        return False
    pinned = {name.name for name in names if name.is_canonical}
    return pinned == {(tags or names)[0].name}


def _refuse_conflict(
    images: ImageStore, image: Image, uses: Sequence[Use], *, force: bool, several_names: bool
) -> None:
    """Raises Conflict for what forbids the deletion; force overrides all but running containers and children."""
    mine = [use for use in uses if use.image_id == image.id]
    running = [use for use in mine if use.is_running]
    if images.children(image.id):
        raise _conflict(image, "cannot be forced", "image has dependent child images")
    if running:
        used_by = short_id(running[0].container_id)
        raise _conflict(image, "cannot be forced", f"image is being used by running container {used_by}")
    if force:
        return
    if several_names and images.references(image.id):
        raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
    if mine:
        used_by = short_id(mine[0].container_id)
        raise _conflict(image, "must be forced", f"image is being used by stopped container {used_by}")


def _conflict(image: Image, how: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {short_id(image.id)} ({how}) - {why}")


def _delete_companions(removing: _Removing, tell: Tell) -> None:
    """Images of the same index as one whose name is gone, unless something else needs them."""
    for image_id in list(removing.companions):
        image = removing.images.find_id(image_id)
        if image is None or image.references or image.reached_by or any(u.image_id == image_id for u in removing.uses):
            continue
        _delete(removing, image, tell, force=False, is_quiet=True)


def _delete(removing: _Removing, image: Image, tell: Tell, *, force: bool, is_quiet: bool) -> bool:
    """Removes the record of the image with all its names; False when it stays.

    Quietly means: somebody asked for a name, which is gone; that the image must stay is then no error.
    """
    images, uses = removing.images, removing.uses
    try:
        _refuse_conflict(images, image, uses, force=force, several_names=True)
    except Conflict:
        is_used = any(use.image_id == image.id for use in uses)
        if is_quiet and (images.references(image.id) or is_used or images.children(image.id)):
            return False
        raise
    for name in images.references(image.id):
        _untag(removing, image, name, tell)
    removing.blobs.update((image.id, image.manifest.digest))
    with contextlib.suppress(CortenError):  # a damaged manifest: collect() finds what only it knew
        removing.blobs.update(images.layer_blobs(image))
    images.forget(image.id)
    tell("delete", image.id, {"name": image.id})
    removing.done.append(Removal(What.DELETED, image.id))
    removing.deleted.append(image)
    return True


def _drop(removing: _Removing) -> None:
    """What only the images needed that went, and what their names stood for."""
    for image in removing.deleted:
        forgotten = drop_layers(removing.images, image.chain_ids)
        removing.forgotten.extend(forgotten)
        removing.done.extend(Removal(What.DELETED, one.key) for one in forgotten if one.key in image.chain_ids)
    if removing.blobs or removing.images.targets.left:
        drop_blobs(removing.images, removing.blobs)
    removing.deleted.clear()
    removing.blobs.clear()
