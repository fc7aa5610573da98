"""The container of a shim: its state, its init, its execs, its end.

    state      may become           by
    new        created              create
    created    running, stopped     start; its init was killed
    running    paused, stopped      pause; its init exited
    paused     running, stopped     resume; its init was killed
    stopped    deleted              delete
    deleted

An exit is handled in this order, so that nothing is told before it is true (design.md §3, step 11): what the process
left in its pipes goes to the log; execs that died with it are told; counters are read; the exit record is written and
renamed into place; the event goes out; attached clients see the end of their streams.  The cgroup is removed by
`delete` alone.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from corten.errors import AlreadyExists, CortenError, FailedPrecondition, Internal, InvalidArgument, NotFound
from corten.runtime import fast
from corten.runtime.cgroups import Counters
from corten.shim.backend import Backend, Phases, Steps, Streams
from corten.shim.client import AttachOptions
from corten.shim.complain import complain
from corten.shim.ending import EXIT_RECORD, exit_record, on_the_living, thaw_the_dead
from corten.shim.health import Capture, Health, Settings
from corten.shim.log import Log
from corten.shim.loop import READ, Loop, Readable, Sleep
from corten.shim.oom import OomWatch
from corten.shim.process import EXITED, Process, is_pid_namespace_init
from corten.shim.protocol import Message
from corten.shim.stdio import Output, Stdio, receive_master
from corten.sys import files

TRACE = "trace"

TRANSITIONS: dict[str, tuple[str, ...]] = {
    "new": ("created", "deleted"),
    "created": ("running", "stopped"),
    "running": ("paused", "stopped"),
    "paused": ("running", "stopped"),
    "stopped": ("deleted",),
    "deleted": (),
}
_MASTER_TIMEOUT_S = 10.0
_DRAIN_TIMEOUT_S = 10.0  # for writers that outlive the init: a host pid namespace, or a stuck kernel call
_EXEC_STREAM_TIMEOUT_S = 2.0  # dockerd's: a child of an exec may hold its streams open
_POLL_S = 0.005
_KEPT_KILLS = 8  # in the exit record, the last ones
_KEPT_EXECS = 512  # finished ones, oldest forgotten first

Emit = Callable[[Message], None]


class Task:
    """One container.  `emit` sends an event to every connected client."""

    __slots__ = (
        "_backend", "_emit", "_log", "_loop", "_oom", "_oom_kills_told", "_owns_pid_namespace", "connections",
        "created_at", "directory", "execs", "exit_record", "health", "init", "kills", "phases", "state",
    )  # fmt: skip

    def __init__(self, directory: str, loop: Loop, emit: Emit) -> None:
        self.directory = directory
        self.state = "new"
        self.phases = Phases()
        self.exit_record: Message | None = None
        self.connections: set[object] = set()
        self.execs: dict[str, Process] = {}
        self.init: Process | None = None
        self.health: Health | None = None
        self.created_at = ""
        self.kills: tuple[Message, ...] = ()
        self._loop = loop
        self._emit = emit
        self._backend: Backend | None = None
        self._log: Log | None = None
        self._oom: OomWatch | None = None
        self._oom_kills_told = 0
        self._owns_pid_namespace = True

    # Life

    def create(
        self, backend: Backend, *, tty: bool, stdin: bool, size: tuple[int, int] | None, log: Log | None
    ) -> Steps[Process]:
        """Make the container; on failure everything that was made is taken back and the state stays `new`."""
        self._require("new")
        self._backend, self._log = backend, log
        init = self._new_process("", tty=tty, log=log)
        try:
            launch = backend.create
            yield from self._launch(init, lambda streams: launch(streams, self.phases), stdin=stdin, size=size)
        except BaseException:
            init.stdio.abandon()
            self._close_log()
            try:
                yield from backend.delete(force=True)
                self._backend = None
            except (CortenError, OSError) as error:  # what went wrong first is what is told; `delete` tries again
                complain(error)
            raise
        self.init = init
        self.created_at = fast.rfc3339()
        self._owns_pid_namespace = is_pid_namespace_init(init.pid)
        self._enter("created")
        self._loop.add(init.pidfd, READ, lambda events: self._init_died())
        return init

    def start(self) -> Steps[Process]:
        """Execute the container's program.  Raises what the launcher or runtime reports; then the init is dead."""
        self._require("created")
        init = self._init()
        self._loop.remove(init.pidfd)  # its exit is told after its start, however short it was
        self._watch_oom()  # before: an external runtime may answer long after the program has begun
        try:
            with self.phases.measure("start"):
                yield from self._runtime().start()
            init.started()
            self._enter("running")
        finally:
            self._loop.add(init.pidfd, READ, lambda events: self._init_died())
        if self.health is not None:
            self._runtime().stand_by(self._loop)
            self.health.begin()
        self._loop.call_later(0, self._write_trace)
        return init

    def exec(
        self,
        exec_id: str,
        process: dict[str, Any],
        *,
        tty: bool,
        stdin: bool,
        size: tuple[int, int] | None,
        client: tuple[int, AttachOptions] | None,
        log: Output | None = None,
    ) -> Steps[Process]:
        """Run one more process, attached to `client` (a connection, taken here) from its first byte."""
        self._require("running")
        if exec_id in self.execs:
            raise AlreadyExists(f"exec {exec_id} already exists")
        child = self._new_process(exec_id, tty=tty, log=log)
        self.execs[exec_id] = child
        backend = self._runtime()
        try:
            launch = self._launch(
                child, lambda streams: backend.exec(exec_id, process, streams), stdin=stdin, size=size
            )
            yield from on_the_living(self._init(), launch)
        except BaseException:
            del self.execs[exec_id]
            child.stdio.abandon()
            raise
        child.started()
        if client is not None:
            child.stdio.attach(*client)
        self._loop.add(child.pidfd, READ, lambda events: self._exec_died(child))
        return child

    def watch_health(self, settings: Settings, in_turn: Callable[[Callable[[], Steps[None]]], None]) -> None:
        """Check it from its start on."""
        self.health = Health(settings, self._loop, self, emit=self._emit, in_turn=in_turn)

    def probe(self, exec_id: str, process: dict[str, Any], capture: Capture) -> Steps[Process]:
        """An exec of a health check."""
        child = yield from self.exec(exec_id, process, tty=False, stdin=False, size=None, client=None, log=capture)
        child.is_probe = True
        return child

    def pause(self) -> Steps[None]:
        self._require("running")
        try:
            yield from on_the_living(self._init(), self._runtime().pause())
            self._require_alive("running")
        except FailedPrecondition:
            yield from thaw_the_dead(self._init(), self._runtime())
            raise
        self._enter("paused")
        if self.health is not None:
            self.health.rest()

    def resume(self) -> Steps[None]:
        self._require("paused")
        yield from on_the_living(self._init(), self._runtime().resume())
        self._require_alive("paused")
        self._enter("running")
        if self.health is not None:
            self.health.begin()

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        self._require("created", "running", "paused")
        yield from on_the_living(self._init(), self._runtime().update(resources))

    def give_up(self) -> None:
        """End what the runtime is at: a delete is waiting."""
        if self._backend is not None:
            self._backend.give_up()

    @property
    def has_container(self) -> bool:
        """Whether there is something to delete: a container, or what is left of one that could not be made."""
        return self._backend is not None

    @property
    def execs_beside(self) -> bool:
        """Whether an exec may be under way while the container is paused, stopped or asked for another."""
        return self._backend is not None and self._backend.execs_beside

    def kill(self, signum: int, exec_id: str = "", by: Message | None = None) -> None:
        """Signal the init or an exec, by descriptor; the exit record will tell for whom (`by`) the init was."""
        process = self.process(exec_id)
        try:
            process.send_signal(signum)
        except ProcessLookupError:
            raise FailedPrecondition("process already finished" if exec_id else "container not running") from None
        except OSError as error:
            raise InvalidArgument(f"signal {signum}: {files.why(error)}") from error
        if by and not exec_id:
            self.kills = (*self.kills[1 - _KEPT_KILLS :], {"signal": signum, "at": fast.rfc3339(), "by": by})

    def kill_all(self, signum: int) -> Steps[None]:
        """Signal every process of the container."""
        self._require("created", "running", "paused")
        yield from self._runtime().signal_all(signum)

    def delete(self, *, force: bool) -> Steps[None]:
        """Remove what `create` made; with `force` also a container that still runs."""
        if self.state in ("created", "running", "paused"):
            if not force:
                raise FailedPrecondition(f"cannot delete container that is not stopped: {self.state}")
            yield from self._kill_and_wait()
        if self._oom is not None:
            self._oom.close()
            self._oom = None
        if self._backend is not None:
            yield from self._backend.delete(force=force)
            self._backend = None
        for process in (*self.execs.values(), *([self.init] if self.init else [])):
            process.stdio.finish()
        self._close_log()
        if self.state != "deleted":
            self._enter("deleted")

    # Looking

    def process(self, exec_id: str) -> Process:
        """An exec, or the init for ''.  Raises NotFound."""
        if not exec_id:
            return self._init()
        if exec_id not in self.execs:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self.execs[exec_id]

    @property
    def courier_pid(self) -> int:
        """The child that sends the log, 0 for none."""
        courier = self._log.courier if self._log is not None else None
        return courier.pid if courier is not None else 0

    def wait_trace(self) -> None:
        """The file is complete afterwards, where there is one."""
        if self._backend is not None:
            self._backend.wait_trace()

    def forget_exec(self, exec_id: str) -> None:
        """Drop a finished exec.  Raises FailedPrecondition while it runs."""
        if self.process(exec_id).state != EXITED:
            raise FailedPrecondition(f"exec {exec_id} is running")
        del self.execs[exec_id]

    def counters(self) -> Counters:
        """The kernel's counters of the container, zeroes where they are not known."""
        cgroup = self._backend.cgroup() if self._backend is not None else None
        return cgroup.counters() if cgroup is not None else Counters(0, 0)

    def pids(self) -> list[int]:
        """Every process of the container."""
        cgroup = self._backend.cgroup() if self._backend is not None else None
        return cgroup.pids() if cgroup is not None else []

    def stats(self) -> dict[str, object]:
        """A sample of the cgroup's controllers.  Raises FailedPrecondition when there is no cgroup."""
        cgroup = self._backend.cgroup() if self._backend is not None else None
        if cgroup is None:
            raise FailedPrecondition("the container has no cgroup")
        return cgroup.stats()

    def rootfs_fd(self) -> int:
        """The detached mount of the root filesystem, which stays the task's.  Raises FailedPrecondition without one."""
        if self._backend is None or self._backend.rootfs_fd < 0:
            raise FailedPrecondition("the container has no root filesystem of its own")
        return self._backend.rootfs_fd

    def status(self) -> Message:
        """Everything that an adopter needs to know."""
        init = self.init
        return {
            "state": self.state,
            "init_pid": init.pid if init is not None and self.state not in ("stopped", "deleted") else 0,
            "created_at": self.created_at,
            "started_at": init.started_at if init is not None else "",
            "terminal": init is not None and init.stdio.tty,
            "stdin_open": init is not None and init.stdio.is_stdin_open,
            "clients": init.stdio.client_count if init is not None else 0,
            "exit": self.exit_record,
            "execs": {exec_id: process.to_obj() for exec_id, process in self.execs.items()},
            "phases": self.phases.to_obj(),
            "health": self.health.to_obj() if self.health is not None else None,
            "oom_kill_count": self._oom_kills_told,
        }

    # Launching

    def _new_process(self, id: str, *, tty: bool, log: Output | None) -> Process:
        def detached() -> None:
            self._emit({"event": "detach", "exec_id": id})

        return Process(id, Stdio(self._loop, tty=tty, log=log, on_detach=detached, connections=self.connections))

    def _launch(
        self,
        process: Process,
        launch: Callable[[Streams], Steps[Any]],
        *,
        stdin: bool,
        size: tuple[int, int] | None,
    ) -> Steps[None]:
        """Spawn with pipes or a terminal and begin the streams."""
        if not process.stdio.tty:
            process.launched((yield from launch(Streams(process.stdio.open_pipes(stdin=stdin)))))
            process.stdio.begin()
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with ours, theirs:
            launched = yield from launch(Streams((0, 1, 1), theirs.fileno()))
            process.launched(launched)
            theirs.close()
            if not (yield Readable(ours.fileno(), _MASTER_TIMEOUT_S)):
                raise Internal("the runtime sent no terminal")
            master = receive_master(ours)
        if master < 0:
            raise Internal("the runtime sent no terminal")
        process.stdio.set_master(master, stdin=stdin)
        if size is not None:
            process.stdio.resize(*size)
        process.stdio.begin()

    def _watch_oom(self) -> None:
        cgroup = self._runtime().cgroup()
        if cgroup is not None:
            self._oom = OomWatch.open(cgroup, self._loop, self._out_of_memory)

    def _out_of_memory(self, kills: int) -> None:
        if kills <= self._oom_kills_told:
            return
        self._oom_kills_told = kills
        self._emit({"event": "oom", "oom_kill_count": kills, "at": fast.rfc3339()})

    def _write_trace(self) -> None:
        if self._backend is not None:
            self._loop.start(self._backend.write_trace(f"{self.directory}/{TRACE}", self.phases))

    # Ends

    def _exec_died(self, process: Process) -> None:
        self._loop.remove(process.pidfd)
        process.reap()
        process.stdio.drain()
        self._emit({"event": "exec-exit", "exec_id": process.id, **process.to_obj()})
        process.stdio.finish_soon(_EXEC_STREAM_TIMEOUT_S)
        if process.is_probe:
            del self.execs[process.id]
            if self.health is not None:
                self.health.probed(process)
        self._forget_old_execs()

    def _forget_old_execs(self) -> None:
        finished = [exec_id for exec_id, process in self.execs.items() if process.state == EXITED]
        for exec_id in finished[:-_KEPT_EXECS]:
            del self.execs[exec_id]

    def _init_died(self) -> None:
        init = self._init()
        self._loop.remove(init.pidfd)
        init.reap()
        if self.health is not None:
            self.health.end()
        self._loop.start(self._finish(init))

    def _finish(self, init: Process) -> Steps[None]:
        """The steps of an exit, in the order of the module's text.

        What the machine refuses (a full /run, a cgroup that is gone) goes to shim.log: the end is told all the same.
        """
        counters = Counters(0, 0)
        try:
            yield from self._end_stragglers(init)
            yield from self._settle_log(init)
        except (OSError, Internal) as error:
            complain(error)
        try:
            counters = self.counters()
        except OSError as error:
            complain(error)
        self._out_of_memory(counters.oom_kills)
        self.exit_record = exit_record(init, counters, self.kills)
        if self.health is not None and self.health.reason:
            self.exit_record |= {"reason": self.health.reason, "health_action": self.health.action}
        try:
            files.replace(f"{self.directory}/{EXIT_RECORD}", fast.dump_bytes(self.exit_record))
        except OSError as error:
            complain(error)
        self._enter("stopped")
        self._emit({"event": "exit", **self.exit_record})
        init.stdio.finish()

    def _end_stragglers(self, init: Process) -> Steps[None]:
        """Kill what a shared pid namespace leaves alive, collect execs, read the streams to their end."""
        self.give_up()
        if not self._owns_pid_namespace:
            yield from self._runtime().signal_all(signal.SIGKILL)
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while not self._is_quiet(init) and time.monotonic() < deadline:
            yield Sleep(_POLL_S)

    def _settle_log(self, init: Process) -> Steps[None]:
        """Who hears of the end finds the log whole, as far as the disk takes it."""
        if self._log is not None and self._log.is_kept_by_courier:
            init.stdio.end_output()
            yield from self._log.settle()

    def _is_quiet(self, init: Process) -> bool:
        """Every exec was told, and the streams are at their end or have no writer left."""
        if any(process.state != EXITED for process in self.execs.values()):
            return False
        has_writers = bool(self.pids())
        return init.stdio.drain() or not has_writers

    def _kill_and_wait(self) -> Steps[None]:
        if self.state == "paused":
            with contextlib.suppress(FailedPrecondition):  # it ends already
                yield from on_the_living(self._init(), self._runtime().resume())
        with contextlib.suppress(ProcessLookupError):
            self._init().send_signal(signal.SIGKILL)
        while self.state != "stopped":
            yield Sleep(_POLL_S)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    # States

    def _enter(self, state: str) -> None:
        if state not in TRANSITIONS[self.state]:
            raise Internal(f"task cannot become {state}: it is {self.state}")
        self.state = state

    def _require(self, *states: str) -> None:
        if self.state not in states:
            raise FailedPrecondition(f"container is {self.state}")

    def _require_alive(self, state: str) -> None:
        """The same after a verb of the runtime's, in whose time the init may have ended."""
        self._require(state)
        if self._init().state == EXITED:
            raise FailedPrecondition("container is stopped")

    def _init(self) -> Process:
        if self.init is None:
            raise FailedPrecondition(f"container is {self.state}")
        return self.init

    def _runtime(self) -> Backend:
        if self._backend is None:
            raise FailedPrecondition(f"container is {self.state}")
        return self._backend
