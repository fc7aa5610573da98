"""What a run was, in one line for docs/test-runs.md: date, commit, command, seed, counts, duration, machine.

And where its time went: the seconds of each folder, of the slowest files, and of the tests that took long.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from support import paths
from support.killpoints import SEED_VARIABLE

COMMAND_VARIABLE = "CORTEN_TEST_COMMAND"  # set by the Makefile: the target's name
COUNTED = ("passed", "failed", "error", "xfailed", "xpassed", "skipped")
UNTOLD = ("-p", "no:cacheprovider")
SLOWEST = 10  # files, and tests
LONG_S = 20.0  # what a test may take in the gate


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest.  seed: of the kill points, "" when none was drawn; spent_s: seconds."""

    ended: datetime.datetime
    commit: str
    command: str
    seed: str
    counts: Mapping[str, int]
    spent_s: float
    machine: str

    def line(self) -> str:
        """A row of the table of docs/test-runs.md."""
        counts = ", ".join(f"{self.counts[kind]} {kind}" for kind in COUNTED if self.counts.get(kind))
        minutes, seconds = divmod(round(self.spent_s), 60)
        cells = (
            f"{self.ended:%Y-%m-%d %H:%M}",
            self.commit,
            f"`{self.command}`",
            self.seed or "none",
            counts or "nothing ran",
            f"{minutes} min {seconds:02} s",
            self.machine,
        )
        return f"| {' | '.join(cells)} |"


def this_run(args: Sequence[str], counts: Mapping[str, int], spent_s: float) -> Run:
    """The run that is about to end; `args` are pytest's."""
    told = [word for word in args if word not in UNTOLD]
    return Run(
        datetime.datetime.now(datetime.UTC),
        commit(),
        os.environ.get(COMMAND_VARIABLE) or shlex.join(["pytest", *told]),
        os.environ.get(SEED_VARIABLE, ""),
        counts,
        spent_s,
        f"{distribution()}, kernel {os.uname().release.partition('-')[0]}, {os.cpu_count()} cores",
    )


def times(spent: Iterable[tuple[str, float]]) -> list[str]:
    """The seconds of each folder below tests/ in their order, then of the slowest files, then of tests beyond LONG_S.

    `spent`: node ids from tests/ on in the order of the run, with the seconds of set-up, call or tear-down.
    """
    folders: dict[str, float] = {}
    files: dict[str, float] = {}
    tests: dict[str, float] = {}
    for node, seconds in spent:
        name = node.removeprefix("tests/")
        file = name.partition("::")[0]
        folder = file.partition("/")[0]
        folders[folder] = folders.get(folder, 0) + seconds
        files[file] = files.get(file, 0) + seconds
        tests[name] = tests.get(name, 0) + seconds
    order = ", ".join(f"{folder} {seconds:.0f}" for folder, seconds in folders.items()) or "nothing ran"
    long = {name: seconds for name, seconds in tests.items() if seconds > LONG_S}
    return [order, *_slowest(files), *_slowest(long)]


def _slowest(spent: Mapping[str, float]) -> list[str]:
    slowest = sorted(spent.items(), key=lambda item: -item[1])[:SLOWEST]
    return [f"{seconds:6.0f}  {name}" for name, seconds in slowest]


def commit() -> str:
    """The checkout's commit, with `+` when something in it is not committed."""
    git = ["git", "-C", str(paths.REPOSITORY), "-c", "safe.directory=*"]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], check=False, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout else "") if head.returncode == 0 else "no commit"


def distribution() -> str:
    """As in `Debian 12`."""
    facts = platform.freedesktop_os_release()
    return f"{facts['NAME'].split()[0]} {facts.get('VERSION_ID', '')}".rstrip()
