"""Kill points, enumerated: strace(1) counts the calls of a program and kills it when it enters the n-th.

    with Trace(pid, calls=("pwrite64",), only=[database]) as trace:    # a counting run
        …
        points = trace.end()                                           # every call, in order
    with Trace(pid, calls=…, kill=("pwrite64", 7)) as trace:           # SIGKILL instead of the seventh

A call that is entered when the signal arrives is not executed.  Counters are per thread (strace(1), "Tampering").

What strace cannot count exactly (messages, what threads do by turns) has names, given by `support.messagetrace`:

    with NamedTrace(pid, kill=(1, "receive answer to start")) as trace:
        …
        points = trace.end()                                           # (number, name), in order
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from support import paths, summary
from support.races import Race

SEED_VARIABLE = "CORTEN_TEST_SEED"
TITLE = "kill points"
STRING_LIMIT = 16384  # bytes of a message that strace prints: its op stands at the end
ATTACH_SECONDS = 60
LINE = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)$")
DEATH = re.compile(r"^(?:(\d+) +)?\+\+\+ killed by SIGKILL \+\+\+$")

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: of which thread ('' when one alone is traced), the how-manieth of its name there, its text."""

    thread: str
    name: str
    number: int
    text: str


class Tracer:
    """A program that traces others; a context manager, in which it ends at the latest."""

    folder: Path
    _process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=ATTACH_SECONDS)
        shutil.rmtree(self.folder)


class Trace(Tracer):
    """strace, attached to a running process (or to some threads of it) until `end`."""

    def __init__(
        self,
        *pids: int,
        calls: Sequence[str],
        only: Sequence[Path] = (),
        kill: tuple[str, int] | None = None,
        full: tuple[str, int] | None = None,
        follow: bool = False,
    ) -> None:
        """`only`: files whose calls count.  `kill`: (name of a call, its number).  `full`: from that call on ENOSPC.

        Just the named threads are traced, or (`follow`) all that there are and come.
        """
        self.killed: Call | None = None
        self.folder = paths.scratch("strace")
        self.log = self.folder / "log"
        argv = ["strace", "-yy", "-s", str(STRING_LIMIT), "-o", str(self.log), "-e", f"trace={','.join(calls)}"]
        argv += [word for path in only for word in ("-P", str(path))]
        if kill is not None:
            argv += ["-e", f"inject={kill[0]}:signal=KILL:when={kill[1]}"]
        if full is not None:
            argv += ["-e", f"inject={full[0]}:error=ENOSPC:when={full[1]}+"]
        argv += ["-f"] if follow else []
        argv += [word for pid in pids for word in ("-p", str(pid))]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self._await_attached(len(pids))
        except AssertionError:
            self.__exit__(None, None, None)
            raise

    def _await_attached(self, count: int) -> None:
        assert self._process.stderr is not None
        for _ in range(count):
            line = self._process.stderr.readline()
            assert "attached" in line, f"strace: {line}{self._process.stderr.read()}"

    def end(self, *, died: bool = False) -> list[Call]:
        """Detach, or (`died`) wait until what was traced has ended; every call that was seen.

        The one at which the kill landed is in `killed`.
        """
        if died:
            self._process.wait(ATTACH_SECONDS)
        elif self._process.poll() is None:
            self._process.terminate()
        self._process.communicate(timeout=ATTACH_SECONDS)
        text = self.log.read_text(errors="replace")
        self.killed = _killed(text)
        return parse(text)


Named = tuple[int, str]


