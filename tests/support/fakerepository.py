"""A repository of a registry in memory: what `registry.client.Repository` gives, with doors that a test opens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from corten.registry.cancel import Cancel
from corten.registry.client import Registry, Repository
from corten.registry.credentials import Credentials
from corten.registry.errors import coded
from corten.registry.transport import Transport
from corten.spec.image import Descriptor
from support.pullimages import Image

CHUNK = 4096


class FakeRepository(Repository):
    """Manifests by tag and digest, blobs by digest; `fetched` lists the blobs asked for, with their offsets,
    `documents` the manifests.

    A blob whose digest is in `cuts` breaks off after so many bytes, once; one in `lies` has those bytes instead.  While
    `gate` is not set nothing comes after the first chunk of a larger blob.
    """

    def __init__(self, *images: tuple[str, Image], cancel: Cancel | None = None) -> None:
        super().__init__(Registry(Transport(), (), credentials=Credentials(), cancel=cancel or Cancel()), "test")
        self.manifests: dict[str, tuple[Descriptor, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.cuts: dict[str, int] = {}
        self.lies: dict[str, bytes] = {}
        self.documents: list[str] = []
        self.fetched: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.names: list[str] = []
        for tag, image in images:
            self.put(tag, image)

    def put(self, tag: str, image: Image) -> None:
        """Adds an image under a tag."""
        descriptor = Descriptor(image.manifest.media_type, image.digest, len(image.manifest.data))
        for name in (tag, image.digest):
            self.manifests[name] = (descriptor, image.manifest.data)
        if ":" not in tag:
            self.names.append(tag)
        self.blobs.update({blob.digest: blob.data for blob in image.blobs})
        for child in image.children:
            self.put(child.digest, child)

    def resolve(self, reference: str) -> Descriptor:
        """As the client's."""
        if reference not in self.manifests:
            raise coded("MANIFEST_UNKNOWN", 404)
        return self.manifests[reference][0]

    def manifest(self, reference: str, *, want: Descriptor | None = None) -> tuple[Descriptor, bytes]:
        """As the client's, unchecked."""
        self.documents.append(reference)
        if reference not in self.manifests:
            raise coded("MANIFEST_UNKNOWN", 404)
        return self.manifests[reference]

    @contextmanager
    def blob(
        self, descriptor: Descriptor, offset: int = 0, *, on_retry: Callable[[float], None] = lambda _: None
    ) -> Iterator[Iterator[bytes]]:
        """As the client's, unchecked."""
        self.fetched.append((descriptor.digest, offset))
        if descriptor.digest not in self.blobs:
            raise coded("BLOB_UNKNOWN", 404)
        yield self._chunks(descriptor.digest, offset)

    def _chunks(self, digest: str, offset: int) -> Iterator[bytes]:
        data = self.lies.get(digest, self.blobs[digest])
        cut = self.cuts.pop(digest, None)
        for at in range(offset, len(data), CHUNK):
            if cut is not None and at >= cut:
                raise coded("UNAVAILABLE", 503)
            yield data[at : at + CHUNK]
            while at + CHUNK < len(data) and not self.gate.wait(0.01):
                self.registry.cancel.check()

    def tags(self) -> list[str]:
        """In the order of `put`."""
        return self.names
