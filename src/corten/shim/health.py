"""Health checks: a command of the container's own, executed in it again and again, with or without a cortend.

    status      becomes     when
    starting    healthy     a probe exits with 0
    starting    unhealthy   `retries` probes in a row have failed; those begun in the start period do not count
    healthy     unhealthy   the same, without a start period
    unhealthy   healthy     a probe exits with 0

A probe is an exec like any other, whose output is kept here.  The next one begins `interval` after the end of the one
before (`start_interval` in the start period, until the first success), so that slow probes do not pile up.  One that
takes longer than `timeout` is killed with its process group, and has failed.  Docker API, HealthConfig; moby
daemon/health.go.

What has become of the status is counted, so that a cortend that was away can tell which changes nobody has heard of.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from corten.errors import CortenError, FailedPrecondition, InvalidArgument, Unavailable
from corten.runtime import fast
from corten.shim.complain import complain
from corten.shim.loop import Loop, Timer
from corten.shim.protocol import Message, encode

if TYPE_CHECKING:
    from corten.shim.backend import Steps
    from corten.shim.process import Process
    from corten.shim.request import Request

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
ACTIONS = ("none", "kill", "stop", "restart")
_OUTPUT_BYTES = 4096  # maxOutputLen
_LOG_ENTRIES = 5  # maxLogEntries
_CHANGES = 32  # kept for a cortend that is away
_SECOND_NS = 1_000_000_000
_NO_STATUS = -1
_CANCELLED = 126


class Capture:
    """The beginning of a probe's output, both streams as they come."""

    __slots__ = ("data", "is_cut")

    is_full = False  # what exceeds it is cut: nobody waits

    def __init__(self) -> None:
        self.data = b""
        self.is_cut = False

    def when_there_is_room(self, call: Callable[[], None]) -> None:
        """There always is."""

    def write(self, stream: int, data: bytes) -> None:
        """More of it."""
        room = _OUTPUT_BYTES - len(self.data)
        self.data += data[:room]
        self.is_cut = self.is_cut or len(data) > room

    def end(self, stream: int) -> None:
        """Nothing is held back."""

    def text(self) -> str:
        """As JSON carries it: bytes that are no UTF-8 as surrogates."""
        return self.data.decode("utf-8", "surrogateescape") + ("..." if self.is_cut else "")


class Settings:
    """What was asked for; times in seconds.  `process` is the JSON of an OCI process object."""

    __slots__ = (
        "action", "interval_s", "process", "retries", "start_interval_s", "start_period_s", "stop_signal",
        "stop_timeout_s", "timeout_s",
    )  # fmt: skip

    def __init__(self, request: Request) -> None:
        """Raises InvalidArgument for what no check can be."""
        self.process = encode(request.object("process"))  # bytes: a dict would keep its pages
        self.interval_s = _seconds(request, "interval")
        self.timeout_s = _seconds(request, "timeout")
        self.start_period_s = _seconds(request, "start_period")
        self.start_interval_s = _seconds(request, "start_interval")
        self.retries = request.integer("retries", 3)
        self.action = request.string("action", "none")
        self.stop_signal = request.integer("stop_signal", signal.SIGTERM)
        self.stop_timeout_s = request.integer("stop_timeout", 10)
        if self.action not in ACTIONS:
            raise InvalidArgument(f"health: unknown action {self.action!r}")


def _seconds(request: Request, key: str) -> float:
    """Of a number of nanoseconds that is no less than 0."""
    value = request.integer(key)
    if value < 0:
        raise InvalidArgument(f"health: {key}: {value} is negative")
    return value / _SECOND_NS


class Patient(Protocol):
    """The container, as a check sees it."""

    def probe(self, exec_id: str, process: dict[str, Any], capture: Capture) -> Steps[Process]:
        """Execute a probe."""

    def kill(self, signum: int, exec_id: str = "", by: Message | None = None) -> None:
        """A signal to the init, and for whom."""


