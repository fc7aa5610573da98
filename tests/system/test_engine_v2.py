"""The whole engine on the machine that most users have, in a virtual one: see support.machine.

Each test inside is a test here; all of a form share one boot.
"""

from __future__ import annotations

import pytest

from support import machine
from support.boots import boot

TITLE = "engine on cgroup v2"
SHORT_S, LONG_S = 500.0, 2400.0  # a minute and three on a quiet machine


@pytest.fixture(scope="module")
def short() -> machine.Run:
    """One boot with the tests that are not marked slow."""
    return boot(TITLE, slow=False, timeout_s=SHORT_S)


@pytest.fixture(scope="module")
def long() -> machine.Run:
    """One boot with the others."""
    return boot(TITLE, slow=True, timeout_s=LONG_S)


@pytest.mark.timeout(SHORT_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=False))
def test_in_the_machine(short: machine.Run, name: str) -> None:
    short.expect(name)


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=True))
def test_in_the_machine_at_length(long: machine.Run, name: str) -> None:
    long.expect(name)
