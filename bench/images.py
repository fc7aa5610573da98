"""Rows about images: pull, push, load, save and rmi, of dockerd, podman and Corten, with one registry on loopback.

Every round brings an image by each way and takes it away again; between two commands the disk is synced, so that nobody
pays for what another left unwritten.  The round before the counted ones is the warm one: in it memory is looked at,
which costs time.  `half` of a pull is the image of which the lower half of the layers is here already.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bigimages import DEEP, LARGE, Made, Shape, make
from harness import Budget, Row, Sample, budgets, words
from imagestores import Lab, Store, lab

from support import process

ROUNDS_EACH = 4  # of the rounds of rows that take milliseconds
PEAK_BUDGET = "150"
_LOOK_EVERY_S = 0.03
DOCKERD = "dockerd"
STEPS = ("pull", "pull, half the layers here", "push", "load", "save", "rmi")
BUDGETS: Mapping[str, str] = {"pull": "1/2", "pull, half the layers here": "1/2", "load": "1", "save": "1"}


@dataclass(slots=True)
class Taken:
    """What was measured: (step, contender) to values."""

    wall_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    cpu_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    peak_mb: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)


def rows(folder: Path, rounds: int) -> list[Row]:
    """The rows of this file; the images are made in `folder`."""
    found: list[Row] = []
    with lab() as place:
        for shape in (LARGE, DEEP):
            made = make(shape, folder)
            place.source.fill(made.layout, {tag: f"{shape.name}:{tag}" for tag in ("1", "base")})
            found += _rows_of(shape, _measured(made, place, max(2, rounds // ROUNDS_EACH)), place.stores)
    return found


def _measured(made: Made, place: Lab, rounds: int) -> Taken:
    taken = Taken()
    for number in range(-1, rounds):
        for store in place.stores:
            _Round(made, place, store, taken, is_warm=number < 0).run()
    return taken


@dataclass(frozen=True, slots=True)
class _Round:
    """One contender's turn with one image."""

    made: Made
    lab: Lab
    store: Store
    taken: Taken
    is_warm: bool

    def run(self) -> None:
        """Every step once; nothing of the image is left."""
        store, saved = self.store, self.made.archive.with_suffix(".saved")
        reference, base = (f"{self.lab.source.address}/{self.made.shape.name}:{tag}" for tag in ("1", "base"))
        self._step("load", store.load(self.made.archive))
        self._step("save", store.save(self.made.reference, saved))
        saved.unlink()
        self._push()
        self._step("rmi", store.remove(self.made.reference))
        self._step("pull", store.pull(reference))
        store.run(store.remove(reference))
        store.run(store.pull(base))
        self._step("pull, half the layers here", store.pull(reference))
        store.run(store.remove(reference, base))

    def _push(self) -> None:
        """Of the image that was loaded: no registry has it."""
        store, pushed = self.store, f"{self.lab.target.address}/{self.made.shape.name}:1"
        self.lab.target.empty()
        store.run(store.tag(self.made.reference, pushed))
        self._step("push", store.push(pushed))
        store.run(store.remove(pushed))

    def _step(self, step: str, argv: tuple[str, ...]) -> None:
        os.sync()
        key, taken = (step, self.store.name), self.taken
        taken.texts[key] = words(argv)
        if self.is_warm:
            with _peak(self.store, taken.peak_mb.setdefault(key, [])):
                self.store.run(argv)
            return
        cpu, started = self.store.cpu_s(), time.perf_counter()
        self.store.run(argv)
        taken.wall_s.setdefault(key, []).append(time.perf_counter() - started)
        taken.cpu_s.setdefault(key, []).append(self.store.cpu_s() - cpu)


@contextmanager
def _peak(store: Store, found: list[float]) -> Iterator[None]:
    """Adds the most memory, in MB, that the contender's processes had together, seen every few milliseconds."""
    most, is_over = 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not is_over.wait(_LOOK_EVERY_S):
            most = max(most, sum(map(_pss_mb, _family(store.mark))))

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield
    finally:
        is_over.set()
        looker.join()
        found.append(most)


def _family(mark: str) -> set[int]:
    """The contender's processes and all that they started, by whichever of their threads."""
    started: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            started.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    new = set(process.processes(mark))
    while new:
        found |= new
        new = {child for pid in new for child in started.get(pid, ())} - found
    return found


def _pss_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _rows_of(shape: Shape, taken: Taken, contenders: Sequence[Store]) -> list[Row]:
    made: list[Row] = []
    for step in STEPS:
        name = f"{step}: {shape.text()}"
        made.append(_row(name, "s", taken.wall_s, step, contenders, taken.texts, _budget(step)))
        made.append(_row("  of it: CPU", "s", taken.cpu_s, step, contenders, taken.texts))
        peak = budgets(PEAK_BUDGET) if step in BUDGETS or step == "push" else ()
        made.append(_row("  beside it: peak memory", "MB", taken.peak_mb, step, contenders, taken.texts, peak))
    return made


def _budget(step: str) -> tuple[Budget, ...]:
    return budgets(BUDGETS[step], DOCKERD) if step in BUDGETS else ()


def _row(
    name: str,
    unit: str,
    values: Mapping[tuple[str, str], list[float]],
    step: str,
    contenders: Sequence[Store],
    texts: Mapping[tuple[str, str], str],
    budget: tuple[Budget, ...] = (),
) -> Row:
    names = [store.name for store in contenders]
    samples = {label: Sample(tuple(values[step, label])) for label in names}
    return Row(name, unit, samples, budget, {label: texts[step, label] for label in names})
