"""One shim: parent of one container, from its first message to `shutdown`.

The requests that it answers are the two tables of `Shim`; docs/shim.md tells their fields.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable

from corten import errors
from corten.errors import FailedPrecondition, InvalidArgument
from corten.launch.facts import HostFacts
from corten.runtime import fast
from corten.runtime.options import BUILT_IN_PIDS_LIMIT
from corten.shim import protocol
from corten.shim.backend import Backend, Steps
from corten.shim.builtin import BuiltinRuntime
from corten.shim.complain import complain
from corten.shim.external import ExternalRuntime
from corten.shim.health import Settings
from corten.shim.log import open_log
from corten.shim.loop import Loop
from corten.shim.orphans import OrphanReaper
from corten.shim.protocol import NETNS_FD, Message
from corten.shim.relay import Relays
from corten.shim.request import Request, attach_options
from corten.shim.rest import Rest
from corten.shim.rootfs import RootMount
from corten.shim.server import Server
from corten.shim.task import TRACE, Task
from corten.sys import files, prctl

NETNS = "netns"
LOG_NAME = "shim.log"


class Shim:
    """Owns the task, the held descriptors and the server.

    Life: `serve` → `run` until `shutdown` was asked, and every attached client has its output.
    """

    __slots__ = (
        "_directory", "_facts", "_held", "_helper_directory", "_id", "_loop", "_reaper", "_relays", "_server",
        "_shutting_down", "_socket_inode", "_task", "_tenant",
    )  # fmt: skip

    def __init__(
        self,
        directory: str,
        tenant: str,
        id: str,
        facts: HostFacts,
        helper_directory: str,
        *,
        rest: Rest | None = None,
    ) -> None:
        """`helper_directory`: where the helper's socket lies."""
        self._directory = directory
        self._tenant = tenant
        self._id = id
        self._facts = facts
        self._helper_directory = helper_directory
        self._loop = Loop(rest)
        self._server = Server(self._loop, self)
        self._task = Task(directory, self._loop, self._server.broadcast)
        self._held: dict[str, int] = {}
        self._relays: Relays | None = None
        self._reaper: OrphanReaper | None = None
        self._shutting_down = False
        self._socket_inode = 0

    def serve(self, first: socket.socket) -> None:
        """Listen in the directory, and serve the connection `first`, taken here."""
        self._socket_inode = self._server.listen(self._directory)
        self._server.adopt(first)

    @property
    def is_over(self) -> bool:
        """Whether `shutdown` was asked and nobody waits for output."""
        return self._shutting_down and not self._task.connections

    @property
    def was_probed(self) -> bool:
        """Whether a health check has a result."""
        return self._task.health is not None and self._task.health.has_results

    def run(self) -> None:
        """Turn the loop until the end."""
        while not self.is_over:
            self.turn()

    def turn(self) -> None:
        """One round of the loop."""
        try:
            self._loop.turn()
        except Exception as error:  # the shim's outermost loop: its container lives no longer than it does
            complain(error)

    def answer(self, request: Request) -> Message:
        """A request of the table `_NOW`."""
        handler = _NOW.get(request.op)
        if handler is None:
            raise errors.NotImplemented(f"unknown op {request.op!r}")
        return handler(self, request)

    def is_in_order(self, op: str) -> bool:
        """Whether it is one of the table `_IN_ORDER`."""
        return op in _IN_ORDER

    def is_beside(self, op: str) -> bool:
        """An exec takes as long as it takes."""
        return op == "exec_start" and self._task.execs_beside

    def arrived(self, request: Request) -> None:
        """Who deletes by force does not wait for a hook."""
        if request.op in ("delete", "shutdown") and request.message.get("force") is True:
            self._task.give_up()

    def answer_in_order(self, request: Request) -> Steps[Message]:
        """A request of the table `_IN_ORDER`."""
        return _IN_ORDER[request.op](self, request)

    # In order

    def _create(self, request: Request) -> Steps[Message]:
        """The container, up to its waiting init."""
        if request.object("health"):
            self._task.watch_health(Settings(request.nested("health")), self._in_turn)
        self._keep(request)
        log = yield from open_log(request.nested("log"), self._loop, self._task.connections)
        init = yield from self._task.create(
            self._backend(request),
            tty=request.boolean("terminal"),
            stdin=request.boolean("stdin_open"),
            size=request.size("console_size"),
            log=log,
        )
        return {"pid": init.pid}

    def _in_turn(self, work: Callable[[], Steps[None]]) -> None:
        """A launch of the shim's own: at once where an exec may be under way beside all else."""
        if self._task.execs_beside:
            self._loop.start(work())
        else:
            self._server.in_turn(work)

    def _backend(self, request: Request) -> Backend:
        rootfs = _root_mount(request.objects("rootfs"))
        runtime = request.nested("runtime")
        path = runtime.string("path")
        if not path:
            limit = request.integer("default_pids_limit", BUILT_IN_PIDS_LIMIT)
            return BuiltinRuntime(
                self._directory, self._id, rootfs, self._helper_directory, pids_limit=limit, known=self._busy_pids
            )
        self._reap_children()
        args = runtime.strings("args")
        return ExternalRuntime(self._directory, self._id, path, args, rootfs=rootfs, facts=self._facts)

    def _start(self, request: Request) -> Steps[Message]:
        init = yield from self._task.start()
        return {"pid": init.pid, "started_at": init.started_at}

    def _exec_start(self, request: Request) -> Steps[Message]:
        tty = request.boolean("terminal")
        attached = request.nested("attach") if "attach" in request.message else None
        client = (request.take_fd(), attach_options(attached, tty=tty)) if attached is not None else None
        try:
            process = yield from self._task.exec(
                _file_name(request, "exec_id"),
                request.object("process"),
                tty=tty,
                stdin=request.boolean("stdin_open"),
                size=request.size("console_size"),
                client=client,
            )
        except BaseException:
            if client is not None:
                os.close(client[0])
            raise
        return process.to_obj()

    def _kill_all(self, request: Request) -> Steps[Message]:
        yield from self._task.kill_all(request.integer("signal", signal.SIGKILL))
        return {}

    def _pause(self, request: Request) -> Steps[Message]:
        yield from self._task.pause()
        return {}

    def _resume(self, request: Request) -> Steps[Message]:
        yield from self._task.resume()
        return {}

    def _update(self, request: Request) -> Steps[Message]:
        yield from self._task.update(request.object("resources"))
        return {}

    def _delete(self, request: Request) -> Steps[Message]:
        """Everything of the container but the shim and the exit record."""
        yield from self._task.delete(force=request.boolean("force"))
        for name in list(self._held):
            self._drop(name)
        return {"exit": self._task.exit_record}

    def _shutdown(self, request: Request) -> Steps[Message]:
        """End the shim.  Refused while there is a container, unless forced; then it is deleted."""
        if request.boolean("force"):
            yield from self._delete(request)
        elif self._task.has_container:
            raise FailedPrecondition(f"container is {self._task.state}")
        self._loop.call_later(0, self._leave)
        return {}

    # Now

    def _ping(self, request: Request) -> Message:
        return {}

    def _exec_status(self, request: Request) -> Message:
        return self._task.process(request.string("exec_id")).to_obj()

    def _pids(self, request: Request) -> Message:
        return {"pids": self._task.pids()}

    def _stats(self, request: Request) -> Message:
        return {"stats": self._task.stats()}

    def _hello(self, request: Request) -> Message:
        return {
            "version": protocol.VERSION,
            "pid": os.getpid(),
            "tenant": self._tenant,
            "id": self._id,
            "held": sorted(self._held),
            **self._task.status(),
        }

    def _attach(self, request: Request) -> Message:
        process = self._task.process(request.string("exec_id"))
        options = attach_options(request, tty=process.stdio.tty)
        fd = request.take_fd()
        try:
            process.stdio.attach(fd, options)
        except BaseException:
            os.close(fd)
            raise
        return {}

    def _kill(self, request: Request) -> Message:
        self._task.kill(request.integer("signal"), request.string("exec_id"), request.object("by"))
        return {}

    def _resize(self, request: Request) -> Message:
        stdio = self._task.process(request.string("exec_id")).stdio
        stdio.resize(_edge(request, "rows"), _edge(request, "cols"))
        return {}

    def _close_stdin(self, request: Request) -> Message:
        self._task.process(request.string("exec_id")).stdio.close_stdin()
        return {}

    def _exec_forget(self, request: Request) -> Message:
        self._task.forget_exec(request.string("exec_id"))
        return {}

    def _counters(self, request: Request) -> Message:
        counters = self._task.counters()
        return {"oom_kill_count": counters.oom_kills, "pids_max_hits": counters.pids_max_hits}

    def _trace(self, request: Request) -> Message:
        self._task.wait_trace()
        with contextlib.suppress(FileNotFoundError):
            return {"trace": fast.loads(files.read(f"{self._directory}/{TRACE}"))}
        return {"trace": {"phases": self._task.phases.to_obj(), "steps": []}}

    def _hold(self, request: Request) -> Message:
        self._keep(request)
        return {"held": sorted(self._held)}

    def _release(self, request: Request) -> Message:
        for name in request.strings("names"):
            self._drop(name)
        return {"held": sorted(self._held)}

    def _rootfs(self, request: Request) -> Message:
        request.answer_fds = (self._task.rootfs_fd(),)
        return {}

    # Descriptors

    def _keep(self, request: Request) -> None:
        """Hold the descriptors that `held` names; the network namespace where its path in config.json says."""
        names = request.strings("held")
        if len(names) != len(request.fds):
            raise InvalidArgument(f"held: {len(names)} names for {len(request.fds)} descriptors")
        for name in names:
            self._drop(name)
            fd = request.take_fd()
            if name == NETNS:
                os.dup2(fd, NETNS_FD, inheritable=False)
                os.close(fd)
                fd = NETNS_FD
            self._held[name] = fd
        self._relay(request.nested("relays"))

    def _relay(self, wanted: Request) -> None:
        """Pass on what comes to held sockets: {name: [address, port]}, also of those that were held before."""
        for name in wanted.message.keys() - {"op"}:
            address, port = wanted.target(name)
            if name not in self._held:
                raise InvalidArgument(f"relays: {name!r} is not held")
            if self._relays is None:
                self._relays = Relays(self._loop)
            self._relays.serve(name, self._held[name], (address, port))

    def _drop(self, name: str) -> None:
        if self._relays is not None:
            self._relays.end(name)
        fd = self._held.pop(name, -1)
        if fd == NETNS_FD:
            reserve_netns_fd()
        elif fd >= 0:
            os.close(fd)

    # Ends

    def _leave(self) -> None:
        """Nobody can reach the shim any more; attached clients may still get their output."""
        self._shutting_down = True
        path = f"{self._directory}/{protocol.SOCKET_NAME}"
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == self._socket_inode:  # not that of another shim of the same directory
                os.unlink(path)
        self._server.close()

    def last_peer_left(self) -> None:
        """A shim that never had a container is of no use to a new cortend."""
        if self._task.state == "new" and not self._shutting_down:
            self._loop.call_later(0, self._leave)

    def _reap_children(self) -> None:
        """As subreaper: collect what a container's processes leave behind."""
        if self._reaper is None:
            self._reaper = OrphanReaper(self._loop, is_busy=lambda: self._server.is_busy, known=self._busy_pids)

    def _busy_pids(self) -> set[int]:
        """Children that somebody waits for by descriptor."""
        processes = [*self._task.execs.values(), *([self._task.init] if self._task.init is not None else [])]
        pids = {process.pid for process in processes if process.pidfd >= 0}
        if self._task.courier_pid:
            pids.add(self._task.courier_pid)
        return pids


