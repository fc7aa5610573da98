"""The helper's reading of a trace between the start byte and execve."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from corten.errors import Internal
from corten.launch import spawn
from corten.launch.execops import Hook
from corten.launch.facts import HostFacts
from corten.launch.ops import Op, Plan, Setsid
from corten.runtime import launching
from corten.runtime.prepare import Host
from corten.runtime.trace import Trace
from corten.shim.helper import Session, Waiting


class Start:
    """A session with a shim that waits, and the trace of a started container, whose write end is kept open."""

    def __init__(self) -> None:
        self.shim, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_fd, self.write_fd = os.pipe()
        self.session = Session(ours, Host(HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup"), "/nowhere"))
        self.trace_fd = read_fd

    def follow(self, *ops: Op) -> None:
        plan, trace = Plan(ops, ()), Trace()
        trace.plan = plan
        reader = spawn.TraceReader()
        reader.has_started()
        self.session._follow(Waiting(plan, trace, reader, self.trace_fd))

    def end(self) -> None:
        """Of the trace: the program is executed."""
        os.close(self.write_fd)
        self.write_fd = -1

    def close(self) -> None:
        self.session.close()
        self.shim.close()
        os.close(self.trace_fd)
        if self.write_fd >= 0:
            os.close(self.write_fd)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(launching, "EXEC_TIMEOUT_S", 0.05)
    made = Start()
    yield made
    made.close()


def test_a_start_whose_trace_is_held_open_is_given_up(start: Start) -> None:
    with pytest.raises(Internal, match="not executed in time"):
        start.follow(Setsid())


def test_a_start_with_hooks_has_the_time_that_they_take(start: Start) -> None:
    timer = threading.Timer(0.3, start.end)
    timer.start()
    try:
        start.follow(Setsid(), Hook("startContainer", "/hook", ("hook",), (), b"", b"", 0))
    finally:
        timer.join()
