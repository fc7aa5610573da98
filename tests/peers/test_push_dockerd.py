"""Pushes beside dockerd 26.1: every message, refusal and event, of the same image to registries of the same kind.

Digests and sizes of manifests are not compared: dockerd writes Docker's schema 2 and packs layers while it sends them,
Corten writes OCI's and packs them first.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from support import images, pullimages
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.registries import PASSWORD, USER, Registry

NOBODY = {"X-Registry-Auth": base64.urlsafe_b64encode(b"{}").decode()}
WRONG = {"X-Registry-Auth": base64.urlsafe_b64encode(b'{"username":"somebody","password":"else"}').decode()}
PASSING = {"Pushing", "Waiting"}
TAGS = ("H/a/b:1", "H/a/b:2", "H/c/d:1", "K/a/b:1", "127.0.0.1:1/a/b:1")

# what: (method, path, headers); H is the registry, K one that wants a password
CASES: dict[str, tuple[str, str, Mapping[str, str]]] = {
    "a tag": ("POST", "/images/H/a/b/push?tag=1", NOBODY),
    "the same tag again": ("POST", "/images/H/a/b/push?tag=1", NOBODY),
    "another tag of the same image": ("POST", "/images/H/a/b/push?tag=2", NOBODY),
    "a tag in the name": ("POST", "/images/H/a/b:1/push", NOBODY),
    "a tag beside one in the name": ("POST", "/images/H/a/b:1/push?tag=2", NOBODY),
    "all tags": ("POST", "/images/H/a/b/push", NOBODY),
    "another repository of the registry": ("POST", "/images/H/c/d/push?tag=1", NOBODY),
    "an unknown tag": ("POST", "/images/H/a/b/push?tag=nosuch", NOBODY),
    "an unknown repository": ("POST", "/images/H/nosuch/push?tag=1", NOBODY),
    "all tags of nothing": ("POST", "/images/H/nosuch/push", NOBODY),
    "a short name that is not here": ("POST", "/images/nosuch/push?tag=1", NOBODY),
    "a digest": ("POST", f"/images/H/a/b@sha256:{'a' * 64}/push", NOBODY),
    "a digest as a tag": ("POST", f"/images/H/a/b/push?tag=sha256:{'a' * 64}", NOBODY),
    "no tag": ("POST", "/images/H/a/b/push?tag=a@b", NOBODY),
    "no name": ("POST", "/images/H/a/B/push?tag=1", NOBODY),
    "an id": ("POST", f"/images/{'a' * 64}/push", NOBODY),
    "nobody's header": ("POST", "/images/H/a/b/push?tag=1", {"X-Registry-Auth": "???"}),
    "no header": ("POST", "/images/H/a/b/push?tag=1", {}),
    "without credentials": ("POST", "/images/K/a/b/push?tag=1", NOBODY),
    "with wrong credentials": ("POST", "/images/K/a/b/push?tag=1", WRONG),
    "nobody at the port": ("POST", "/images/127.0.0.1:1/a/b/push?tag=1", NOBODY),
    "distribution of a tag": ("GET", "/distribution/H/a/b:1/json", {}),
    "distribution without a tag": ("GET", "/distribution/H/a/b/json", {}),
    "distribution of an unknown tag": ("GET", "/distribution/H/a/b:nosuch/json", {}),
    "distribution of an unknown repository": ("GET", "/distribution/H/nosuch:1/json", {}),
    "distribution without credentials": ("GET", "/distribution/K/a/b:1/json", {}),
    "distribution with wrong credentials": ("GET", "/distribution/K/a/b:1/json", WRONG),
    "distribution of nobody": ("GET", "/distribution/127.0.0.1:1/a:1/json", {}),
    "distribution of no name": ("GET", "/distribution/H/A:1/json", {}),
    "distribution of an index": ("GET", "/distribution/H/a/platforms:1/json", {}),
    "distribution of a platform with a version": ("GET", "/distribution/H/a/version:1/json", {}),
    "distribution of no platform": ("GET", "/distribution/H/a/nowhere:1/json", {}),
    "distribution of an id": ("GET", f"/distribution/{'a' * 64}/json", {}),
}


def fill(registry: Registry) -> None:
    """What only other tools push: platforms with all that can be said of one, and with nothing.

    Docker manifests: of an OCI one dockerd 26.1 tells no platform, where Corten does.
    """
    words = {
        "architecture": "arm64",
        "variant": "v8",
        "os": "windows",
        "os.version": "10.0.1",
        "os.features": ["win32k"],
    }
    for name, platform in (("version", words), ("nowhere", {"architecture": "", "os": ""})):
        config = json.dumps({**platform, "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        made = pullimages.of_blobs(pullimages.Blob("application/vnd.docker.container.image.v1+json", config), [])
        made.push(registry, f"a/{name}", "1")
    made.push(registry, "a/platforms")
    document = json.loads(pullimages.index([made]).manifest.data)
    document["manifests"][0]["platform"] = words
    document["manifests"].append({**document["manifests"][0], "platform": {"architecture": "amd64", "os": "linux"}})
    registry.put_manifest("a/platforms", "1", document["mediaType"], json.dumps(document).encode())


class Side:
    """An engine with registries of its own."""

    def __init__(self, engine: DockerClient, open_one: Registry, closed: Registry) -> None:
        self.engine = engine
        self.registries = {"H": open_one.host, "K": closed.host}
        self.started = int(time.time())
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for tag in TAGS:
            engine.docker("tag", images.BUSYBOX_REF, self._there(tag), check=True)

    def _there(self, text: str) -> str:
        return re.sub("([HK])/", lambda found: f"{self.registries[found[1]]}/", text)

    def _here(self, text: str) -> str:
        for name, host in self.registries.items():
            text = text.replace(host, name)
        text = re.sub("sha256:[0-9a-f]{64}", "DIGEST", text)
        text = re.sub('application/vnd.(oci.image|docker.distribution).manifest[^"]*', "MANIFEST", text)
        return re.sub(r"(size: |\"size\":|\"Size\":)[0-9]+", r"\g<1>0", text)

    def ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, list[str]]:
        """Status and lines of the answer; of layers that race each other the messages of each together."""
        connection = http.client.HTTPConnection("engine", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.engine.socket))
        connection.request(method, "/v1.45" + self._there(path), headers=dict(headers))
        answer = connection.getresponse()
        lines = [self._here(line) for line in answer.read().decode().splitlines()]
        connection.close()
        return answer.status, _in_order([line for line in lines if not _is_passing(json.loads(line))])

    def events(self) -> list[str]:
        """Of pushes, in order."""
        words = ["events", "--since", str(self.started), "--until", str(time.time() + 1), "--filter", "event=push"]
        found = self.engine.docker(*words, "--format", "{{.Action}} {{json .Actor}}", check=True).stdout
        return [self._here(line) for line in found.splitlines()]


def _is_passing(message: Mapping[str, object]) -> bool:
    """Whether it depends on the moment: those of what is sent, and of Corten's packing."""
    return message.get("status") in PASSING or (
        message.get("status") == "Preparing" and bool(message["progressDetail"])
    )


