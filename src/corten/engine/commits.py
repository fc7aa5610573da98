"""`docker commit`: the container stands still meanwhile, unless asked otherwise."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from corten.core import commit as core
from corten.core.changes import apply_changes, merge
from corten.core.images import Image, new_tag
from corten.engine.archives import require_whole
from corten.engine.container import Container
from corten.engine.events import container_event
from corten.engine.lifecycle import Lifecycle
from corten.engine.parts import Parts
from corten.engine.record import Status
from corten.engine.threads import disk_error, in_own_thread
from corten.errors import CortenError
from corten.spec.docker import ContainerConfig
from corten.spec.image import RunConfig

Json = dict[str, Any]

log = logging.getLogger("corten.engine")


class _GivenUp(Exception):
    """The engine ends."""


class Commits:
    """Commits of one engine's containers."""

    def __init__(self, parts: Parts, life: Lifecycle) -> None:
        self._parts = parts
        self._life = life

    async def commit(
        self,
        ref: str,
        repo: str,
        tag: str,
        *,
        comment: str,
        author: str,
        pause: bool,
        changes: Sequence[str],
        config: ContainerConfig | None,
    ) -> Json:
        """ImageCommit; raises NotFound, InvalidArgument, Conflict in dockerd's words."""
        reference = new_tag(repo, tag) if repo else None
        container = self._parts.roster.find(ref)
        require_whole(container, "commit")
        own = container.record.effective.config
        of_container = _run_config(own)
        run = merge(apply_changes(_run_config(config) if config else of_container, changes), of_container)
        request = core.Request(
            container.id,
            container.record.image_id,
            run,
            of_container,
            command=" ".join(own.cmd or ()),
            author=author,
            comment=comment,
            reference=reference,
        )
        async with self._still(container, pause):
            image = await self._committed(request)
            shown = reference.familiar if reference is not None else ""
            attributes = {"comment": comment, "imageID": image.id, "imageRef": shown}
            self._parts.bus.publish(container_event(container.record, "commit", **attributes))
        return {"Id": image.id}

    async def _committed(self, request: core.Request) -> Image:
        given_up = threading.Event()

        def check() -> None:
            if given_up.is_set():
                raise _GivenUp

        try:
            return await in_own_thread("commit", lambda: core.commit(request, self._parts.images, check=check))
        except OSError as error:
            raise disk_error(error) from error
        finally:
            given_up.set()

    @asynccontextmanager
    async def _still(self, container: Container, wanted: bool) -> AsyncIterator[None]:
        """Frozen, when it runs; the record says that this is no pause of a user's, so that a new cortend ends it."""
        if not wanted or container.record.state.status is not Status.RUNNING:
            yield
            return
        self._parts.save(container, container.record.with_state(is_held=True))
        try:
            with contextlib.suppress(CortenError):  # as dockerd, which commits what it cannot pause
                await self._life.pause(container.id)
            yield
        finally:
            if _is_paused(container):
                try:
                    await self._life.unpause(container.id)
                except CortenError as error:
                    log.warning("container %s stays paused after a commit: %s", container.id, error)
            self._parts.note(container, container.record.with_state(is_held=False))


def _is_paused(container: Container) -> bool:
    return container.record.state.status is Status.PAUSED


def _run_config(config: ContainerConfig) -> RunConfig:
    """A container's Config in an image's form: with its host name and streams, as dockerd keeps them."""
    return msgspec.convert(msgspec.to_builtins(config), RunConfig)
