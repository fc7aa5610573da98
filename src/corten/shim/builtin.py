"""Containers by the built-in runtime, whose work the helper does (corten.shim.helper); no program is executed here but
the launcher.

State lies in `<dir>/runtime/<id>/`.  A shim imports nothing that reads bundles or compiles plans, and waits for the
helper in its loop: neither a hook nor an exec that hangs stops the container's streams.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from corten.errors import FailedPrecondition, Internal
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.shim import protocol
from corten.shim.backend import Launched, Phases, Steps, Streams
from corten.shim.calling import Call, HelperLost
from corten.shim.loop import Loop, Readable
from corten.shim.protocol import Message
from corten.shim.rootfs import RootMount
from corten.shim.stay import Stay
from corten.sys import files
from corten.sys.pidfd import reap

# by another helper, when the one that was asked died before it launched anything; all but exec may be half done
_REPEATABLE = ("exec", "delete", "pause", "resume", "update")
# a zygote that dies costs two: its helper, and its own copy of the socket, which the kernel may close a moment later
_ATTEMPTS = 4
_TRACE_MS = 200  # the helper needs one


class BuiltinRuntime:
    """`Backend` by helper."""

    __slots__ = (
        "_calls", "_cgroup", "_creation", "_fields", "_helper_directory", "_known", "_stay", "_terminal", "_trace_fd",
        "_tracing", "rootfs_fd",
    )  # fmt: skip

    execs_beside = True

    def __init__(
        self,
        directory: str,
        id: str,
        rootfs: RootMount | None,
        helper_directory: str,
        *,
        pids_limit: int,
        known: Callable[[], set[int]],
    ) -> None:
        """`rootfs`: None for the bundle's `root.path`; `known`: children that somebody waits for."""
        self.rootfs_fd = -1
        self._helper_directory = helper_directory
        self._known = known
        fields: Message = {"id": id, "dir": directory, "default_pids_limit": pids_limit}
        if rootfs is not None:
            fields["rootfs"] = {"type": rootfs.type, "source": rootfs.source, "options": rootfs.options}
        self._fields = protocol.encode(fields)  # bytes: names kept in a dict would keep their pages
        self._stay: Stay | None = None
        self._terminal = False
        self._cgroup: Cgroup | None = None
        self._creation: Call | None = None  # from `create` to `start`: the helper knows the plan
        self._tracing: Call | None = None
        self._trace_fd = -1
        self._calls: list[Call] = []

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        self._terminal = streams.console_fd >= 0
        call = self._creation = Call(self._helper_directory)
        try:
            answer, fds = yield from self._call(call, "create", {}, streams)
        except HelperLost:
            raise Internal("create: the helper died") from None
        pidfd, self._trace_fd = fds[0], fds[1]
        if len(fds) > 2:
            self.rootfs_fd = fds[2]
        phases.rows += [(name, start, end - start) for name, start, end in answer["phases"]]
        self._cgroup = Cgroup(CgroupPaths.from_obj(answer["cgroup"]))
        return Launched(answer["pid"], pidfd)

    def start(self) -> Steps[None]:
        call = self._creation
        if call is None:
            raise FailedPrecondition("container is new")
        self._creation = None
        try:
            if call.is_open:
                yield from self._call(call, "start", {})
            else:  # another helper than the one that made it
                call.close()
                yield from self._call(call, "start", {}, fds=(self._trace_fd,))
        except HelperLost:
            raise Internal("start: the helper died") from None
        except BaseException:
            call.close()
            raise
        finally:
            self._close_trace()
        self._tracing = call

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        answer, fds = yield from self._call_once("exec", {"process": process}, streams)
        return Launched(answer["pid"], fds[0])

    def signal_all(self, signum: int) -> Steps[None]:
        self._made().signal_all(signum)  # here: at an exit nobody but this process may be left
        yield from ()

    def pause(self) -> Steps[None]:
        yield from self._call_once("pause", {})

    def resume(self) -> Steps[None]:
        yield from self._call_once("resume", {})

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        yield from self._call_once("update", {"resources": resources})

    def stand_by(self, loop: Loop) -> None:
        if self._stay is None:
            self._stay = Stay(self._helper_directory, loop)

    def delete(self, *, force: bool) -> Steps[None]:
        if self._creation is not None:
            self._creation.close()
            self._creation = None
        self._close_trace()
        try:
            yield from self._call_once("delete", {"force": force})
        finally:
            self._end_stay()
            if self.rootfs_fd >= 0:
                os.close(self.rootfs_fd)
                self.rootfs_fd = -1

    def cgroup(self) -> Cgroup | None:
        return self._cgroup

    def wait_trace(self) -> None:
        if self._tracing is not None:
            self._tracing.wait_ended(_TRACE_MS)

    def write_trace(self, path: str, phases: Phases) -> Steps[None]:
        """The helper writes it after its answer to `start`, and ends the session then."""
        call = self._tracing
        if call is not None:
            yield from call.ended()
            call.close()
            self._tracing = None

    def give_up(self) -> None:
        """Whatever is under way ends now, with an error; and nothing is to come but the end."""
        if self._stay is not None:
            self._stay.close_soon()
        for call in list(self._calls):
            call.give_up()

    def _end_stay(self) -> None:
        if self._stay is not None:
            self._stay.close()
            self._stay = None

    def _call_once(self, op: str, fields: Message, streams: Streams | None = None) -> Steps[tuple[Message, list[int]]]:
        for _ in range(_ATTEMPTS if op in _REPEATABLE else 1):
            call = Call(self._helper_directory)
            try:
                return (yield from self._call(call, op, fields, streams))
            except HelperLost:
                if call.has_spawned:
                    break
            finally:
                call.close()
        raise Internal(f"{op}: the helper died")

    def _call(
        self, call: Call, op: str, fields: Message, streams: Streams | None = None, *, fds: tuple[int, ...] = ()
    ) -> Steps[tuple[Message, list[int]]]:
        """One op, which `give_up` can end; a helper that dies in the middle of a launch has what it made undone."""
        self._calls.append(call)
        if streams is not None and streams.console_fd >= 0:
            fds = (*fds, streams.console_fd)
        body = protocol.encode({"op": op, "terminal": self._terminal, **fields})[:-1] + b"," + self._fields[1:]
        stdio = streams.stdio if streams is not None else (0, 1, 1)
        try:
            return (yield from call.run(body, fds, stdio))
        except HelperLost:
            call.close()
            yield from self._kill_strangers()
            raise
        finally:
            self._calls.remove(call)

    def _kill_strangers(self) -> Steps[None]:
        """Nobody else knows the processes that a dead helper had launched: they end.

        Each call that has lost the helper does this, side by side: what one sees, another may have collected.
        """
        strangers: list[int] = []
        try:
            for pid in set(own_children()) - self._known():
                strangers.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(strangers[-1], signal.SIGKILL)
            for pidfd in strangers:
                yield Readable(pidfd)
                with contextlib.suppress(ChildProcessError):
                    reap(pidfd)
        finally:
            protocol.close_all(strangers)

    def _made(self) -> Cgroup:
        if self._cgroup is None:
            raise FailedPrecondition("container is new")
        return self._cgroup

    def _close_trace(self) -> None:
        if self._trace_fd >= 0:
            os.close(self._trace_fd)
            self._trace_fd = -1


def own_children() -> list[int]:
    """Every child of this process, zombies too (proc_tid_children(5))."""
    pid = os.getpid()
    return [int(number) for number in files.read(f"/proc/{pid}/task/{pid}/children").split()]
