"""Launches by a helper whose processes are the children of a shim.

The helper decides, prepares and follows; the one thing that it cannot do is to be the parent.  So the launcher is
spawned by the shim, on request, from descriptors that are ready: (program, plan, trace, inputs…).  Their numbers in the
shim are unknown here; the shim writes them into the plan at `offsets` and seals it.

    helper → shim   {"do": "spawn", "offsets": [n…]} + descriptors    answered with {"pid": n} or {"error": {…}}
    helper → shim   any message with {"reap": [n…]}                   children that are dead

A shim that died, or has shut down its side because nobody wants the result, is seen at the socket: the launch is given
up.
"""

from __future__ import annotations

import contextlib
import os
import posix
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from corten.errors import Internal
from corten.launch import spawn
from corten.launch.context import LIFE
from corten.launch.encode import HEADER, MAGIC, encode
from corten.runtime import launching
from corten.shim import protocol

if TYPE_CHECKING:
    from corten.launch.ops import Plan

TRACE_OFFSET = len(MAGIC) + 2 * 4  # in the header: magic, ops, slots, then the trace descriptor
_MARK = 1 << 30  # no descriptor has such a number
_SO_PEERCRED_BYTES = struct.calcsize("3i")
_STAT_PARENT, _STAT_GROUP, _STAT_EXIT_CODE = 1, 2, 49  # proc_pid_stat(5): fields 4, 5 and 52, from behind the name


class Caller:
    """The shim at the other end of a session's socket, which stays the session's."""

    __slots__ = ("dead", "pid", "socket", "uid")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.dead: list[int] = []  # children of the shim that it is to collect with the next message
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED_BYTES)
        self.pid, self.uid, _ = struct.unpack("3i", credentials)

    def tell(self, message: protocol.Message, fds: tuple[int, ...] = ()) -> None:
        """Raises OSError when the shim is dead."""
        if self.dead:
            message = {**message, "reap": self.dead}
            self.dead = []
        protocol.send(self.socket, protocol.encode(message), fds)

    def ask(self, message: protocol.Message, fds: tuple[int, ...]) -> protocol.Message:
        """Raises the shim's error, or Internal when it does not wait any more."""
        try:
            self.tell(message, fds)
            body, received = protocol.receive(self.socket)
        except OSError:
            body, received = b"", []
        protocol.close_all(received)
        if not body:
            raise Internal(f"{launching.START_FAILURE}: {launching.GIVEN_UP}")
        answer = protocol.decode(body)
        if "error" in answer:
            protocol.raise_failure(answer["error"])
        return answer


class ShimParent(launching.Parent):
    """The shim is the parent of what is launched."""

    __slots__ = ("_caller",)

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller.socket.fileno())
        self._caller = caller

    def open(self, pid: int) -> int:
        """A pidfd of `pid`, -1 unless it is a child of the shim."""
        if not 0 < pid <= launching.PID_LAST:
            return -1
        try:
            pidfd = posix.pidfd_open(pid)
        except OSError:
            return -1
        fields = _stat(pid)
        if fields and int(fields[_STAT_PARENT]) == self._caller.pid:
            return pidfd
        posix.close(pidfd)
        return -1

    def reap(self, pid: int, pidfd: int) -> None:
        """Waits for its end and has the shim collect it."""
        _wait_dead(pidfd)
        self._caller.dead.append(pid)


