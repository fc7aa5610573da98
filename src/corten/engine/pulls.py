"""`docker pull`, on top of the registry's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from corten.core.archive import host_platform
from corten.engine.parts import Parts
from corten.engine.relay import Tell, relayed
from corten.errors import Internal, InvalidArgument, PermissionDenied
from corten.registry.cancel import Cancel
from corten.registry.credentials import Credentials
from corten.registry.downloads import Claims, Downloads
from corten.registry.errors import RegistryError
from corten.registry.hosts import Purpose
from corten.registry.pull import Shared, pull
from corten.registry.sources import BlobSources
from corten.spec.platforms import parse_platform
from corten.spec.reference import Reference, parse, parse_digest, parse_tag

Json = dict[str, Any]

_RESERVED = "scratch"


class Pulls:
    """What one engine brings from registries.  Its pulls share what they fetch."""

    def __init__(self, parts: Parts, sources: BlobSources) -> None:
        self._parts = parts
        self._sources = sources
        self.downloads = Downloads(parts.images.content, concurrent=lambda: parts.settings.max_concurrent_downloads)
        self._shared = Shared(parts.images, self.downloads, Claims())

    async def pull(self, name: str, tag: str, platform: str, credentials: Credentials) -> AsyncIterator[Json]:
        """ImageCreate's messages; `tag` may be a digest.  A name without a tag stands for all tags of the repository.

        Raises:
            InvalidArgument, PermissionDenied: no name, tag or platform can be like that; a reserved name.
            NotFound, Internal: the registry's refusal, in Docker's words.
        """
        reference = pulled_name(name, tag)
        wanted = parse_platform(platform, host_platform()) if platform else None
        cancel = Cancel()

        def work(tell: Tell) -> None:
            try:
                registry = self._parts.registries.registry(
                    reference.domain, Purpose.PULL, credentials=credentials, cancel=cancel
                )
                repository = registry.repository(reference.path)
                pull(self._shared, reference, repository, tell=tell, cancel=cancel, platform=wanted)
                self._sources.note(reference, self._parts.images)
            except RegistryError as error:  # dockerd knows no better than 500 for what it has no words for
                raise Internal(error.text) from error

        async for message in relayed("pull", work, stop=cancel.cancel):
            yield message


def pulled_name(name: str, tag: str) -> Reference:
    """The reference of a pull's `fromImage` and `tag`.  Raises InvalidArgument, PermissionDenied in Docker's words."""
    reference = parse(name.removesuffix(":"))  # docker pull -a of old wrote `name:`
    if tag:
        try:
            reference = Reference(reference.domain, reference.path, digest=parse_digest(tag))
        except InvalidArgument:
            reference = Reference(reference.domain, reference.path, parse_tag(tag), reference.digest)
    if reference.familiar_name == _RESERVED:
        raise PermissionDenied(f"'{_RESERVED}' is a reserved name")
    return reference
