"""What a registry says of an image without pulling it: `GET /distribution/{name}/json`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import msgspec

from corten.registry.errors import UntrustedContent
from corten.spec.image import (
    DOCUMENT_SIZE_MAX,
    INDEXES,
    Descriptor,
    digest_of,
    parse_config,
    parse_index,
    parse_manifest,
)
from corten.spec.reference import Reference

T = TypeVar("T")


class FullPlatform(msgspec.Struct, frozen=True):
    """All that can be said of one, in Go's order; a configuration says it of its image."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)
    variant: str = ""


class _Entry(msgspec.Struct, frozen=True):
    platform: FullPlatform | None = None


class _Index(msgspec.Struct, frozen=True):
    manifests: list[_Entry]


class Source(Protocol):
    """What this needs of `registry.client.Repository`."""

    def resolve(self, reference: str) -> Descriptor: ...
    def manifest(self, reference: str, *, want: Descriptor | None = None) -> tuple[Descriptor, bytes]: ...
    def blob(self, descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]: ...


def described(source: Source, name: Reference) -> tuple[Descriptor, list[FullPlatform]]:
    """The descriptor that a tag or digest stands for, and the platforms behind it.

    Raises RegistryError and its kinds; UntrustedContent when something is not what it should be.
    """
    found = source.resolve(name.digest or name.tagged().tag)
    descriptor, body = source.manifest(found.digest, want=found)
    if descriptor.media_type in INDEXES:
        parse_index(body)
        return descriptor, [one.platform or FullPlatform() for one in _decoded(body, _Index).manifests]
    data = _document(source, parse_manifest(body).config)
    parse_config(data)
    platform = _decoded(data, FullPlatform)
    return descriptor, [platform] if platform.os or platform.architecture else []


def _decoded(data: bytes, shape: type[T]) -> T:
    """Of a document that was parsed before: only what was not looked at then can be wrong."""
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UntrustedContent(f"invalid platform: {error}") from None


def _document(source: Source, descriptor: Descriptor) -> bytes:
    if descriptor.size > DOCUMENT_SIZE_MAX:
        raise UntrustedContent(f"configuration {descriptor.digest}: larger than {DOCUMENT_SIZE_MAX} bytes")
    with source.blob(descriptor) as chunks:
        data = b"".join(chunks)
    if digest_of(data) != descriptor.digest:
        raise UntrustedContent(f"configuration has digest {digest_of(data)}, not {descriptor.digest}")
    return data
