"""Interleaved timing of several contenders, and the table of ratios.

A row has contenders, each a callable that does the thing once and returns seconds (or None: time the call).
Contenders take turns, so that a drifting machine is the same for all of them.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Once = Callable[[], "float | None"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contender measured in one row; values in the row's unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return min(self.values)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: Corten against its peers."""

    name: str
    unit: str
    samples: Mapping[str, Sample]
    budget: str = ""
    command: str = ""
    bigger_is_better: bool = False
    against: tuple[str, ...] = field(default=())

    def ratio(self, peer: str) -> float:
        """Corten's median divided by a peer's."""
        other = self.samples[peer].median
        return self.samples["corten"].median / other if other else float("inf")


def interleave(
    contenders: Mapping[str, Once], rounds: int, *, warm: int = 1, scale: float = 1000.0
) -> dict[str, Sample]:
    """`rounds` counted turns after `warm` uncounted ones; seconds times `scale`."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm + rounds):
        for name, once in contenders.items():
            started = time.perf_counter()
            said = once()
            spent = time.perf_counter() - started if said is None else said
            if turn >= warm:
                taken[name].append(spent * scale)
    return {name: Sample(tuple(values)) for name, values in taken.items()}


def digest(path: Path) -> str:
    """A file's sha256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table: n, minimum, median of each contender, Corten's ratio to each peer."""
    lines = ["| row | contender | n | min | median | corten / it | budget |", "|--|--|--|--|--|--|--|"]
    for row in rows:
        for name, sample in row.samples.items():
            ratio = "" if name == "corten" or "corten" not in row.samples else f"{row.ratio(name):.2f}"
            lines.append(
                f"| {row.name if name == next(iter(row.samples)) else ''} | {name} | {len(sample.values)} "
                f"| {sample.minimum:.2f} {row.unit} | {sample.median:.2f} {row.unit} | {ratio} "
                f"| {row.budget if name == 'corten' else ''} |"
            )
    return "\n".join(lines)


def commands(rows: list[Row]) -> str:
    """What each row ran."""
    return "\n".join(f"- {row.name}: `{row.command}`" for row in rows if row.command)
