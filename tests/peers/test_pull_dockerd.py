"""Pulls beside dockerd 26.1: every message, refusal, list and event, from the same images of the same registry."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support import images, pullimages
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.pullimages import Blob, Image
from support.registries import Registry

NO_DIGEST = f"sha256:{'0' * 64}"
THREE = pullimages.several(3)
# Where threads race, or what dockerd leaves out when it would be overtaken at once.
PASSING = {"Downloading", "Extracting", "Waiting", "Verifying Checksum", "Download complete"}

CASES: dict[str, str] = {
    "a tag": "fromImage=H/a/b&tag=1",
    "the same tag again": "fromImage=H/a/b&tag=1",
    "another tag of the same image": "fromImage=H/a/b&tag=2",
    "a tag in the name": "fromImage=H/a/b:1",
    "an unknown tag": "fromImage=H/a/b&tag=nosuch",
    "an unknown repository": "fromImage=H/nosuch&tag=1",
    "an index": "fromImage=H/a/two&tag=1",
    "another platform of it": "fromImage=H/a/two&tag=1&platform=linux/arm64",
    "a platform that it lacks": "fromImage=H/a/two&tag=1&platform=linux/s390x",
    "a variant that it lacks": "fromImage=H/a/two&tag=1&platform=linux/arm/v7",
    "Docker's index": "fromImage=H/a/dockertwo&tag=1",
    "an image for another machine": "fromImage=H/a/arm&tag=1",
    "an image for another machine with this one wanted": "fromImage=H/a/arm&tag=1&platform=linux/amd64",
    "an image for another machine as wanted": "fromImage=H/a/arm&tag=1&platform=linux/arm64",
    "a digest": f"fromImage=H/a/b&tag={THREE.digest}",
    "a digest in the name": f"fromImage=H/a/b@{THREE.digest}",
    "a digest and a tag": f"fromImage=H/a/b@{THREE.digest}&tag=1",
    "an unknown digest": f"fromImage=H/a/b&tag={NO_DIGEST}",
    "all tags": "fromImage=H/a/all",
    "all tags, as old clients ask": "fromImage=H/a/b:",
    "all tags of nothing": "fromImage=H/nosuch",
    "a layer that the registry lost": "fromImage=H/a/lost&tag=1",
    "a layer with other bytes": "fromImage=H/a/changed&tag=1",
    "a configuration with other bytes": "fromImage=H/a/config&tag=1",
    "a layer with another diff id": "fromImage=H/a/diffid&tag=1",
    "fewer layers than diff ids": "fromImage=H/a/fewer&tag=1",
    "a reserved name": "fromImage=scratch&tag=1",
    "no name": "fromImage=UPPER&tag=1",
    "an id as a name": f"fromImage={'a' * 64}&tag=1",
    "no tag": "fromImage=H/a/b&tag=!!",
    "half a digest": "fromImage=H/a/b&tag=sha256:abc",
    "no platform": "fromImage=H/a/b&tag=1&platform=foo",
    "too much of a platform": "fromImage=H/a/b&tag=1&platform=a/b/c/d",
    "nobody at the port": "fromImage=127.0.0.1:1/x&tag=1",
    "no port": "fromImage=127.0.0.1:99999/x&tag=1",
    "port 0": "fromImage=127.0.0.1:0/x&tag=1",
    "port of a name": "fromImage=reg.invalid:99999/x&tag=1",
    "no address": "fromImage=[:::]/x&tag=1",
}


class Side:
    """An engine with a registry of its own."""

    def __init__(self, engine: DockerClient, registry: Registry) -> None:
        self.engine = engine
        self.registry = registry
        self.started = int(time.time())

    def ask(self, method: str, path: str) -> tuple[int, list[str]]:
        """Status and lines of the answer; the registry's address is HOST in them."""
        connection = http.client.HTTPConnection("engine", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.engine.socket))
        connection.request(method, "/v1.43" + path.replace("H/", f"{self.registry.host}/"))
        answer = connection.getresponse()
        text = answer.read().decode().replace(self.registry.host, "HOST")
        connection.close()
        return answer.status, text.splitlines()

    def pull(self, query: str) -> tuple[int, list[str]]:
        """What is told, by layer where layers race; of a pull that fails in its middle how it begins and ends."""
        status, lines = self.ask("POST", f"/images/create?{query}")
        if len(lines) > 1 and '"error"' in lines[-1]:
            return status, [lines[0], lines[-1]]
        kept = [line for line in lines if json.loads(line).get("status") not in PASSING]
        return status, sorted(kept, key=_rank) if status == 200 else kept


