"""The OCI verbs as functions: what the command and the shim call.

Every function takes the state root and the container's id, and raises `corten.errors` kinds whose texts are runc's.
Nothing here prints, and nothing is kept between calls: the state directory and the kernel are the memory.
"""

from __future__ import annotations

import posix

from corten.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from corten.runtime import ending, fast, managers
from corten.runtime.cgroups import Cgroup
from corten.runtime.options import CreateOptions, ExecOptions, ignore
from corten.runtime.state import CREATED, RUNNING, START_FIFO, STOPPED, State, allow, check_id
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.launch.ops import Plan
    from corten.launch.spawn import TraceReader
    from corten.runtime.launching import Running
    from corten.runtime.prepare import Host, Prepared
    from corten.runtime.trace import Trace
    from corten.spec.resources import Resources

__all__ = [
    "CreateOptions",
    "Created",
    "ExecOptions",
    "Executed",
    "create",
    "delete",
    "exec",
    "kill",
    "pause",
    "resume",
    "start",
    "state",
    "update",
]

SIGKILL = 9
ENXIO = 6
# of an init that waits for its start: what ends it, and what does nothing to it
ENDING = frozenset(
    fast.SIGNALS[name]
    for name in ("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "TERM", "STKFLT", "SYS")
)
PASSED_OVER = frozenset(
    fast.SIGNALS[name] for name in ("USR1", "USR2", "PIPE", "ALRM", "XCPU", "XFSZ", "VTALRM", "PROF", "IO", "PWR")
)
FIRST_REALTIME, LAST_SIGNAL = 35, 64  # of those before, the C library keeps two for itself


class Created:
    """A container that waits for its start (or runs, with `wait_for_start=False`).

    The caller owns `pidfd` and `trace_fd` (-1 when the plan is over) and reaps `pid`.  What is read from `trace_fd`
    goes through `reader.feed` to `trace.add`.
    """

    __slots__ = ("cgroup", "id", "pid", "pidfd", "plan", "reader", "state", "trace", "trace_fd")

    def __init__(self, state: State, cgroup: Cgroup, running: Running) -> None:
        self.id = state.id
        self.state = state
        self.cgroup = cgroup
        self.pid = running.pid
        self.pidfd = running.pidfd
        self.plan: Plan = running.launch.plan
        self.reader: TraceReader = running.launch.reader
        self.trace: Trace = running.trace
        if running.executed:
            running.launch.close()
        self.trace_fd = running.launch.detach()


class Executed:
    """A process that `exec` started; the caller owns `pidfd` and reaps `pid`."""

    __slots__ = ("pid", "pidfd", "plan", "trace")

    def __init__(self, running: Running) -> None:
        self.pid = running.pid
        self.pidfd = running.pidfd
        self.plan: Plan = running.launch.plan
        self.trace: Trace = running.trace


def plan(options: CreateOptions, host: Host) -> Prepared:
    """What `create` would do; nothing is made."""
    from corten.runtime.prepare import prepare

    check_id(options.id)
    return prepare(options, host)


def create(options: CreateOptions, host: Host | None = None) -> Created:
    """Makes a container up to the moment before execve.  A failure leaves nothing behind."""
    from corten.runtime import launching
    from corten.runtime.prepare import Host

    check_id(options.id)
    making = launching.Creation(options, host or Host())
    running = making.run()
    if options.pid_file:
        try:
            launching.write_pid_file(options.pid_file, running.pid)
        except OSError as error:
            making.undo()
            raise InvalidArgument(f"pid file {options.pid_file}: {files.why(error)}") from error
    making.settle()
    return Created(making.state, making.cgroup, running)


def start(root: str, id: str, abort_fd: int = -1, warn: Callable[[str], None] = ignore) -> None:
    """Lets a created container execute its process, then runs the poststart hooks, as long as `abort_fd` is silent.

    A poststart hook that fails ends the container (runtime-spec runtime.md, "Lifecycle", step 8); `warn` is told where
    that fails, too.
    """
    record = State.load(root, id)
    allow("start", id, record.status())
    path = record.path(START_FIFO)
    try:
        fifo = posix.open(path, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except FileNotFoundError:
        allow("start", id, RUNNING)
    except OSError as error:
        if error.errno != ENXIO:
            raise
        allow("start", id, STOPPED)  # nobody has the FIFO open: the init is dead
    else:
        posix.write(fifo, b"\0")
        posix.close(fifo)
        try:
            posix.unlink(path)
        except FileNotFoundError:
            allow("start", id, RUNNING)  # another start was at it at the same time, and runs the hooks
    try:
        run_poststart(record, abort_fd)
    except FailedPrecondition:
        ending.take_back(record, warn, keep=True)
        raise


def run_poststart(record: State, abort_fd: int = -1) -> None:
    """The poststart hooks; raises FailedPrecondition for the first that fails, and the caller ends the container."""
    if not record.poststart:
        return
    from corten.runtime import hooks

    hooks.run_all(record.poststart, record.oci(RUNNING), record.bundle, abort_fd)


def state(root: str, id: str) -> State:
    """The record of a container; ask it for its `status()`."""
    return State.load(root, id)


def kill(root: str, id: str, signum: int, all: bool = False) -> None:
    """Sends a signal to the init, or with `all` to every process; `all` may be asked of a stopped container."""
    record = State.load(root, id)
    if all:
        Cgroup(record.cgroup).check_there("signal every process")
        sent = before_start(signum) if record.status() == CREATED else signum
        managers.of(record).group(record).signal_all(sent)
        return
    status = record.status()
    allow("kill", id, status)
    if status == CREATED:
        signum = before_start(signum)
    pidfd = record.open_pidfd()
    if pidfd < 0:
        allow("kill", id, STOPPED)
    try:
        fast.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        allow("kill", id, STOPPED)
    except OSError as error:
        raise InvalidArgument(f"unable to signal init: {files.why(error)}") from error
    finally:
        posix.close(pidfd)
    if signum == SIGKILL:
        _after_kill(record)


def before_start(signum: int) -> int:
    """The signal that does to an init that waits for its start what `signum` does to runc's.

    That one is a Go program: some signals end it, the others that would end a process by default are passed over.
    Ours is a plain process: as pid 1 of a namespace it would ignore all of them, else none.
    """
    if signum in ENDING:
        return SIGKILL
    return 0 if signum in PASSED_OVER or FIRST_REALTIME <= signum <= LAST_SIGNAL else signum


def _after_kill(record: State) -> None:
    """A killed init takes its pid namespace along; a shared one, and the v1 freezer, need help."""
    group = Cgroup(record.cgroup)
    if not record.private_pid:
        group.kill_all()
    elif not record.cgroup.v2 and group.is_frozen():
        group.thaw()


def delete(root: str, id: str, force: bool = False) -> list[str]:
    """Removes a stopped or created container, with `force` any; complaints of poststop hooks, and of
    network devices that could not come back, are returned, or told by what is raised after them: Unfinished.

    With `force` an unknown id is fine, and a damaged record is removed as far as it can be read.
    """
    try:
        record = State.load(root, id)
    except (NotFound, Internal) as error:
        if not force or isinstance(error, InvalidArgument):
            raise
        files.remove_tree(f"{root}/{id}")
        return []
    status = record.status()
    if not force and status != CREATED:
        allow("delete", id, status)
    with ending.Complaints() as complaints:
        if force or status != STOPPED:
            complaints.extend(ending.end(record))
        complaints.extend(ending.destroy(record))
    return complaints


def exec(options: ExecOptions, host: Host | None = None) -> Executed:
    """Starts another process in a container; returns when it has been executed.

    Refused before anything is spawned when the container is paused: the process would freeze halfway.
    """
    from corten.runtime import executing
    from corten.runtime.prepare import Host

    return Executed(executing.launch(options, host or Host()))


def pause(root: str, id: str) -> None:
    """Freezes every process; returns when all stand still."""
    record = State.load(root, id)
    allow("pause", id, record.status())
    Cgroup(record.cgroup).freeze()


def resume(root: str, id: str) -> None:
    """Thaws a paused container."""
    record = State.load(root, id)
    allow("resume", id, record.status())
    Cgroup(record.cgroup).thaw()


def update(root: str, id: str, resources: Resources) -> None:
    """Writes new limits; what `resources` leaves out stays."""
    record = State.load(root, id)
    allow("update", id, record.status())
    managers.of(record).update(record, resources)
    if resources.pids_limit:
        record.pids_limit, record.pids_limit_origin = max(resources.pids_limit, -1), "update"
        record.save()
