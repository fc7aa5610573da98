"""The acting half of `create`, `run` and `exec`: spawns a plan, follows it, and undoes everything when it fails.

The order of making is the order of `State.objects`, and state.json is on disk before the first of them:

    state directory → state.json → config.json → FIFO → cgroup directories → init

Undoing goes the other way, by the same functions as `delete --force`.
"""

from __future__ import annotations

import posix
import select
import time

from corten.errors import CortenError, Internal
from corten.launch import spawn
from corten.launch.execops import Hook
from corten.launch.userops import SetRlimit
from corten.runtime import fast, hooks, managers, parentsteps
from corten.runtime.cgroups import Cgroup
from corten.runtime.ending import destroy, sentence
from corten.runtime.prepare import prepare
from corten.runtime.state import CONFIG_FILE, START_FIFO, TRACE_FILE, State, make_directory, process_start
from corten.runtime.trace import Trace
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.launch.ops import Op, Plan
    from corten.runtime.options import CreateOptions
    from corten.runtime.parentsteps import Change, ParentStep
    from corten.runtime.prepare import Host, Prepared
    from corten.spec.runtime import Config

SIGKILL = 9
ENOENT, ESRCH, EINVAL = 2, 3, 22
PID_LAST = (1 << 31) - 1
EXEC_TIMEOUT_S = 30.0  # from spawn, or the start byte, to execve: milliseconds, unless hooks run in between
START_FAILURE = managers.START_FAILURE
INIT_FAILURE = "error during container init"
GIVEN_UP = "the start was given up"
STARVED = "container init was OOM-killed (memory limit too low?)"


class LaunchFailure(Internal):
    """A step of a plan failed: the op, and the kernel's errno."""

    def __init__(self, text: str, errno: int, op: Op) -> None:
        super().__init__(text)
        self.errno = errno
        self.op = op
        self.evidence = {"op": op.describe()[:500], "path": op.place[:500], "errno": errno}


class Parent:
    """Whose children launcher and process are, as `Running` needs to know it: this process's own.

    `abort_fd` is readable when nobody waits for the launch any more, -1 for never.
    """

    __slots__ = ("abort_fd",)

    def __init__(self, abort_fd: int = -1) -> None:
        self.abort_fd = abort_fd

    def open(self, pid: int) -> int:
        """A pidfd of `pid`, -1 unless it is a child that has not been reaped."""
        return open_child(pid)

    def reap(self, pid: int, pidfd: int) -> None:
        """Blocks until a killed process is dead, and collects it.

        Not where a tracer in the container (SYS_PTRACE) keeps the dead one to itself: it is its to collect (ptrace(2)).
        """
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
        posix.waitid(posix.P_PIDFD, pidfd, posix.WEXITED | posix.WNOHANG)


OWN_CHILDREN = Parent()


