"""The runtime on Debian 12's kernel, cgroup v2 alone, AppArmor active: see support.machine.

Each test inside is a test here; all of a form share one boot.
"""

from __future__ import annotations

import pytest

from support import machine
from support.boots import boot

INSIDE = machine.GUEST / "runtime"
TITLE = "runtime on cgroup v2"
SHORT_S, LONG_S = 500.0, 1800.0  # a minute each on a quiet machine


@pytest.fixture(scope="module")
def short() -> machine.Run:
    """One boot with the tests that are not marked slow."""
    return boot(TITLE, slow=False, timeout_s=SHORT_S, inside=INSIDE)


@pytest.fixture(scope="module")
def long() -> machine.Run:
    """One boot with the others."""
    nodes, pages = machine.TWO_NODES, "hugepages=8"
    return boot(TITLE, slow=True, timeout_s=LONG_S, inside=INSIDE, words=pages, devices=nodes)


@pytest.mark.timeout(SHORT_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=False, inside=INSIDE))
def test_the_runtime_in_the_machine(short: machine.Run, name: str) -> None:
    short.expect(name)


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=True, inside=INSIDE))
def test_the_runtime_in_the_machine_at_length(long: machine.Run, name: str) -> None:
    long.expect(name)
