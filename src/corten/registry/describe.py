"""What a registry says of an image without pulling it: `GET /distribution/{name}/json`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from corten.registry.errors import UntrustedContent
from corten.spec.image import (
    DOCUMENT_SIZE_MAX,
    INDEXES,
    Descriptor,
    Platform,
    digest_of,
    parse_config,
    parse_index,
    parse_manifest,
)
from corten.spec.reference import Reference


class Source(Protocol):
    """What this needs of `registry.client.Repository`."""

    def resolve(self, reference: str) -> Descriptor: ...
    def manifest(self, reference: str, *, want: Descriptor | None = None) -> tuple[Descriptor, bytes]: ...
    def blob(self, descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]: ...


def described(source: Source, name: Reference) -> tuple[Descriptor, list[Platform]]:
    """The descriptor that a tag or digest stands for, and the platforms behind it.

    Raises RegistryError and its kinds; UntrustedContent when something is not what it should be.
    """
    found = source.resolve(name.digest or name.tagged().tag)
    descriptor, body = source.manifest(found.digest, want=found)
    if descriptor.media_type in INDEXES:
        return descriptor, [one.platform or Platform() for one in parse_index(body).manifests]
    config = parse_config(_document(source, parse_manifest(body).config))
    return descriptor, [Platform(config.architecture, config.os, config.variant)]


def _document(source: Source, descriptor: Descriptor) -> bytes:
    if descriptor.size > DOCUMENT_SIZE_MAX:
        raise UntrustedContent(f"configuration {descriptor.digest}: larger than {DOCUMENT_SIZE_MAX} bytes")
    with source.blob(descriptor) as chunks:
        data = b"".join(chunks)
    if digest_of(data) != descriptor.digest:
        raise UntrustedContent(f"configuration has digest {digest_of(data)}, not {descriptor.digest}")
    return data