def _rank(line: str) -> tuple[int, str]:
    """Beginning, then layer by layer, then end: within each in the order in which it came."""
    message = json.loads(line)
    if re.fullmatch("[0-9a-f]{12}", message.get("id", "")):
        return 1, message["id"]
    return (0 if message.get("status", "").startswith("Pulling from") else 2), ""


def fill(registry: Registry) -> None:
    """The images that the cases ask for."""
    THREE.push(registry, "a/b", "1", "2")
    THREE.push(registry, "a/all", "1")
    pullimages.two_platforms().push(registry, "a/two", "1")
    pullimages.two_platforms(docker=True).push(registry, "a/dockertwo", "1")
    pullimages.arm64_busybox().push(registry, "a/arm", "1")
    lost, changed, config = (own(number) for number in range(3))
    for name, image in (("lost", lost), ("changed", changed), ("config", config), ("diffid", wrong_diff_id())):
        image.push(registry, f"a/{name}", "1")
    fewer().push(registry, "a/fewer", "1")
    stored(registry, lost.layers[1]).unlink()
    stored(registry, changed.layers[1]).write_bytes(bytes(len(changed.layers[1].data)))
    stored(registry, config.config).write_bytes(config.config.data.replace(b"linux", b"linuX"))


def own(number: int) -> Image:
    """Two layers that no other image has."""
    files = [
        images.Entry(f"own/{number}/{layer}", pullimages.noise(100 + 10 * number + layer, 5000)) for layer in (1, 2)
    ]
    return pullimages.image([images.layer([file]) for file in files])


def wrong_diff_id() -> Image:
    image = own(3)
    document = json.loads(image.config.data)
    document["rootfs"]["diff_ids"][1] = NO_DIGEST
    return pullimages.of_blobs(Blob(image.config.media_type, json.dumps(document).encode()), image.layers)


def fewer() -> Image:
    image = own(4)
    return pullimages.of_blobs(image.config, image.layers[:1])


def stored(registry: Registry, blob: Blob) -> Path:
    """Where docker-registry keeps a blob."""
    encoded = blob.digest.partition(":")[2]
    return registry.storage / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        made = []
        for engine in (stack.enter_context(CortenEngine()), stack.enter_context(Dockerd("26.1"))):
            registry = stack.enter_context(Registry(netns=engine.netns))
            fill(registry)
            made.append(Side(engine, registry))
        yield made[0], made[1]


@pytest.mark.parametrize("case", CASES)
def test_a_pull_is_told_as_by_dockerd(sides: tuple[Side, Side], case: str) -> None:
    ours, theirs = (side.pull(CASES[case]) for side in sides)
    assert ours == theirs


def test_afterwards_the_same_images_are_listed(sides: tuple[Side, Side]) -> None:
    def rows(side: Side) -> list[Any]:
        (line,) = side.ask("GET", "/images/json?digests=1")[1]
        names = ("Id", "RepoTags", "RepoDigests", "Size")
        return sorted(([row[name] for name in names] for row in json.loads(line)), key=str)

    ours, theirs = (rows(side) for side in sides)
    assert ours == theirs


def test_the_same_events_were_published(sides: tuple[Side, Side]) -> None:
    def events(side: Side) -> list[Any]:
        filters = quote(json.dumps({"event": ["pull"]}))
        path = f"/events?since={side.started - 5}&until={int(time.time()) + 1}&filters={filters}"
        return [(one["Action"], one["Actor"]) for one in map(json.loads, side.ask("GET", path)[1])]

    ours, theirs = (events(side) for side in sides)
    assert ours == theirs
