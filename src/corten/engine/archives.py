"""Images and containers as archives: `docker save`, `export` and `diff`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from corten.core import diff, layered, save, treetar
from corten.core.lower import LowerView
from corten.engine.container import Container
from corten.engine.events import container_event
from corten.engine.outflow import from_thread
from corten.engine.parts import Parts
from corten.engine.record import Status
from corten.engine.threads import in_own_thread
from corten.errors import Conflict
from corten.spec.image import Platform

Json = dict[str, Any]


class Archives:
    """What leaves one engine as an archive.  What touches files runs in a thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def save(self, names: Sequence[str], platform: Platform | None = None) -> AsyncIterator[bytes]:
        """ImageGet, ImageGetAll.  Raises NotFound, InvalidArgument before the first chunk."""
        images = self._parts.images

        def opened() -> AbstractContextManager[Iterator[bytes]]:
            wanted = save.resolve(images, names, platform)
            for one in wanted:
                images.publish("save", one.image.id, {"name": one.image.id})
            return save.saved(images, wanted)

        return from_thread("save", opened)

    def export(self, ref: str) -> AsyncIterator[bytes]:
        """ContainerExport: the files as the container sees them, without volumes and other mounts.

        Raises NotFound, Conflict before the first chunk; Conflict when it is removed meanwhile.
        """
        container = self._parts.roster.find(ref)
        require_whole(container, "export")
        self._parts.bus.publish(container_event(container.record, "export"))
        return from_thread("export", lambda: self._exported(container.id))

    @contextmanager
    def _exported(self, container_id: str) -> Iterator[Iterator[bytes]]:
        overlay = self._parts.snapshots
        with overlay.layers(container_id) as layer_fds:
            with closing(treetar.plain(layered.merged(layer_fds))) as chunks:
                yield chunks
            if not overlay.exists(container_id):
                raise Conflict(f"container {container_id} was removed")

    async def changes(self, ref: str) -> list[Json] | None:
        """ContainerChanges; None, as dockerd's Go prints it, when there is none."""
        container = self._parts.roster.find(ref)
        found = await in_own_thread("diff", lambda: self._changes(container.id))
        return [{"Path": one.path.decode(errors="replace"), "Kind": int(one.kind)} for one in found] or None

    def _changes(self, container_id: str) -> Sequence[diff.Change]:
        with self._parts.snapshots.layers(container_id) as (upper_fd, *lower_fds):
            return diff.changes(layered.upper(upper_fd), LowerView(lower_fds))


def require_whole(container: Container, verb: str) -> None:
    """Raises Conflict, in dockerd's words, for a container that is going."""
    if container.record.state.status is Status.DEAD:
        raise Conflict(f"You cannot {verb} container {container.id} which is Dead")
    if container.record.state.status is Status.REMOVING:
        raise Conflict(f"You cannot {verb} container {container.id} which is being removed")
