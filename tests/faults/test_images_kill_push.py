"""kill -9 of cortend at random calls and moments while it pushes an image to a real registry.

The registry has the tag with all of its blobs or has no tag; the image here is whole; the same push then succeeds.
The registry is emptied each time, so that every kill comes among uploads.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, pullimages
from support.engine import CortenEngine
from support.imagekills import NAME, Request, campaign
from support.registries import Registry

LAYERS, LAYER_BYTES = 3, 1 << 20
REPOSITORY = "faults/pushed"
GATE_CALLS, GATE_MOMENTS = 2, 2
SLOW_CALLS, SLOW_MOMENTS = 60, 60


@pytest.fixture(scope="module")
def engine(warm_engine: CortenEngine) -> CortenEngine:
    """With one image, which is never touched."""
    return warm_engine


@pytest.fixture(scope="module")
def registry(engine: CortenEngine) -> Iterator[Registry]:
    """On the engine's loopback, empty."""
    with Registry(netns=engine.netns) as made:
        yield made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the image that is pushed."""
    own = [
        images.layer([images.Entry(f"noise{number}", pullimages.noise(number, LAYER_BYTES))])
        for number in range(LAYERS)
    ]
    path = tmp_path_factory.mktemp("archive") / "pushed.tar"
    path.write_bytes(images.docker_archive([NAME], [*images.busybox_layers(), *own], {"Cmd": ["true"]}))
    return path


class Judge:
    """Asked after a kill, when the tag may be there, and after the same push again, when it must be; in turn."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._is_repeated = False

    def __call__(self) -> None:
        found = self._registry.get_manifest(REPOSITORY, "1")
        assert found.status == 200 or not self._is_repeated, found.body
        if found.status == 200:
            document = found.json()
            for one in (document["config"], *document["layers"]):
                assert self._registry.has_blob(REPOSITORY, one["digest"]), one
        self._is_repeated = not self._is_repeated

    def afresh(self) -> None:
        """The registry forgets."""
        self._registry.kill()
        shutil.rmtree(self._registry.storage)
        self._registry.start()


def pushed(registry: Registry, archive: Path) -> Request:
    """A push of the whole image."""
    target = f"{registry.host}/{REPOSITORY}:1"
    before = (("load", "-q", "-i", str(archive)), ("tag", NAME, target))
    names = frozenset({NAME, target})
    judge = Judge(registry)
    return Request(("push", "-q", target), before=before, names=names, also=judge, afresh=judge.afresh)


def test_cortend_killed_in_a_push_leaves_nothing_half_made(
    engine: CortenEngine, registry: Registry, archive: Path
) -> None:
    campaign(engine, "push", pushed(registry, archive), calls=GATE_CALLS, moments=GATE_MOMENTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cortend_killed_at_many_points_of_a_push_leaves_nothing_half_made(
    engine: CortenEngine, registry: Registry, archive: Path
) -> None:
    campaign(engine, "push, many", pushed(registry, archive), calls=SLOW_CALLS, moments=SLOW_MOMENTS)
