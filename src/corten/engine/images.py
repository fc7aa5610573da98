"""Docker's operations on images, on top of core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from corten.core import archive, gc, importer, rmi
from corten.core.images import new_tag, short_id
from corten.engine.inflow import Chunks, in_thread_with
from corten.engine.parts import Parts
from corten.engine.relay import Tell, relayed
from corten.engine.threads import in_own_thread
from corten.spec import progress
from corten.spec.image import Platform
from corten.spec.platforms import parse_platform

Json = dict[str, Any]


class Images:
    """One engine's images.  What touches layers runs in a thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # Taking in

    async def load(
        self, body: AsyncIterator[bytes], quiet: bool, platform: Platform | None = None
    ) -> AsyncIterator[Json]:
        """Lines of progress as Docker's; the last say what was loaded."""
        source = Chunks(body, asyncio.get_running_loop())

        def work(tell: Tell) -> None:
            def layer(diff_id: str, current: int, total: int) -> None:
                if not quiet:
                    tell(progress.moved("Loading layer", short_id(diff_id), current=current, total=total))

            loaded = archive.load(iter(source), self._parts.images, platform=platform, tell=layer)
            for line in archive.messages(loaded):
                tell({"stream": line})

        try:
            async for message in relayed("archive", work, stop=source.close):
                yield message
        finally:
            source.close()

    async def import_rootfs(
        self, body: AsyncIterator[bytes], repo: str, tag: str, message: str, changes: Sequence[str], platform: str
    ) -> AsyncIterator[Json]:
        """The last line is the new image's id."""
        reference = new_tag(repo, tag) if repo else None
        wanted = parse_platform(platform, archive.host_platform()) if platform else None
        image = await in_thread_with(
            body,
            lambda chunks: importer.import_rootfs(
                chunks, self._parts.images, reference=reference, message=message, changes=changes, platform=wanted
            ),
        )
        yield {"status": image.id}

    # Changing

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """Raises NotFound, InvalidArgument."""
        await in_own_thread("tag", lambda: self._tag(ref, repo, tag))

    def _tag(self, ref: str, repo: str, tag: str) -> None:
        images = self._parts.images
        images.tag(ref, repo, tag)
        if images.targets.left:
            gc.drop_blobs(images, ())

    async def remove(self, ref: str, force: bool, noprune: bool, platforms: Sequence[Platform] = ()) -> list[Json]:
        """`[{"Untagged": …}, {"Deleted": …}]`; of some platforms, when they are given."""
        uses = self._uses()
        if platforms:
            removed = await in_own_thread(
                "rmi", lambda: rmi.remove_platforms(self._parts.images, ref, platforms, uses, force=force)
            )
            return [{str(one.what): one.subject} for one in removed]
        removed = await in_own_thread(
            "rmi", lambda: rmi.remove_image(self._parts.images, ref, uses, force=force, prune=not noprune)
        )
        return [{str(one.what): one.subject} for one in removed]

    def _uses(self) -> list[rmi.Use]:
        return [rmi.Use(one.id, used, one.is_running) for one in self._parts.roster for used in one.record.image_ids]
