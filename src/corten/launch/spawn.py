"""Start a launch plan, and read what the launcher says of it.

The launcher runs from a sealed memfd, so that `/proc/self/exe` leads nowhere (CVE-2019-5736); the plan goes to it in
another one.  It is started by posix_spawn(3), which in glibc is one clone with CLONE_VFORK and CLONE_VM: about 200 µs.
The launcher itself gives every signal its default (Python ignores SIGPIPE and SIGXFSZ).
The launched process is the caller's own child (CLONE_PARENT) and ends as any child does: with SIGCHLD, and reaped by
waitid(P_PIDFD) or waitpid(2).

The trace pipe carries records of 16 bytes: u32 op index, u32 kind, u64 value.

    kind         value                                        event
    0            CLOCK_MONOTONIC nanoseconds, step begins     Step
    1 … 4095     detail; the kind is the errno                Failed
    65536        pid of the launched process                  Started
    65537        nanoseconds                                  Waiting
    65538        8 bytes of the kernel's explanation          (kept for the Failed that follows)
    65539        pid of the launcher that goes on             (kept: CloneLauncher; there is one at most)
    end of file  the plan is over: executed, failed or killed Done
"""

from __future__ import annotations

import fcntl
import posix
from _struct import Struct

from corten.errors import Internal
from corten.launch.encode import encode
from corten.launch.ops import CloneLauncher, Plan
from corten.spec.reader import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RECORD = Struct("=IIQ")
KIND_STEP, KIND_ERRNO_LAST, KIND_STARTED, KIND_WAITING, KIND_TEXT = 0, 4095, 65536, 65537, 65538
KIND_LAUNCHER = 65539

F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 0x1, 0x2, 0x10
EINVAL, SIGKILL = 22, 9
TEXT_LAST = 1088  # bytes of an explanation that are kept
EARLY_LAST = 64  # events kept until `Started`


class Started(Value):
    """The launched process exists; `pid` as the spawner sees it, not yet reaped, so pidfd_open(2) is safe."""

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        self.pid = pid


class Step(Value):
    """Step `index` (from 0) began at `ns` (CLOCK_MONOTONIC)."""

    __slots__ = ("index", "ns")

    def __init__(self, index: int, ns: int) -> None:
        self.index = index
        self.ns = ns


