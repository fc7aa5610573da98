"""kill -9 of cortend at random calls and moments while it pulls an image from a real registry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import pullimages
from support.engine import CortenEngine
from support.imagekills import Request, campaign
from support.registries import Registry

REPOSITORY = "faults/kills"
LAYER_BYTES = 1 << 20
GATE_CALLS, GATE_MOMENTS = 2, 2
SLOW_CALLS, SLOW_MOMENTS = 60, 40


@pytest.fixture(scope="module")
def engine(warm_engine: CortenEngine) -> CortenEngine:
    """With one image, which is never touched."""
    return warm_engine


@pytest.fixture(scope="module")
def registry(engine: CortenEngine) -> Iterator[Registry]:
    """On the engine's loopback, with images of one platform and of two."""
    with Registry(netns=engine.netns) as made:
        pullimages.several(size=LAYER_BYTES).push(made, REPOSITORY, "one")
        pullimages.two_platforms().push(made, REPOSITORY, "two")
        yield made


def pulled(registry: Registry, tag: str) -> Request:
    """A pull of one of them."""
    reference = f"{registry.host}/{REPOSITORY}:{tag}"
    return Request(("pull", "-q", reference), names=frozenset({reference}), partials=True)


def test_cortend_killed_in_a_pull_leaves_nothing_half_made(engine: CortenEngine, registry: Registry) -> None:
    campaign(engine, "pull", pulled(registry, "two"), calls=GATE_CALLS, moments=GATE_MOMENTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tag", ["one", "two"])
def test_cortend_killed_at_many_points_of_a_pull_leaves_nothing_half_made(
    engine: CortenEngine, registry: Registry, tag: str
) -> None:
    campaign(engine, f"pull {tag}", pulled(registry, tag), calls=SLOW_CALLS, moments=SLOW_MOMENTS)
