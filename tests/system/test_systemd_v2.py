"""The machine of support.machine with systemd as its init: each test inside is a test here, a boot for each form."""

from __future__ import annotations

import pytest

from support import machine
from support.boots import boot

INSIDE = machine.GUEST / "systemd"
TITLE = "systemd on cgroup v2"
SHORT_S, LONG_S = 500.0, 2400.0  # three quarters of a minute and three on a quiet machine


@pytest.fixture(scope="module")
def short() -> machine.Run:
    """One boot with the tests that are not marked slow."""
    return boot(TITLE, slow=False, timeout_s=SHORT_S, inside=INSIDE, init="systemd")


@pytest.fixture(scope="module")
def long() -> machine.Run:
    """One boot with the others."""
    return boot(TITLE, slow=True, timeout_s=LONG_S, inside=INSIDE, init="systemd")


@pytest.mark.timeout(SHORT_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=False, inside=INSIDE))
def test_beneath_systemd(short: machine.Run, name: str) -> None:
    short.expect(name)


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=True, inside=INSIDE))
def test_beneath_systemd_at_length(long: machine.Run, name: str) -> None:
    long.expect(name)
