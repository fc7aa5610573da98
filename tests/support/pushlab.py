"""From an image of a store to a registry in memory: what tests of a push have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corten.core import archive, dataroot
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.registry.cancel import Cancel
from corten.registry.downloads import Claims, Downloads
from corten.registry.errors import RegistryError, coded
from corten.registry.packing import Packer
from corten.registry.pull import Shared, pull
from corten.registry.push import Push
from corten.registry.slots import Slots
from corten.registry.sources import BlobSources
from corten.spec.image import Descriptor, Platform, digest_of
from corten.spec.reference import parse
from support.fakerepository import FakeRepository
from support.pullimages import Image

NAME = parse("reg.example/test:1")


class FakeTarget:
    """A repository that takes what it is given; `shared` are the blobs of others that it may take over."""

    def __init__(self, shared: dict[str, set[str]] | None = None) -> None:
        self.path = "test"
        self.shared = shared or {}
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.refuses: RegistryError | None = None
        self.on_upload: Callable[[Descriptor], None] = lambda _: None
        self.order: list[str] = []

    def resolve(self, reference: str) -> Descriptor:
        if reference not in self.manifests:
            raise coded("MANIFEST_UNKNOWN", 404)
        return Descriptor("m", digest_of(self.manifests[reference]), len(self.manifests[reference]))

    def has_blob(self, descriptor: Descriptor) -> bool:
        if self.refuses is not None:
            raise self.refuses
        return descriptor.digest in self.blobs

    def mount(self, digest: str, *, from_repository: str) -> bool:
        if digest not in self.shared.get(from_repository, ()):
            return False
        self.blobs[digest] = b"mounted"
        return True

    def upload(
        self,
        descriptor: Descriptor,
        open_at: Callable[[int], Iterator[bytes]],
        *,
        progress: Callable[[int], None] = lambda _: None,
        on_retry: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.on_upload(descriptor)
        data = b"".join(open_at(0))
        assert digest_of(data) == descriptor.digest
        assert b"".join(open_at(7)) == data[7:], "an upload that goes on begins elsewhere"
        progress(len(data))
        self.blobs[descriptor.digest] = data
        self.order.append(descriptor.digest)

    def put_manifest(self, reference: str, descriptor: Descriptor, *, body: bytes) -> None:
        self.manifests[reference] = self.manifests[descriptor.digest] = body
        self.order.append(reference)


class Lab:
    """An image store in a folder, and what pulls and pushes need besides; `on_told` hears what a push tells."""

    def __init__(self, folder: Path) -> None:
        root = dataroot.open_data_root(str(folder / "data"))
        self.database = Database(root.join("corten.db"))
        content = ContentStore(root.join("content"))
        overlay = Overlay(root.join("snapshots"), self.database, Journal(self.database))
        self.events: list[Any] = []
        self.images = ImageStore(self.database, content, overlay, self.events.append)
        self.sources = BlobSources(self.database)
        self.packer = Packer(self.images)
        self.shared = Shared(self.images, Downloads(content, concurrent=lambda: 3), Claims())
        self.cancel = Cancel()
        self.on_told: Callable[[dict[str, Any]], object] = lambda _: None

    def have(self, image: Image, name: str = str(NAME), platform: Platform | None = None) -> None:
        """Pulls an image."""
        repository = FakeRepository((parse(name).tag, image))
        pull(self.shared, parse(name), repository, tell=lambda _: None, cancel=Cancel(), platform=platform)

    def push(
        self, target: FakeTarget, name: str = str(NAME), *, platform: Platform | None = None, slots: int = 5
    ) -> list[dict[str, Any]]:
        """Pushes; what the client hears."""
        told: list[dict[str, Any]] = []

        def tell(message: dict[str, Any]) -> None:
            told.append(message)
            self.on_told(message)

        push = Push(
            self.images,
            target,
            sources=self.sources,
            packer=self.packer,
            slots=Slots(lambda: slots),
            cancel=self.cancel,
            tell=tell,
        )
        push.run(parse(name), platform)
        return told

    def load(self, data: bytes) -> None:
        """Takes in an archive."""
        archive.load([data], self.images)

    def looks(self) -> Any:
        """All that somebody may see of images."""
        images = [(one.id, one.manifest, one.references, one.is_composed) for one in self.images.all()]
        return images, self.images.content.digests(), os.listdir(os.path.join(self.images.content.root, "ingest"))


def statuses(told: list[dict[str, Any]]) -> dict[str, str]:
    """The last that was said of each layer."""
    return {one["id"]: one["status"] for one in told if one.get("id")}