_NOW: dict[str, Callable[[Shim, Request], Message]] = {
    "hello": Shim._hello,
    "ping": Shim._ping,
    "attach": Shim._attach,
    "kill": Shim._kill,
    "resize": Shim._resize,
    "close_stdin": Shim._close_stdin,
    "exec_status": Shim._exec_status,
    "exec_forget": Shim._exec_forget,
    "pids": Shim._pids,
    "counters": Shim._counters,
    "stats": Shim._stats,
    "trace": Shim._trace,
    "hold": Shim._hold,
    "release": Shim._release,
    "rootfs": Shim._rootfs,
}
_IN_ORDER: dict[str, Callable[[Shim, Request], Steps[Message]]] = {
    "create": Shim._create,
    "start": Shim._start,
    "exec_start": Shim._exec_start,
    "kill_all": Shim._kill_all,
    "pause": Shim._pause,
    "resume": Shim._resume,
    "update": Shim._update,
    "delete": Shim._delete,
    "shutdown": Shim._shutdown,
}


def _root_mount(mounts: list[Message]) -> RootMount | None:
    if not mounts:
        return None
    if len(mounts) != 1:
        raise InvalidArgument(f"rootfs: {len(mounts)} mounts given, one expected")
    entry = Request({"op": "rootfs", **mounts[0]}, [])
    return RootMount(entry.string("type"), entry.string("source"), entry.strings("options"))


def _edge(request: Request, key: str) -> int:
    """A side of a terminal; struct winsize holds 16 bits."""
    value = request.integer(key)
    if not 0 <= value < 1 << 16:
        raise InvalidArgument(f"{key}: {value} is not a terminal's size")
    return value


def _file_name(request: Request, key: str) -> str:
    """An id that becomes part of a file's name."""
    value = request.string(key)
    if not value or "/" in value or len(value) > 128:
        raise InvalidArgument(f"{key}: {value!r} is not an id")
    return value


def reserve_netns_fd() -> None:
    """Keep the number of the network namespace's descriptor from being taken by anything else."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, NETNS_FD, inheritable=False)
    os.close(null)


def run(
    directory: str,
    tenant: str,
    id: str,
    facts: HostFacts,
    helper_directory: str,
    first: socket.socket,
    title: prctl.Title,
    rest: Rest,
) -> None:
    """The life of a shim in a process just forked from the zygote."""
    os.setsid()
    title.write(f"corten-shim {tenant}/{id}")
    log_fd = os.open(f"{directory}/{LOG_NAME}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    reserve_netns_fd()
    shim = Shim(directory, tenant, id, facts, helper_directory, rest=rest)
    shim.serve(first)
    shim.run()
