"""Interleaved timing of several contenders, the table of ratios, and the budgets that are missed.

A row has contenders, each a callable that does the thing once and returns seconds (or None: time the call).
Contenders take turns, so that a drifting machine is the same for all of them.
"""

from __future__ import annotations

import hashlib
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from support import paths

Once = Callable[[], "float | None"]

FIRST_ROUNDS = 3
FIRST = ", first after dropping caches"  # the end of a row's name
REST_S = 6  # a shim gives pages back when it is idle, once in 5 s at most
HEADING = "## The last run"  # what `kept` leaves alone stands before it


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
class Budget:
    """What Corten's median may be: `limit` ("0.7", "1/8") of a peer's, or of the row's unit where `peer` is "".

    `least` is for rates, where more is better.
    """

    limit: str
    peer: str = ""
    least: bool = False

    def text(self, unit: str) -> str:
        """As in `≤ 1/8 × dockerd+runc` and `≥ 100 MB/s`."""
        return f"{'≥' if self.least else '≤'} {self.limit} {'× ' + self.peer if self.peer else unit}"

    def is_kept(self, samples: Mapping[str, Sample]) -> bool:
        """Whether the medians, not rounded, keep it."""
        ours = samples["corten"].median
        limit = float(Fraction(self.limit)) * (samples[self.peer].median if self.peer else 1)
        return ours >= limit if self.least else ours <= limit


def budgets(limit: str, *peers: str, least: bool = False) -> tuple[Budget, ...]:
    """The same budget against each of some peers, or in the row's unit where none is named."""
    return tuple(Budget(limit, peer, least) for peer in peers or ("",))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: Corten against its peers.

    `commands` has each contender's argv or requests, or under "" those of all.
    """

    name: str
    unit: str
    samples: Mapping[str, Sample]
    budget: tuple[Budget, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, peer: str) -> str:
        """Corten's median divided by a peer's; a dash where one of them is missing or nothing."""
        ours, other = self.samples.get("corten"), self.samples[peer].median
        return f"{ours.median / other:.2f}" if ours and other else "–"

    def missed(self) -> list[str]:
        """Its budgets that Corten's median misses: row, ratio or value, budget."""
        return [
            f"{self.name.strip()}: {self._said(budget)}, budget {budget.text(self.unit)}"
            for budget in self.budget
            if not budget.is_kept(self.samples)
        ]

    def _said(self, budget: Budget) -> str:
        ours = f"{self.samples['corten'].median:.2f} {self.unit}"
        return f"{self.ratio(budget.peer)} × {budget.peer}" if budget.peer else ours


def milliseconds(seconds: float) -> float:
    """For rows in ms."""
    return seconds * 1000


def seconds(value: float) -> float:
    """For rows in s, and for measurements that are no times."""
    return value


def rate(amount: float) -> Callable[[float], float]:
    """For rows in MB/s or /s: `amount` divided by the seconds."""
    return lambda spent: amount / spent


def interleave(
    contenders: Mapping[str, Once],
    rounds: int,
    *,
    warm: int = 1,
    unit: Callable[[float], float] = milliseconds,
    before: Callable[[], object] | None = None,
) -> dict[str, Sample]:
    """`rounds` counted turns after `warm` uncounted ones; `before` is called, untimed, before each contender's turn."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm + rounds):
        for name, once in contenders.items():
            if before is not None:
                before()
            started = time.perf_counter()
            said = once()
            spent = time.perf_counter() - started if said is None else said
            if turn >= warm:
                taken[name].append(unit(spent))
    return {name: Sample(tuple(values)) for name, values in taken.items()}


def first(contenders: Mapping[str, Once]) -> dict[str, Sample]:
    """Every contender with cold caches, in turns: what a file holds is read from the disk again, none is warmed."""
    return interleave(contenders, FIRST_ROUNDS, warm=0, before=drop_caches)


def drop_caches() -> None:
    """Page cache, directory entries and inodes of the whole machine (proc(5), drop_caches); mapped pages stay."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def digest(path: Path) -> str:
    """A file's sha256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def words(argv: Sequence[str | Path]) -> str:
    """An argv as a shell reads it; the checkout is `.`, the cache of peers `.cache`."""
    text = shlex.join(str(word) for word in argv)
    return text.replace(str(paths.cache()), ".cache").replace(str(paths.REPOSITORY), ".")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: n, minimum, median of each contender, Corten's ratio to each peer."""
    lines = ["| row | contender | n | min | median | corten / it | budget |", "|--|--|--|--|--|--|--|"]
    for row in rows:
        for name, sample in row.samples.items():
            ratio = "" if name == "corten" else row.ratio(name)
            lines.append(
                f"| {row.name if name == next(iter(row.samples)) else ''} | {name} | {len(sample.values)} "
                f"| {sample.minimum:.2f} {row.unit} | {sample.median:.2f} {row.unit} | {ratio} "
                f"| {', '.join(one.text(row.unit) for one in row.budget) if name == 'corten' else ''} |"
            )
    return "\n".join(lines)


def missed(rows: Sequence[Row]) -> str:
    """Every budget that is missed, a line each, below how many there are."""
    lines = [f"- missed: {text}" for row in rows for text in row.missed()]
    count = sum(len(row.budget) for row in rows)
    return "\n".join([f"Budgets missed: {len(lines)} of {count}.", *([""] if lines else []), *lines])


def kept(page: str, report: str) -> str:
    """A page with a new report behind HEADING, which must be in it; the prose before it stays."""
    prose, found, _ = page.partition(f"{HEADING}\n")
    if not found:
        raise ValueError(f"no line {HEADING!r}: the report's place is behind it")
    return f"{prose}{found}\n{report}"


def commands(rows: Sequence[Row]) -> str:
    """What each row ran: rows that ran the same stand together, and contenders that did are one line."""
    same: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in rows:
        same.setdefault(tuple(row.commands.items()), []).append(row.name.strip())
    lines = []
    for ran, names in same.items():
        if len({text for _, text in ran}) == 1:
            lines.append(f"- {'; '.join(names)}: `{ran[0][1]}`")
        else:
            lines.append(f"- {'; '.join(names)}:")
            lines += [f"  - {name}: `{text}`" for name, text in ran]
    return "\n".join(lines)
