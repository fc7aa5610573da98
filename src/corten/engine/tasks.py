"""Tasks: the directory and the shim of every running container, below `<exec-root>/tasks/<tenant>/<id>`.

    begin    journal → directory → shim
    end      shim told to delete and leave → directory → journal
    adopt    shim connected to again
    bury     of a task whose shim is gone: its processes killed, cgroup and directory removed, journal

The journal's entry of kind `task-dir` names the directory and the cgroup; both are gone before the entry is.  A parent
cgroup that was not there before has an entry of its own and goes with the last container in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from corten.core.journal import CGROUP, TASK_DIR, Journal
from corten.core.shims import EventHandler, LostHandler, ShimClient, Zygote
from corten.engine.threads import NoThread, in_own_thread
from corten.errors import CortenError
from corten.launch.facts import HostFacts
from corten.runtime.cgroups import Cgroup, plan_paths
from corten.shim.protocol import Message, connect
from corten.sys import netns

TENANT: Final = "moby"
_NETNS_TIMEOUT_S: Final = 10.0


class Task:
    """One task: its shim (None once that is gone), its directory, its cgroup and its journal entry."""

    __slots__ = ("cgroup_path", "directory", "entry", "id", "shim")

    def __init__(self, id: str, directory: str, cgroup_path: str, entry: int) -> None:
        self.id = id
        self.directory = directory
        self.cgroup_path = cgroup_path
        self.entry = entry
        self.shim: ShimClient | None = None


class Tasks:
    """Makes, adopts and ends tasks.  Its coroutines run in one event loop."""

    def __init__(
        self, zygote: Zygote, journal: Journal, facts: HostFacts, exec_root: str, *, cgroup_parent: str
    ) -> None:
        """`cgroup_parent`: the engine's own, which stays as long as the engine."""
        self.zygote = zygote
        self.root = f"{exec_root}/tasks"
        self._journal = journal
        self._facts = facts
        self._cgroup_parent = cgroup_parent
        self._spare: asyncio.Future[int] | None = None
        self._made_parents = {entry.name: entry.id for entry in journal.entries(CGROUP)}

    def directory(self, id: str) -> str:
        """Where a container's task lives."""
        return f"{self.root}/{TENANT}/{id}"

    def cgroup(self, cgroup_path: str) -> Cgroup:
        """The cgroup of a path such as `/corten-…/<id>`, whether it exists or not."""
        return Cgroup(plan_paths(self._facts, cgroup_path, ""))

    def prepare(self, id: str, cgroup_path: str) -> Task:
        """Announce the task and make its directory."""
        directory = self.directory(id)
        self._announce_parents(cgroup_path)
        entry = self._journal.begin(TASK_DIR, directory, id=id, cgroup=cgroup_path)
        try:
            os.makedirs(os.path.dirname(directory), 0o711, exist_ok=True)
            os.mkdir(directory, 0o700)
        except OSError:
            self._journal.done(entry)
            raise
        return Task(id, directory, cgroup_path, entry)

    def _announce_parents(self, cgroup_path: str) -> None:
        """Cgroups above the container's that are not there yet: ours to remove when nobody is in them any more."""
        parent = os.path.dirname(cgroup_path)
        while parent not in ("", "/", self._cgroup_parent) and not any(map(os.path.isdir, self._directories(parent))):
            self._made_parents[parent] = self._journal.begin(CGROUP, parent)
            parent = os.path.dirname(parent)

    def _directories(self, cgroup_path: str) -> list[str]:
        return plan_paths(self._facts, cgroup_path, "").directories()

    def _remove_parents(self, cgroup_path: str) -> None:
        parent = os.path.dirname(cgroup_path)
        while parent in self._made_parents:
            directories = self._directories(parent)
            for directory in directories:
                with contextlib.suppress(OSError):  # somebody else is in it, or it was never made
                    os.rmdir(directory)
            if any(map(os.path.isdir, directories)):
                return
            self._journal.done(self._made_parents.pop(parent))
            parent = os.path.dirname(parent)

    async def netns(self) -> int:
        """The descriptor of a new network namespace with `lo` up; the caller's.  Raises OSError.

        One is kept ready: making it takes longer than all else that a start waits for before its shim.
        """
        spare, self._spare = self._spare, None
        fd = await self._taken(spare)
        self._prepare_spare()
        return fd

    async def _taken(self, spare: asyncio.Future[int] | None) -> int:
        """The spare one; what kept it from being made is no reason for this start to fail."""
        if spare is not None:
            with contextlib.suppress(OSError):
                return await spare
        return await _make_netns()

    def _prepare_spare(self) -> None:
        if self._spare is None:
            self._spare = asyncio.ensure_future(_make_netns())
            self._spare.add_done_callback(_take_error)

    async def close(self) -> None:
        """Let go of the spare namespace and the zygote.  Tasks go on."""
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(OSError):
                os.close(await spare)
        await self.zygote.close()

    async def fork(self, task: Task, *, events: EventHandler, lost: LostHandler) -> ShimClient:
        """Give a prepared task its shim."""
        task.shim = await self.zygote.fork(task.directory, TENANT, task.id, events=events, lost=lost)
        return task.shim

    async def adopt(self, task: Task, *, events: EventHandler, lost: LostHandler) -> Message:
        """Connect to the shim that an earlier daemon started; its whole status.

        Raises NotFound when there is none, Unavailable when it hangs.
        """
        task.shim, status = await ShimClient.connect(task.directory, events=events, lost=lost)
        return status

    async def end(self, task: Task) -> None:
        """Everything of a task whose container has exited, or never ran.  A hung or lost shim is buried."""
        shim, task.shim = task.shim, None
        if shim is not None:
            try:
                await shim.shutdown(force=True)
            except CortenError:
                shim.close()
                await self.bury(task)
                return
            shim.close()
        await self._forget(task)

    async def bury(self, task: Task) -> None:
        """Kill what is left of a task without its shim's help, and remove it.

        The processes die first: a removed cgroup needs them gone, and so does whoever reads the exit.
        """
        await _kill_in_thread(functools.partial(self._kill, task))
        await self._forget(task)

    async def bury_leftover(self, id: str, cgroup_path: str) -> None:
        """Remove what a cleanup that failed left of an earlier task; does nothing when there is nothing."""
        directory = self.directory(id)
        if os.path.lexists(directory):
            await self.bury(Task(id, directory, cgroup_path, 0))
            self._journal.done_by_name(TASK_DIR, directory)

    def kill_shim(self, task: Task) -> None:
        """SIGKILL to a shim that hangs; its connection ends, and its container with it."""
        with contextlib.suppress(OSError):
            os.kill(listener_pid(task.directory), signal.SIGKILL)

    async def kill(self, task: Task) -> None:
        """Kill every process of a task by its cgroup; returns when they are dead."""
        await _kill_in_thread(self.cgroup(task.cgroup_path).kill_all)

    def _kill(self, task: Task) -> None:
        self.kill_shim(task)
        cgroup = self.cgroup(task.cgroup_path)
        cgroup.kill_all()
        cgroup.remove()

    async def _forget(self, task: Task) -> None:
        await asyncio.to_thread(shutil.rmtree, task.directory, ignore_errors=True)  # on a disk: milliseconds
        self._remove_parents(task.cgroup_path)
        self._journal.done(task.entry)

    def leftovers(self) -> Iterator[str]:
        """The ids of all task directories there are."""
        with contextlib.suppress(FileNotFoundError):
            yield from os.listdir(f"{self.root}/{TENANT}")


def listener_pid(directory: str) -> int:
    """Who listens on a task's socket (unix(7), SO_PEERCRED), answering or not.  Raises OSError when nobody does."""
    with connect(directory) as sock:
        size = struct.calcsize("3i")
        pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return pid


async def _kill_in_thread(work: Callable[[], None]) -> None:
    """In one of its own: no kill waits for somebody's slow work in the loop's pool, unless there is no other way."""
    try:
        await in_own_thread("kill", work)
    except NoThread:
        await asyncio.to_thread(work)


async def _make_netns() -> int:
    """In a thread of its own: no start waits for what else cortend does in threads."""
    making = in_own_thread("netns", netns.make_and_stay, late=os.close)
    try:
        return await asyncio.wait_for(making, _NETNS_TIMEOUT_S)
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, "network namespace: the kernel makes none") from None


def _take_error(made: asyncio.Future[int]) -> None:
    """Without a spare the next start makes its own."""
    if not made.cancelled():
        made.exception()
