"""`make release-check`: whether the recorded run of all tests is one of this code.

The record is the last row of docs/test-runs.md that is a whole `make test-all` without a failure.  The check fails when
there is none, when it lacks commit, seed, counts or duration, when its commit is not in this repository or had changes
that were not committed, and when launcher, launch, runtime, or what they are made with (spec, sys, errors) differ from
it, in a commit or in the working tree; also when a later whole run of the very same code failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = Path("docs/test-runs.md")
COMMAND = "`make test-all`"
WATCHED = (
    *("launcher", "src/corten/launch", "src/corten/runtime"),
    *("src/corten/spec", "src/corten/sys", "src/corten/errors.py"),
)
NOT_GREEN = re.compile(r"\b[1-9]\d* (?:failed|errors?|xpassed)\b")


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the table of runs."""

    date: str
    commit: str
    command: str
    seed: str
    counts: str
    duration: str

    @property
    def is_whole(self) -> bool:
        """Whether all tests ran: a half of them, or a part, says so before the command."""
        return self.command.startswith(COMMAND)

    @property
    def is_green(self) -> bool:
        """Whether nothing failed, whatever was mended since."""
        return "passed" in self.counts and not NOT_GREEN.search(self.counts)

    @property
    def missing(self) -> str:
        """What the row does not tell of its run, "" for nothing."""
        fields = {
            "commit": re.fullmatch(r"[0-9a-f]{7,40}", self.commit),
            "seed": self.seed.isdigit(),
            "counts": re.match(r"\d+ passed", self.counts),
            "duration": re.match(r"(\d+ h )?\d+ min", self.duration),
        }
        return next((name for name, told in fields.items() if not told), "")


def records(page: str) -> list[Record]:
    """The rows of the page's table, in their order."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and re.match(r"\d{4}-\d\d-\d\d", cells[0]):
            found.append(Record(*(cells + [""] * 6)[:6]))
    return found


def problem(repository: Path) -> str:
    """Why the repository is not the one that was tested, "" when it is."""
    page = repository / PAGE
    whole = [one for one in records(page.read_text() if page.exists() else "") if one.is_whole]
    green = [one for one in whole if one.is_green]
    if not green:
        return f"{PAGE} has no run of {COMMAND} without a failure (runs with failures: {len(whole)})"
    last = green[-1]
    if last.missing:
        return f"the run of {last.date} does not tell its {last.missing}: {getattr(last, last.missing)!r}"
    if not _has(repository, last.commit):
        return f"the run of {last.date} was of {last.commit}, which this repository does not have"
    changed = _changed(repository, last.commit)
    if changed:
        return f"changed since {last.commit}, which {COMMAND} ran of ({last.date}):\n" + "\n".join(changed)
    for later in whole[whole.index(last) + 1 :]:
        if _has(repository, later.commit) and not _changed(repository, later.commit):
            return f"the run of {later.date} was of the same code, and failed: {later.counts}"
    return ""


def _has(repository: Path, commit: str) -> bool:
    return _git(repository, "cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def _changed(repository: Path, commit: str) -> list[str]:
    """Files of WATCHED that differ from the commit, also those that are not committed or not even added."""
    differing = _git(repository, "diff", "--name-only", commit, "--", *WATCHED).stdout
    added = _git(repository, "ls-files", "--others", "--exclude-standard", "--", *WATCHED).stdout
    return sorted({*differing.splitlines(), *added.splitlines()})


def _git(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["git", "-C", str(repository), "-c", "safe.directory=*", *words]
    return subprocess.run(argv, check=False, capture_output=True, text=True)


def main(argv: Sequence[str]) -> int:
    """Says what is wrong on stderr and fails, or names what it looked at."""
    repository = Path(argv[1]) if len(argv) > 1 else REPOSITORY
    found = problem(repository)
    if found:
        print(f"release-check: {found}", file=sys.stderr)
        return 1
    print(f"release-check: {', '.join(WATCHED)} are what {COMMAND} last ran of")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
