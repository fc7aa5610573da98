"""kill -9 of `run`, `create`, `start` and `exec` at every step of plans of every kind; `delete --force` then brings the
machine back to where it was, from state.json alone: processes, namespaces, mounts, cgroups, network devices, files.

The gate takes one step of each kind, by the seed of the run; the slow form takes all.
(Kills at calls of the command itself, between steps: test_kill_runtime.py, system/test_runtime_killed.py.)
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from corten.launch.ops import Wait
from corten.runtime import container, managers
from corten.runtime.options import CreateOptions, ExecOptions
from corten.runtime.prepare import Host
from corten.runtime.state import STATE_FILE
from corten.spec.process import parse_process
from corten.sys.namespace import unshare
from corten.sys.netns import setns
from support import killpoints, machinestate, paths, process, rootless, runtimes, summary
from support.halting import HaltingLauncher, killed_before
from support.machinestate import Snapshot
from support.netns import InNetNs, NetNs
from support.rootless import UserRuntime
from support.runtimes import Bundle, Runtime

FEW = 1
MARK = f"27182818.{os.getpid()}"  # an argument of every process of the containers
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
PR_SET_DUMPABLE = 4
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
ONE = "ip link add one mtu 1400 type veth peer name far && ip link set one up && ip address add 192.0.2.7/24 dev one"


@dataclass
class Lab:
    """One place for kills: a bundle, a runtime, and what a kind of container needs besides."""

    folder: Path
    bundle: Bundle
    corten: Runtime
    holds: ExitStack = field(default_factory=ExitStack)
    netns: NetNs | None = None
    resctrl: str = ""
    manager: str = managers.CGROUPFS
    agent: socket.socket | None = None
    is_terminal: bool = False
    become: Callable[[], None] = lambda: None

    @property
    def linux(self) -> dict[str, Any]:
        """The section of the configuration."""
        found: dict[str, Any] = self.bundle.config["linux"]
        return found

    def namespace(self, kind: str, **more: str) -> None:
        """One more, or another one of its kind."""
        others = [entry for entry in self.linux["namespaces"] if entry["type"] != kind]
        self.linux["namespaces"] = [*others, {"type": kind, **more}]

    def holder(self, *kinds: str) -> None:
        """Another container, whose namespaces it joins."""
        other = runtimes.bundle("sleep", "1000", folder=self.folder / "holder")
        runtime = Runtime(paths.COMMANDS / "corten-runtime", self.folder / "of the holder")
        runtime.detached("run", "--detach", "-b", str(other.path), "holder")
        self.holds.callback(runtime.close)
        pid = runtime.state("holder")["pid"]
        for kind in kinds:
            file = {"network": "net", "mount": "mnt"}.get(kind, kind)
            self.namespace(kind, path=f"/proc/{pid}/ns/{file}")

    def snapshot(self) -> Snapshot:
        """The machine."""
        return machinestate.take(self.folder, self.netns)


# kinds -----------------------------------------------------------------------------------------------------


def plain(lab: Lab) -> None:
    """As `spec` writes it, with a limit."""
    lab.linux["resources"]["memory"] = {"limit": 64 << 20}


def hooks(lab: Lab) -> None:
    """At all six points."""
    (lab.bundle.path / "rootfs/bin/hook").symlink_to("busybox")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "exit 0"]}
    lab.bundle.config["hooks"] = {name: [hook] for name in HOOKS}


def user_namespace(lab: Lab) -> None:
    """Made by root, two ranges."""
    lab.namespace("user")
    rows = [(0, 100000, 1000), (5000, 300000, 10)]
    maps = [{"containerID": inside, "hostID": host, "size": size} for inside, host, size in rows]
    lab.linux["uidMappings"] = lab.linux["gidMappings"] = maps


def joined_namespaces(lab: Lab) -> None:
    """Three of another container."""
    lab.holder("network", "ipc", "uts")
    lab.bundle.config["hostname"] = ""


def joined_pid(lab: Lab) -> None:
    """The launcher does everything; there is no pid namespace that dies with the init."""
    lab.holder("pid")


def joined_pid_with_hooks(lab: Lab) -> None:
    """Half of the plan is the child's."""
    joined_pid(lab)
    hooks(lab)


