"""Containers by the built-in runtime, in this process: no program is executed but the launcher.

State lies in `<dir>/runtime/<id>/`.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from corten.errors import FailedPrecondition, Internal, NotFound
from corten.launch import spawn
from corten.runtime import container, fast, launching
from corten.runtime.cgroups import Cgroup
from corten.runtime.prepare import Host
from corten.runtime.trace import explain
from corten.shim.backend import Launched, Phases, Steps, Streams
from corten.shim.loop import Readable
from corten.shim.rootfs import RootMount, make_detached
from corten.spec.resources import parse_resources
from corten.spec.runtime import parse_process
from corten.sys import files

STATE = "runtime"
_PARENT = "shim"  # the init dies with its parent
_EXEC_TIMEOUT_S = 30.0  # from the start byte to execve: seccomp and execve, microseconds


class BuiltinRuntime:
    """`Backend` in process."""

    __slots__ = ("_created", "_directory", "_host", "_id", "_pids_limit", "_root", "_rootfs", "rootfs_fd")

    def __init__(self, directory: str, id: str, rootfs: RootMount | None, host: Host, *, pids_limit: int) -> None:
        """`rootfs`: None for the bundle's `root.path`."""
        self.rootfs_fd = -1
        self._directory = directory
        self._root = f"{directory}/{STATE}"
        self._id = id
        self._rootfs = rootfs
        self._host = host
        self._pids_limit = pids_limit
        self._created: container.Created | None = None

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        if self._rootfs is not None:
            with phases.measure("overlay"):
                self.rootfs_fd = make_detached(self._rootfs, f"{self._directory}/rootfs")
        options = container.CreateOptions(
            self._id,
            self._root,
            self._directory,
            stdio=streams.stdio,
            console_fd=streams.console_fd,
            rootfs_fd=self.rootfs_fd,
            parent=_PARENT,
            default_pids_limit=self._pids_limit,
        )
        created = container.create(options, self._host)
        self._created = created
        for name, start_ns, end_ns in created.trace.phases:
            phases.rows.append((name, start_ns, end_ns - start_ns))
        yield from ()  # a generator, as Backend says, that has nothing to wait for
        return Launched(created.pid, created.pidfd)

    def start(self) -> Steps[None]:
        created = self._made()
        container.start(self._root, self._id)
        deadline = time.monotonic() + _EXEC_TIMEOUT_S
        while created.trace_fd >= 0:
            left_s = deadline - time.monotonic()  # of all together: not even a flood of records takes longer
            if left_s <= 0 or not (yield Readable(created.trace_fd, left_s)):
                raise Internal("the process was not executed in time")
            self._follow(created)

    def _follow(self, created: container.Created) -> None:
        """Read the launcher's next events; raises LaunchFailure when the last step, execve, failed."""
        events = created.reader.feed(os.read(created.trace_fd, 65536))
        created.trace.add(events)
        for event in events:
            if isinstance(event, spawn.Done):
                self._close_trace()
            elif isinstance(event, spawn.Failed) and event.index < len(created.plan.ops):
                text = spawn.sentence(created.plan, event.index, event.errno, event.detail, event.text)
                self._close_trace()
                raise launching.LaunchFailure(
                    f"{launching.START_FAILURE}: {text}", event.errno, created.plan.ops[event.index]
                )

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        options = container.ExecOptions(
            self._id,
            self._root,
            parse_process(process),
            stdio=streams.stdio,
            console_fd=streams.console_fd,
            parent=_PARENT,
        )
        executed = container.exec(options, self._host)
        yield from ()
        return Launched(executed.pid, executed.pidfd)

    def signal_all(self, signum: int) -> Steps[None]:
        self._made().cgroup.signal_all(signum)
        yield from ()

    def pause(self) -> Steps[None]:
        container.pause(self._root, self._id)
        yield from ()

    def resume(self) -> Steps[None]:
        container.resume(self._root, self._id)
        yield from ()

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        container.update(self._root, self._id, parse_resources(resources))
        yield from ()

    def delete(self, *, force: bool) -> Steps[None]:
        self._close_trace()
        with contextlib.suppress(NotFound):  # `create` failed and left nothing, or a delete before
            container.delete(self._root, self._id, force)
        if self.rootfs_fd >= 0:
            os.close(self.rootfs_fd)
            self.rootfs_fd = -1
        yield from ()

    def cgroup(self) -> Cgroup | None:
        return self._created.cgroup if self._created is not None else None

    def write_trace(self, path: str, phases: Phases) -> None:
        steps = explain(self._made().trace.to_bytes())["steps"]
        files.replace(path, fast.dump_bytes({"phases": phases.to_obj(), "steps": steps}))

    def _made(self) -> container.Created:
        if self._created is None:
            raise FailedPrecondition("container is new")
        return self._created

    def _close_trace(self) -> None:
        if self._created is not None and self._created.trace_fd >= 0:
            os.close(self._created.trace_fd)
            self._created.trace_fd = -1