class Waiting(Value):
    """The process waits for a byte at step `index`, which is a `Wait` op."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Failed(Value):
    """Step `index` failed with `errno`; `detail` and `text` (the kernel's explanation) go to `sentence`."""

    __slots__ = ("detail", "errno", "index", "text")

    def __init__(self, index: int, errno: int, detail: int = 0, text: str = "") -> None:
        self.index = index
        self.errno = errno
        self.detail = detail
        self.text = text


class Done(Value):
    """The trace is over: without a `Failed` before, the process was executed or killed."""

    __slots__ = ()


if TYPE_CHECKING:
    Event = Started | Step | Waiting | Failed | Done


class TraceReader:
    """Turns the bytes of a trace pipe into events; keeps an incomplete record for the next call.

    Launcher and child write to one pipe: a `Waiting` that overtook `Started` is given after it, unless its step comes
    before the clone, at the index `clone`: there it is the launcher that waits.
    `second_pid` is the launcher that went on after a `CloneLauncher`, else 0: its record is written before there is a
    child that a container could see, so of a plan that has this op the first one is true, and no other counts.
    """

    __slots__ = ("_clone", "_early", "_rest", "_started", "_text", "second_pid")

    def __init__(self, clone: int = 0) -> None:
        self.second_pid = 0
        self._clone = clone
        self._rest = b""
        self._text = b""
        self._started = False
        self._early: list[Event] = []

    def has_started(self) -> None:
        """For the rest of a pipe whose beginning, with `Started`, somebody else has read."""
        self._started = True

    def feed(self, data: bytes) -> list[Event]:
        """The events in `data`; b'' is end of file and gives `Done`."""
        if not data:
            return [Done()]
        data = self._rest + data
        whole = len(data) - len(data) % RECORD.size
        self._rest = data[whole:]
        events: list[Event] = []
        for index, kind, value in RECORD.iter_unpack(data[:whole]):
            if kind == KIND_TEXT:
                self._text = (self._text + value.to_bytes(8, "little").rstrip(b"\0"))[:TEXT_LAST]
                continue
            if kind == KIND_LAUNCHER:
                self.second_pid = self.second_pid or value
                continue
            event = self._event(index, kind, value)
            if event is None:
                continue
            if kind == KIND_WAITING and not self._started and index >= self._clone:
                self._early = [*self._early, event][:EARLY_LAST]
                continue
            events.append(event)
            if kind == KIND_STARTED:
                self._started = True
                events += self._early
                self._early = []
        return events

    def _event(self, index: int, kind: int, value: int) -> Event | None:
        """None for a kind that no launcher writes: a container can, and must not end the start with it."""
        if kind == KIND_STEP:
            return Step(index, value)
        if kind == KIND_STARTED:
            return Started(value)
        if kind == KIND_WAITING:
            return Waiting(index)
        if kind <= KIND_ERRNO_LAST:
            return Failed(index, kind, value, self._text.decode("utf-8", "replace").strip())
        return None


class Launch:
    """A started launcher.  Owns `trace_fd` (read end, close-on-exec) until `detach`; the caller reaps.

    `child_pid` is set by who takes the launched process for its own: no launcher, whatever group it is in.
    """

    __slots__ = ("_clones", "child_pid", "launcher_pid", "plan", "reader", "trace_fd")

    def __init__(self, plan: Plan, launcher_pid: int, trace_fd: int) -> None:
        self.plan = plan
        self.launcher_pid = launcher_pid
        self.child_pid = 0
        self.trace_fd = trace_fd
        self.reader = TraceReader(plan.clone_index())
        self._clones = any(isinstance(op, CloneLauncher) for op in plan.ops)

    @property
    def second_pid(self) -> int:
        """The launcher after its `CloneLauncher`, 0 before the trace says so."""
        return self.reader.second_pid if self._clones else 0

    @property
    def acting_pid(self) -> int:
        """Who goes through the plan before its clone: the launcher, or the second one."""
        return self.second_pid or self.launcher_pid

    def events(self) -> list[Event]:
        """Blocks for the next events; `Done` once at the end."""
        return self.reader.feed(posix.read(self.trace_fd, 65536))

    def reap_launcher(self) -> int:
        """Wait for the launcher itself, which ends right after `Started` or `Failed`; its wait status.

        After a `CloneLauncher` there are two, and the status is that of the second.
        """
        status = posix.waitpid(self.launcher_pid, 0)[1]
        if self.second_pid:
            return posix.waitpid(self.second_pid, 0)[1]
        return self._reap_group() or status

    def kill_launcher(self) -> None:
        """Kill and reap the launcher, wherever it is."""
        posix.kill(self.launcher_pid, SIGKILL)
        if self.second_pid:
            posix.kill(self.second_pid, SIGKILL)
        elif self._clones:
            _kill_group(self.launcher_pid)  # while its pid is not free yet
        self.reap_launcher()

    def close(self) -> None:
        """Close the trace pipe; a second call does nothing."""
        if self.trace_fd >= 0:
            posix.close(self.trace_fd)
            self.trace_fd = -1

    def detach(self) -> int:
        """Hand the trace pipe to the caller."""
        fd, self.trace_fd = self.trace_fd, -1
        return fd

    def _reap_group(self) -> int:
        """Wait for what is in the first launcher's process group: a second that is not named yet, killed or dead.

        Its wait status, 0 where there is none.
        """
        status = 0
        while self._clones:
            try:
                status = posix.waitpid(-self.launcher_pid, 0)[1]
            except ChildProcessError:
                break
        return status


def _kill_group(group: int) -> None:
    try:
        posix.killpg(group, SIGKILL)
    except ProcessLookupError:
        return  # it was killed before it had one


def sentence(plan: Plan, index: int, errno: int, detail: int = 0, text: str = "") -> str:
    """What went wrong at step `index`, for people: `mount /a on /b: no such file or directory (step 23 of 61)`.

    Where Docker's users know runc's words (executable lookup, working directory, rlimits), they are used unchanged.
    """
    op = plan.ops[index]
    failure = op.failure(errno, detail)
    if op.exact:
        return failure
    why = f"{op.joint}{text}" if text else ""
    return f"{failure}{why} (step {index + 1} of {len(plan.ops)})"


def launcher_path() -> str:
    """The built launcher: beside the installed package, else in the checkout's `build`."""
    here = __file__.rpartition("/")[0]
    installed = f"{here}/corten-launch"
    try:
        posix.stat(installed)
    except FileNotFoundError:
        # src/corten/launch → the repository
        return f"{here}/../../../build/launcher/corten-launch"
    return installed


class Launcher:
    """The launcher program in a sealed memfd of this process, made once; each spawn executes a copy of its own."""

    __slots__ = ("fd",)

    def __init__(self, path: str = "") -> None:
        with open(path or launcher_path(), "rb", buffering=0) as file:
            program = file.readall()
        self.fd = sealed_memfd("corten-launch", program, executable=True)

    def spawn(
        self,
        plan: Plan,
        fds: Mapping[str, int],
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        transform: Callable[[Plan], Plan] | None = None,
    ) -> Launch:
        """Start `plan`; `fds` fills its inputs.  All descriptors stay the caller's.

        `transform` is for fault tests: it may put a `Stop` into the plan.  Raises OSError when the launcher
        cannot be started and `Internal` when an input is missing.
        """
        if transform is not None:
            plan = transform(plan)
        read_fd, write_fd = posix.pipe2(posix.O_CLOEXEC)
        held = [write_fd]
        try:
            trace_fd = _above_stdio(write_fd, held)
            inputs = {name: _above_stdio(fds[name], held) for name in plan.inputs if name in fds}
            held.append(sealed_memfd("corten-plan", encode(plan, inputs, trace_fd)))
            plan_fd = _above_stdio(held[-1], held)
            actions = [(posix.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(_stdio(stdio, held))]
            kept = (trace_fd, plan_fd, *inputs.values(), *range(3, 3 + plan.preserve_fds))
            # dup2 of a descriptor onto itself clears its close-on-exec flag in the child alone
            actions += [(posix.POSIX_SPAWN_DUP2, fd, fd) for fd in dict.fromkeys(kept)]
            program_fd = sealed_copy(self.fd)
            held.append(program_fd)
            pid = posix.posix_spawn(
                f"/proc/self/fd/{program_fd}",
                ["corten-launch", str(plan_fd)],
                {},
                file_actions=actions,
                setsigmask=(),
            )
        except BaseException:
            posix.close(read_fd)
            raise
        finally:
            for fd in held:
                posix.close(fd)
        return Launch(plan, pid, read_fd)


def sealed_memfd(name: str, data: bytes, *, executable: bool = False) -> int:
    """A memfd with `data` that nobody can change any more; the caller owns it (memfd_create(2))."""
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        fd = posix.memfd_create(name, flags | (MFD_EXEC if executable else 0))
    except OSError as error:
        if error.errno != EINVAL:
            raise
        fd = posix.memfd_create(name, flags)  # before Linux 6.3 there is no MFD_EXEC, and every memfd can be executed
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd


def sealed_copy(program_fd: int) -> int:
    """A sealed memfd with the program of `program_fd`, for one execve; the caller owns it.

    A seal does not keep a container that catches its own launcher (through /proc/PID/exe) from opening the file for
    writing, and execve refuses a file that anybody holds so (ETXTBSY): with a copy for each spawn it stops nobody.
    """
    size = posix.fstat(program_fd).st_size
    writable = sealed_memfd("corten-launch", posix.pread(program_fd, size, 0), executable=True)
    try:
        return posix.open(f"/proc/self/fd/{writable}", posix.O_RDONLY | posix.O_CLOEXEC)
    finally:
        posix.close(writable)


def _above_stdio(fd: int, held: list[int]) -> int:
    """`fd`, or a copy above 2 where it would be overwritten by stdio; copies and new descriptors go to `held`."""
    if fd < 0:
        raise Internal(f"launch plan: bad descriptor {fd}")
    if fd <= 2:
        fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        held.append(fd)
    return fd


def _stdio(stdio: tuple[int, int, int], held: list[int]) -> tuple[int, ...]:
    """Three descriptors such that dup2 one after the other onto 0, 1, 2 overwrites none that is still needed."""
    return tuple(fd if fd == target else _above_stdio(fd, held) for target, fd in enumerate(stdio))