class RemoteLaunch(spawn.Launch):
    """A launcher that is the shim's child; owns a pidfd of it until it is reaped."""

    __slots__ = ("_caller", "_pidfd")

    def __init__(self, plan: Plan, caller: Caller, launcher_pid: int, trace_fd: int) -> None:
        super().__init__(plan, launcher_pid, trace_fd)
        self._caller = caller
        self._pidfd = posix.pidfd_open(launcher_pid)  # a zombie at worst: the shim reaps when told to

    def kill_launcher(self) -> None:
        """As the base has it, by descriptor: the number may be somebody else's once the shim is dead."""
        self._kill()
        self.reap_launcher()

    def reap_launcher(self) -> int:
        """As the base has it; the status is read from the zombie.  When nobody waits, one that lives is killed."""
        status = self._collect(self.launcher_pid, self._pidfd)
        self._pidfd = -1
        for pid in self._seconds():
            status = self._collect(pid, posix.pidfd_open(pid))
        return status

    def _kill(self) -> None:
        for pid in self._seconds():
            posix.kill(pid, signal.SIGKILL)
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _collect(self, pid: int, pidfd: int) -> int:
        try:
            if not _wait_dead(pidfd, self._caller.socket.fileno()):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _wait_dead(pidfd)
            fields = _stat(pid)
        finally:
            posix.close(pidfd)
        self._caller.dead.append(pid)
        return int(fields[_STAT_EXIT_CODE]) if fields else 0

    def _seconds(self) -> list[int]:
        """The launcher after its `CloneLauncher`, named or still in the first one's group: a child of the shim.

        In that group is also, until its Setsid, what it launches: collected here as well, unless somebody has it.
        """
        if not self._clones:
            return []
        others = (0, self.launcher_pid, self.child_pid)
        found = [pid for pid in (self.second_pid, *_children(self._caller.pid)) if pid not in others]
        rows = {pid: _stat(pid) for pid in found}
        return [
            pid
            for pid, fields in rows.items()
            if fields
            and int(fields[_STAT_PARENT]) == self._caller.pid
            and (pid == self.second_pid or int(fields[_STAT_GROUP]) == self.launcher_pid)
        ]


class RemoteLauncher(spawn.Launcher):
    """`Launcher` whose spawn is done by the shim; `program` lends its descriptor."""

    __slots__ = ("_caller",)

    def __init__(self, program: spawn.Launcher, caller: Caller) -> None:
        self.fd = program.fd
        self._caller = caller

    def spawn(
        self,
        plan: Plan,
        fds: Mapping[str, int],
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        transform: Callable[[Plan], Plan] | None = None,
    ) -> spawn.Launch:
        """As the base has it; stdio are the descriptors that the shim has ready."""
        if transform is not None:
            plan = transform(plan)
        life = select.epoll()
        life.register(self._caller.socket, 0)  # the end of the shim's side comes unasked: EPOLLHUP
        fds = {**fds, LIFE: life.fileno()}
        inputs = [name for name in plan.inputs if name in fds]
        marks = {name: _MARK + index for index, name in enumerate(inputs)}
        data = encode(plan, marks, -1)
        message = {"do": "spawn", "offsets": [TRACE_OFFSET, *_offsets(data, len(inputs))]}
        read_fd, write_fd = posix.pipe2(posix.O_CLOEXEC)
        held = [write_fd]
        try:
            plan_fd = posix.memfd_create("corten-plan", spawn.MFD_CLOEXEC | spawn.MFD_ALLOW_SEALING)
            held.append(plan_fd)
            posix.write(plan_fd, data)
            held.append(spawn.sealed_copy(self.fd))
            sent = (held[-1], plan_fd, write_fd, *(fds[name] for name in inputs))
            pid = self._caller.ask(message, sent)["pid"]
            return RemoteLaunch(plan, self._caller, pid, read_fd)
        except BaseException:
            posix.close(read_fd)
            raise
        finally:
            protocol.close_all(held)
            life.close()


def _offsets(data: bytes, count: int) -> list[int]:
    """Where in an encoded plan the descriptors of its inputs stand, in their order."""
    slots = struct.unpack_from("=I", data, len(MAGIC) + 4)[0]
    table = struct.unpack_from(f"={slots}i", data, HEADER.size)
    return [HEADER.size + 4 * table.index(_MARK + index) for index in range(count)]


def _wait_dead(pidfd: int, abort_fd: int = -1) -> bool:
    """Whether the process is dead; False when `abort_fd` is readable and it lives."""
    poll = select.poll()
    for fd in (pidfd, abort_fd):
        if fd >= 0:
            poll.register(fd, select.POLLIN)
    return pidfd in {fd for fd, _ in poll.poll()}


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb", buffering=0) as file:
            return [int(word) for word in bytes(file.read()).split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name; [] when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return bytes(file.read()).rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_ours(caller: Caller) -> bool:
    """Whether the peer has this process's user id."""
    return bool(caller.uid == os.geteuid())
