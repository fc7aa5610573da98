"""What a client or a container can make slow stalls that one alone: all others are served meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from clients.api import Api
from support import images
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
PATIENCE_S = 2.0  # a ping takes a millisecond; a machine that runs other tests takes longer


@contextmanager
def served(engine: CortenEngine) -> Iterator[None]:
    """Another client asks all the time, and is answered in time."""
    over, slowest = threading.Event(), [0.0]

    def ask() -> None:
        while not over.is_set():
            began = time.monotonic()
            answered = engine.answers()
            slowest[0] = max(slowest[0], time.monotonic() - began if answered else 99)
            over.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert slowest[0] < PATIENCE_S


@pytest.mark.parametrize("key", ["name", "id"])
def test_an_expression_that_tries_every_way_stalls_nobody(shared_engine: CortenEngine, key: str) -> None:
    name = "a" * 60 + "-"
    shared_engine.docker("create", "--name", name, IMAGE, check=True)
    pattern = "(a+)+$" if key == "name" else "([0-9a-f]+)+$" + "x"
    try:
        with served(shared_engine):
            done = shared_engine.docker("ps", "-aq", "--filter", f"{key}={pattern}", timeout=20)
        assert (done.returncode, done.stdout) == (0, "")
    finally:
        shared_engine.docker("rm", name, check=True)


@pytest.mark.parametrize("path", ["/containers/json?all=1", "/networks?x=1", "/images/json?x=1"])
def test_as_many_and_as_large_patterns_as_fit_stall_nobody(shared_engine: CortenEngine, path: str) -> None:
    shared_engine.docker("create", "--name", "a" * 1000, IMAGE, check=True)
    api = Api(shared_engine.socket)
    key = "reference" if "images" in path else "name"
    lists = [["[a-z]?" * 600] * 4, [r"\pL*" * 900] * 4, [f"{index}a" for index in range(30_000)], ["*a*" * 100_000]]
    try:
        for values in lists:
            filters = json.dumps({key: values}, separators=(",", ":"))
            with served(shared_engine):
                status, answer = api.call("GET", f"{path}&filters={quote(filters)}")
            assert status == 200 or "invalid filter 'name" in answer["message"]
    finally:
        shared_engine.docker("rm", "a" * 1000, check=True)
