"""An exec whose first plan the kernel refuses: who gets which terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.launch.facts import HostFacts
from corten.launch.ops import CloneLegacy, Plan
from corten.launch.spawn import Launch, Launcher
from corten.runtime import executing, launching
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.options import ExecOptions
from corten.runtime.prepare import Host
from corten.runtime.state import CONFIG_FILE, State
from corten.spec.process import parse_process

EAGAIN, STARTED = 11, 65536
PROCESS = {"args": ["sh"], "cwd": "/", "terminal": True}
CONFIG = {
    "ociVersion": "1.0.2",
    "process": PROCESS,
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
}


class AtTheLimit(Launcher):
    """Sends a terminal for each plan, and is refused the clone `refusals` times."""

    def __init__(self, refusals: int) -> None:
        self.fd = -1
        self.refusals = refusals
        self.children: list[subprocess.Popen[bytes]] = []

    def spawn(
        self,
        plan: Plan,
        fds: Mapping[str, int],
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        transform: Callable[[Plan], Plan] | None = None,
    ) -> Launch:
        attempt = len(self.children) // 2
        launcher, child = (subprocess.Popen(["sleep", "1000"]) for _ in range(2))
        self.children += [launcher, child]
        with socket.socket(fileno=os.dup(fds["console"])) as console, open("/dev/null", "rb") as master:
            socket.send_fds(console, [b"terminal %d" % attempt], [master.fileno()])
        clone = next(i for i, op in enumerate(plan.ops) if isinstance(op, CloneLegacy))
        refused = attempt < self.refusals
        read_fd, write_fd = os.pipe()
        os.write(write_fd, struct.pack("=IIQ", clone, EAGAIN if refused else STARTED, 0 if refused else child.pid))
        os.close(write_fd)
        launcher.send_signal(signal.SIGKILL)
        return Launch(plan, launcher.pid, read_fd)

    def close(self) -> None:
        for process in self.children:
            process.kill()
            process.wait()


class Exec:
    """An exec with a terminal on a host with cgroup v2, and its caller's end of the console socket."""

    def __init__(self, folder: Path, refusals: int) -> None:
        self.launcher = AtTheLimit(refusals)
        self.ours, self.console = socket.socketpair()
        self.ours.setblocking(False)
        self.record = State(str(folder), "c", "/bundle", "/rootfs")
        self.record.cgroup = CgroupPaths("v2", {}, "/sys/fs/cgroup/c", "/sys/fs/cgroup")
        (folder / CONFIG_FILE).write_text(json.dumps(CONFIG))
        self.host = Host(HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup"), "/nowhere", launcher=self.launcher)

    def run(self) -> None:
        process = parse_process(PROCESS)
        options = ExecOptions("c", "/root", process, console_fd=self.console.fileno())
        running = executing._spawn(options, self.host, self.record, -1)
        running.abandon()

    def received(self) -> list[bytes]:
        """What came with the terminals that the caller got."""
        found: list[bytes] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.ours, 10, 4)
            except BlockingIOError:
                return found
            assert len(fds) == 1
            os.close(fds[0])
            found.append(data)

    def close(self) -> None:
        self.launcher.close()
        self.ours.close()
        self.console.close()


@pytest.fixture
def exec_refused(tmp_path: Path) -> Iterator[Callable[[int], Exec]]:
    made: list[Exec] = []

    def make(refusals: int) -> Exec:
        made.append(Exec(tmp_path, refusals))
        return made[-1]

    yield make
    for exec in made:
        exec.close()


@pytest.mark.parametrize("refusals", [0, 1])
def test_the_terminal_is_that_of_the_plan_that_succeeded(exec_refused: Callable[[int], Exec], refusals: int) -> None:
    exec = exec_refused(refusals)
    exec.run()
    assert exec.received() == [b"terminal %d" % refusals]


def test_nobody_gets_the_terminal_of_an_exec_that_failed(exec_refused: Callable[[int], Exec]) -> None:
    exec = exec_refused(2)
    with pytest.raises(launching.LaunchFailure):
        exec.run()
    assert exec.received() == []


def test_a_process_whose_terminal_nobody_takes_is_killed(exec_refused: Callable[[int], Exec]) -> None:
    exec = exec_refused(0)
    exec.ours.close()
    with pytest.raises(Internal, match="send terminal to the console: broken pipe"):
        exec.run()
    assert exec.launcher.children[1].wait(60) is not None
