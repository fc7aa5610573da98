"""kill -9 of launcher and init before every step of a plan: `create` and `exec` fail in words, and nothing is left.

The default plans and those of other shapes (`SHAPES`), which together have every op but those of `NOT_HERE`.

A `Stop` op, put into the plan by the test, kills the process that executes it.  The trace, which the kernel keeps in a
pipe whoever dies, says that this step was begun and none behind it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from corten.errors import CortenError
from corten.launch import execops, ops
from corten.launch.context import LIFE
from corten.launch.execops import Stop
from corten.launch.ops import Op, Plan
from corten.launch.spawn import Done, Launch, Launcher, Started, Step, TraceReader
from corten.runtime import container
from corten.runtime.options import CreateOptions, ExecOptions
from corten.runtime.prepare import Host
from corten.spec.process import parse_process
from support import killpoints, launching, paths, process
from support.ops import op_classes
from support.process import wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.spawn import Event

Made = TypeVar("Made")

GROUP = f"{paths.mark()}launcher"
SHIM = "shim"
Config = dict[str, Any]


# Shapes of a configuration, each a change of the default one.


def with_terminal(config: Config) -> None:
    """And a user who is not root: stdio becomes hers, HOME comes from the container's passwd."""
    config["process"] |= {"terminal": True, "user": {"uid": 1000, "gid": 1000}, "noNewPrivileges": True}
    config["process"]["rlimits"] = [{"type": "RLIMIT_NPROC", "soft": 100, "hard": 100}]


def with_user_namespace(config: Config) -> None:
    """All ids are others outside."""
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"].update(uidMappings=maps, gidMappings=maps)
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]


