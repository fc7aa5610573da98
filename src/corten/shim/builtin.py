"""Containers by the built-in runtime, in forked helpers (`corten.shim.helper`): nothing is executed but the launcher.

State lies in `<dir>/runtime/<id>/`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corten.errors import FailedPrecondition, Internal, NotFound
from corten.launch import spawn
from corten.runtime import container, fast, launching
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.runtime.prepare import Host, prepare
from corten.runtime.trace import explain
from corten.shim import helper
from corten.shim.backend import Launched, Phases, Steps, Streams
from corten.shim.loop import Readable
from corten.shim.protocol import Message, close_all
from corten.shim.rootfs import RootMount, make_detached
from corten.sys import files

if TYPE_CHECKING:
    from corten.shim.helper import Channel

STATE = "runtime"
_PARENT = "shim"  # the init dies with its parent
TRACE_PART = "trace.part"
_EXEC_TIMEOUT_S = 30.0  # from the start byte to execve: seccomp and execve, microseconds


class BuiltinRuntime:
    """`Backend` in process."""

    __slots__ = (
        "_cgroup", "_directory", "_has_poststart", "_host", "_id", "_pids_limit", "_root", "_rootfs",
        "_streams", "_tail", "_trace_fd", "_trace_reader", "rootfs_fd",
    )  # fmt: skip

    def __init__(self, directory: str, id: str, rootfs: RootMount | None, host: Host, *, pids_limit: int) -> None:
        """`rootfs`: None for the bundle's `root.path`."""
        self.rootfs_fd = -1
        self._directory = directory
        self._root = f"{directory}/{STATE}"
        self._id = id
        self._rootfs = rootfs
        self._host = host
        self._pids_limit = pids_limit
        self._cgroup: Cgroup | None = None
        self._has_poststart = False
        self._trace_fd = -1
        self._trace_reader = spawn.TraceReader()
        self._tail = _TraceTail([])
        self._streams = Streams((0, 1, 2))

    # create

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        self._streams = streams
        made, fds = yield from helper.run(lambda channel: self._create(channel, streams), self._host.launcher.fd)
        self._trace_fd = fds.pop(0)
        pidfd = fds.pop(0)
        if fds:
            self.rootfs_fd = fds.pop(0)
        self._cgroup = Cgroup(CgroupPaths.from_obj(made["cgroup"]))
        self._has_poststart = made["has_poststart"]
        self._tail = _TraceTail(made["tail"])
        for name, start_ns, end_ns in made["phases"]:
            phases.rows.append((name, start_ns, end_ns - start_ns))
        return Launched(made["pid"], pidfd)

    def _create(self, channel: Channel, streams: Streams) -> tuple[Message, list[int]]:
        """In the helper."""
        phases: list[tuple[str, int, int]] = []
        rootfs_fd = self._mount_rootfs(phases)
        host = Host(self._host.facts, self._host.seccomp_cache, helper.RemoteLauncher(channel))
        created = container.create(self._options(streams, rootfs_fd), host)
        rows = explain(created.trace.to_bytes())["steps"]
        _write_trace_head(f"{self._directory}/{TRACE_PART}", rows[:-1])
        done = rows[-1]["index"] if rows else 0
        tail = [[row["index"], row["op"], row["start_ns"]] for row in rows[-1:]]
        tail += [[index + 1, op.describe(), 0] for index, op in enumerate(created.plan.ops) if index >= done]
        message = {
            "pid": created.pid,
            "cgroup": created.cgroup.paths.to_obj(),
            "has_poststart": bool(created.state.poststart),
            "tail": tail,
            "phases": [*phases, *created.trace.phases],
        }
        return message, [created.trace_fd, created.pidfd, *([rootfs_fd] if rootfs_fd >= 0 else [])]

    def _mount_rootfs(self, phases: list[tuple[str, int, int]]) -> int:
        if self._rootfs is None:
            return -1
        start_ns = time.monotonic_ns()
        fd = make_detached(self._rootfs, f"{self._directory}/rootfs")
        phases.append(("overlay", start_ns, time.monotonic_ns()))
        return fd

    def _options(self, streams: Streams, rootfs_fd: int) -> container.CreateOptions:
        return container.CreateOptions(
            self._id,
            self._root,
            self._directory,
            stdio=streams.stdio,
            console_fd=streams.console_fd,
            rootfs_fd=rootfs_fd,
            parent=_PARENT,
            default_pids_limit=self._pids_limit,
        )

    # start

    def start(self) -> Steps[None]:
        if self._has_poststart:
            yield from self._call(lambda: container.start(self._root, self._id))
        else:
            container.release(f"{self._root}/{self._id}", self._id)
        while self._trace_fd >= 0:
            if not (yield Readable(self._trace_fd, _EXEC_TIMEOUT_S)):
                raise Internal("the process was not executed in time")
            yield from self._follow(self._trace_reader.feed(os.read(self._trace_fd, 65536)))

    def _follow(self, events: list[spawn.Event]) -> Steps[None]:
        """The launcher's last events; raises LaunchFailure when the last step, execve, failed."""
        for event in events:
            if isinstance(event, spawn.Step):
                self._tail.step(event.index + 1, event.ns)
            elif isinstance(event, spawn.Done):
                self._tail.end(time.monotonic_ns())
                self._close_trace()
            elif isinstance(event, spawn.Failed):
                self._close_trace()
                yield from self._call(lambda failure=event: self._explain(failure))  # type: ignore[misc]

    def _explain(self, event: spawn.Failed) -> None:
        """In a helper: the plan is made once more, for its words."""
        plan = prepare(self._options(self._streams, self.rootfs_fd), self._host).plan
        text = spawn.sentence(plan, event.index, event.errno, event.detail, event.text)
        raise Internal(f"{launching.START_FAILURE}: {text}")

    # while it runs

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        made, fds = yield from helper.run(lambda channel: self._exec(channel, process, streams), self._host.launcher.fd)
        return Launched(made["pid"], fds[0])

    def _exec(self, channel: Channel, process: dict[str, Any], streams: Streams) -> tuple[Message, list[int]]:
        """In the helper."""
        from corten.spec.runtime import parse_process

        host = Host(self._host.facts, self._host.seccomp_cache, helper.RemoteLauncher(channel))
        options = container.ExecOptions(
            self._id,
            self._root,
            parse_process(process),
            stdio=streams.stdio,
            console_fd=streams.console_fd,
            parent=_PARENT,
        )
        executed = container.exec(options, host)
        return {"pid": executed.pid}, [executed.pidfd]

    def signal_all(self, signum: int) -> Steps[None]:
        self._made().signal_all(signum)
        yield from ()

    def pause(self) -> Steps[None]:
        yield from self._call(lambda: container.pause(self._root, self._id))

    def resume(self) -> Steps[None]:
        yield from self._call(lambda: container.resume(self._root, self._id))

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        from corten.spec.resources import parse_resources

        yield from self._call(lambda: container.update(self._root, self._id, parse_resources(resources)))

    def delete(self, *, force: bool) -> Steps[None]:
        self._close_trace()
        with contextlib.suppress(NotFound):  # `create` failed and left nothing, or a delete before
            container.delete(self._root, self._id, force)
        if self.rootfs_fd >= 0:
            os.close(self.rootfs_fd)
            self.rootfs_fd = -1
        yield from ()

    def cgroup(self) -> Cgroup | None:
        return self._cgroup

    def write_trace(self, path: str, phases: Phases) -> None:
        part = f"{self._directory}/{TRACE_PART}"
        rest = fast.dump_bytes(phases.to_obj())
        fd = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, b'%s],"phases":%s}' % (self._tail.to_bytes(), rest))
        finally:
            os.close(fd)
        os.rename(part, path)

    def _call(self, work: Callable[[], object]) -> Steps[None]:
        """A verb without a result, in a helper."""

        def call(channel: Channel) -> tuple[Message, list[int]]:
            work()
            return {}, []

        _, fds = yield from helper.run(call, self._host.launcher.fd)
        close_all(fds)

    def _made(self) -> Cgroup:
        if self._cgroup is None:
            raise FailedPrecondition("container is new")
        return self._cgroup

    def _close_trace(self) -> None:
        if self._trace_fd >= 0:
            os.close(self._trace_fd)
            self._trace_fd = -1


