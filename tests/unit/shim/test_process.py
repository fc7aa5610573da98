"""A process that somebody else has collected has ended all the same."""

from __future__ import annotations

import os
import subprocess

from corten.shim.backend import Launched
from corten.shim.loop import Loop
from corten.shim.process import EXITED, Process
from corten.shim.stdio import Stdio


def test_a_process_that_was_killed_and_collected_before_it_was_known_has_ended_by_sigkill() -> None:
    stdio = Stdio(Loop(), tty=False, log=None, on_detach=lambda: None, connections=set())
    process = Process("e1", stdio)
    child = subprocess.Popen(["sleep", "1000"])
    process.launched(Launched(child.pid, os.pidfd_open(child.pid)))
    child.kill()
    child.wait()
    process.reap()
    assert (process.state, process.exit_status, process.signal, process.pidfd) == (EXITED, 137, 9, -1)