def _in_order(lines: list[str]) -> list[str]:
    """Between two messages that are about no layer, those about layers sorted by layer."""
    out: list[str] = []
    run: list[str] = []
    for line in lines:
        if json.loads(line).get("id"):
            run.append(line)
            continue
        out += [*sorted(run, key=lambda one: str(json.loads(one)["id"])), line]
        run = []
    return out + sorted(run, key=lambda one: str(json.loads(one)["id"]))


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    with ExitStack() as stack:
        dockerd, engine = stack.enter_context(Dockerd("26.1")), stack.enter_context(CortenEngine())
        made = []
        for one in (dockerd, engine):
            plain = stack.enter_context(Registry(netns=one.netns))
            closed = stack.enter_context(Registry(netns=one.netns, users={USER: PASSWORD}))
            fill(plain)
            made.append(Side(one, plain, closed))
        yield made[0], made[1]


@pytest.mark.parametrize("case", CASES)
def test_push_and_distribution_answer_as_dockerd_s(sides: tuple[Side, Side], case: str) -> None:
    """In the order of CASES, which build on each other."""
    theirs, ours = (side.ask(*CASES[case]) for side in sides)
    assert ours == theirs


def test_events_of_all_these_pushes_are_dockerd_s(sides: tuple[Side, Side]) -> None:
    theirs, ours = (side.events() for side in sides)
    assert ours == theirs
