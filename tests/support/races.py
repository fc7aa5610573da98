"""Races that luck decides: at least so many rounds, and more until the window was met.

    race = Race()
    for number in race.until(40):        # 40 rounds, and then for as long as nothing was met
        …
        race.escaped += …
        race.met += …
    assert race.escaped == 0             # exact: no round is forgiven, and none is repeated
    assert race.met > 0, NEVER

How often a window is met depends on the machine and on what runs beside the test.  No fixed number of rounds is enough
everywhere; a bound that is far from every number that was measured is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest

MOST = 25  # times the rounds that are asked for, which were chosen so that most runs meet the window within them
PATIENCE_S = 60.0  # or so many seconds, where this is longer
NEVER = "the window was never hit"
TIMEOUT = pytest.mark.timeout(600)  # of a test with a race: both bounds on a busy machine

Wanted = Literal["met", "escaped"]


@dataclass(slots=True)
class Race:
    """What became of a race so far."""

    rounds: int = 0
    met: int = 0
    """Rounds in which the window was met."""
    escaped: int = 0
    """Rounds in which it did harm: none, or, in a twin, what is wanted."""

    def until(self, least: int, wanted: Wanted = "met", *, seconds: float = 0.0, most: int = MOST) -> Iterator[int]:
        """The numbers of the rounds from 1: `least` rounds in `seconds`, then more until what is `wanted` was seen.

        It gives up after `most` times `least` rounds, or after PATIENCE_S more seconds, whichever is later.
        """
        begun, spent = time.monotonic(), 0.0
        while (
            self.rounds < least
            or spent < seconds
            or (not self.count(wanted) and (self.rounds < most * least or spent < seconds + PATIENCE_S))
        ):
            self.rounds += 1
            yield self.rounds
            spent = time.monotonic() - begun

    def count(self, wanted: Wanted) -> int:
        """How often it was seen."""
        return self.met if wanted == "met" else self.escaped
