"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients.api import Api
from support import images
from support.doctor import expect_well
from support.engine import CortenEngine
from support.faultlife import Life
from support.warmup import warm_up


@pytest.fixture(scope="module")
def warm_engine() -> Iterator[CortenEngine]:
    """An engine that had a container of each kind: what it makes once and keeps is there."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(engine)
        yield engine


@pytest.fixture(scope="module")
def lived_engine() -> Iterator[CortenEngine]:
    """An engine of the module's own that has seen a whole life; its database is far from its first checkpoint."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        life = Life(engine)
        life.run()
        assert not life.failure, life.failure
        yield engine


@pytest.fixture(scope="module")
def the_doctor_agrees() -> Iterator[None]:
    """At the end of each engine of a file `cortend --doctor` finds nothing, as the judge of leaks did before."""
    CortenEngine.last_check = staticmethod(expect_well)
    yield
    CortenEngine.last_check = None


@pytest.fixture(autouse=True)
def next_test_is_spared(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed halfway fails no other: its containers and images go, a cortend that it killed comes back."""
    yield
    for name in {"warm", "warm_engine", "lived_engine"} & set(request.fixturenames):
        engine: CortenEngine = request.getfixturevalue(name)
        if not engine.is_running():
            engine.kill9()
            engine.start()
            warm_up(engine)
        api = Api(engine.socket)
        for row in api.ok("GET", "/containers/json?all=1"):
            api.remove(row["Id"])
        for row in api.ok("GET", "/images/json?all=1"):
            for name_or_id in set(row["RepoTags"] or [row["Id"]]) - {images.BUSYBOX_REF}:
                api.call("DELETE", f"/images/{name_or_id}?force=1")
