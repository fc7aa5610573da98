"""Containers started straight from a plan, without runtime, shim or engine: for the tests of the launcher.

A `Machine` has a root filesystem of busybox and a cgroup in every hierarchy; `launch` compiles a configuration,
spawns it, and gives back what it wrote and what the launcher said.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corten.engine import seccomp as engine_seccomp
from corten.launch import bpf
from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import ExecContext, InitContext
from corten.launch.facts import HostFacts
from corten.launch.ops import Plan
from corten.launch.seccomp_compile import compile_profile
from corten.launch.spawn import Done, Failed, Launch, Launcher, Started, Step, Waiting, sentence
from corten.runtime.hostfacts import gather, kernel_version
from corten.spec.process import parse_process
from corten.spec.runtime import Config, parse_config
from support import images, paths, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.spawn import Event

CAPS = [
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL"),
    "CAP_AUDIT_WRITE",
]
DEFAULT_CAPS = 0x00000000A80425FB
NAMESPACES = ("mount", "uts", "ipc", "pid", "network")
DEVPTS_OPTIONS = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
PATIENCE_S = 60.0


def default_config(*args: str, **process: Any) -> dict[str, Any]:
    """What dockerd writes for `docker run --network none`, with a new network namespace."""
    caps = {name: list(CAPS) for name in ("bounding", "effective", "permitted")}
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": caps,
            "oomScoreAdj": 0,
            **process,
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount(
                "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
            ),
            mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=67108864"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/sys/firmware",
                "/proc/nothing",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    """One entry of `mounts`."""
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


@dataclass
class Outcome:
    """What a launch came to; `status` is os.waitstatus_to_exitcode's number, None while it runs."""

    plan: Plan
    pid: int = 0
    status: int | None = None
    events: list[Event] = field(default_factory=list)
    out: str = ""
    err: str = ""

    @property
    def failure(self) -> str:
        """The launcher's sentence, '' when nothing failed."""
        for event in self.events:
            if isinstance(event, Failed):
                return sentence(self.plan, event.index, event.errno, event.detail, event.text)
        return ""

    @property
    def steps(self) -> list[int]:
        """Indexes of the steps that began."""
        return [event.index for event in self.events if isinstance(event, Step)]

    @property
    def lines(self) -> list[str]:
        """Standard output by line."""
        return self.out.splitlines()