def _write_trace_head(path: str, rows: list[dict[str, object]]) -> None:
    """`{"steps":[…,` with the steps up to the wait for `start`; the shim adds the rest."""
    body = b",".join(fast.dump_bytes(row) for row in rows)
    files.replace(path, b'{"steps":[' + body + (b"," if rows else b""))


class _TraceTail:
    """The last steps: the wait for `start`, which the helper has seen beginning, and what comes after it."""

    __slots__ = ("_end_ns", "_rows")

    def __init__(self, rows: list[list[Any]]) -> None:
        """`rows`: [index from 1, op, start in ns or 0]."""
        self._rows = rows
        self._end_ns = 0

    def step(self, index: int, start_ns: int) -> None:
        for row in self._rows:
            if row[0] == index:
                row[2] = start_ns

    def end(self, end_ns: int) -> None:
        self._end_ns = end_ns

    def to_bytes(self) -> bytes:
        """The rows that have begun, as JSON objects with commas between them."""
        begun = [row for row in self._rows if row[2]]
        ends = [row[2] for row in begun[1:]] + [self._end_ns]
        objects = (
            {"index": index, "op": op, "start_ns": start, "duration_ns": max(0, end - start)}
            for (index, op, start), end in zip(begun, ends, strict=True)
        )
        return b",".join(map(fast.dump_bytes, objects))