class NamedTrace(Tracer):
    """The tracer that gives names, attached to a running process until `end`."""

    def __init__(
        self,
        pid: int,
        *,
        kill: Named | None = None,
        stop: Named | None = None,
        files: Sequence[Path] = (),
        threads: bool = False,
        forks: bool = False,
        late: bool = False,
    ) -> None:
        """`kill`, `stop`: SIGKILL or SIGSTOP at a point; what is stopped carries that one out.

        `files`: whose writes and syncs count.  `threads`, `forks`: not of the first thread alone.  `late`: a message
        for which its receiver waited kills as soon as it is there.
        """
        self.killed: Named | None = None
        self.folder = paths.scratch("trace")
        self.log = self.folder / "log"
        argv = [sys.executable, "-m", "support.messagetrace", str(pid), str(self.log)]
        for option, is_set in (("--threads", threads), ("--forks", forks), ("--late", late)):
            argv += [option] if is_set else []
        argv += [word for path in files for word in ("--file", str(path))]
        for option, point in (("--kill", kill), ("--stop", stop)):
            argv += [] if point is None else [option, str(point[0]), point[1]]
        self._process = subprocess.Popen(
            argv,
            cwd=paths.REPOSITORY / "tests",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "attached\n":
            errors = self._process.communicate(timeout=ATTACH_SECONDS)[1]
            shutil.rmtree(self.folder)
            raise AssertionError(f"tracer: {errors}")

    def end(self) -> list[Named]:
        """Detach; every call that has a name.  The one at which the kill landed is `killed`."""
        if self._process.poll() is None:
            self._process.terminate()
        errors = self._process.communicate(timeout=ATTACH_SECONDS)[1]
        assert self._process.returncode in (0, -signal.SIGTERM), f"tracer: {errors}"
        lines = self.log.read_text().splitlines()  # '!': where the signal came
        fatal = [line.removesuffix("!") for line in lines if line.endswith("!")]
        self.killed = _point(fatal[0]) if fatal else None
        return [_point(line.removesuffix("!")) for line in lines]

    def has_come(self) -> bool:
        """Whether the point was reached."""
        return "!" in self.log.read_text()


def _point(line: str) -> Named:
    number, _, name = line.partition(" ")
    return int(number), name


def run_traced(
    argv: Sequence[str], *, calls: Sequence[str], env: Mapping[str, str], kill: tuple[str, int] | None = None
) -> tuple[int, list[Call], Call | None]:
    """Runs a program from its start to its end or kill: (return code, its calls, the one at which the kill landed)."""
    folder = paths.scratch("strace")
    log = folder / "log"
    inject = [] if kill is None else ["-e", f"inject={kill[0]}:signal=KILL:when={kill[1]}"]
    command = ["strace", "-f", "-yy", "-o", str(log), "-e", f"trace={','.join(calls)}", *inject, *argv]
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, env=dict(env), timeout=60
        )
        text = log.read_text(errors="replace")
    finally:
        shutil.rmtree(folder)
    return done.returncode, parse(text), _killed(text)


def parse(text: str) -> list[Call]:
    """The calls of a log; a call that another thread's interrupted is counted where it began."""
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            thread, name, rest = match[1] or "", match[2], match[3]
            counts[thread, name] += 1
            found.append(Call(thread, name, counts[thread, name], rest))
    return found


def _killed(text: str) -> Call | None:
    """The call at which the kill landed: the last one of a thread of which the log says that SIGKILL ended it.

    All threads of a process die by it: the one that was in an unfinished call to which the kill was given is meant,
    which strace marks as injected or leaves without a result (`= ?`).
    """
    lines = text.splitlines()
    dead = {match[1] or "" for line in lines if (match := DEATH.match(line))}
    last: dict[str, Call] = {call.thread: call for call in parse(text) if call.thread in dead}
    open_calls = [call for call in last.values() if not re.search(r"\) += -?\d", call.text)]
    return open_calls[-1] if open_calls else None


# Which points a run takes, and what it says of them.


def seed() -> int:
    """The seed of this run: $CORTEN_TEST_SEED, else a new one; every use of it is printed in the summary."""
    if SEED_VARIABLE not in os.environ:
        os.environ[SEED_VARIABLE] = str(random.SystemRandom().randrange(10**6))
    return int(os.environ[SEED_VARIABLE])


def sample(points: Sequence[Choice], most: int) -> list[Choice]:
    """At most `most` of the points by the seed of this run, in their order; the first and the last among them."""
    if len(points) <= most:
        return list(points)
    middle = random.Random(seed()).sample(range(1, len(points) - 1), max(0, most - 2))
    return [points[index] for index in sorted({0, len(points) - 1, *middle})]


def hits(chosen: Sequence[Choice], kill: Callable[[Choice], bool], *, least: int | None = None) -> int:
    """Kills at each of the points, and, while fewer than `least` (all) were hit, again at the others.  How many were.

    `kill` says whether it landed.  A point can be missed: a message comes between the tracer's look at the socket and
    the receive, threads share their calls otherwise than in the counting run.
    """
    missed, race = list(chosen), Race()
    for _ in race.until(1):
        missed = [point for point in missed if not kill(point)]
        race.met = len(chosen) - len(missed) >= (len(chosen) if least is None else least)
    return len(chosen) - len(missed)


def report(what: str, hit: int, existing: int) -> None:
    """A line of the summary; nothing hit is a failure, not a line."""
    assert hit > 0, f"{what}: no kill point was hit"
    summary.add(TITLE, f"{what}: {hit} hit / {existing} existing (seed {seed()})")
