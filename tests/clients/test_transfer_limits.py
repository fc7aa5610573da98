"""`max-concurrent-downloads`, `max-concurrent-uploads` and `max-download-attempts`, at a registry that counts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from support import process, pullimages
from support.engine import CortenEngine
from support.httpthread import HttpThread
from support.pullimages import Image

LAYERS = 7
PATIENCE_S = 30.0  # for others to come, where they may


class _Handler(BaseHTTPRequestHandler):
    owner: Counting

    def do_GET(self) -> None:
        image = self.owner.image
        digest = self.path.rpartition("/")[2]
        if "/manifests/" in self.path:
            self._answer(image.manifest.data, image.manifest.media_type)
            return
        blob = next((blob for blob in image.blobs if blob.digest == digest), None)
        if blob is None or self.command == "HEAD":
            self._answer(b"", "application/json", 200 if self.path == "/v2/" else 404)
            return
        with self.owner.counted(digest):
            if digest in self.owner.broken:
                self.close_connection = True
                return
            self._answer(blob.data, "application/octet-stream")

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def do_POST(self) -> None:
        self._answer(b"", "text/plain", 202, {"Location": f"{self.path.partition('?')[0]}1?x=y"})

    def do_PUT(self) -> None:
        digest = re.sub(r".*digest=", "", self.path).replace("%3A", ":")
        with self.owner.counted(digest):
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(b"", "text/plain", 201, {"Location": self.path})

    def do_PATCH(self) -> None:
        with self.owner.counted("patch"):
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(b"", "text/plain", 202, {"Location": self.path})

    def _answer(self, body: bytes, media_type: str, status: int = 200, headers: Any = ()) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Counting(HttpThread):
    """A registry with one image.  `most` layers were on their way at once; `asked` counts requests by digest.

    What is in `broken` ends with the connection.
    """

    def __init__(self, image: Image, **settings: Any) -> None:
        self.image = image
        self.most = 0
        self.asked: Counter[str] = Counter()
        self.broken: set[str] = set()
        self._now = 0
        self._layers = {layer.digest for layer in image.layers}
        self._changed = threading.Condition()
        self.together = 0
        super().__init__(_Handler, **settings)

    @contextlib.contextmanager
    def counted(self, digest: str) -> Iterator[None]:
        """One request for content, which takes a while, and until so many were there `together` once."""
        weight = int(digest in self._layers)
        with self._changed:
            self._now += weight
            self.most = max(self.most, self._now)
            self.asked[digest] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.together, PATIENCE_S if weight else 0)
        time.sleep(0.15)  # for one too many
        with self._changed:
            self._now -= weight
        yield


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        yield made


@pytest.fixture
def registry(engine: CortenEngine) -> Iterator[Counting]:
    with Counting(pullimages.several(LAYERS), netns=engine.netns) as made:
        yield made
    engine.docker("rmi", f"{made.host}/a/b:1")


def settings(engine: CortenEngine, values: Any) -> None:
    """daemon.json, read again."""
    before = engine.log.read_text().count("Reloaded configuration")
    engine.config_file.write_text(json.dumps(values))
    os.kill(engine.pid, signal.SIGHUP)
    process.wait_for(lambda: engine.log.read_text().count("Reloaded configuration") > before, "reload")


@pytest.mark.parametrize("limit", [1, 3, LAYERS])
def test_so_many_layers_come_at_once(engine: CortenEngine, registry: Counting, limit: int) -> None:
    settings(engine, {"max-concurrent-downloads": limit})
    registry.together = min(limit, 2)
    engine.docker("pull", "-q", f"{registry.host}/a/b:1", check=True)
    assert registry.most <= limit
    assert registry.most >= min(limit, 2)
    assert set(registry.asked.values()) == {1}


@pytest.mark.parametrize("limit", [1, 3, LAYERS])
def test_so_many_layers_go_at_once(engine: CortenEngine, registry: Counting, limit: int) -> None:
    settings(engine, {"max-concurrent-uploads": limit})
    engine.docker("pull", "-q", f"{registry.host}/a/b:1", check=True)
    with Counting(registry.image, netns=engine.netns) as other:
        other.together = min(limit, 2)
        engine.docker("tag", f"{registry.host}/a/b:1", f"{other.host}/a/c:1", check=True)
        engine.docker("push", "-q", f"{other.host}/a/c:1", check=True)
        engine.docker("rmi", f"{other.host}/a/c:1", check=True)
        assert min(limit, 2) <= other.most <= limit
        assert len(other.asked) >= LAYERS


def test_the_limit_is_three_where_nothing_is_said(engine: CortenEngine, registry: Counting) -> None:
    settings(engine, {})
    registry.together = 2
    engine.docker("pull", "-q", f"{registry.host}/a/b:1", check=True)
    assert registry.most in (2, 3)


def test_a_layer_is_asked_for_so_many_times(engine: CortenEngine, registry: Counting) -> None:
    broken = registry.image.layers[-1].digest
    settings(engine, {"max-download-attempts": 2})
    registry.broken.add(broken)
    done = engine.docker("pull", "-q", f"{registry.host}/a/b:1")
    assert done.returncode == 1
    assert registry.asked[broken] == 2
    registry.broken.clear()
    engine.docker("pull", "-q", f"{registry.host}/a/b:1", check=True)
    assert registry.asked[broken] == 3
