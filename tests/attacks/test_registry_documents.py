"""Manifests, indexes and configurations with random damage: refused, or images that list, inspect and go again."""

from __future__ import annotations

import copy
import http.client
import json
import random
import socket
from typing import Any

import pytest

from support import lies, pullimages
from support.engine import CortenEngine
from support.lyingregistry import LyingRegistry
from support.pullimages import Blob

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1 << 63, 1 << 70, 1.5, "", "x" * 5000, "\x00", "\ud800", "../..", "linux"),
    *("sha256:" + "0" * 64, [], {}, [[]], {"a": 1}, ["a"] * 3, "2024-13-45T99:99:99Z"),
)
KEYS = ("mediaType", "digest", "size", "urls", "annotations", "platform", "os.version", "rootfs", "history", "variant")
RUN = {
    **{"Env": ["A=b"], "Labels": {"a": "b"}, "Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}}, "User": "1"},
    **{"Healthcheck": {"Test": ["CMD", "x"], "Interval": 1}, "WorkingDir": "/x", "StopSignal": "SIGTERM"},
}


def damaged(document: Any, chance: random.Random) -> Any:
    """One to three values replaced, removed, repeated or added."""
    document = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        parent: Any = document
        key = _any_key(parent, chance)
        while key is not None and isinstance(parent[key], dict | list) and parent[key] and chance.random() < 0.8:
            parent = parent[key]
            key = _any_key(parent, chance)
        if key is None:
            continue
        kind = chance.random()
        if kind < 0.6:
            parent[key] = copy.deepcopy(chance.choice(VALUES))
        elif kind < 0.8:
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[chance.choice(KEYS)] = copy.deepcopy(chance.choice(VALUES))
    return document


def _any_key(parent: Any, chance: random.Random) -> Any:
    keys: list[Any] = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    return chance.choice(keys) if keys else None


def put(registry: LyingRegistry, chance: random.Random) -> None:
    """The honest image with damage in one of its documents."""
    base = lies.honest()
    config = json.loads(base.config.data)
    config["config"] |= RUN
    kind = chance.choice(["config", "manifest", "index"])
    text = json.dumps(damaged(config, chance) if kind == "config" else config).encode()
    image = pullimages.of_blobs(Blob(base.config.media_type, text), base.layers)
    registry.held.clear()
    registry.add(image, lies.REPOSITORY, lies.TAG)
    if kind == "manifest":
        document = damaged(json.loads(image.manifest.data), chance)
        registry.add_manifest(lies.REPOSITORY, image.manifest.media_type, json.dumps(document).encode(), lies.TAG)
    elif kind == "index":
        document = damaged(json.loads(pullimages.index([image]).manifest.data), chance)
        registry.add_manifest(lies.REPOSITORY, lies.OCI_INDEX, json.dumps(document).encode(), lies.TAG)


def call(engine: CortenEngine, method: str, target: str) -> tuple[int, bytes]:
    """One request, on a connection of its own."""
    connection = http.client.HTTPConnection("d", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(engine.socket))
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=(pytest.mark.slow, pytest.mark.timeout(900)))])
def test_damaged_documents_are_refused_or_handled(count: int) -> None:
    chance = random.Random(count)
    # a layer that is said to be larger than it is breaks off: one try, or half a minute of pauses goes with each
    with CortenEngine(config={"max-download-attempts": 1}) as engine, LyingRegistry(netns=engine.netns) as registry:
        name = f"{registry.host}/{lies.REPOSITORY}"
        quoted = name.replace("/", "%2F").replace(":", "%3A")
        for _ in range(count):
            put(registry, chance)
            status, body = call(engine, "POST", f"/images/create?fromImage={quoted}&tag={lies.TAG}")
            if status == 200 and b'"error"' not in body:
                for target in (
                    f"/images/{name}:1/json",
                    f"/images/{name}:1/history",
                    "/images/json?all=1",
                    "/system/df",
                ):
                    assert call(engine, "GET", target)[0] == 200, (target, registry.held)
                assert call(engine, "DELETE", f"/images/{name}:1")[0] == 200
        assert call(engine, "GET", "/images/json?all=1") == (200, b"[]\n")
        assert "Traceback" not in engine.log.read_text(errors="replace"), engine.log_tail()
