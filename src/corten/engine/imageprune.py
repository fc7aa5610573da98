"""`image prune`: images that nobody needs, now or not for a long time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from corten.core import prune, rmi
from corten.core.events import Event
from corten.core.images import Image
from corten.core.rmi import Removal, What
from corten.engine import times
from corten.engine.filters import Filters, check_keys, flags
from corten.engine.imageviews import ImageViews
from corten.engine.parts import Parts
from corten.engine.threads import in_own_thread
from corten.errors import Conflict, InvalidArgument, NotFound
from corten.registry.downloads import Downloads

Json = dict[str, Any]

_FILTERS: Final = frozenset({"dangling", "label", "label!", "until", "unused-for"})


class ImagePrune:
    """Removes images, one after the other; each goes whole or stays."""

    def __init__(self, parts: Parts, views: ImageViews, downloads: Downloads) -> None:
        self._parts = parts
        self._views = views
        self._downloads = downloads

    async def prune(self, filters: Filters, dry_run: bool = False, leaving: Collection[str] = ()) -> Json:
        """Dangling images, or with `dangling=false` all that no container uses.

        `unused-for` (of Corten) asks of all of them for those that were last used that long ago.  SpaceReclaimed is
        what their unpacked layers took, as with dockerd; without filters also what pulls that failed left, which goes
        too.  dry_run: nothing is removed; the containers whose ids are in `leaving` count as removed already.
        Raises InvalidArgument.
        """
        check_keys(filters, _FILTERS)
        if len(filters.get("until", ())) > 1:
            raise InvalidArgument("more than one until filter specified")
        return await in_own_thread("prune", lambda: self._prune(filters, dry_run, leaving if dry_run else ()))

    def _prune(self, filters: Filters, dry_run: bool, without: Collection[str]) -> Json:
        used = {used for one in self._parts.roster if one.id not in without for used in one.record.image_ids}
        leaving = self._candidates(filters, used)
        is_narrowed = bool(set(filters) - {"dangling"})
        if dry_run:
            planned = prune.forecast(self._parts.images, leaving, used, without=without)
            return _answer(planned.removals, planned.size + (0 if is_narrowed else self._downloads.idle_size()))
        sizes = {one.key: one.size for one in self._parts.snapshots.all()}
        removed = [removal for image in leaving for removal in self._remove(image)]
        space = sum(sizes.get(one.subject, 0) for one in removed if one.what is What.DELETED)
        space += 0 if is_narrowed else self._downloads.drop_idle()
        self._parts.bus.publish(Event(type="image", action="prune", id="", attributes={"reclaimed": str(space)}))
        return _answer(removed, space)

    def _candidates(self, filters: Filters, used: set[str]) -> Sequence[Image]:
        ages = [times.parse_age_ns(text) for text in filters.get("unused-for", ())]
        is_all = flags("dangling", filters) is False or (bool(ages) and "dangling" not in filters)
        wanted = self._views.wanted({key: filters[key] for key in ("label", "label!", "until") if key in filters})
        since_ns = times.now_ns() - max(ages) if ages else None
        return prune.candidates(self._parts.images, used, wanted, is_all=is_all, unused_since_ns=since_ns)

    def _remove(self, image: Image) -> list[Removal]:
        """What somebody removed or began to use meanwhile is left."""
        removed: list[Removal] = []
        for ref in [reference.familiar for reference in image.references] or [image.id]:
            try:
                removed += rmi.remove_image(self._parts.images, ref, self.uses())
            except (Conflict, NotFound):
                continue
        return removed

    def uses(self) -> list[rmi.Use]:
        """Containers and their images, now."""
        return [rmi.Use(one.id, used, one.is_running) for one in self._parts.roster for used in one.record.image_ids]


def _answer(removals: Sequence[Removal], space: int) -> Json:
    deleted = [{str(one.what): one.subject} for one in removals]
    return {"ImagesDeleted": deleted or None, "SpaceReclaimed": space}
