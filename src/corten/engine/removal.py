"""Removing containers: the record at once, the disk's part after its task is gone.

What a client waits for is the record: name and id are free then.  The layer and the directory are announced in the
journal first and go in the background; `docker rm` waits for them, `--rm` does not.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec.structs import replace

from corten.core import gc
from corten.core.events import Event
from corten.core.journal import CONTAINER_DIR
from corten.core.volumes import Forgotten
from corten.engine import filters, links, times, why
from corten.engine.container import CONDITIONS, Container
from corten.engine.events import container_event
from corten.engine.filters import Filters
from corten.engine.parts import Parts
from corten.engine.record import Move, Status, advance
from corten.engine.streams import Streams
from corten.engine.threads import in_own_thread
from corten.errors import Conflict, CortenError, InvalidArgument, NotFound, Unavailable

Json = dict[str, Any]

log = logging.getLogger("corten.engine")

_PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})


class Removal:
    """Removes one, or all that are stopped."""

    def __init__(self, parts: Parts, streams: Streams) -> None:
        self._parts = parts
        self._streams = streams
        self.kill_to_end: Callable[[Container], Awaitable[None]]  # given by the life cycle
        self.forget_volumes: Callable[[Container], Forgotten]  # its anonymous ones; given by the engine
        self.drop_volumes: Callable[[Forgotten], None]

    async def remove(self, ref: str, force: bool, volumes: bool, link: bool) -> None:
        """Raises Conflict while it runs, unless forced."""
        if link:
            await self._remove_link(ref)
            return
        container = self._parts.roster.find(ref)
        is_done = False
        while not is_done:
            if container.is_active:
                self._refuse_running(container, force)
                await self.kill_to_end(container)
            async with container.lock:
                is_done = not container.is_active  # a start that had the lock first has made it run
                if is_done and container.id in self._parts.roster:
                    self.remove_now(container, volumes=volumes)
        if container.removal is not None:
            await asyncio.gather(asyncio.to_thread(self._parts.sync), asyncio.shield(container.removal))

    async def _remove_link(self, name: str) -> None:
        """`rm --link parent/alias`: what runs keeps it until its end."""
        parent, alias = links.split(name, self._parts.roster)
        async with parent.lock:
            before = parent.record.effective
            changed = replace(before, host=links.without(before.host, alias))
            self._parts.save(parent, replace(parent.record, effective=changed))

    def _refuse_running(self, container: Container, force: bool) -> None:
        if force:
            return
        status = container.record.state.status
        advice = {
            Status.PAUSED: "container is paused and must be unpaused first",
            Status.RUNNING: "container is running: stop the container before removing or force remove",
            Status.RESTARTING: "container is restarting: stop the container before removing or force remove",
        }[status]
        raise Conflict(f'cannot remove container "/{container.name}": {advice}')

    def remove_now(self, container: Container, *, volumes: bool = False) -> None:
        """The record goes at once, the disk's part follows in the background; the caller holds the lock.

        With `volumes` its anonymous ones go with it.
        Nothing is synced here: `remove` does that, and a --rm container is removed again at the next start.  Raises
        Unavailable when the database cannot be written; nothing has changed then.
        """
        if container.id not in self._parts.roster:
            return
        parts = self._parts
        status = advance(container.record.state.status, Move.REMOVE)  # refused before anything is changed
        with parts.images.database.transaction():
            parts.journal.begin(CONTAINER_DIR, parts.paths(container.id).directory)
            parts.containers.delete(container.id, durable=False)
            parts.images.touch(container.record.image_id)  # it was used until now: who prunes by last use asks
            forgotten = self.forget_volumes(container) if volumes else []
        container.record = container.record.with_state(status=status)
        parts.roster.discard(container)
        self._streams.drop(container)
        if forgotten:
            self.drop_volumes(forgotten)
        container.removal = parts.run_later(self._remove_files(container, container.cleanup))
        container.resolve_waiters(*CONDITIONS)
        event = container_event(container.record, "destroy")
        parts.publish_after_waiters(replace(event, detail=why.last_words(container.record)))

    def remove_soon(self, container: Container) -> None:
        """A --rm container: now or, on a full disk, as soon as it can be; the caller holds the lock.

        One that is being restarted stays.
        """
        if container.keepers:
            return
        try:
            self.remove_now(container, volumes=True)
        except Unavailable as error:
            again = functools.partial(self._try_again, container)
            self._parts.retries.later(f"container {container.id} cannot be removed", error, again)

    def _try_again(self, container: Container) -> None:
        self._parts.run_later(self._remove_again(container))

    async def _remove_again(self, container: Container) -> None:
        async with container.lock:
            if not container.is_running:
                self.remove_soon(container)

    async def prune(self, query: Filters, dry_run: bool = False) -> Json:
        """Remove what is stopped, or say what that would be.  SpaceReclaimed: what the containers' own layers took."""
        filters.check_keys(query, _PRUNE_FILTERS)
        if len(query.get("until", ())) > 1:
            raise InvalidArgument("more than one until filter specified")
        until_ns = times.parse_timestamp(query.get("until", [""])[0])
        removed, space = [], 0
        for container in self._parts.roster:
            if not self._is_prunable(container, query, until_ns):
                continue
            try:
                used = await in_own_thread("usage", functools.partial(self._parts.snapshots.usage, container.id))
            except (NotFound, FileNotFoundError):  # another client has removed it meanwhile
                continue
            if dry_run:
                removed.append(container.id)
                space += used.size
                continue
            async with container.lock:
                if self._is_prunable(container, query, until_ns) and container.id in self._parts.roster:
                    self.remove_now(container)
                    removed.append(container.id)
                    space += used.size
        if not dry_run:
            await asyncio.to_thread(self._parts.sync)
            self._parts.bus.publish(_prune_event(space))
        return {"ContainersDeleted": removed or None, "SpaceReclaimed": space}

    def _is_prunable(self, container: Container, query: Filters, until_ns: int) -> bool:
        record = container.record
        if record.state.status not in (Status.CREATED, Status.EXITED, Status.DEAD):
            return False
        if until_ns and record.created_ns >= until_ns:
            return False
        unwanted = query.get("label!", ())
        return filters.labels_match(record.labels, query.get("label", ())) and not (
            unwanted and filters.labels_match(record.labels, unwanted)
        )

    async def _remove_files(self, container: Container, cleanup: asyncio.Task[None] | None) -> None:
        """The disk's part of a removal: after its task is gone, its layer and its directory."""
        if cleanup is not None:
            await asyncio.wait([cleanup])
        await self._parts.views.leave(container.id, f"container {container.id} was removed", patience_s=0)
        await self._discard(container.id, container.record.image_id)

    async def _discard(self, container_id: str, image_id: str) -> None:
        """Files, and layers that nobody needs without them: now or, on a full disk, as soon as they can be.

        Who asked for the removal waits for one try: the container is gone.
        """
        try:
            await in_own_thread("discard", functools.partial(self._discard_now, container_id, image_id))
        except Unavailable as error:
            self._discard_later(container_id, image_id, error)

    def _discard_later(self, container_id: str, image_id: str, error: Unavailable) -> None:
        parts = self._parts
        again = functools.partial(self._discard_again, container_id, image_id)
        parts.retries.later(f"files of container {container_id} cannot be removed", error, again)

    def _discard_again(self, container_id: str, image_id: str) -> None:
        self._parts.run_later(self._discard(container_id, image_id))

    def _discard_now(self, container_id: str, image_id: str) -> None:
        """Blocks."""
        self._discard_files(container_id)
        try:
            gc.drop_orphans(self._parts.images, image_id)
        except Unavailable:
            raise
        except CortenError as error:  # a damaged image: the container is gone all the same
            log.warning("layers of image %s are left: %s", image_id, error)

    def discard_unmade(self, container_id: str, image_id: str) -> None:
        """The disk's part of a container that was not made: now or as soon as it can be; blocks."""
        try:
            self._discard_files(container_id)
        except Unavailable as error:
            self._discard_later(container_id, image_id, error)

    def _discard_files(self, container_id: str) -> None:
        try:
            self._parts.snapshots.remove(container_id)
        except NotFound:
            log.debug("container %s has no snapshot", container_id)
        directory = self._parts.paths(container_id).directory
        self._parts.snapshots.trash.throw(*os.path.split(directory))
        self._parts.journal.done_by_name(CONTAINER_DIR, directory)


def _prune_event(space: int) -> Event:
    return Event(type="container", action="prune", id="", attributes={"reclaimed": str(space)})
