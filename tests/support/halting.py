"""kill -9 of the runtime at a step of a plan: a launcher that waits there, and a command that kills itself then.

The wait is an op that the test puts into the plan; the trace proves which steps were begun.  The command is a child of
the test, which runs the runtime's own code, and dies when the trace tells of the step.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from corten.launch.ops import Op, Plan, Wait
from corten.launch.spawn import Launch, Launcher, Started, Step, TraceReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.spawn import Event

HOLD = "hold"


class Suicide(TraceReader):
    """Kills its own process once step `at` has begun, having told who waits there and in which namespaces."""

    __slots__ = ("at", "launch", "report_fd", "started", "steps")

    def __init__(self, at: int, report_fd: int, clone: int) -> None:
        super().__init__(clone)
        self.at = at
        self.report_fd = report_fd
        self.launch: Launch | None = None
        self.started = 0
        self.steps: list[int] = []

    def feed(self, data: bytes) -> list[Event]:
        """As the base has it, if it comes back."""
        events = super().feed(data)
        self.steps += [event.index for event in events if isinstance(event, Step)]
        self.started = next((event.pid for event in events if isinstance(event, Started)), self.started)
        if self.at in self.steps:
            assert self.launch is not None
            pids = [pid for pid in (self.launch.launcher_pid, self.launch.second_pid, self.started) if pid > 0]
            os.write(self.report_fd, json.dumps({"pids": pids, "steps": self.steps}).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return events


class HaltingLauncher(Launcher):
    """Puts a wait before step `at` of its plan; none with -1.  The last plan is kept."""

    __slots__ = ("at", "hold_fd", "plan", "report_fd")

    def __init__(self, at: int, report_fd: int, hold_fd: int) -> None:
        super().__init__()
        self.at = at
        self.hold_fd = hold_fd
        self.report_fd = report_fd
        self.plan = Plan((), ())

    def spawn(
        self,
        plan: Plan,
        fds: Mapping[str, int],
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        transform: Callable[[Plan], Plan] | None = None,
    ) -> Launch:
        """As the base has it, with the wait and the reader that kills."""
        self.plan = plan
        if self.at < 0:
            return super().spawn(plan, fds, stdio=stdio)
        launch = super().spawn(plan, {**fds, HOLD: self.hold_fd}, stdio=stdio, transform=self._halting)
        launch.reader = reader = Suicide(self.at, self.report_fd, plan.clone_index())
        reader.launch = launch
        return launch

    def _halting(self, plan: Plan) -> Plan:
        ops: list[Op] = [*plan.ops[: self.at], Wait(HOLD, "the test"), *plan.ops[self.at :]]
        return Plan(tuple(ops), (*plan.inputs, HOLD), plan.preserve_fds)


def killed_before(work: Callable[[HaltingLauncher], None], at: int, hold_fd: int) -> dict[str, Any]:
    """Does `work` in a child that kills itself when step `at` has begun; what it told before: `pids`, `steps`.

    With -1 nobody dies, and `length` is the number of steps of the last plan that was spawned.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            launcher = HaltingLauncher(at, writing, hold_fd)
            work(launcher)
            os.write(writing, json.dumps({"length": len(launcher.plan.ops)}).encode())
        except BaseException as error:  # the child's outermost: its test is told
            os.write(writing, json.dumps({"error": repr(error)}).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        told: dict[str, Any] = json.loads(report.read() or b"{}")
    status = os.waitpid(child, 0)[1]
    assert "error" not in told, f"at step {at}: {told}"
    assert at < 0 or os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"not killed at step {at}: {told}"
    return told
