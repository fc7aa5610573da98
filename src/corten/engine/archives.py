"""Images and containers as archives: `docker save`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from corten.core import save
from corten.engine.outflow import from_thread
from corten.engine.parts import Parts
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
