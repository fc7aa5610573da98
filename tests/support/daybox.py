"""A container of the scripted day (`support.day`): what it must be by now, and who compares that with what is there.

It writes numbered lines, each run of it from 1 on, and behind each line one byte to a file of the host, one file a
run.  So what the log must hold is known without the engine: a line is there when its byte is, and one more may be, for
SIGKILL comes between the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# $r: the number of this run.  Traps only set a word: a line is never written within another.
SCRIPT = """\
r=$(ls /w | wc -l); n=0; end=; burst=; : > /w/$r
line() { n=$((n+1)); echo "$r.$n"; printf . >> /w/$r; }
if [ -n "$DEAF" ]; then trap '' TERM; else trap 'end=5' TERM; fi
trap 'end=7' USR1; trap 'burst=1' USR2
while :; do
  line
  if [ -n "$burst" ]; then burst=; k=0; while [ $k -lt 200 ]; do k=$((k+1)); line; done; fi
  [ -n "$end" ] && exit $end
  usleep 300000 & wait $!
done
"""
TERM_CODE, USR1_CODE, KILLED = 5, 7, 137
ABSENT, RUNNING, PAUSED, EXITED = "absent", "running", "paused", "exited"
BACKING = ("always", "unless-stopped", "on-failure")  # policies that start again what ended with a failure
_LINE = re.compile(r"(\d+)\.(\d+)")

Json = dict[str, Any]


class Untrue(AssertionError):
    """What the engine shows is not what must be."""


def check(condition: object, text: str) -> None:
    """Untrue with this text."""
    if not condition:
        raise Untrue(text)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.  sender: who sent the signal, in the verdict's word (`client`, `unknown`), '' for none."""

    code: int
    cause: str
    signal: int = 0
    sender: str = ""


@dataclass(slots=True)
class Box:
    """One container under its present name; a removed one begins anew in another folder of `witnesses`."""

    base: str
    witnesses: Path
    state: str = ABSENT
    name: str = ""
    id: str = ""
    policy: str = "no"
    is_transient: bool = False
    is_deaf: bool = False
    has_health: bool = False
    volume: str = ""
    port: bool = False
    pids: int = 0
    endings: tuple[Ending, ...] = ()  # one of them is true
    least_runs: int = 0
    most_runs: int = 0
    era: int = 0  # of cortend, when its state was last known
    token: str = ""
    lives: int = 0
    story: list[str] = field(default_factory=list)

    @property
    def witness(self) -> Path:
        """The folder with a file for each run."""
        return self.witnesses / f"{self.base}-{self.lives}"

    @property
    def comes_back(self) -> bool:
        """Whether its policy starts it when it fails by itself."""
        return self.policy in BACKING

    @property
    def wakes(self) -> bool:
        """Whether a new cortend starts it though it was stopped: as dockerd's, also after a failure."""
        return self.state == EXITED and self.policy in ("always", "on-failure")

    def begin(self) -> None:
        """Another container under the base name."""
        self.lives += 1
        self.witness.mkdir(parents=True)
        self.name, self.id, self.token, self.volume = self.base, "", "", ""
        self.endings, self.least_runs, self.most_runs, self.pids = (), 0, 0, 0

    def started(self) -> None:
        """One more run."""
        self.state = RUNNING
        self.least_runs += 1
        self.most_runs += 1

    def ended(self, *endings: Ending) -> None:
        """By itself or by somebody, and not to come back."""
        self.state = ABSENT if self.is_transient else EXITED
        self.endings = endings

    def runs(self) -> list[int]:
        """Lines of each run, by its witness."""
        files = {int(path.name): path.stat().st_size for path in self.witness.iterdir()}
        check(sorted(files) == list(range(len(files))), f"{self.name}: witnesses {sorted(files)}")
        return [files[number] for number in range(len(files))]

    # What is shown.

    def check_state(self, shown: Json | None) -> None:
        """`shown`: the container as inspect shows it, None for none."""
        if shown is None:
            check(self.state == ABSENT, f"{self.name} is gone and must be {self.state}")
            return
        state = shown["State"]
        words = f"{self.name} must be {self.state} and is {state}"
        check(state["Status"] == self.state, words)
        check(
            shown["Id"] == self.id and shown["Name"] == f"/{self.name}", f"{self.name}: {shown['Name']} {shown['Id']}"
        )
        check(bool(state["Pid"]) == (self.state in (RUNNING, PAUSED)), words)
        check(shown["HostConfig"]["RestartPolicy"]["Name"] == self.policy, f"{self.name}: policy is not {self.policy}")
        check((shown["HostConfig"]["PidsLimit"] or 0) == self.pids, f"{self.name}: pids limit is not {self.pids}")
        if self.state == EXITED:
            self._check_ending(state["ExitCode"], shown["Corten"]["Verdict"])
        elif self.port:
            check(shown["NetworkSettings"]["Ports"]["80/tcp"], f"{self.name} runs without its port")

    def _check_ending(self, code: int, verdict: Json) -> None:
        sender = verdict.get("Sender", "")
        seen = Ending(code, verdict["Cause"], verdict["Signal"], sender if isinstance(sender, str) else sender["By"])
        check(seen in self.endings, f"{self.name} ended as {self.endings}, and the verdict is {seen}: {verdict}")
        check(verdict["ExitCode"] == code, f"{self.name}: exit code {code}, verdict {verdict}")

    def check_runs(self) -> None:
        """It was started as often as its client asked, or its policy wanted."""
        count = len(self.runs())
        words = f"{self.name} ran {count} times, and must have {self.least_runs} to {self.most_runs}"
        check(self.least_runs <= count <= self.most_runs, words)

    def check_log(self, text: str, least: list[int], most: list[int]) -> None:
        """Its output: every line of every run once, in order, whole.

        `least` and `most`: what the witnesses said before and after it was asked for.
        """
        written = lines_of_runs(text, self.name)
        for run, (low, high) in enumerate(zip([*least, *[0] * (len(most) - len(least))], most, strict=True)):
            count = written.pop(run, 0)
            words = f"{self.name}, run {run}: {count} lines in the log, and its witness has {low} to {high}"
            check(low <= count <= high + 1, words)
        check(not written, f"{self.name}: lines of runs that never were: {written}")


def lines_of_runs(text: str, name: str) -> dict[int, int]:
    """Run → lines.  Untrue when one is torn, lost, repeated or out of order."""
    counts: dict[int, int] = {}
    last = -1
    for line in text.splitlines(keepends=True):
        found = _LINE.fullmatch(line.removesuffix("\n"))
        check(found is not None and line.endswith("\n"), f"{name}: torn line {line!r}")
        assert found is not None
        run, number = int(found[1]), int(found[2])
        check(run >= last, f"{name}: line {line!r} behind one of run {last}")
        check(number == counts.get(run, 0) + 1, f"{name}: line {line!r} behind number {counts.get(run, 0)}")
        counts[run], last = number, run
    return counts
