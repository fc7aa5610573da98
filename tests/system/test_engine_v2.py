"""The whole engine on the machine that most users have, in a virtual one: see support.machine.

Each test inside is a test here; all of a form share one boot.
"""

from __future__ import annotations

import pytest

from support import machine, summary

SHORT_S, LONG_S = 500.0, 2400.0  # a minute and three on a quiet machine


@pytest.fixture(scope="module")
def short() -> machine.Run:
    """One boot with the tests that are not marked slow."""
    return _reported(machine.run(["-m", "not slow"], timeout_s=SHORT_S))


@pytest.fixture(scope="module")
def long() -> machine.Run:
    """One boot with the others."""
    return _reported(machine.run(["-m", "slow"], timeout_s=LONG_S))


def _reported(run: machine.Run) -> machine.Run:
    for outcome in run.outcomes.values():
        summary.add("engine on cgroup v2", f"{outcome.outcome:8} {outcome.seconds:6.1f} s  {outcome.name}")
    return run


@pytest.mark.timeout(SHORT_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=False))
def test_in_the_machine(short: machine.Run, name: str) -> None:
    short.expect(name)


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 60)
@pytest.mark.parametrize("name", machine.names(slow=True))
def test_in_the_machine_at_length(long: machine.Run, name: str) -> None:
    long.expect(name)
