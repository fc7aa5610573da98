"""kill -9 of the commands themselves: `start`, `exec`, `delete` at every call that changes something, `run` and `exec`
at every step of their plans.  `delete --force` then leaves nothing, from state.json alone.

(`create` at every call: tests/system/test_runtime_killed.py.)

By calls: strace(1) kills the command when it enters the n-th call of a kind, for every n until it gets through.
By steps: the launcher waits before a step, by a `Wait` that the test puts into the plan, and the command kills itself
when it hears of it.  The trace proves which steps were begun.  Only after `delete --force` may the launcher go on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from corten.launch.ops import Op, Plan, Wait
from corten.launch.spawn import Launch, Launcher, Started, Step, TraceReader
from corten.runtime import container
from corten.runtime.options import CreateOptions, ExecOptions
from corten.runtime.prepare import Host
from corten.runtime.state import STATE_FILE
from corten.spec.process import parse_process
from support import killpoints, paths, process, runtimes
from support.process import wait_for
from support.runtimes import Bundle, Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.spawn import Event

NULL = "/dev/null"
HOLD = "hold"
MARK = f"31415.{os.getpid()}"  # an argument of every process of the containers
HOOK = {"path": "/bin/sh", "args": ["sh", "-c", "exit 0"]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder, removed with the cgroups of its containers."""
    made = paths.scratch("killed")
    yield made
    runtimes.remove_cgroups()
    shutil.rmtree(made)


@pytest.fixture
def corten(folder: Path) -> Iterator[Runtime]:
    """`corten-runtime` with a state root of its own."""
    made = Runtime(paths.COMMANDS / "corten-runtime", folder / "root")
    yield made
    made.close()


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    """Sleeps, is limited, and has hooks of the end."""
    made = runtimes.bundle("sleep", MARK, folder=folder / "bundle")
    made.config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
    made.config["hooks"] = {"poststart": [HOOK], "poststop": [HOOK]}
    return made.save()


def left(bundle: Bundle, root: Path, pids: Sequence[int]) -> list[str]:
    """What is there of a container: state, cgroups, processes."""
    found = [str(path) for path in root.glob("*")] if root.exists() else []
    found += [path.name for path in process.CGROUPS.iterdir() if bundle.has_cgroup(path.name)]
    alive = {*process.processes(MARK), *(pid for pid in pids if process.is_alive(pid))}
    return found + [f"process {pid}" for pid in sorted(alive)]


