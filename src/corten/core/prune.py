"""Which images nobody needs, and what their removal would free.

    asked for              images that go, none of which a container uses
    dangling               without a tag, of their own or of an index that has them; none with children
    all                    any; an index goes as a whole or not at all
    unused for some time   of those, the ones that nobody loaded, tagged or used since: `last_use_ns`

`forecast` says what a removal would do and does nothing; the removal itself is `rmi`'s, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from corten.core.gc import INIT_PREFIX
from corten.core.images import Image, ImageStore
from corten.core.leases import SNAPSHOT
from corten.core.rmi import Removal, What
from corten.spec.reference import Reference


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was or would be done, in order, and the bytes of the unpacked layers that go."""

    removals: tuple[Removal, ...]
    size: int


def last_use_ns(image: Image) -> int:
    """When somebody loaded, pulled or tagged the image, made a container of it or removed one."""
    return max(image.added_ns, image.tagged_ns, image.used_ns)


def candidates(
    images: ImageStore,
    used: Collection[str],
    wanted: Callable[[Image], bool],
    *,
    is_all: bool,
    unused_since_ns: int | None = None,
) -> Sequence[Image]:
    """Images to remove; `used` are ids of containers' images.

    With `unused_since_ns` those that nobody used from then on, nor another one that would go with them.
    """
    every = images.list()
    partners = _partners(every)
    recent = {image.id for image in every if unused_since_ns is not None and last_use_ns(image) >= unused_since_ns}
    nameless = {image.id for image in every if not image.references}
    found = []
    for image in every:
        is_used = image.id in recent or not partners[image.id].isdisjoint({*used, *(recent & nameless)})
        is_between = not image.references and (bool(image.reached_by) or bool(images.children(image.id)))
        if not is_used and not is_between and (is_all or image.is_dangling) and wanted(image):
            found.append(image)
    return found


def _partners(every: Iterable[Image]) -> dict[str, set[str]]:
    """By id of an image: itself and those that one of its names' indexes has besides."""
    by_name: dict[Reference, set[str]] = {}
    for image in every:
        for name in image.reached_by:
            by_name.setdefault(name, set()).add(image.id)
    return {image.id: {image.id}.union(*(by_name.get(name, set()) for name in image.references)) for image in every}


def forecast(
    images: ImageStore, leaving: Sequence[Image], used: Collection[str], *, without: Collection[str] = ()
) -> Forecast:
    """What the removal of these images would do, once the snapshots (containers) in `without` are gone."""
    every: dict[str, Image] = {image.id: image for image in images.all()}
    gone: dict[str, Image] = {image.id: image for image in leaving}
    names = {name for image in leaving for name in image.references}
    for image in every.values():
        is_companion = bool(image.reached_by) and not image.references and names.issuperset(image.reached_by)
        if is_companion and image.id not in used:
            gone.setdefault(image.id, image)
    _add_parents(gone, every, used)
    removals: list[Removal] = []
    for image in gone.values():
        removals += [Removal(What.UNTAGGED, name.familiar) for name in image.references]
        removals.append(Removal(What.DELETED, image.id))
    kept = [image for image in every.values() if image.id not in gone]
    layers = _layers(images, list(gone.values()), kept, without)
    removals += [Removal(What.DELETED, key) for key in layers]
    return Forecast(tuple(removals), sum(layers.values()))


def _add_parents(gone: dict[str, Image], every: dict[str, Image], used: Collection[str]) -> None:
    for image in list(gone.values()):
        parent = every.get(image.parent)
        while parent is not None and parent.is_dangling and parent.id not in used:
            if any(one.parent == parent.id and one.id not in gone for one in every.values()):
                break
            gone.setdefault(parent.id, parent)
            parent = every.get(parent.parent)


def _layers(
    images: ImageStore, gone: Sequence[Image], kept: Sequence[Image], without: Collection[str]
) -> dict[str, int]:
    """Chain ids and sizes of the layers that only those images need, top first."""
    needed = {chain for image in kept for chain in image.chain_ids} | images.leases.items(SNAPSHOT)
    snapshots = [one for one in images.overlay.all() if one.key not in without]
    for one in reversed(snapshots):  # containers stand on layers, also of images that are gone
        is_layer = any(one.key in image.chain_ids for image in gone)
        if one.parent and (one.key in needed or not (is_layer or one.key.startswith(INIT_PREFIX))):
            needed.add(one.parent)
    sizes = {one.key: one.size for one in snapshots}
    chains = {chain: None for image in gone for chain in reversed(image.chain_ids)}
    return {chain: sizes[chain] for chain in chains if chain not in needed and chain in sizes}
