"""The helper: a warm process that does the built-in runtime's work for all shims.

A shim is small because it touches little: it neither reads a bundle nor compiles a plan.  It connects to
`<exec-root>/helper.sock`, hands over what is to be done, spawns the launcher when told to (corten.shim.remote) and gets
what it has to keep: pid, pidfd, trace pipe, root mount.  Nothing here blocks a shim's loop, and a warm process needs a
tenth of the time that a freshly forked one spends on its first touch of every page.

    session   one connection, one thread; ops one after the other
      create  {id, dir, rootfs, default_pids_limit} [+ console]   → {pid, phases, cgroup} + pidfd, trace, rootfs
      start   {id, dir, rootfs…} + trace                          → {}; in the session of `create` without them
      exec    {id, dir, process} [+ console]                      → {pid} + pidfd
      delete, pause, resume, update   {id, dir, …}                → {}
      ping    {}                                              → {}
      stay    {}                                              → {}; the session's last op: it is kept open

The helper remembers nothing that a shim could not ask of another one: state.json and the kernel are the memory.  It is
forked from the zygote, which listens for it and makes a new one when it dies.  A session's end means that its result is
not wanted: what is under way is killed and undone.

When the zygote is gone the helper ends, unless shims have asked it to stay: they have health checks to do.  Then it
ends with the last of them, or when another zygote's helper has taken its place at the socket's path.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from corten.errors import CortenError, Internal, NotFound
from corten.errors import NotImplemented as NotKnown
from corten.launch import spawn
from corten.runtime import container, fast, launching
from corten.runtime.ending import Unfinished
from corten.runtime.prepare import Host, prepare
from corten.runtime.state import TRACE_FILE, State
from corten.runtime.trace import Trace, explain
from corten.shim import protocol, remote
from corten.shim.complain import complain, remark
from corten.shim.keeper import give_sign
from corten.shim.protocol import Message
from corten.shim.request import Request
from corten.shim.rootfs import RootMount, make_detached
from corten.spec.process import parse_process
from corten.spec.resources import parse_resources
from corten.sys import files, openfiles

if TYPE_CHECKING:
    from corten.launch.ops import Plan

STATE = "runtime"  # below a task's directory
PARENT = "shim"  # what is launched dies with its parent
_BREATH_S = 0.05
_PIPE_BYTES = 65536
_MAX_STAYS = 16384  # a descriptor each, and half of all at most; more shims try again now and then
_WIDOW_S = 1.0  # between looks for another helper, without a zygote
TRACE = "trace"  # of a task's directory, for people; that of the state directory is the runtime's


Answer = tuple[Message, list[int]]
Verb = Callable[["Session", Request], Answer]


class Waiting:
    """A created container between `create` and `start`; owns the trace pipe."""

    __slots__ = ("phases", "plan", "reader", "trace", "trace_fd")

    def __init__(self, plan: Plan, trace: Trace, reader: spawn.TraceReader, trace_fd: int) -> None:
        self.plan = plan
        self.trace = trace
        self.reader = reader
        self.trace_fd = trace_fd
        self.phases: list[tuple[str, int, int]] = []

    def close(self) -> None:
        """A second call does nothing."""
        if self.trace_fd >= 0:
            os.close(self.trace_fd)
            self.trace_fd = -1


class Session:
    """One connection of a shim."""

    def __init__(self, sock: socket.socket, host: Host, verbs: Mapping[str, Verb] | None = None) -> None:
        """Takes the socket.  `verbs`: others than the runtime's."""
        self._socket = sock
        self._caller = remote.Caller(sock)
        self._verbs = verbs or VERBS
        launcher = remote.RemoteLauncher(host.launcher, self._caller)
        parent = remote.ShimParent(self._caller)
        self.is_stay = False
        self.is_over = False  # after `start`: the shim waits for the end to know that the trace is there
        self.host = Host(host.facts, host.seccomp_cache, launcher=launcher, parent=parent)
        self._waiting: Waiting | None = None
        self._started: Waiting | None = None

    def close(self) -> None:
        """What was made stays, the result has been taken."""
        if self._waiting is not None:
            self._waiting.close()
        self._socket.close()

    def refuse(self, error: CortenError) -> None:
        """End it before its first request."""
        self._answer({"error": protocol.failure(error)}, [])
        self.close()

    def receive(self) -> Request | None:
        """The next request; None at the end."""
        try:
            body, fds = protocol.receive(self._socket)
        except OSError:
            return None
        if not body:
            return None
        return Request(protocol.decode(body), fds)

    def serve(self, request: Request) -> None:
        """One request and its answer."""
        try:
            verb = self._verbs.get(request.op)
            if verb is None:
                raise NotKnown(f"unknown op {request.op!r}")
            answer, fds = verb(self, request)
        except CortenError as error:
            self._answer({"error": protocol.failure(error)}, [])
        except OSError as error:
            complain(error)
            self._answer({"error": protocol.failure(Internal(files.sentence(error)))}, [])
        else:
            if not self._answer({"ok": answer}, fds) and request.op == "create":
                _delete(request, force=True)
            if self._started is not None:  # not before the answer: it is for people
                self.is_over = True
                self._write_trace(self._started, f"{request.string('dir')}/{TRACE}")
        finally:
            request.close()

    def _answer(self, message: Message, fds: list[int]) -> bool:
        """False when the shim is dead; the descriptors are closed here."""
        try:
            self._caller.tell(message, tuple(fds))
        except OSError:
            return False
        finally:
            protocol.close_all(fds)
        return True

    # Verbs

    def create(self, request: Request) -> Answer:
        """The container, up to its waiting init."""
        phases: list[tuple[str, int, int]] = []
        rootfs_fd = -1
        try:
            if "rootfs" in request.message:
                began_ns = time.monotonic_ns()
                rootfs_fd = make_detached(_root_mount(request.nested("rootfs")), f"{request.string('dir')}/rootfs")
                phases.append(("overlay", began_ns, time.monotonic_ns()))
            created = container.create(_create_options(request, rootfs_fd), self.host)
        except BaseException:
            if rootfs_fd >= 0:
                os.close(rootfs_fd)
            raise
        waiting = self._waiting = Waiting(created.plan, created.trace, created.reader, created.trace_fd)
        waiting.phases = phases
        answer = {
            "pid": created.pid,
            "phases": phases + created.trace.phases,
            "cgroup": created.cgroup.paths.to_obj(),
        }
        return answer, [created.pidfd, os.dup(created.trace_fd), *([rootfs_fd] if rootfs_fd >= 0 else [])]

    def start(self, request: Request) -> Answer:
        """The container's program; raises LaunchFailure when the last step, execve, failed."""
        began_ns = time.monotonic_ns()
        waiting = self._waiting or self._resume(request)
        self._waiting = None
        try:
            container.start(_root(request), request.string("id"), self._socket.fileno(), remark)
            self._follow(waiting)
        finally:
            waiting.close()
        waiting.phases += [*waiting.trace.phases, ("start", began_ns, time.monotonic_ns())]
        self._started = waiting
        return {}, []

    def _write_trace(self, waiting: Waiting, path: str) -> None:
        rows = [{"name": name, "start_ns": start, "duration_ns": end - start} for name, start, end in waiting.phases]
        steps = explain(waiting.trace.to_bytes())["steps"]
        with contextlib.suppress(FileNotFoundError):  # the container is gone already, with its directory
            files.replace(path, fast.dump_bytes({"phases": rows, "steps": steps}))

    def _resume(self, request: Request) -> Waiting:
        """What the helper that made the container knew: the plan again, and the trace as far as it was saved."""
        root_fd = 0 if "rootfs" in request.message else -1
        plan = prepare(_create_options(request, root_fd), self.host).plan
        trace = Trace()
        trace.plan = plan
        saved = fast.loads(files.read(f"{_root(request)}/{request.string('id')}/{TRACE_FILE}"))
        trace.steps = [(index, ns) for index, ns in saved["steps"]]
        trace.phases = [(name, start, end) for name, start, end in saved["phases"]]
        reader = spawn.TraceReader()
        reader.has_started()
        return Waiting(plan, trace, reader, request.take_fd())

    def _follow(self, waiting: Waiting) -> None:
        """Reads the trace to its end, until the plan's deadline: not even a flood of records takes longer."""
        deadline = launching.exec_deadline(waiting.plan)
        poll = select.poll()
        for fd in (waiting.trace_fd, self._socket.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            limit_ms = max(0.0, deadline - time.monotonic()) * 1000 if deadline else None
            ready = {fd for fd, _ in poll.poll(limit_ms)}
            if not ready or (deadline and time.monotonic() > deadline):
                raise Internal("the process was not executed in time")
            if self._socket.fileno() in ready:
                raise Internal(f"{launching.START_FAILURE}: {launching.GIVEN_UP}")
            events = waiting.reader.feed(os.read(waiting.trace_fd, 65536))
            waiting.trace.add(events)
            if is_over(waiting.plan, events):
                return

    def exec(self, request: Request) -> Answer:
        """One more process."""
        process = parse_process(request.object("process"))
        options = container.ExecOptions(
            request.string("id"),
            _root(request),
            process,
            console_fd=request.fds[0] if request.fds else -1,
            parent=PARENT,
            warn=remark,
        )
        executed = container.exec(options, self.host)
        return {"pid": executed.pid}, [executed.pidfd]

    def delete(self, request: Request) -> Answer:
        """Everything of the runtime's; a container that is not there is fine."""
        with contextlib.suppress(NotFound):  # `create` failed and left nothing, or a delete before
            _delete(request, force=request.boolean("force"))
        return {}, []

    def pause(self, request: Request) -> Answer:
        """Freeze; fine when an earlier helper did and could not say so."""
        if _status(request) != "paused":
            container.pause(_root(request), request.string("id"))
        return {}, []

    def resume(self, request: Request) -> Answer:
        """Thaw; likewise."""
        if _status(request) != "running":
            container.resume(_root(request), request.string("id"))
        return {}, []

    def update(self, request: Request) -> Answer:
        """New limits."""
        container.update(_root(request), request.string("id"), parse_resources(request.object("resources")))
        return {}, []

    def ping(self, request: Request) -> Answer:
        """Sessions are served."""
        return {}, []

    def stay(self, request: Request) -> Answer:
        """The helper stays as long as the session is open."""
        self.is_over = self.is_stay = True
        return {}, []

    def detach(self) -> socket.socket:
        """The connection, the caller's from now on."""
        return self._socket


VERBS: dict[str, Verb] = {
    "create": Session.create,
    "start": Session.start,
    "exec": Session.exec,
    "delete": Session.delete,
    "pause": Session.pause,
    "resume": Session.resume,
    "update": Session.update,
    "ping": Session.ping,
    "stay": Session.stay,
}


def is_over(plan: Plan, events: list[spawn.Event]) -> bool:
    """Whether the process was executed; raises LaunchFailure when its last step failed."""
    for event in events:
        if isinstance(event, spawn.Failed) and event.index < len(plan.ops):
            text = spawn.sentence(plan, event.index, event.errno, event.detail, event.text)
            text = f"{launching.START_FAILURE}: {text}"
            raise launching.LaunchFailure(text, event.errno, plan.ops[event.index])
    return any(isinstance(event, spawn.Done) for event in events)


def _root(request: Request) -> str:
    return f"{request.string('dir')}/{STATE}"


def _status(request: Request) -> str:
    return State.load(_root(request), request.string("id")).status()


def _delete(request: Request, *, force: bool) -> None:
    complaints: list[str] = []
    try:
        complaints = container.delete(_root(request), request.string("id"), force)
    except Unfinished as error:  # a caller that buries the container by itself tells nobody
        complaints = error.complaints
        raise
    finally:
        for complaint in complaints:
            remark(complaint)


def _root_mount(request: Request) -> RootMount:
    return RootMount(request.string("type"), request.string("source"), request.strings("options"))


def _create_options(request: Request, rootfs_fd: int) -> container.CreateOptions:
    directory = request.string("dir")
    has_console = request.boolean("terminal")
    return container.CreateOptions(
        request.string("id"),
        f"{directory}/{STATE}",
        directory,
        console_fd=(request.fds or [0])[0] if has_console else -1,
        rootfs_fd=rootfs_fd,
        parent=PARENT,
        default_pids_limit=request.integer("default_pids_limit"),
        warn=remark,
    )


def _inode(path: str) -> int:
    """0 where there is nothing."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


class Helper:
    """Accepts sessions until the zygote is gone and nobody wants it to stay, then until none is at work."""

    def __init__(self, listener: socket.socket, host: Host, signs: int, exec_root: str) -> None:
        """The listener is the zygote's as well, and lies in `exec_root`; `signs` of life are written for it."""
        self._listener = listener
        self._path = f"{exec_root}/{protocol.HELPER_SOCKET}"
        self._inode = _inode(self._path)
        self._epoll = select.epoll()
        self._stays: dict[int, socket.socket] = {}
        self._staying: set[Session] = set()  # being answered
        self._signs = signs
        self._has_accepted = False
        self._host = host
        self._at_work = 0
        self._lock = _thread.allocate_lock()
        self._done, self._work_ended = os.pipe()
        os.set_blocking(self._work_ended, False)  # nobody reads before the zygote is gone

    def run(self, life_fd: int) -> None:
        """`life_fd` ends with the zygote."""
        for fd in (self._listener.fileno(), life_fd):
            self._epoll.register(fd, select.EPOLLIN)
        has_zygote = True
        while has_zygote or self._is_wanted():
            for fd, _ in self._epoll.poll(-1 if has_zygote else _WIDOW_S):
                if fd == life_fd:
                    has_zygote = False
                    self._epoll.unregister(life_fd)
                elif fd == self._listener.fileno():
                    self._accept()
                else:
                    self._end_stay(fd)
        for fd in list(self._stays):
            self._end_stay(fd)
        self._listener.close()  # who waits to be accepted hears at once that it has to look for another helper
        while self._at_work:
            os.read(self._done, _PIPE_BYTES)

    def _is_wanted(self) -> bool:
        """Whether somebody's checks need it, and nobody else listens where it does."""
        return bool(self._stays or self._staying) and _inode(self._path) == self._inode

    def _end_stay(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._stays.pop(fd).close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:  # taken back by the peer
            return
        except OSError:  # out of descriptors, until a session ends: its caller waits
            give_sign(self._signs)
            time.sleep(_BREATH_S)
            return
        if not self._has_accepted:
            self._has_accepted = True
            give_sign(self._signs)
        sock.setblocking(True)
        session = Session(sock, self._host)
        if not remote.is_ours(remote.Caller(sock)):
            session.close()
            return
        try:
            _thread.start_new_thread(self._serve, (session,))
        except RuntimeError as error:  # no room for a thread is this caller's misfortune alone
            session.refuse(Internal(str(error)))

    def _serve(self, session: Session) -> None:
        """A thread's life."""
        try:
            while not session.is_over and (request := session.receive()) is not None:
                self._count(1)
                if request.op == "stay":
                    self._staying.add(session)
                try:
                    session.serve(request)
                    if session.is_stay and self._keep(session.detach()):
                        return
                finally:
                    self._staying.discard(session)
                    self._count(-1)
        except Exception as error:  # the thread's outermost loop
            complain(error)
        session.close()

    def _keep(self, sock: socket.socket) -> bool:
        """Whether there is room for one more that wants the helper to stay."""
        if len(self._stays) >= min(_MAX_STAYS, openfiles.limit() // 2):
            return False
        self._stays[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), 0)  # its end is told unasked
        return True

    def _count(self, change: int) -> None:
        with self._lock:
            self._at_work += change
        if change < 0 and not self._at_work:
            with contextlib.suppress(BlockingIOError):  # full: whoever waits has something to read
                os.write(self._work_ended, b".")
