"""The record of one launch: what each step was and when it began.  `corten trace` and the shim read it.

The file `trace` of a state directory:

    {"ops": ["prctl dumpable off", …], "steps": [[index, ns], …], "end_ns": 0 | ns,
     "phases": [["cgroup", start_ns, end_ns], …]}

Times are CLOCK_MONOTONIC nanoseconds.  A step lasts until the next one begins, the last one until `end_ns`, the
moment at which the trace pipe was closed: execve, or death.  Phases are the runtime's own work around the launch.
"""

from __future__ import annotations

import time

from corten.launch import spawn
from corten.runtime import fast
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from corten.launch.ops import Plan


class Trace:
    """Grows while a launch runs; `save` may be called at any time."""

    __slots__ = ("_ops", "_phase", "end_ns", "phases", "plan", "steps")

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self._ops: list[str] | None = None
        self.steps: list[tuple[int, int]] = []
        self.phases: list[tuple[str, int, int]] = []
        self.end_ns = 0
        self._phase = ("", 0)

    def phase(self, name: str) -> None:
        """The phase so far ends here; `name` begins, unless empty."""
        now_ns = time.monotonic_ns()
        before, since_ns = self._phase
        if before:
            self.phases.append((before, since_ns, now_ns))
        self._phase = (name, now_ns)

    def add(self, events: Iterable[spawn.Event]) -> None:
        """Takes the steps among the launcher's events, as far as the plan has them (others may write to the pipe)."""
        count = len(self.plan.ops) if self.plan is not None else 0
        for event in events:
            if isinstance(event, spawn.Step):
                if event.index < count and len(self.steps) < 2 * count:
                    self.steps.append((event.index, event.ns))
            elif isinstance(event, spawn.Done):
                self.end_ns = time.monotonic_ns()

    def describe(self) -> list[str]:
        """The plan in words.  It takes a while, once: best while the launcher is at work."""
        if self._ops is None:
            self._ops = [op.describe() for op in self.plan.ops] if self.plan is not None else []
        return self._ops

    def to_bytes(self) -> bytes:
        """The file's content."""
        obj = {"ops": self.describe(), "steps": self.steps, "end_ns": self.end_ns, "phases": self.phases}
        return fast.dump_bytes(obj)

    def save(self, path: str) -> None:
        """Writes the file, readable by root alone; a reader never sees half of it."""
        files.replace(path, self.to_bytes())


def explain(content: bytes) -> dict[str, Any]:
    """A trace file as rows: `steps` of {index (from 1), op, start_ns, duration_ns}, `phases` of {name, duration_ns}.

    A step of the launcher that runs beside those of the child has the child's next step as its end.
    """
    obj = fast.loads(content)
    ops: list[str] = obj["ops"]
    steps: list[list[int]] = sorted(obj["steps"], key=lambda step: step[1])
    ends = [ns for _, ns in steps[1:]] + [obj["end_ns"] or steps[-1][1] for _ in steps[-1:]]
    rows = [
        {"index": index + 1, "op": ops[index], "start_ns": start, "duration_ns": max(0, end - start)}
        for (index, start), end in zip(steps, ends, strict=True)
    ]
    phases = [{"name": name, "start_ns": start, "duration_ns": end - start} for name, start, end in obj["phases"]]
    return {"steps": rows, "phases": phases}
