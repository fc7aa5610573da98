"""kill -9 of cortend at its writes and messages while published ports of a running container change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.test_kill_cortend import LIFE_TIMEOUT_S, Group, NamedCalls, Writes, campaign, whole_life
from support import images
from support.engine import CortenEngine
from support.portlife import PortLife

GATE_SAMPLE = 1
GROUPS: tuple[Group, ...] = (
    Writes("cortend, journal writes for ports", life=PortLife),
    NamedCalls("cortend, messages to shims for ports", r"(send|receive) .*\b(hold|release)$", life=PortLife),
)


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen a whole life of ports."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        whole_life(engine, kind=PortLife)
        yield engine


@pytest.mark.timeout(240)
def test_cortend_killed_at_a_sample_of_its_points(warm: CortenEngine) -> None:
    campaign(warm, GROUPS[1], GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(LIFE_TIMEOUT_S)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cortend_killed_at_every_point(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, None)
