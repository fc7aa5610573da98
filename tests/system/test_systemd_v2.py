"""The machine of support.machine with systemd as its init: one boot, each test inside is a test here."""

from __future__ import annotations

import pytest

from support import machine, summary

INSIDE = machine.GUEST / "systemd"
LIMIT_S = 1200.0  # a minute on a quiet machine


@pytest.fixture(scope="module")
def run() -> machine.Run:
    """One boot with all tests of the folder."""
    done = machine.run([], timeout_s=LIMIT_S, inside=INSIDE, init="systemd")
    for outcome in done.outcomes.values():
        summary.add("systemd on cgroup v2", f"{outcome.outcome:8} {outcome.seconds:6.1f} s  {outcome.name}")
    return done


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("name", [*machine.names(slow=False, inside=INSIDE), *machine.names(slow=True, inside=INSIDE)])
def test_beneath_systemd(run: machine.Run, name: str) -> None:
    run.expect(name)
