"""What a snapshot is made of: facts that can be counted, and for each whether it is the engine's by where it stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One thing on the machine, without the numbers that change from run to run (pids, inodes, descriptors)."""

    kind: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.place}: {self.what}"


@dataclass(slots=True)
class Facts:
    """How often each fact holds; `ours` are those that are the engine's wherever its name stands, with a hint each."""

    counts: Counter[Fact] = field(default_factory=Counter)
    ours: set[Fact] = field(default_factory=set)
    notes: dict[Fact, str] = field(default_factory=dict)

    def add(self, fact: Fact, *, ours: bool = False, note: str = "") -> None:
        """Counts `fact` once more."""
        self.counts[fact] += 1
        if ours:
            self.ours.add(fact)
        if note:
            self.notes[fact] = note

    def at_least(self, fact: Fact, count: int) -> None:
        """Raises the count of `fact` to `count`: for what is seen through several namespaces."""
        self.counts[fact] = max(self.counts[fact], count)
