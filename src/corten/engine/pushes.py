"""`docker push`, and what a registry says of an image: on top of the registry's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from corten.engine.parts import Parts
from corten.engine.relay import Tell, relayed
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, Internal
from corten.registry.cancel import Cancel
from corten.registry.client import Repository
from corten.registry.credentials import Credentials
from corten.registry.describe import FullPlatform, described
from corten.registry.errors import NO_CREDENTIALS, RegistryError, RegistryUnauthorized, RegistryUnavailable
from corten.registry.hosts import Purpose
from corten.registry.packing import Packer
from corten.registry.push import Push
from corten.registry.slots import Slots
from corten.registry.sources import BlobSources
from corten.spec import progress
from corten.spec.image import Platform
from corten.spec.reference import Reference, parse_any

Json = dict[str, Any]


class Pushes:
    """What one engine sends to registries, and asks them for its clients."""

    def __init__(self, parts: Parts, sources: BlobSources) -> None:
        self._parts = parts
        self._sources = sources
        self._packer = Packer(parts.images)
        self._packer.sweep()
        self._slots = Slots(lambda: self._parts.settings.max_concurrent_uploads)

    async def push(
        self, name: Reference, credentials: Credentials, platform: Platform | None = None
    ) -> AsyncIterator[Json]:
        """ImagePush's messages.  A name without a tag stands for all tags of the repository."""
        yield progress.status(f"The push refers to repository [{name.name}]")
        cancel = Cancel()

        def work(tell: Tell) -> None:
            try:
                run(tell)
            except RegistryError as error:
                if error.text.endswith(NO_CREDENTIALS):  # dockerd leaves out at which URL
                    raise RegistryUnauthorized(NO_CREDENTIALS) from error
                raise

        def run(tell: Tell) -> None:
            push = Push(
                self._parts.images,
                self._repository(name, Purpose.PUSH, credentials, cancel),
                sources=self._sources,
                packer=self._packer,
                slots=self._slots,
                cancel=cancel,
                tell=tell,
            )
            push.run(name, platform)

        async for message in relayed("push", work, stop=cancel.cancel):
            yield message

    async def distribution(self, ref: str, credentials: Credentials) -> Json:
        """DistributionInspect's answer.  Raises InvalidArgument; RegistryError and its kinds; Internal."""
        name = parse_any(ref)
        if not isinstance(name, Reference):
            raise Internal("no manifest found for full image ID")
        cancel = Cancel()

        def work() -> Json:
            source = self._repository(name, Purpose.PULL, credentials, cancel)
            descriptor, platforms = described(source, name)
            shown = [_shown(one) for one in platforms] or None
            return {"Descriptor": msgspec.to_builtins(descriptor), "Platforms": shown}

        try:
            return await in_own_thread("distribution", work)
        except RegistryError as error:
            raise _answered(error) from error
        finally:
            cancel.cancel()

    def _repository(self, name: Reference, purpose: Purpose, credentials: Credentials, cancel: Cancel) -> Repository:
        registries = self._parts.registries
        return registries.registry(name.domain, purpose, credentials=credentials, cancel=cancel).repository(name.path)


def _answered(error: RegistryError) -> CortenError:
    """dockerd knows no better than 500 when it was not the registry that refused."""
    is_own = isinstance(error, RegistryUnavailable) or error.text.endswith(NO_CREDENTIALS)
    return Internal(error.text) if is_own else error


def _shown(platform: FullPlatform) -> Json:
    """Go's ocispec.Platform: architecture and os always."""
    found = msgspec.to_builtins(platform)
    return {key: value for key, value in found.items() if value or key in ("architecture", "os")}