def network_device(lab: Lab) -> None:
    """One end of a pair, with an address."""
    lab.netns = lab.holds.enter_context(NetNs())
    lab.netns.run(["sh", "-c", ONE])
    lab.linux["netDevices"] = {"one": {"name": "eth0"}}
    path = lab.netns.path

    def enter() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        setns(fd, CLONE_NEWNET)
        os.close(fd)

    lab.become = enter
    lab.corten = InNetNs(lab.corten, lab.netns)


def network_device_to_joined(lab: Lab) -> None:
    """Into a namespace that stays when the container is gone."""
    network_device(lab)
    lab.holder("network")


def resource_control(lab: Lab) -> None:
    """A hierarchy of cgroups stands for resctrl: it makes `tasks` in a new directory, and rmdir removes both."""
    place = process.CGROUPS / "systemd" / f"{paths.mark()}runtime" / "resctrl"
    place.mkdir(parents=True, exist_ok=True)
    lab.resctrl = str(place)
    lab.linux["intelRdt"] = {"l3CacheSchema": ""}


def resource_control_of_a_class(lab: Lab) -> None:
    """A monitoring group in a class that is there."""
    resource_control(lab)
    Path(lab.resctrl, "gold/mon_groups").mkdir(parents=True)
    lab.linux["intelRdt"] = {"closID": "gold", "enableMonitoring": True}


def listener(lab: Lab) -> None:
    """An agent that listens and says nothing."""
    path = lab.folder / "agent.sock"
    lab.agent = lab.holds.enter_context(closing(socket.socket(socket.AF_UNIX)))
    lab.agent.bind(str(path))
    lab.agent.listen()
    lab.agent.setblocking(False)
    lab.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }


def mapped_mount(lab: Lab) -> None:
    """With a mapping of its own, in a container with another."""
    user_namespace(lab)
    source = lab.folder / "disk"
    source.mkdir()
    maps = [{"containerID": 0, "hostID": 100000, "size": 10}]
    lab.bundle.config["mounts"].append(
        {
            "destination": "/tmp",
            "type": "bind",
            "source": str(source),
            "options": ["rbind", "idmap"],
            "uidMappings": maps,
            "gidMappings": maps,
        }
    )


def time_namespace(lab: Lab) -> None:
    """With an offset."""
    lab.namespace("time")
    lab.linux["timeOffsets"] = {"boottime": {"secs": 1000}, "monotonic": {"secs": 5}}


def terminal(lab: Lab) -> None:
    """Its master goes to a socket that nobody reads."""
    lab.bundle.config["process"]["terminal"] = True
    lab.is_terminal = True


def no_cgroups(lab: Lab) -> None:
    """`--cgroup-manager disabled`: nothing but the record knows who belongs to it."""
    del lab.linux["cgroupsPath"], lab.linux["resources"]
    lab.manager = managers.DISABLED


def ordinary_user(lab: Lab) -> None:
    """By uid 65534, without rights."""
    rootless.skip_unless_reached(lab.corten.program)
    lab.bundle = rootless.bundle("sleep", MARK, folder=lab.bundle.path)
    rootless.own(lab.folder)
    lab.corten = UserRuntime(lab.corten.program, lab.corten.root)
    lab.manager = managers.ROOTLESS
    lab.become = become_user