class Running:
    """A launched process that has not been waited for.  `stop` kills and reaps; idempotent."""

    def __init__(self, launch: Launch, out_fd: int, err_fd: int) -> None:
        self.launch = launch
        self.outcome = Outcome(launch.plan)
        self._fds = {out_fd: bytearray(), err_fd: bytearray()}
        self._names = (out_fd, err_fd)
        self._reaped_launcher = False

    @property
    def pid(self) -> int:
        """The process as the host sees it."""
        return self.outcome.pid

    def read_events(self, until: Callable[[Event], bool]) -> Event:
        """Reads the trace until an event fits; a trace that ends first fails the test."""
        while True:
            ready, _, _ = select.select([self.launch.trace_fd], [], [], PATIENCE_S)
            assert ready, f"no word from the launcher; last step {self.outcome.steps[-1:]}"
            events = self.launch.events()
            self._note(events)
            for event in events:
                if until(event):
                    return event
            assert not any(isinstance(event, Done) for event in events), self.outcome.failure or "trace ended"

    def waiting(self) -> int:
        """Until the plan waits: the index of the step."""
        event = self.read_events(lambda event: isinstance(event, Waiting))
        assert isinstance(event, Waiting)
        return event.index

    def output(self) -> str:
        """What it has written to stdout by now."""
        out_fd = self._names[0]
        while select.select([out_fd], [], [], 0)[0] and (data := os.read(out_fd, 65536)):
            self._fds[out_fd] += data
        return self._fds[out_fd].decode()

    def executed(self) -> None:
        """Until the trace is over."""
        self.read_events(lambda event: isinstance(event, Done))
        assert not self.outcome.failure

    def finish(self) -> Outcome:
        """Until the process has ended and everything that it wrote is here."""
        if not self.outcome.events or not isinstance(self.outcome.events[-1], Done):
            self.read_events(lambda event: isinstance(event, Done))
        self._drain()
        return self.stop(kill=False)

    def stop(self, *, kill: bool = True) -> Outcome:
        """Ends and reaps launcher and process."""
        if not self._reaped_launcher:
            self.launch.reap_launcher()
            self._reaped_launcher = True
        if self.pid and self.outcome.status is None:
            if kill:
                os.kill(self.pid, signal.SIGKILL)
            self.outcome.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.launch.close()
        for fd in self._fds:
            os.close(fd)
        self.outcome.out, self.outcome.err = (self._fds[fd].decode() for fd in self._names) if self._fds else ("", "")
        self._fds = {}
        return self.outcome

    def _note(self, events: list[Event]) -> None:
        self.outcome.events += events
        for event in events:
            if isinstance(event, Started):
                self.outcome.pid = event.pid

    def _drain(self) -> None:
        live, end = set(self._fds), time.monotonic() + PATIENCE_S
        while live:
            ready, _, _ = select.select(list(live), [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the process does not end: {bytes(self._fds[self._names[0]])!r}"
            for fd in ready:
                data = os.read(fd, 65536)
                self._fds[fd] += data
                if not data:
                    live.discard(fd)


class Machine:
    """A root filesystem, cgroups and a launcher; one per test module."""

    def __init__(self) -> None:
        self.bundle = paths.scratch("launch")
        self.rootfs = self.bundle / "rootfs"
        self.launcher = Launcher()
        self.facts: HostFacts = gather()
        self.cgroup_paths: dict[str, str] = {}
        self.cgroup_v2_dir = ""
        fill_root(self.rootfs)
        self._make_cgroups(self.bundle.name)

    def add_program(self, source: Path) -> None:
        """A C program of the test, at /bin and its name."""
        programs.build(source, self.rootfs / "bin" / source.stem)

    def config(self, *args: str, **process: Any) -> dict[str, Any]:
        """`default_config`."""
        return default_config(*args, **process)

    def plan(self, document: dict[str, Any], *, facts: HostFacts | None = None, **context: Any) -> Plan:
        """The plan of an init, on this machine unless `facts` say something else."""
        context = {"wait_for_start": False, **_calls(context), **context}
        if not context.get("rootfs_fd"):
            context.setdefault("rootfs", str(self.rootfs))
        given = InitContext("c1", str(self.bundle), **self._cgroups(), **context)
        return compile_init(self.parse(document), facts or self.facts, given)

    def exec_plan(self, document: dict[str, Any], process: dict[str, Any], **context: Any) -> Plan:
        """The plan of an exec into a container of this configuration."""
        given = ExecContext("c1", **self._cgroups(), **{**_calls(context), **context})
        return compile_exec(self.parse(document), parse_process(process), self.facts, given)

    def parse(self, document: dict[str, Any]) -> Config:
        """The configuration as values."""
        return parse_config(document)

    def spawn(
        self,
        plan: Plan,
        fds: dict[str, int] | None = None,
        *,
        transform: Callable[[Plan], Plan] | None = None,
        stdin: int = -1,
    ) -> Running:
        """Starts a plan with pipes for output and an empty stdin."""
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            stdio = (null if stdin < 0 else stdin, out_write, err_write)
            launch = self.launcher.spawn(plan, fds or {}, stdio=stdio, transform=transform)
        finally:
            for fd in (out_write, err_write, null):
                os.close(fd)
        return Running(launch, out_read, err_read)

    def run(self, document: dict[str, Any], fds: dict[str, int] | None = None, **context: Any) -> Outcome:
        """Starts a container and waits for its end."""
        return self.spawn(self.plan(document, **context), fds).finish()

    def sh(self, script: str, **process: Any) -> Outcome:
        """`sh -c SCRIPT` in a default container."""
        return self.run(self.config("sh", "-c", script, **process))

    @contextmanager
    def container(self, document: dict[str, Any] | None = None, **context: Any) -> Iterator[Running]:
        """A container that runs until the block ends (`sleep`, unless a configuration is given)."""
        running = self.spawn(self.plan(document or self.config("sleep", "1000"), **context))
        try:
            running.executed()
            yield running
        finally:
            running.stop()

    def exec(
        self,
        inside: Running,
        document: dict[str, Any],
        process: dict[str, Any],
        fds: dict[str, int] | None = None,
        *,
        transform: Callable[[Plan], Plan] | None = None,
        **context: Any,
    ) -> Running:
        """Starts an exec in a running container."""
        pidfd = os.pidfd_open(inside.pid)
        try:
            plan = self.exec_plan(document, process, **context)
            return self.spawn(plan, {"container": pidfd, **(fds or {})}, transform=transform)
        finally:
            os.close(pidfd)

    def close(self) -> None:
        """Removes cgroups and files."""
        os.close(self.launcher.fd)
        for path in [*self.cgroup_paths.values(), *([self.cgroup_v2_dir] if self.cgroup_v2_dir else [])]:
            _remove_cgroup(Path(path))
        shutil.rmtree(self.bundle)

    def _cgroups(self) -> dict[str, Any]:
        return {"cgroup_paths": self.cgroup_paths, "cgroup_v2_dir": self.cgroup_v2_dir}

    def _make_cgroups(self, name: str) -> None:
        own = {}
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own[controllers] = path
        for controllers, where in self.facts.cgroup_v1.items():
            parent = Path(where + own[controllers])
            (parent / name).mkdir()
            if "cpuset" in controllers.split(","):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (parent / name / file).write_text((parent / file).read_text())
            self.cgroup_paths[controllers] = str(parent / name)
        if self.facts.cgroup_v2_mount:
            directory = Path(os.path.normpath(f"{self.facts.cgroup_v2_mount}/{own['']}/{name}"))
            directory.mkdir()
            self.cgroup_v2_dir = str(directory)


def _calls(context: dict[str, Any]) -> dict[str, Any]:
    """What the filter of a context allows the launcher, as `corten.launch.seccomp` says it."""
    return {} if "seccomp_calls" in context else {"seccomp_calls": bpf.allowed_calls(context.get("seccomp", b""))}


def docker_filter(*more: str) -> bytes:
    """The program of Docker's default profile, for a container that has `more` capabilities than the default ones."""
    host = engine_seccomp.Host(os.uname().machine, kernel_version(os.uname().release), frozenset((*CAPS, *more)))
    return compile_profile(engine_seccomp.resolve(engine_seccomp.default_profile(), host))


def fill_root(root: Path) -> None:
    """Busybox with its applets, and the folders and files that a userland expects."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/user", "usr/bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(images.BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([images.BUSYBOX, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    for name in applets:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_bytes(images.PASSWD)
    (root / "tmp").chmod(0o1777)
    (root / "root").chmod(0o700)


def _remove_cgroup(path: Path) -> None:
    """rmdir, which the kernel refuses for a moment after the last process has gone."""
    for _ in range(1000):
        try:
            path.rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            return
    path.rmdir()
