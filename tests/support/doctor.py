"""`cortend --doctor` of an engine of the tests: what it finds, and that it agrees with the judge of leaks."""

from __future__ import annotations

import subprocess
import time

from support.engine import CortenEngine

SETTLE_SECONDS = 30
WELL = "doctor: records, journal, disk and kernel agree"


def doctor(engine: CortenEngine, *flags: str) -> tuple[int, list[str], str]:
    """Exit status, findings, and what it says at the end."""
    argv = [*engine.netns.enter, *engine.argv, "--doctor", *flags]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=engine.environment)
    return done.returncode, done.stdout.splitlines(), done.stderr.strip().splitlines()[-1]


def expect_well(engine: CortenEngine) -> None:
    """AssertionError with its findings, when there are any that do not go: what the engine is at may take its time."""
    end = time.monotonic() + SETTLE_SECONDS
    while (found := doctor(engine))[0] and time.monotonic() < end:
        time.sleep(1)
    assert found == (0, [], WELL), "\n".join([found[2], *found[1]])