def with_hooks(config: Config) -> None:
    """Of every kind that a plan waits for or executes; besides what no other shape has."""
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer")
    # a hook of the container's own sides is executed in its root, where only busybox is
    config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "exit 0"], "timeout": 20}] for kind in kinds}
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]
    config["process"] |= {"noNewPrivileges": True, "cwd": "/made/for/it"}
    config["process"]["capabilities"] |= {"inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}
    config["domainname"] = "example"
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["linux"]["rootfsPropagation"] = "rslave"
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    config["mounts"] += [
        launching.mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"),
        launching.mount("/mnt", "none", "/usr", "rbind", "ro"),
    ]


def without_pivot(config: Config) -> None:
    """An old initramfs: CreateOptions.no_pivot."""
    config["root"]["readonly"] = True


def with_scheduling(config: Config) -> None:
    """Everything that is said of when and where the process runs."""
    config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    config["linux"]["personality"] = {"domain": "LINUX"}


def with_changed_mounts(config: Config) -> None:
    """One with ids of its own, one that is changed after it was made, one with a longer word than fsconfig(2) takes."""
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["mounts"] += [
        launching.mount("/mnt", "none", "/usr", "rbind") | {"uidMappings": maps, "gidMappings": maps},
        launching.mount("/tmp", "tmpfs", "tmpfs", "size=1m"),
        launching.mount("/tmp", "none", "none", "remount", "size=2m"),
        launching.mount("/srv", "tmpfs", "long" * 100),
    ]


SHAPES: dict[str, Callable[[Config], None]] = {
    "terminal": with_terminal,
    "user namespace": with_user_namespace,
    "hooks": with_hooks,
    "no pivot": without_pivot,
    "scheduling": with_scheduling,
    "changed mounts": with_changed_mounts,
}
EXECS: dict[str, Config] = {
    "pipes": {},
    "terminal": {"terminal": True},
    "processors": {"execCPUAffinity": {"initial": "0", "final": "0"}},
}
NOT_HERE: dict[str, str] = {
    "Stop": "the test's own",
}


class Recorder(TraceReader):
    """Keeps every event that it gives, and kills from outside what the kernel protects from its own signal.

    That is the init of a pid namespace: there the `Stop` waits.
    """

    __slots__ = ("at", "seen")

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.seen: list[Event] = []

    def feed(self, data: bytes) -> list[Event]:
        """As the base has it."""
        events = super().feed(data)
        self.seen += events
        started = [event.pid for event in self.seen if isinstance(event, Started)]
        if events and started and self.at in self.steps:
            os.kill(started[0], signal.SIGKILL)
        return events

    @property
    def steps(self) -> list[int]:
        """The indexes of the steps that were begun."""
        return [event.index for event in self.seen if isinstance(event, Step)]


class StoppingLauncher(Launcher):
    """Puts a SIGKILL before step `at` of every plan; at -1 into none."""

    __slots__ = ("at", "plan", "recorder")

    def __init__(self) -> None:
        super().__init__()
        self.at = -1
        self.plan = Plan((), ())
        self.recorder = Recorder(-1)

    def spawn(
        self,
        plan: Plan,
        fds: Mapping[str, int],
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        transform: Callable[[Plan], Plan] | None = None,
    ) -> Launch:
        """As the base has it, with the `Stop`."""
        life = os.eventfd(0, os.EFD_CLOEXEC)  # of a parent that lives
        try:
            launch = super().spawn(plan, {**fds, LIFE: life}, stdio=stdio, transform=self._stopped)
        finally:
            os.close(life)
        self.plan = plan
        launch.reader = self.recorder = Recorder(self.at)
        return launch

    def _stopped(self, plan: Plan) -> Plan:
        if self.at < 0:
            return plan
        ops: list[Op] = [*plan.ops[: self.at], Stop(signal.SIGKILL), *plan.ops[self.at :]]
        return Plan(tuple(ops), plan.inputs, plan.preserve_fds)


class Bench:
    """A bundle, a host whose launcher stops, and what is there now of everything that a launch makes."""

    def __init__(self, shape: str = "") -> None:
        self.folder = paths.scratch("stops")
        self.no_pivot = shape == "no pivot"
        self._consoles: tuple[socket.socket, ...] = ()
        launching.fill_root(self.folder / "rootfs")
        self.root = self.folder / "state"
        self.root.mkdir()
        self.launcher = StoppingLauncher()
        self.host = Host(seccomp_cache=str(self.folder / "seccomp"), launcher=self.launcher)
        config = launching.default_config("sleep", "1000")
        config["linux"]["cgroupsPath"] = f"/{GROUP}/one"
        config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
        if shape:
            SHAPES[shape](config)
        self.terminal = bool(config["process"].get("terminal"))
        (self.folder / "config.json").write_text(json.dumps(config))
        self.process: Config = {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}

    def create(self) -> container.Created:
        """A container that waits for its start."""
        null = os.open("/dev/null", os.O_RDWR)
        try:
            return container.create(
                CreateOptions(
                    "one",
                    str(self.root),
                    str(self.folder),
                    stdio=(null,) * 3,
                    console_fd=self._console(self.terminal),
                    no_pivot=self.no_pivot,
                    parent=SHIM,
                ),
                self.host,
            )
        finally:
            os.close(null)

    def exec(self) -> container.Executed:
        """`true` in it."""
        null = os.open("/dev/null", os.O_RDWR)
        console = self._console(bool(self.process.get("terminal")))
        try:
            process = parse_process(self.process)
            options = ExecOptions("one", str(self.root), process, stdio=(null,) * 3, console_fd=console, parent=SHIM)
            return container.exec(options, self.host)
        finally:
            os.close(null)

    def _console(self, is_wanted: bool) -> int:
        """Where the next terminal's master is sent to; it stays there, in flight, until `hang_up`."""
        if not is_wanted:
            return -1
        self.hang_up()
        self._consoles = socket.socketpair()
        return self._consoles[1].fileno()

    def hang_up(self) -> None:
        """The terminal of the last launch ends."""
        for end in self._consoles:
            end.close()
        self._consoles = ()

    def run(self) -> container.Created:
        """A container whose process was executed."""
        created = self.create()
        container.start(str(self.root), "one")
        follow(created)
        return created

    def remove(self, created: container.Created) -> int:
        """Deletes it by force; the wait status of its init."""
        container.delete(str(self.root), "one", True)
        status = reap(created.pid)
        os.close(created.pidfd)
        if created.trace_fd >= 0:
            os.close(created.trace_fd)
        return status

    def there(self) -> dict[str, Any]:
        """State directories, cgroups, mounts, children and descriptors of this process."""
        self.hang_up()
        children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return {
            "state": sorted(os.listdir(self.root)),
            "cgroups": sorted(str(path) for path in process.CGROUPS.glob(f"*/{GROUP}/*/")),
            "mounts": [line for line in mounts if self.folder.name in line or GROUP in line],
            "children": sorted(pid for line in children for pid in line),
            "descriptors": sorted(os.listdir("/proc/self/fd")),
        }

    def close(self) -> None:
        """Removes folder and cgroup."""
        self.hang_up()
        os.close(self.launcher.fd)
        process.remove_cgroups(GROUP)
        shutil.rmtree(self.folder)


def follow(created: container.Created) -> None:
    """Reads the trace to its end."""
    over = False
    while not over:
        events = created.reader.feed(os.read(created.trace_fd, 65536))
        over = any(isinstance(event, Done) for event in events)


def reap(pid: int) -> int:
    """The wait status of a child; SIGKILL's when somebody has reaped it already."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return signal.SIGKILL


def unless_it_fails(verb: Callable[[], Made]) -> Made | None:
    """What it made; None when it failed, for which it must have words."""
    try:
        return verb()
    except CortenError as error:
        text = str(error)
    assert text, "a failure without a word"
    return None


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def assert_landed(bench: Bench, at: int) -> None:
    """The trace ends at the `Stop`: it was begun, and nothing that would come after it."""
    steps, plan = bench.launcher.recorder.steps, bench.launcher.plan
    assert at in steps, f"killed before step {at} ({plan.ops[at].describe()}), begun: {steps}"
    # while the child stands at the `Stop`, which makes one step more, its launcher does what it has to do for it
    behind = [plan.ops[step - 1] for step in steps if step > at]
    assert all(isinstance(op, ops.WriteIdMaps | ops.SendByte) for op in behind), f"begun behind {at}: {steps}"


def kill_init(bench: Bench, what: str) -> None:
    """A start that nobody disturbs, one killed before each step, and a last one."""
    bench.remove(bench.run())
    planned = bench.launcher.plan.ops
    chosen = [at for at in range(len(planned)) if at == 0 or not tells_no_more(planned[at - 1])]
    before = bench.there()
    for at in chosen:
        bench.launcher.at = at
        created = unless_it_fails(bench.create)
        if created is not None:
            container.start(str(bench.root), "one")
            follow(created)
            assert bench.remove(created) == signal.SIGKILL
        assert_landed(bench, at)
        assert_same(bench, before, at)
    bench.launcher.at = -1
    bench.remove(bench.run())
    killpoints.report(f"launcher, steps of {what}", len(chosen), len(planned))


def tells_no_more(op: Op) -> bool:
    """A filter that may refuse the launcher's writes: nobody can see that the step behind it, execve, has begun."""
    return isinstance(op, execops.Seccomp) and bool(op.last)


def test_init_killed_before_any_step_leaves_nothing(bench: Bench) -> None:
    kill_init(bench, "a start")


@pytest.mark.parametrize("shape", SHAPES)
def test_init_of_another_shape_killed_before_any_step_leaves_nothing(shape: str) -> None:
    with closing(Bench(shape)) as bench:
        kill_init(bench, f"a start, {shape}")


def test_plans_that_are_killed_have_every_op_or_it_is_explained() -> None:
    every = {kind.__name__ for kind in op_classes()}
    seen: set[str] = set()
    for shape in ("", *SHAPES):
        with closing(Bench(shape)) as bench:
            created = bench.run()
            seen |= {type(op).__name__ for op in bench.launcher.plan.ops}
            for change in EXECS.values() if not shape else ():
                bench.process |= change
                assert reap(executed_of(bench)) == 0
                seen |= {type(op).__name__ for op in bench.launcher.plan.ops}
            bench.remove(created)
    assert every - seen == set(NOT_HERE), f"no kill point: {sorted(every - seen - set(NOT_HERE))}"


def executed_of(bench: Bench) -> int:
    """The pid of an exec; nothing else is kept of it."""
    executed = bench.exec()
    os.close(executed.pidfd)
    return executed.pid


@pytest.mark.parametrize("shape", EXECS)
def test_exec_killed_before_any_step_leaves_its_container_as_it_was(bench: Bench, shape: str) -> None:
    created = bench.run()
    bench.process |= EXECS[shape]
    assert reap(executed_of(bench)) == 0
    count = len(bench.launcher.plan.ops)
    before = bench.there()
    for at in range(count):
        bench.launcher.at = at
        killed = unless_it_fails(bench.exec)
        if killed is not None:
            assert reap(killed.pid) == signal.SIGKILL
            os.close(killed.pidfd)
        assert_landed(bench, at)
        assert_same(bench, before, at)
        assert process.is_alive(created.pid), f"the container died with its exec at step {at}"
    bench.launcher.at = -1
    assert reap(executed_of(bench)) == 0
    bench.remove(created)
    killpoints.report(f"launcher, steps of an exec, {shape}", count, count)


def assert_same(bench: Bench, before: dict[str, Any], at: int) -> None:
    """Everything that a launch makes is gone; cgroups go with a delay of the kernel's own."""
    wait_for(lambda: bench.there()["cgroups"] == before["cgroups"], f"removed cgroups after step {at}")
    now = bench.there()
    assert now == before, f"left by a kill before step {at} ({bench.launcher.plan.ops[at].describe()})"