def root_in_a_user_namespace(lab: Lab) -> None:
    """Who has every right there, and none over the machine."""
    ordinary_user(lab)
    config = lab.bundle.config
    lab.linux["namespaces"] = [entry for entry in lab.linux["namespaces"] if entry["type"] != "user"]
    del lab.linux["uidMappings"], lab.linux["gidMappings"]
    config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != "/sys/fs/cgroup"]

    def become() -> None:
        become_user()
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        for kind, id in (("uid", rootless.UID), ("gid", rootless.GID)):
            Path(f"/proc/self/{kind}_map").write_text(f"0 {id} 1")

    lab.become = become


def become_user() -> None:
    """For good; /proc/self stays the process's own."""
    os.setgroups([])
    os.setresgid(*[rootless.GID] * 3)
    os.setresuid(*[rootless.UID] * 3)
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0


Kind = Callable[[Lab], None]
Alone = tuple[set[str], set[int]]  # namespaces that nobody else was in, and who was there then
RUNS: tuple[Kind, ...] = (
    *(hooks, user_namespace, joined_namespaces, joined_pid, joined_pid_with_hooks, network_device),
    *(network_device_to_joined, resource_control, resource_control_of_a_class, listener, mapped_mount, time_namespace),
    *(terminal, no_cgroups, ordinary_user, root_in_a_user_namespace),
)
CASES: tuple[tuple[str, Kind], ...] = (
    *(("run", kind) for kind in RUNS),
    *(("create", kind) for kind in (hooks, network_device, listener, no_cgroups)),
    *(("start", kind) for kind in (hooks, listener, no_cgroups)),
    *(("exec", kind) for kind in (user_namespace, joined_pid, listener, time_namespace, terminal, no_cgroups)),
    ("exec", ordinary_user),
    *(("run", plain), ("exec", plain)),
)
NAMES = [f"{verb}, {kind.__name__.replace('_', ' ')}" for verb, kind in CASES]


# kills -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Removed with all that it made."""
    folder = paths.scratch("halted")
    bundle = runtimes.bundle("sleep", MARK, folder=folder / "bundle")
    made = Lab(folder, bundle, Runtime(paths.COMMANDS / "corten-runtime", folder / "root"))
    yield made
    made.corten.close()
    made.holds.close()
    process.kill_all(f"sleep\0{MARK}", 10)
    runtimes.remove_cgroups()
    shutil.rmtree(folder)


def work(lab: Lab, verb: str, launcher: HaltingLauncher) -> None:
    """The verb, by the runtime's own code; stdio is nobody's."""
    lab.become()
    host = Host(seccomp_cache=str(lab.folder / "seccomp"), launcher=launcher)
    host.facts.resctrl = lab.resctrl
    null = os.open(os.devnull, os.O_RDWR)
    stdio = (null, null, null)
    console = socket.socketpair() if lab.is_terminal else ()
    console_fd = console[0].fileno() if console else -1
    root = str(lab.corten.root)
    if verb == "exec":
        process = parse_process(
            {"args": ["sleep", MARK], "cwd": "/", "env": ["PATH=/bin"], "terminal": lab.is_terminal}
        )
        container.exec(ExecOptions("c", root, process, stdio=stdio, console_fd=console_fd), host)
        return
    waits = verb != "run"
    options = CreateOptions("c", root, str(lab.bundle.path), stdio=stdio, console_fd=console_fd, wait_for_start=waits)
    options.manager = lab.manager
    made = container.create(options, host)
    if verb == "start":
        container.start(root, "c")
        while data := os.read(made.trace_fd, 4096):  # the command does not; the test wants to know where it is
            made.reader.feed(data)


def ready(lab: Lab, verb: str) -> None:
    """A container for an exec."""
    if verb == "exec":
        words = ("--cgroup-manager", lab.manager) if lab.manager == managers.DISABLED else ()
        lab.corten.detached(*words, "run", "--detach", "-b", str(lab.bundle.path), "c")


