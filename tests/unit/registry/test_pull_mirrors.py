"""A pull through a mirror that is broken or lies ends as if there were no mirror."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.core import dataroot
from corten.core.content import ContentStore
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.errors import InvalidArgument
from corten.registry.cancel import Cancel
from corten.registry.client import Registry
from corten.registry.credentials import Credentials
from corten.registry.downloads import Claims, Downloads
from corten.registry.endpoint import Endpoint
from corten.registry.pull import Shared, pull
from corten.registry.transport import Transport
from corten.spec.reference import parse
from support import registryserver
from support import tarballs as t
from support.pullimages import image, index
from support.registryserver import Handler, Seen, Server

IMAGE = image([t.archive(t.entry(f"file{n}".encode(), data=random.Random(n).randbytes(300_000))) for n in range(3)])
NAME = parse("reg.example/test:1")


def stocked(server: Server) -> Server:
    """With the image as `test:1`."""
    server.state.blobs.update({blob.digest: blob.data for blob in IMAGE.blobs})
    server.state.add_manifest("test", "1", media_type=IMAGE.manifest.media_type, body=IMAGE.manifest.data)
    return server


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A mirror and the registry itself."""
    with registryserver.serving() as mirror, registryserver.serving() as upstream:
        yield stocked(mirror), stocked(upstream)


def store_in(folder: Path) -> ImageStore:
    folder.mkdir(exist_ok=True)
    root = dataroot.open_data_root(str(folder / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    return ImageStore(database, ContentStore(root.join("content")), overlay, EventBus().publish)


def pulled(folder: Path, *endpoints: Endpoint) -> tuple[ImageStore, list[dict[str, Any]]]:
    images = store_in(folder)
    return images, told_of(images, *endpoints)


def told_of(images: ImageStore, *endpoints: Endpoint) -> list[dict[str, Any]]:
    """What a pull tells."""
    shared = Shared(images, Downloads(images.content, concurrent=lambda: 3), Claims())
    transport, cancel, told = Transport(), Cancel(), list[dict[str, Any]]()
    repository = Registry(transport, endpoints, credentials=Credentials(), cancel=cancel).repository("test")
    pull(shared, NAME, repository, tell=told.append, cancel=cancel)
    transport.close()
    return told


def wrong(server: Server, *, layer: int) -> None:
    """One blob has other bytes, as many."""
    digest = IMAGE.layers[layer].digest
    server.state.blobs[digest] = bytes(byte ^ 1 for byte in server.state.blobs[digest])


def test_a_mirror_is_asked_for_everything(servers: tuple[Server, Server], tmp_path: Path) -> None:
    mirror, upstream = servers
    images, _ = pulled(tmp_path, Endpoint(mirror.url, is_mirror=True), Endpoint(upstream.url))
    assert images.get(str(NAME)).id == IMAGE.config.digest
    assert not upstream.state.seen


@pytest.mark.parametrize("layer", [0, 2])
def test_wrong_bytes_of_a_mirror_come_from_the_registry(
    layer: int, servers: tuple[Server, Server], tmp_path: Path
) -> None:
    mirror, upstream = servers
    wrong(mirror, layer=layer)
    images, told = pulled(tmp_path, Endpoint(mirror.url, is_mirror=True), Endpoint(upstream.url))
    assert images.get(str(NAME)).id == IMAGE.config.digest
    assert told[-1]["status"] == f"Status: Downloaded newer image for {NAME}"
    assert upstream.state.seen
    assert not images.content.partials.sizes()
    assert not images.leases.list()


def test_wrong_bytes_that_still_come_from_a_mirror_are_taken_no_more(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    """The layer is found to be wrong while it comes: the second attempt takes nothing of what is still coming."""
    mirror, upstream = servers
    layer = IMAGE.layers[1]
    bad = bytes(byte ^ 1 for byte in layer.data)

    def drips(handler: Handler, seen: Seen) -> bool:
        if not seen.path.endswith(layer.digest):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(bad)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            for at in range(0, len(bad), 1000):
                handler.wfile.write(bad[at : at + 1000])
                if not upstream.state.seen:
                    time.sleep(0.01)
                elif at % 10_000 == 0:
                    time.sleep(0.05)
        return handler.cut()

    mirror.state.rules.append(drips)
    images, _ = pulled(tmp_path, Endpoint(mirror.url, is_mirror=True), Endpoint(upstream.url))
    assert images.get(str(NAME)).id == IMAGE.config.digest


def test_a_configuration_that_a_mirror_has_changed_comes_from_the_registry(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    mirror, upstream = servers
    digest = IMAGE.config.digest
    mirror.state.blobs[digest] = mirror.state.blobs[digest].replace(b"linux", b"minix")
    images, _ = pulled(tmp_path, Endpoint(mirror.url, is_mirror=True), Endpoint(upstream.url))
    assert images.get(str(NAME)).id == IMAGE.config.digest


def test_wrong_bytes_of_the_registry_itself_are_an_error(servers: tuple[Server, Server], tmp_path: Path) -> None:
    """Its digest, or what is in it: whoever finds something wrong first tells of it."""
    mirror, upstream = servers
    refused = r"^(filesystem layer verification failed for digest|archive/tar: invalid tar header)"
    for server in servers:
        wrong(server, layer=1)
    with pytest.raises(InvalidArgument, match=refused):
        pulled(tmp_path, Endpoint(mirror.url, is_mirror=True), Endpoint(upstream.url))
    with pytest.raises(InvalidArgument, match=refused):
        pulled(tmp_path / "alone", Endpoint(upstream.url))


def test_what_a_head_says_of_an_index_that_is_here_is_checked(servers: tuple[Server, Server], tmp_path: Path) -> None:
    _, registry = servers
    both = index([IMAGE, image([], architecture="arm64")])
    kind, body = both.manifest.media_type, both.manifest.data
    registry.state.add_manifest("test", "1", media_type=kind, body=body)
    images = store_in(tmp_path)
    told_of(images, Endpoint(registry.url))

    def lies(handler: Handler, seen: Seen) -> bool:
        small = {"Content_Length": "5", "Content_Type": kind, "Docker_Content_Digest": both.digest}
        return seen.method == "HEAD" and handler.answer(200, b"", **small)

    registry.state.rules.append(lies)
    with pytest.raises(InvalidArgument, match="larger than 5 bytes"):
        told_of(images, Endpoint(registry.url))
    assert images.target(str(NAME)).size == len(body)
