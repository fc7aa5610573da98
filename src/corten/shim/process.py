"""One process of a container as the shim sees it: the init, or an exec."""

from __future__ import annotations

import os
import time

from corten.runtime import fast
from corten.shim.backend import Launched
from corten.shim.protocol import Message
from corten.shim.stdio import Stdio
from corten.sys import pidfd

CREATED = "created"
RUNNING = "running"
EXITED = "exited"
SIGKILL = 9


class Process:
    """States: created → running → exited.  Owns the pidfd."""

    __slots__ = (
        "_pidfd", "exit_status", "exited_at", "id", "is_probe", "pid", "signal", "started_at", "state", "stdio",
    )  # fmt: skip

    def __init__(self, id: str, stdio: Stdio) -> None:
        """`id` is '' for the init."""
        self.id = id
        self.stdio = stdio
        self.is_probe = False  # of a health check
        self.pid = 0
        self.state = CREATED
        self.exit_status = 0
        self.signal = 0
        self.started_at = ""
        self.exited_at = ""
        self._pidfd = -1

    @property
    def pidfd(self) -> int:
        """Readable when the process is dead; -1 before it exists and after it was reaped."""
        return self._pidfd

    @property
    def is_dead(self) -> bool:
        """Whether it has ended, perhaps just now: before anybody has collected it."""
        return self.state == EXITED or (self._pidfd >= 0 and pidfd.is_dead(self._pidfd))

    def launched(self, launched: Launched) -> None:
        """The process exists."""
        self.pid = launched.pid
        self._pidfd = launched.pidfd

    def started(self) -> None:
        """The process executes its program."""
        self.state = RUNNING
        self.started_at = fast.rfc3339()

    def reap(self) -> None:
        """Collect the dead process; call when `pidfd` is readable."""
        try:
            self.exit_status, self.signal = pidfd.reap(self._pidfd)
        except ChildProcessError:  # killed and collected for a stranger (corten.shim.builtin), just before it was named
            self.exit_status, self.signal = 128 + SIGKILL, SIGKILL
        self.exited_at = fast.rfc3339(time.time_ns())
        self.state = EXITED
        os.close(self._pidfd)
        self._pidfd = -1

    def send_signal(self, signum: int) -> None:
        """Raises ProcessLookupError when it is dead."""
        if self._pidfd < 0:
            raise ProcessLookupError(self.pid)
        pidfd.send_signal(self._pidfd, signum)

    def to_obj(self) -> Message:
        """The JSON object of status answers and of the event `exec-exit`."""
        obj: Message = {"pid": self.pid, "state": self.state, "started_at": self.started_at, "terminal": self.stdio.tty}
        if self.state == EXITED:
            obj |= {"status": self.exit_status, "signal": self.signal, "at": self.exited_at}
        return obj


def is_pid_namespace_init(pid: int) -> bool:
    """Whether everything in the process's pid namespace dies with it (it is number 1 there; proc(5), NSpid)."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    numbers = next((line.split()[1:] for line in lines if line.startswith(b"NSpid:")), [b"1"])
    return len(numbers) > 1 and numbers[-1] == b"1"