def delete_by_record_alone(
    corten: Runtime, bundle: Bundle, what: str, going: int = -1, pids: Sequence[int] = ()
) -> None:
    """`delete --force` with nothing but state.json; then nothing is left, also when what waited at `going` goes on."""
    state = corten.root / "c"
    for path in state.iterdir() if state.exists() else ():
        if path.name != STATE_FILE and not path.is_dir():
            path.unlink()
    corten("delete", "--force", "c", check=True)
    if going >= 0:
        with suppress(BrokenPipeError):  # nobody is left to go on
            os.write(going, b"\0")
    deadline = time.monotonic() + 20
    while (found := left(bundle, corten.root, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    if going >= 0:
        os.close(going)
    assert not found, f"after the kill {what}"


# by calls --------------------------------------------------------------------------------------------------

# verb: {kinds of calls: how many kill points at least there must be, so that a point that was lost is seen}
SPAWN, WAIT = "clone,clone3,vfork,fork", "wait4,waitid"
CALLS: dict[str, dict[str, int]] = {
    "start": {"write": 1, "unlink": 1, SPAWN: 1, WAIT: 1},
    "exec": {"memfd_create": 2, SPAWN: 1, "write": 2, "poll": 1, WAIT: 1},
    "delete": {"rmdir": 8, "unlink,unlinkat": 3, SPAWN: 1, WAIT: 1, "write": 1},
    "delete --force": {"write": 1, "pidfd_send_signal": 1, "poll": 1, "rmdir": 8, "unlink,unlinkat": 3},
}
POINTS = [(verb, call) for verb, calls in CALLS.items() for call in calls]
WORDS = {
    "start": ["start", "c"],
    "exec": ["exec", "--detach", "c", "sleep", MARK],
    "delete": ["delete", "c"],
    "delete --force": ["delete", "--force", "c"],
}


def is_killed_at(corten: Runtime, words: list[str], call: str, number: int) -> bool:
    """Runs a command, killed at a call; whether it was killed there, else it got through."""
    inject = f"inject={call}:signal=KILL:when={number}"
    argv = ["strace", "-o", NULL, "-e", f"trace={call}", "-e", inject, *corten.argv(*words)]
    errors = corten.root.parent / "stderr"
    with open(NULL, "r+b") as null, errors.open("wb") as stderr:
        done = subprocess.run(argv, stdin=null, stdout=null, stderr=stderr, check=False, timeout=30)
    assert done.returncode in (0, 137, -signal.SIGKILL), errors.read_text()
    return done.returncode != 0


def prepare(corten: Runtime, bundle: Bundle, verb: str) -> None:
    """A container at which the verb can work."""
    corten.detached("create", "-b", str(bundle.path), "c")
    if verb != "start":
        corten("start", "c", check=True)
    if verb == "delete":
        corten("kill", "c", "KILL", check=True)
        corten.wait_for("c", "stopped")


def check_consistent(corten: Runtime, verb: str) -> None:
    """What the other commands say of the container after a kill."""
    if verb.startswith("delete"):
        corten("list", check=True)
        return
    status = corten.state("c")["status"]
    again = corten("start", "c")
    assert (status, again.returncode) in (("created", 0), ("running", 1)), again.stderr
    assert again.returncode == 0 or "cannot start an already running container" in again.stderr
    wait_for(lambda: any(process.processes(MARK)), "the container's process")
    assert corten("exec", "c", "true").returncode == 0


@pytest.mark.parametrize(("verb", "call"), POINTS)
def test_a_command_killed_at_any_call_is_made_up_for(corten: Runtime, bundle: Bundle, verb: str, call: str) -> None:
    number = 1
    while True:
        prepare(corten, bundle, verb)
        if not is_killed_at(corten, WORDS[verb], call, number):
            break
        check_consistent(corten, verb)
        delete_by_record_alone(corten, bundle, f"of {verb} at {call} number {number}")
        number += 1
    delete_by_record_alone(corten, bundle, f"of none of {verb}")
    killpoints.report(f"{verb} at {call}", number - 1, number - 1)
    assert number - 1 >= CALLS[verb][call]


# by steps --------------------------------------------------------------------------------------------------


class Suicide(TraceReader):
    """Kills its own process once step `at` has begun, having told who waits there."""

    __slots__ = ("at", "launch", "report_fd", "started", "steps")

    def __init__(self, at: int, report_fd: int) -> None:
        super().__init__()
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
    """Puts a wait before step `at` of its plan."""

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
        launch.reader = reader = Suicide(self.at, self.report_fd)
        reader.launch = launch
        return launch

    def _halting(self, plan: Plan) -> Plan:
        ops: list[Op] = [*plan.ops[: self.at], Wait(HOLD, "the test"), *plan.ops[self.at :]]
        return Plan(tuple(ops), (*plan.inputs, HOLD), plan.preserve_fds)


class HaltingHost(Host):
    """A host with this launcher."""

    __slots__ = ("halting",)

    def __init__(self, seccomp_cache: str, halting: HaltingLauncher) -> None:
        super().__init__(seccomp_cache=seccomp_cache)
        self.halting = halting

    @property
    def launcher(self) -> Launcher:
        """The one that halts."""
        return self.halting


def run_once(corten: Runtime, bundle: Bundle, verb: str, host: Host) -> None:
    """The work of `run --detach` or `exec --detach`, with stdio that nobody has to read."""
    null = os.open(NULL, os.O_RDWR)
    stdio = (null, null, null)
    if verb == "run":
        options = CreateOptions("c", str(corten.root), str(bundle.path), stdio=stdio, wait_for_start=False)
        container.create(options, host)
        return
    process_of_exec = parse_process({"args": ["sleep", MARK], "cwd": "/", "env": ["PATH=/bin"]})
    container.exec(ExecOptions("c", str(corten.root), process_of_exec, stdio=stdio), host)


def killed_before(corten: Runtime, bundle: Bundle, verb: str, at: int, hold_fd: int) -> dict[str, Any]:
    """Runs the verb in a child that kills itself when step `at` has begun; what the child told before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            host = HaltingHost(str(corten.root.parent / "seccomp"), HaltingLauncher(at, writing, hold_fd))
            run_once(corten, bundle, verb, host)
            os.write(writing, json.dumps({"length": len(host.halting.plan.ops)}).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        told: dict[str, Any] = json.loads(report.read() or b"{}")
    status = os.waitpid(child, 0)[1]
    assert at < 0 or os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"not killed at step {at}: {told}"
    return told


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_command_killed_at_any_step_of_its_plan_leaves_nothing_behind(
    corten: Runtime, bundle: Bundle, verb: str
) -> None:
    def ready() -> None:
        if verb == "exec":
            corten.detached("run", "--detach", "-b", str(bundle.path), "c")

    ready()
    length = killed_before(corten, bundle, verb, -1, -1)["length"]
    delete_by_record_alone(corten, bundle, "of nobody")
    exact = 0
    for at in range(length):
        ready()
        holding, going = os.pipe()
        told = killed_before(corten, bundle, verb, at, holding)
        assert at in told["steps"], f"killed before step {at}, begun: {told['steps']}"
        exact += max(told["steps"]) == at
        os.close(holding)
        delete_by_record_alone(corten, bundle, f"of {verb} at step {at}", going, told["pids"])
    killpoints.report(f"{verb} at steps of its plan ({exact} of them the last begun)", length, length)
    assert exact > length // 2
