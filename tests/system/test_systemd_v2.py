"""The machine of support.machine with systemd as its init: each test inside is a test here, a boot for each form."""

from __future__ import annotations

import pytest

from support import machine, summary

INSIDE = machine.GUEST / "systemd"
SHORT_S, LONG_S = 500.0, 2400.0  # three quarters of a minute and three on a quiet machine


@pytest.fixture(scope="module")
def short() -> machine.Run:
    """One boot with the tests that are not marked slow."""
    return _reported(machine.run(["-m", "not slow"], timeout_s=SHORT_S, inside=INSIDE, init="systemd"))


@pytest.fixture(scope="module")
def long() -> machine.Run:
    """One boot with the others."""
    return _reported(machine.run(["-m", "slow"], timeout_s=LONG_S, inside=INSIDE, init="systemd"))


def _reported(run: machine.Run) -> machine.Run:
    for outcome in run.outcomes.values():
        summary.add("systemd on cgroup v2", f"{outcome.outcome:8} {outcome.seconds:6.1f} s  {outcome.name}")
    return run


@pytest.mark.timeout(SHORT_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=False, inside=INSIDE))
def test_beneath_systemd(short: machine.Run, name: str) -> None:
    short.expect(name)


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=True, inside=INSIDE))
def test_beneath_systemd_at_length(long: machine.Run, name: str) -> None:
    long.expect(name)
