"""Boots of the virtual machine for the tests inside it, each with its part in what a run prints."""

from __future__ import annotations

from typing import Any

from support import machine, summary


def boot(title: str, *, slow: bool, **options: Any) -> machine.Run:
    """One boot with the tests inside that are marked slow, or with the others; `options` are those of `machine.run`.

    What is printed after the run has a line for each of them below `title`.
    """
    run = machine.run(["-m", "slow" if slow else "not slow"], **options)
    for outcome in run.outcomes.values():
        summary.add(title, f"{outcome.outcome:8} {outcome.seconds:6.1f} s  {outcome.name}")
    return run
