"""`docker volume`: create, list, inspect, remove, prune; and what containers do with volumes when they come and go.

A volume is in use as long as a container, running or not, has it among its mounts: nothing counts, the containers are
asked.  What is decided here happens in the event loop without a pause, so no container takes a volume that goes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.core import trees
from corten.core.volumes import Forgotten, Volume, size_of
from corten.engine import filters, imagebinds, localdriver, mountspec
from corten.engine.container import Container
from corten.engine.events import volume_event
from corten.engine.filters import Filters, labels_match, sift
from corten.engine.mountspec import LOCAL, MountPoint
from corten.engine.parts import Parts
from corten.engine.patterns import Regexps
from corten.engine.threads import in_own_thread
from corten.engine.times import SECOND_NS, rfc3339
from corten.engine.volumemounts import SUBPATHS
from corten.errors import Conflict, CortenError, Internal, InvalidArgument, NotFound, Unavailable

Json = dict[str, Any]

log = logging.getLogger("corten.engine")

ANONYMOUS_LABEL: Final = "com.docker.volume.anonymous"
_LIST_FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS: Final = frozenset({"label", "label!", "all"})
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Volumes:
    """The volumes of one engine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.volumes

    # The API

    async def create(
        self, name: str, driver: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> Json:
        """VolumeCreate; one that is there already is the answer, whatever else was asked for.

        Raises InvalidArgument, NotFound (the driver).
        """
        if not name:
            name, labels = secrets.token_hex(32), {**(labels or {}), ANONYMOUS_LABEL: ""}
        _check_driver(name, driver)
        volume = self._store.get(name)
        if volume is None:
            volume = self._make([self._wanted(name, options, labels)])[0]
        await asyncio.to_thread(self._parts.sync)
        return self._shown(volume)

    def _wanted(self, name: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None) -> Volume:
        """A volume that is to be made.  Raises InvalidArgument."""
        try:
            localdriver.check_options(options, has_quotas=self._store.can_limit)
        except InvalidArgument as error:
            raise InvalidArgument(f"create {name}: {error.text}") from error
        return Volume(
            name=name, labels=None if labels is None else dict(labels), options=dict(options) if options else None
        )

    def _make(self, wanted: Sequence[Volume], owner: str = "") -> list[Volume]:
        """New ones, which were checked: all or none."""
        try:
            volumes = self._store.create_all(wanted, owner)
        except OSError as error:
            name = os.path.relpath(str(error.filename or ""), self._store.path).partition("/")[0]
            reason = f"mkdir {self._store.directory(name)}: {(error.strerror or '').lower()}"
            raise Internal(f"create {name}: error while creating volume root path '{reason}'") from error
        for volume in volumes:
            self._parts.bus.publish(volume_event(volume.name, "create", driver=LOCAL))
        return volumes

    async def rows(self, wanted: Filters) -> Json:
        """VolumeList."""
        filters.check_keys(wanted, _LIST_FILTERS)
        dangling = filters.flags("dangling", wanted)
        names = Regexps("name", wanted.get("name", ()))
        in_use = self._in_use() if dangling is not None else {}
        drivers = wanted.get("driver", ())

        def matching(volumes: Sequence[Volume]) -> list[Volume]:
            return [
                one
                for one in volumes
                if (dangling is None or dangling == (one.name not in in_use and not self._unreadable(one.name)))
                and (not drivers or LOCAL in drivers)
                and labels_match(one.labels or {}, wanted.get("label", ()))
                and names.match(one.name)
            ]

        found = await sift(wanted, matching, self._store.all())
        return {"Volumes": [self._shown(one) for one in found], "Warnings": None}

    async def inspect(self, name: str) -> Json:
        """VolumeInspect.  Raises NotFound."""
        return self._shown(self._get(name))

    def _get(self, name: str) -> Volume:
        found = self._store.get(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def _shown(self, volume: Volume) -> Json:
        return {
            "CreatedAt": rfc3339(volume.created_ns // SECOND_NS * SECOND_NS),
            "Driver": LOCAL,
            "Labels": _sorted(volume.labels),
            "Mountpoint": self._store.mountpoint(volume.name),
            "Name": volume.name,
            "Options": _sorted(volume.options),
            "Scope": "local",
        }

    async def remove(self, name: str, force: bool) -> None:
        """VolumeDelete.  Raises NotFound unless forced, Conflict while a container has it."""
        if force and self._store.get(name) is None:
            return
        self._get(name)
        holders = self._holders(name)
        if holders:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(holders)}]")
        taken = self._forget(name)
        await asyncio.to_thread(self._parts.sync)
        await self._discard(taken)

    def _forget(self, name: str) -> str:
        self._unmount(name)
        taken = self._store.remove(name)
        self._parts.bus.publish(volume_event(name, "destroy", driver=LOCAL))
        return taken

    def _unmount(self, name: str) -> None:
        mountpoint = self._store.mountpoint(name)
        if localdriver.is_mounted(mountpoint):
            localdriver.unmount_volume(mountpoint)

    async def _discard(self, taken: str) -> None:
        try:
            await in_own_thread("discard", functools.partial(self._store.discard, taken))
        except OSError as error:
            log.warning("files of a removed volume are left to the next start: %s", error)

    async def update(self, name: str) -> None:
        """VolumeUpdate: of cluster volumes alone."""
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")

    async def prune(self, wanted: Filters, dry_run: bool = False, leaving: Collection[str] = ()) -> Json:
        """VolumePrune: those that no container has; anonymous ones unless `all`.

        dry_run: nothing is removed; the containers whose ids are in `leaving` count as removed already.
        """
        filters.check_keys(wanted, _PRUNE_FILTERS)
        everything = bool(filters.flags("all", wanted))
        removed, space = [], 0
        for volume in self._store.all():
            if not self._is_prunable(volume, wanted, everything=everything, leaving=leaving if dry_run else ()):
                continue
            size = await self._size(volume)
            if dry_run or await self._pruned(volume.name):
                removed.append(volume.name)
                space += size
        if not dry_run:
            await asyncio.to_thread(self._parts.sync)
            self._parts.bus.publish(volume_event("", "prune", reclaimed=str(space)))
        return {"VolumesDeleted": removed or None, "SpaceReclaimed": space}

    async def _pruned(self, name: str) -> bool:
        """Removed, unless somebody has taken or removed it meanwhile."""
        if self._holders(name) or self._store.get(name) is None:
            return False
        await self._discard(self._forget(name))
        return True

    def _is_prunable(self, volume: Volume, wanted: Filters, *, everything: bool, leaving: Collection[str]) -> bool:
        labels, unwanted = volume.labels or {}, wanted.get("label!", ())
        return (
            not volume.options  # what lies elsewhere is not pruned, as with dockerd
            and (everything or ANONYMOUS_LABEL in labels)
            and labels_match(labels, wanted.get("label", ()))
            and not (unwanted and labels_match(labels, unwanted))
            and all(one in leaving for one in self._holders(volume.name))
        )

    async def usage(self) -> list[Json]:
        """The volumes of `system df`: each with its size and how many containers have it.

        Those with options, which lie elsewhere, are left out as dockerd does.
        """
        counts = self._in_use()
        return [
            self._shown(one) | {"UsageData": {"Size": await self._size(one), "RefCount": self._count(one.name, counts)}}
            for one in self._store.all()
            if not one.options
        ]

    def _count(self, name: str, counts: Mapping[str, int]) -> int:
        return counts.get(name, 0) + len(self._unreadable(name))

    async def _size(self, volume: Volume) -> int:
        """Bytes of its files; none when it is removed meanwhile."""
        return await in_own_thread("usage", functools.partial(_usage, self._store.mountpoint(volume.name)))

    # Containers

    def users(self, name: str) -> list[Container]:
        """The containers that have it among their mounts."""
        return [
            one
            for one in self._parts.roster
            if any(point.kind == "volume" and name == point.name for point in one.record.effective.mounts)
        ]

    def _holders(self, name: str) -> list[str]:
        """The ids of those, and of containers with an unreadable record that may have it."""
        return [one.id for one in self.users(name)] + self._unreadable(name)

    def _unreadable(self, name: str) -> list[str]:
        """The ids of containers that may have it, and whose records this release cannot read."""
        return [one for one, record in self._parts.unreadable.items() if _may_name(record, name)]

    def _in_use(self) -> dict[str, int]:
        """Names, and by how many containers they are used."""
        found: dict[str, int] = {}
        for one in self._parts.roster:
            for name in {point.name for point in one.record.effective.mounts if point.kind == "volume"}:
                found[name] = found.get(name, 0) + 1
        return found

    def placed(self, points: Iterable[MountPoint]) -> tuple[MountPoint, ...]:
        """With places for their volumes and images, whether these are there or not: to be shown."""
        return tuple(
            replace(point, source=self._place(point)) if point.kind in ("volume", "image") else point
            for point in points
        )

    def _place(self, point: MountPoint) -> str:
        """Of an image: a place of those where its layers are mounted together at a start (`volumemounts`)."""
        if point.kind == "image":
            return f"{self._parts.tasks.root}/{SUBPATHS}/{point.name}"
        return self._store.mountpoint(point.name)

    def make_for(self, points: Iterable[MountPoint], owner: str) -> tuple[tuple[MountPoint, ...], list[str]]:
        """Mounts of a container that is being made, `owner`: its volumes exist and their places are known.

        And the names of those that are new, which `unmake` removes again; with its record they are settled.  Does not
        pause: the container must be known before anything else happens.  Raises what `create` does; nothing new is left
        then.
        """
        new: dict[str, Volume] = {}
        done = tuple([self._known(point, new) for point in points])
        self._make(list(new.values()), owner)
        return done, list(new)

    def _known(self, point: MountPoint, new: dict[str, Volume]) -> MountPoint:
        if point.kind == "volume":
            return self._taken(point, new)
        return imagebinds.resolved(point, self._parts.images) if point.kind == "image" else point

    def _taken(self, point: MountPoint, new: dict[str, Volume]) -> MountPoint:
        """With the place of its volume, which is there or among the new ones now."""
        if point.name not in new and self._store.get(point.name) is None:
            labels = {**(point.labels or {}), ANONYMOUS_LABEL: ""} if point.is_anonymous else point.labels
            _check_driver(point.name, point.driver)
            new[point.name] = self._wanted(point.name, point.driver_options, labels)
        elif point.driver != LOCAL:
            raise NotFound(f'get {point.name}: plugin "{point.driver}" not found')
        volume = new.get(point.name) or self._get(point.name)
        place, has_size = self._store.mountpoint(point.name), size_of(volume.options) > 0
        return replace(point, source=place, labels=None, driver_options=None, has_size=has_size)

    def unmake(self, names: Sequence[str]) -> None:
        """Removes volumes of a container that was not made."""
        for name in names:
            if self._store.get(name) is not None and not self.users(name):
                self._parts.run_later(self._discard(self._forget(name)))
        self._store.settle(names)

    def forget_anonymous(self, container: Container) -> Forgotten:
        """Names of what goes with a container: its anonymous volumes, unless another has them too.

        A part of the transaction that removes the container, so that a kill leaves neither; what to give to
        `drop_forgotten` then.  Raises Unavailable.
        """
        forgotten: Forgotten = []
        for point in container.record.effective.mounts:
            if not point.is_anonymous or self._store.get(point.name) is None:
                continue
            if set(self._holders(point.name)) - {container.id}:
                continue
            try:
                self._unmount(point.name)
            except (CortenError, OSError) as error:
                log.warning("anonymous volume %s of container %s is left: %s", point.name, container.id, error)
            else:
                forgotten.append((point.name, self._store.forget(point.name)))
        return forgotten

    def drop_forgotten(self, forgotten: Forgotten) -> None:
        """Their directories; what fails is left to the next start."""
        for name, entry in forgotten:
            try:
                taken = self._store.take(name, entry)
            except (CortenError, OSError) as error:
                log.warning("files of anonymous volume %s are left to the next start: %s", name, error)
                continue
            self._parts.publish_after_waiters(volume_event(name, "destroy", driver=LOCAL))
            self._parts.run_later(self._discard(taken))


def _check_driver(name: str, driver: str) -> None:
    if driver not in ("", LOCAL):
        raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
    mountspec.check_name(name)


def _may_name(record: bytes, name: str) -> bool:
    """Whether a record that this release cannot read may be of a container with that volume."""
    try:
        msgspec.json.decode(record)
    except msgspec.DecodeError:  # damaged: nobody knows
        return True
    return name.encode() in record


def _sorted(values: dict[str, str] | None) -> dict[str, str] | None:
    """As Go prints a map."""
    return None if values is None else dict(sorted(values.items()))


def _usage(path: str) -> int:
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return 0
    try:
        return trees.usage(fd).size
    finally:
        os.close(fd)