class Running:
    """A spawned plan: the process it became, and what is still to be read of it.

    Owns `pidfd` and, until `close`, the trace pipe.  `follow` is called again and again by whoever has time.

    What the pipe says is not trusted: a container that may trace its processes (CAP_SYS_PTRACE) can open the pipe of
    an exec through /proc/PID/fd, write records of its own and hold it open.  The worst that comes of it is a start
    that fails.
    """

    __slots__ = (
        "executed",
        "failure",
        "is_init",
        "launch",
        "launcher_reaped",
        "parent",
        "pid",
        "pidfd",
        "trace",
        "waiting",
    )

    def __init__(
        self, launch: spawn.Launch, trace: Trace, *, is_init: bool = False, parent: Parent = OWN_CHILDREN
    ) -> None:
        self.launch = launch
        self.parent = parent
        self.is_init = is_init
        self.trace = trace
        self.pid = 0
        self.pidfd = -1
        self.waiting = -1
        self.executed = False
        self.failure: spawn.Failed | None = None
        self.launcher_reaped = False

    def follow(self, deadline: float = 0.0) -> None:
        """Blocks for the launcher's next events; raises LaunchFailure in the plan's words.

        With a `deadline` (time.monotonic) Internal is raised when it has passed.  Afterwards `pid` is set once the
        process exists, `waiting` is the index of the step it waits at, or -1, and `executed` tells that the plan is
        over.
        """
        self.waiting = -1
        self._take(self._events(deadline))
        if self.failure is not None:
            self._fail(self.failure)
        if self.executed and not self.pid:
            raise Internal(f"{START_FAILURE}: the launcher died with wait status {self.reap_launcher()}")

    def _events(self, deadline: float) -> list[spawn.Event]:
        """The next events; `Done` as well once the process is dead, whoever else holds the pipe open."""
        poll = select.poll()
        poll.register(self.launch.trace_fd, select.POLLIN)
        abort_fd = self.parent.abort_fd
        for fd in (self.pidfd, abort_fd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        limit_ms = max(0.0, deadline - time.monotonic()) * 1000 if deadline else None
        ready = {fd for fd, _ in poll.poll(limit_ms)}
        if not ready or (deadline and time.monotonic() > deadline):
            raise Internal(f"{START_FAILURE}: the process was not executed in time")
        if abort_fd in ready:
            raise Internal(f"{START_FAILURE}: {GIVEN_UP}")
        return self.launch.events() if self.launch.trace_fd in ready else [spawn.Done()]

    def _take(self, events: list[spawn.Event]) -> None:
        self.trace.add(events)
        for event in events:
            if isinstance(event, spawn.Started):
                self._adopt(event.pid)
            elif isinstance(event, spawn.Waiting) and event.index < len(self.launch.plan.ops):
                self.waiting = event.index
            elif isinstance(event, spawn.Failed) and event.index < len(self.launch.plan.ops):
                self.failure = self.failure or event
            elif isinstance(event, spawn.Done):
                self.executed = True

    def _adopt(self, pid: int) -> None:
        """Takes `pid` for the launched process, once and only if it is a child of ours: it may have to be killed.

        A child that is older than the launcher is another process of the container.
        """
        launcher = self.launch.launcher_pid
        if self.pid or pid in (launcher, self.launch.second_pid):
            return
        pidfd = self.parent.open(pid)
        if pidfd < 0:
            return
        if process_start(pid)[0] < process_start(launcher)[0]:
            posix.close(pidfd)
            return
        self.pid, self.pidfd = pid, pidfd
        self.launch.child_pid = pid

    def _fail(self, event: spawn.Failed) -> None:
        """Reads on to the end, so that a process that exists is known and reaped, then raises."""
        deadline = time.monotonic() + EXEC_TIMEOUT_S
        while not self.executed:
            self._take(self._events(deadline))
        plan = self.launch.plan
        op = plan.ops[event.index]
        text = spawn.sentence(plan, event.index, event.errno, event.detail, event.text)
        if self.is_init and (not op.exact or isinstance(op, SetRlimit)):
            text = f"{INIT_FAILURE}: {text}"  # as runc: all but the lookup of the executable and what comes after it
        raise LaunchFailure(f"{START_FAILURE}: {text}", event.errno, op)

    def follow_until(self, slot: str) -> None:
        """Follows until the process waits for a byte on `slot`; raises Internal when it ends before that."""
        while self.waiting < 0 or getattr(self.launch.plan.ops[self.waiting], "slot", "") != slot:
            self.follow()
            if self.executed:
                raise Internal(f"{START_FAILURE}: process died before it was ready")

    def follow_to_exec(self) -> None:
        """Follows until the process is executed; raises Internal when that takes too long without a hook."""
        deadline = exec_deadline(self.launch.plan)
        while not self.executed:
            self.follow(deadline)

    def reap_launcher(self) -> int:
        """Waits for the launcher, which ends once the process exists or has failed; its wait status, 0 later."""
        if self.launcher_reaped:
            return 0
        self.launcher_reaped = True
        return self.launch.reap_launcher()

    def abandon(self) -> None:
        """Kills and reaps whatever was spawned, unless somebody else has collected it; closes everything."""
        self._end_launcher()
        if self.pidfd >= 0:
            self._end_process()
            posix.close(self.pidfd)
            self.pidfd = -1
        self.launch.close()

    def _end_launcher(self) -> None:
        if self.launcher_reaped:
            return
        self.launcher_reaped = True
        try:
            self.launch.kill_launcher()
        except (ChildProcessError, ProcessLookupError):
            return

    def _end_process(self) -> None:
        try:
            fast.pidfd_send_signal(self.pidfd, SIGKILL)
            self.parent.reap(self.pid, self.pidfd)
        except (ChildProcessError, ProcessLookupError):
            return


class Creation:
    """One container in the making: `steps` in order, `undo` after a failure."""

    __slots__ = (
        "cgroup", "hooks_ran", "host", "options", "prepared", "running", "start_fd", "state", "trace", "undoing",
    )  # fmt: skip

    def __init__(self, options: CreateOptions, host: Host) -> None:
        self.options = options
        self.host = host
        self.trace = Trace()
        self.trace.phase("prepare")
        self.prepared: Prepared = prepare(options, host)
        self.trace.plan = self.prepared.plan
        self.cgroup = Cgroup(self.prepared.paths)
        self.state = State("", options.id, options.bundle, self.prepared.rootfs)
        self.running: Running | None = None
        self.start_fd = -1
        self.hooks_ran = False
        self.undoing: list[Change] = []  # what steps of this side did, to be taken back or left, last first

    def run(self) -> Running:
        """Every step; the process waits for its start, or has been executed when there is nothing to wait for."""
        self.claim()
        try:
            self.record()
            self.trace.phase("cgroup")
            managers.of(self.state).make(self.prepared)
            self.trace.phase("launch")
            running = self._launch()
            self._note_ready()
            self.trace.phase("")
            self.trace.save(self.state.path(TRACE_FILE))
        except BaseException as error:
            starved = isinstance(error, Internal) and self.cgroup.counters().oom_kills
            self.undo()
            if starved:
                raise Internal(f"{START_FAILURE}: {STARVED}") from error
            raise
        return running

    def claim(self) -> None:
        """The state directory; raises AlreadyExists, and FailedPrecondition for a cgroup with somebody in it."""
        self.state.directory = make_directory(self.options.root, self.options.id)
        try:
            self.cgroup.check_free()  # before there is a record: whoever acts on it kills what is in the cgroup
        except BaseException:
            posix.rmdir(self.state.directory)
            raise

    def record(self) -> None:
        """state.json with every object to come, then what the launch needs of them."""
        state, prepared = self.state, self.prepared
        config = prepared.config
        state.annotations = config.annotations
        state.cgroup = prepared.paths
        state.manager = self.options.manager
        state.origins = prepared.origins
        state.unit = managers.of(state).unit(config.linux.cgroups_path, state.id)
        state.pids_limit = prepared.pids_limit
        state.pids_limit_origin = prepared.pids_limit_origin
        state.poststart = hooks.to_objs(config.hooks.poststart)
        state.poststop = hooks.to_objs(config.hooks.poststop)
        pid_namespace = config.linux.namespace("pid")
        state.private_pid = pid_namespace is not None and not pid_namespace.path
        state.terminal = config.process is not None and config.process.terminal
        waits = "start" in prepared.plan.inputs
        names = [CONFIG_FILE, TRACE_FILE] + ([START_FIFO] if waits else [])
        state.objects = [state.path(name) for name in names] + prepared.paths.directories()
        state.save()
        if self.options.notify is not None:
            self.options.notify.make_directory(state.directory)
            if not self.options.wait_for_start:
                self.options.notify.bind(state.directory)
        if self.options.rootfs_fd >= 0:
            _make_place(config, state.bundle)
        if waits:
            posix.mkfifo(state.path(START_FIFO), 0o600)
            self.start_fd = posix.open(state.path(START_FIFO), posix.O_RDWR | posix.O_CLOEXEC)

    def _launch(self) -> Running:
        """Spawns the plan and brings it to its last wait, or to execve; writes and words what can wait meanwhile."""
        options = self.options
        steps = parentsteps.steps_of(self.prepared)
        pipes = [step.open() for step in steps]
        fds = {"start": self.start_fd, "console": options.console_fd, "rootfs": options.rootfs_fd}
        fds.update(zip([step.slot for step in steps], [read for read, _ in pipes], strict=True))
        try:
            launch = self.host.launcher.spawn(self.prepared.plan, fds, stdio=options.stdio)
            running = self.running = Running(launch, self.trace, is_init=True, parent=self.host.parent)
            files.replace(self.state.path(CONFIG_FILE), self.prepared.config_bytes)
            self.trace.describe()
            self._take_steps(running, [(step, write) for step, (_, write) in zip(steps, pipes, strict=True)])
        finally:
            for fd in [fd for pipe in pipes for fd in pipe]:
                posix.close(fd)
        if self.start_fd >= 0:
            running.follow_until("start")
            posix.close(self.start_fd)
            self.start_fd = -1
            if not options.wait_for_start:
                let_go(self.state.path(START_FIFO))
        if not options.wait_for_start:
            running.follow_to_exec()
        running.reap_launcher()
        return running

    def _take_steps(self, running: Running, steps: list[tuple[ParentStep, int]]) -> None:
        """Everything that this side does before the last wait; a byte to each step's descriptor lets the other go."""
        launch = running.launch
        for step, fd in steps:
            if step.early and not step.waits:
                step.run(self, launch.launcher_pid)
                posix.write(fd, b"\0")
            elif step.early:
                running.follow_until(step.slot)
                # for the time being: who kills the container finds this one
                self._note_init(launch.acting_pid, is_ready=False)
                self._take_step(step, launch.acting_pid)
                posix.write(fd, b"\0")
        deadline = time.monotonic() + EXEC_TIMEOUT_S
        while not running.pid:
            running.follow(deadline)
        self._note_init(running.pid, is_ready=not has_hooks(self.prepared.plan) and all(s.early for s, _ in steps))
        for step, fd in steps:
            if not step.early and step.waits:
                running.follow_until(step.slot)
                self._take_step(step, running.pid)
                posix.write(fd, b"\0")
            elif not step.early:
                self._take_step(step, running.pid)

    def _take_step(self, step: ParentStep, pid: int) -> None:
        """In runc's words when it fails."""
        try:
            step.run(self, pid)
        except CortenError as error:
            raise type(error)(f"{START_FAILURE}: {INIT_FAILURE}: {error}") from error

    def _note_init(self, pid: int, *, is_ready: bool) -> None:
        """The init exists: its pid goes to state.json before anything else happens, then to the pid file."""
        self.state.pid = pid
        self.state.start_time = process_start(pid)[0]
        self.state.ready = is_ready
        self.state.save()

    def _note_ready(self) -> None:
        """Nothing is left to do before the start: only now may there be one, and anything else."""
        if not self.state.ready:
            self.state.ready = True
            self.state.save()

    def settle(self) -> None:
        """The container is there: what was done to the machine for it stays."""
        while self.undoing:
            self.undoing.pop().settle()

    def undo(self) -> None:
        """Takes back what exists, last made first.

        What cannot be is told, and does not keep the rest from going: what is raised is the failure that led here.  The
        record goes last.  It stays for a `delete` when its turn does not come, and when it alone knows of processes
        that may be left: in no cgroup.
        """
        if self.start_fd >= 0:
            posix.close(self.start_fd)
            self.start_fd = -1
        changes, self.undoing = self.undoing, []
        for change in reversed(changes):  # while the container's namespaces are there
            self._attempt(change.undo)
        if self._attempt(self._abandon) or self.state.cgroup.directories():
            self._attempt(self._destroy)

    def _attempt(self, step: Callable[[], list[str]]) -> bool:
        """Whether a step of the undoing came to its end; complaints are told."""
        is_done = False
        try:
            complaints = step()
            is_done = True
        except (CortenError, OSError) as error:
            complaints = [f"container {self.state.id} could not be taken back: {sentence(error)}"]
        for complaint in complaints:
            self.options.warn(complaint)
        return is_done

    def _abandon(self) -> list[str]:
        if self.running is not None:
            self.running.abandon()
        return []

    def _destroy(self) -> list[str]:
        return destroy(self.state, run_hooks=self.hooks_ran)


def let_go(fifo: str) -> None:
    """Starts a container whose init waits; the FIFO goes."""
    fd = posix.open(fifo, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    posix.write(fd, b"\0")
    posix.close(fd)
    posix.unlink(fifo)


def _make_place(config: Config, bundle: str) -> None:
    """The directory at which hooks find a root that comes as a descriptor; whoever made the bundle removes it."""
    hooked = config.hooks.prestart or config.hooks.create_runtime or config.hooks.create_container
    path = config.root.path if config.root is not None else ""
    place = path if path.startswith("/") else f"{bundle}/{path}"
    if hooked and place.startswith(f"{bundle}/"):
        files.make_directories(place)


def exec_deadline(plan: Plan) -> float:
    """Until when (time.monotonic) a plan has to be executed; 0.0 with hooks, which have their own time, or any."""
    return 0.0 if has_hooks(plan) else time.monotonic() + EXEC_TIMEOUT_S


def has_hooks(plan: Plan) -> bool:
    """Whether the launcher or the process itself runs hooks."""
    return any(isinstance(op, Hook) for op in plan.ops)


def open_child(pid: int) -> int:
    """A pidfd of `pid`, -1 unless it is a child of this process that has not been reaped."""
    if not 0 < pid <= PID_LAST:
        return -1
    try:
        pidfd = posix.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (ENOENT, ESRCH, EINVAL):
            raise
        return -1
    try:
        posix.waitid(posix.P_PIDFD, pidfd, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
    except ChildProcessError:
        posix.close(pidfd)
        return -1
    return pidfd


def write_pid_file(path: str, pid: int) -> None:
    """The pid in decimal without a line end, as runc writes it; a reader never sees half of it."""
    files.replace(files.absolute(path), str(pid).encode(), 0o644)


def spawn_plan(host: Host, plan: Plan, fds: dict[str, int], stdio: tuple[int, int, int]) -> Running:
    """Spawns a plan that has nothing to wait for and follows it to execve; raises LaunchFailure."""
    trace = Trace()
    trace.plan = plan
    running = Running(host.launcher.spawn(plan, fds, stdio=stdio), trace, parent=host.parent)
    try:
        running.follow_to_exec()
    except BaseException:
        running.abandon()
        raise
    running.reap_launcher()
    return running
