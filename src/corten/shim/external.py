"""Containers by a configured OCI runtime: runc, crun, or any other with their command line.

The shim is the child subreaper, so that the init and execs that the runtime leaves behind become its children.  The
root filesystem is attached at `<dir>/rootfs` in a mount namespace of the shim's own: propagation is left unchanged,
and `<exec-root>/tasks` is a private mount that cortend made, so that the host does not see it while `rshared` binds
still are (design.md §3).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

from corten.errors import CortenError, Internal, NotFound
from corten.launch.facts import HostFacts
from corten.runtime import fast
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.shim.backend import Launched, Phases, Steps, Streams
from corten.shim.loop import Loop, Readable
from corten.shim.rootfs import RootMount, make_detached
from corten.shim.stdio import receive_master
from corten.sys import files, mount, pidfd, prctl
from corten.sys.namespace import CLONE_NEWNS, unshare

_ROOTFS = "rootfs"
_STATE = "runtime"
_LOG = "runtime.log"
PID_FILE = "init.pid"
_LOG_TAIL_BYTES = 65536


class ExternalRuntime:
    """`Backend` by exec of `path`; `args` are the configured runtimeArgs, before every verb."""

    execs_beside = False  # runtimes write one log per container, from which errors are read

    def __init__(
        self, directory: str, id: str, path: str, args: list[str], *, rootfs: RootMount | None, facts: HostFacts
    ) -> None:
        """Changes the process: subreaper, and a mount namespace of its own."""
        self.rootfs_fd = -1
        self._rootfs = rootfs
        self._directory = directory
        self._id = id
        self._argv = [path, *args, "--root", f"{directory}/{_STATE}", "--log", f"{directory}/{_LOG}"]
        self._argv += ["--log-format", "json"]
        self._facts = facts
        self._cgroup: Cgroup | None = None
        self._has_rootfs = False
        prctl.set_child_subreaper()
        unshare(CLONE_NEWNS)

    def _attach_rootfs(self, rootfs: RootMount) -> None:
        """Show the detached mount at `<dir>/rootfs`, in this process's mount namespace."""
        path = f"{self._directory}/{_ROOTFS}"
        os.makedirs(path, 0o700, exist_ok=True)
        self.rootfs_fd = make_detached(rootfs, path)
        mount.move_mount(self.rootfs_fd, path)
        self._has_rootfs = True

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        if self._rootfs is not None:
            with phases.measure("overlay"):
                self._attach_rootfs(self._rootfs)
        pid_path = f"{self._directory}/{PID_FILE}"
        verb = ["create", "--bundle", self._directory, "--pid-file", pid_path]
        with phases.measure("runtime create"):
            yield from self._run_with_console(verb, [self._id], streams)
        launched = _launched(pid_path)
        self._cgroup = _cgroup_of(launched.pid, self._facts)
        return launched

    def start(self) -> Steps[None]:
        yield from self._run(["start", self._id])

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        base = f"{self._directory}/exec-{exec_id}"
        files.replace(f"{base}.json", fast.dump_bytes(process))
        verb = ["exec", "--process", f"{base}.json", "--detach", "--pid-file", f"{base}.pid"]
        try:
            yield from self._run_with_console(verb, [self._id], streams)
            return _launched(f"{base}.pid")
        finally:
            _unlink(f"{base}.json", f"{base}.pid")

    def signal_all(self, signum: int) -> Steps[None]:
        if signum == signal.SIGKILL and self._cgroup is not None:
            self._cgroup.kill_all()
            return
        yield from self._run(["kill", "--all", self._id, str(signum)])

    def pause(self) -> Steps[None]:
        yield from self._run(["pause", self._id])

    def resume(self) -> Steps[None]:
        yield from self._run(["resume", self._id])

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        path = f"{self._directory}/update.json"
        files.replace(path, fast.dump_bytes(resources))
        try:
            yield from self._run(["update", "--resources", path, self._id])
        finally:
            _unlink(path)

    def stand_by(self, loop: Loop) -> None:
        """The runtime's program is always there."""

    def delete(self, *, force: bool) -> Steps[None]:
        with contextlib.suppress(NotFound):  # `create` failed and left nothing, or a delete before
            yield from self._run(["delete", *(["--force"] if force else []), self._id])
        if self._has_rootfs:
            mount.umount(f"{self._directory}/{_ROOTFS}", mount.MNT_DETACH)
            self._has_rootfs = False
        if self.rootfs_fd >= 0:
            os.close(self.rootfs_fd)
            self.rootfs_fd = -1

    def give_up(self) -> None:
        """A runtime's program is let end by itself: killed halfway it would leave what nobody knows of."""

    def cgroup(self) -> Cgroup | None:
        return self._cgroup

    def wait_trace(self) -> None:
        return

    def write_trace(self, path: str, phases: Phases) -> Steps[None]:
        files.replace(path, fast.dump_bytes({"phases": phases.to_obj(), "steps": []}))
        yield from ()

    def _run_with_console(self, verb: list[str], tail: list[str], streams: Streams) -> Steps[None]:
        """A verb that makes a process; its terminal's master arrives at `streams.console_fd` as a listener's path."""
        if streams.console_fd < 0:
            yield from self._run([*verb, *tail], streams.stdio)
            return
        with ConsoleListener(self._directory) as console:
            yield from self._run([*verb, "--console-socket", console.path, *tail])
            console.forward(streams.console_fd)

    def _run(self, verb: list[str], stdio: tuple[int, int, int] = (0, 1, 1)) -> Steps[None]:
        """Run one verb to its end.  Raises the runtime's own error, from the last line of its log."""
        log = f"{self._directory}/{_LOG}"
        _unlink(log)
        argv = [*self._argv, *verb]
        try:
            pid = os.posix_spawnp(
                argv[0],
                argv,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            raise Internal(f"exec {argv[0]}: {files.why(error)}") from error
        handle = pidfd.open_process(pid)
        try:
            yield Readable(handle)
            status, _ = pidfd.reap(handle)
        finally:
            os.close(handle)
        if status != 0:
            raise runtime_error(log, f"{os.path.basename(argv[0])} {verb[0]} exited with status {status}")


class ConsoleListener:
    """The unix socket to which a runtime sends the terminal's master; gone after the `with`."""

    def __init__(self, directory: str) -> None:
        self._dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._dir_fd}/console.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        _unlink(self.path)
        self._listener.bind(self.path)
        self._listener.listen(1)

    def __enter__(self) -> ConsoleListener:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()
        _unlink(self.path)
        os.close(self._dir_fd)

    def forward(self, console_fd: int) -> None:
        """Pass the master that the runtime has sent on to the socket `console_fd`."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            raise Internal("the runtime sent no terminal") from None
        with connection, socket.socket(fileno=os.dup(console_fd)) as target:
            master = receive_master(connection)
            if master < 0:
                raise Internal("the runtime sent no terminal")
            try:
                socket.send_fds(target, [b"m"], [master])
            finally:
                os.close(master)


def runtime_error(log: str, otherwise: str) -> CortenError:
    """The error that the runtime's JSON log ends with."""
    try:
        lines = files.read(log)[-_LOG_TAIL_BYTES:].splitlines()
    except FileNotFoundError:
        lines = []
    for line in reversed(lines):
        try:
            entry = fast.loads(line)
        except CortenError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("msg"), str) and entry.get("level") in ("error", "fatal"):
            text: str = entry["msg"]
            missing = "does not exist" in text and "container" in text
            return NotFound(text) if missing else Internal(text)
    return Internal(otherwise)