class Health:
    """The check of one container.

    Life: `begin` (the container runs) → probes → `rest` (paused, or over) → `begin` …; the task calls `probed` when an
    exec of its own ends.
    """

    __slots__ = (
        "_began_s", "_capture", "_changes", "_emit", "_ending", "_exec_id", "_in_turn", "_is_late", "_log", "_loop",
        "_patient", "_probe_at", "_probe_s", "_process", "_settings", "_timer", "failing_streak", "reason", "status",
    )  # fmt: skip

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        patient: Patient,
        *,
        emit: Callable[[Message], None],
        in_turn: Callable[[Callable[[], Steps[None]]], None],
    ) -> None:
        """`in_turn` runs a probe's launch when nothing stands against it."""
        self._settings = settings
        self._loop = loop
        self._patient = patient
        self._emit = emit
        self._in_turn = in_turn
        self.status = STARTING
        self.failing_streak = 0
        self.reason = ""  # of an end that was brought about here
        self._log: list[bytes] = []
        self._changes: list[Message] = []
        self._began_s = 0.0
        self._timer: Timer | None = None
        self._ending: Timer | None = None
        self._exec_id = ""  # of the probe that is under way
        self._process: Process | None = None
        self._capture = Capture()
        self._probe_at = ""
        self._probe_s = 0.0
        self._is_late = False

    def begin(self) -> None:
        """The container runs, for the first time or again."""
        self._began_s = self._began_s or time.monotonic()
        self._wait()

    def rest(self) -> None:
        """No probe until `begin`; the result of one that is under way is not wanted."""
        self._cancel_timer()
        process, self._process = self._process, None
        self._exec_id = ""
        if process is not None:
            _kill(process)

    def end(self) -> None:
        """The container is over."""
        self.rest()
        if self._ending is not None:
            self._ending.cancel()

    def to_obj(self) -> Message:
        """For `hello`."""
        return {
            "status": self.status,
            "failing_streak": self.failing_streak,
            "log": [fast.loads(entry) for entry in self._log],
            "changes": list(self._changes),
        }

    @property
    def has_results(self) -> bool:
        """Whether a probe was made."""
        return bool(self._log)

    # Probes

    def _wait(self) -> None:
        settings = self._settings
        is_early = self.status == STARTING and time.monotonic() - self._began_s < settings.start_period_s
        self._cancel_timer()
        self._timer = self._loop.call_later(settings.start_interval_s if is_early else settings.interval_s, self._probe)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _probe(self) -> None:
        self._timer = None
        exec_id = self._exec_id = os.urandom(32).hex()
        self._capture = Capture()
        self._is_late = False
        self._probe_at, self._probe_s = fast.rfc3339(), time.monotonic()
        self._emit({"event": "health-probe", "exec_id": exec_id, "at": self._probe_at})
        self._in_turn(lambda: self._run(exec_id, self._capture))

    def _run(self, exec_id: str, capture: Capture) -> Steps[None]:
        try:
            if exec_id != self._exec_id:
                raise FailedPrecondition("the probe is not wanted any more")
            process = yield from self._patient.probe(exec_id, fast.loads(self._settings.process), capture)
        except (CortenError, OSError) as error:
            self._not_launched(exec_id, error)
            return
        if exec_id != self._exec_id:
            _kill(process)
            return
        self._process = process
        self._timer = self._loop.call_later(self._settings.timeout_s, self._timed_out)

    def _not_launched(self, exec_id: str, error: CortenError | OSError) -> None:
        """The container's failure, unless it was not wanted any more, or there was nobody who could launch it."""
        is_wanted = exec_id == self._exec_id
        if is_wanted and not isinstance(error, Unavailable):
            self._result(_NO_STATUS, str(error), failed=True)
            return
        self._emit({"event": "exec-exit", "exec_id": exec_id, "state": "exited", "status": _CANCELLED})
        if is_wanted:
            complain(error)
            self._exec_id = ""
            self._wait()

    def _timed_out(self) -> None:
        self._timer = None
        self._is_late = True
        if self._process is not None:
            _kill(self._process)

    def probed(self, process: Process) -> None:
        """An exec has ended and was told; nothing is done for one that is no probe."""
        if process is not self._process:
            return
        self._cancel_timer()
        if self._is_late:
            self._result(_NO_STATUS, self._capture.text(), timed_out=True)
        else:
            self._result(process.exit_status, self._capture.text())

    def _result(self, status: int, output: str, **how: bool) -> None:
        entry: Message = {"exec_id": self._exec_id, "start": self._probe_at, "end": fast.rfc3339(), **how}
        entry |= {"status": status, "output": output}
        self._log.append(encode(entry))
        del self._log[:-_LOG_ENTRIES]
        self._exec_id, self._process = "", None
        before = self.status
        self._judge(status)
        event: Message = {"event": "health", "status": self.status, "failing_streak": self.failing_streak}
        if self.status != before:
            event["change"] = self._note_change()
        self._emit(event | {"entry": entry})
        if self.status != before and self.status == UNHEALTHY:
            self._act()
        self._wait()

    def _judge(self, status: int) -> None:
        if status == 0:
            self.status, self.failing_streak = HEALTHY, 0
        elif self.status != STARTING or self._probe_s - self._began_s >= self._settings.start_period_s:
            self.failing_streak += 1
            if self.failing_streak >= self._settings.retries:
                self.status = UNHEALTHY

    def _note_change(self) -> int:
        number = int(self._changes[-1]["number"]) + 1 if self._changes else 1
        self._changes.append({"number": number, "status": self.status, "at": fast.rfc3339()})
        del self._changes[:-_CHANGES]
        return number

    # What is done about it

    def _act(self) -> None:
        """An end that `restart` and `stop` give their time, as a stop by hand does."""
        settings = self._settings
        if settings.action == "none" or self.reason:
            return
        self.reason = UNHEALTHY
        if settings.action == "kill":
            self._signal(signal.SIGKILL)
            return
        self._signal(settings.stop_signal)
        if settings.stop_timeout_s >= 0:
            self._ending = self._loop.call_later(settings.stop_timeout_s, lambda: self._signal(signal.SIGKILL))

    def _signal(self, signum: int) -> None:
        self._emit({"event": "health-action", "action": self._settings.action, "signal": signum})
        try:
            self._patient.kill(signum, by={"By": "health check", "Operation": f"on failure {self._settings.action}"})
        except CortenError as error:  # it is dead already, or there is no such signal
            complain(error)

    @property
    def action(self) -> str:
        """What was done when it became unhealthy; '' when nothing was."""
        return self._settings.action if self.reason else ""


def _kill(process: Process) -> None:
    """With what it has started, as long as that is in its process group: dead probes must not fill the container."""
    if process.pidfd < 0:
        return
    with contextlib.suppress(OSError):  # it leads no group
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.send_signal(signal.SIGKILL)