def delete_by_record_alone(lab: Lab) -> None:
    """`delete --force` with nothing but state.json."""
    state = lab.corten.root / "c"
    for path in state.iterdir() if state.exists() else ():
        if path.name not in (STATE_FILE, "start") and not path.is_dir():
            path.unlink()
    lab.corten("delete", "--force", "c", check=True)
    if lab.agent is not None:
        with suppress(BlockingIOError):
            while True:
                lab.agent.accept()[0].close()


def check_back(lab: Lab, before: Snapshot, pids: list[int], alone: Alone, what: str) -> None:
    """The machine is as it was; what is on its way out gets some seconds."""
    deadline = time.monotonic() + 60
    while True:
        alive = sorted({*process.processes(MARK), *(pid for pid in pids if process.is_alive(pid))})
        found = before.differences(lab.snapshot()) + [f"process {pid}" for pid in alive]
        found += [] if found else machinestate.held(*alone)
        if not found:
            return
        assert time.monotonic() < deadline, f"after the kill {what}: {found}"
        time.sleep(0.02)


def kill_at(lab: Lab, verb: str, at: int, before: Snapshot) -> bool:
    """One kill and its delete; whether the step was the last that had begun."""
    ready(lab, verb)
    holding, going = os.pipe()
    with open(going, "wb", buffering=0) as go:
        told = killed_before(lambda launcher: work(lab, verb, launcher), at, holding)
        os.close(holding)
        assert at in told["steps"], f"killed before step {at}, begun: {told['steps']}"
        alone = machinestate.only_of({*told["pids"], *process.processes(MARK)}), machinestate.running()
        delete_by_record_alone(lab)
        with suppress(BrokenPipeError):  # nobody is left to go on
            go.write(b"\0")
        check_back(lab, before, told["pids"], alone, f"of {verb} at step {at}")
    begun: list[int] = told["steps"]
    return max(begun) == at


def steps_of(lab: Lab, verb: str) -> range:
    """The steps that the verb takes, found by one life that nobody kills."""
    ready(lab, verb)
    reading, writing = os.pipe()

    def look(launcher: HaltingLauncher) -> None:
        work(lab, "create" if lab.netns is not None else verb, launcher)  # one that starts would keep its devices
        ops = launcher.plan.ops
        started = [i for i, op in enumerate(ops) if isinstance(op, Wait) and op.slot == "start"]
        os.write(writing, bytes([started[-1] if started else len(ops) - 1]))

    length = killed_before(look, -1, -1)["length"]
    start = os.read(reading, 1)[0]
    os.close(reading)
    os.close(writing)
    delete_by_record_alone(lab)
    if verb == "create" or lab.netns is not None:  # who was started keeps its devices
        return range(start + 1)
    return range(start + 1, length) if verb == "start" else range(length)


def ended(lab: Lab) -> None:
    """Nobody of the first life is left."""
    process.wait_for(lambda: not any(process.processes(MARK)), "end of the container")


@pytest.mark.parametrize("all", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
@pytest.mark.parametrize(("verb", "kind"), CASES, ids=NAMES)
def test_after_a_kill_at_any_step_the_machine_is_as_it_was(lab: Lab, verb: str, kind: Kind, all: bool) -> None:
    kind(lab)
    if verb == "exec":
        lab.bundle.config["process"]["terminal"] = False  # the container's own
    lab.bundle.save()
    steps = steps_of(lab, verb)
    ended(lab)
    before = lab.snapshot()
    few = random.Random(f"{killpoints.seed()} {verb} {kind.__name__}").sample(steps, min(FEW, len(steps)))
    chosen = list(steps) if all else sorted(few)
    exact = sum(kill_at(lab, verb, at, before) for at in chosen)
    name = kind.__name__.replace("_", " ")
    hits = f"{len(chosen)} hit / {len(steps)} existing (seed {killpoints.seed()}), {exact} of them the last begun"
    summary.add(killpoints.TITLE, f"{verb} at steps, {name}: {hits}")
    assert exact > len(chosen) // 3 or not all