def _launched(pid_path: str) -> Launched:
    pid = int(files.read(pid_path))
    return Launched(pid, pidfd.open_process(pid))


def _cgroup_of(pid: int, facts: HostFacts) -> Cgroup | None:
    """The cgroup that the runtime made for its init; None when it made none (the init is in the shim's own)."""
    paths = _parse_cgroups(files.read_text(f"/proc/{pid}/cgroup"))
    own = _parse_cgroups(files.read_text("/proc/self/cgroup"))
    v1 = {
        names: mount_point + paths[key]
        for names, mount_point in facts.cgroup_v1.items()
        if (key := _key(names, paths)) and paths[key] not in ("/", own.get(key))
    }
    unified = paths.get("", "/")
    is_own = unified in ("/", own.get(""))
    v2 = "" if is_own or not facts.cgroup_v2_mount else facts.cgroup_v2_mount + unified
    return Cgroup(CgroupPaths(facts.cgroup_mode, v1, v2, facts.cgroup_v2_mount)) if v1 or v2 else None


def _key(names: str, paths: dict[str, str]) -> str:
    """The line of /proc/PID/cgroup for a hierarchy; the order of joined controllers may differ."""
    wanted = sorted(names.split(","))
    return next((key for key in paths if key and sorted(key.split(",")) == wanted), "")


def _parse_cgroups(text: str) -> dict[str, str]:
    """Controllers → path, '' for cgroup2 (cgroups(7), "/proc/PID/cgroup")."""
    rows = (line.split(":", 2) for line in text.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3}


def _unlink(*paths: str) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
