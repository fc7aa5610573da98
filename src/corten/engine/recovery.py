"""The engine's start after any end: every container is adopted or reported, everything else of this engine removed.

    records   every container of the database, in memory
    tasks     each task directory: its shim connected to, or its remains buried
    verdicts  running containers without a shim: exit record, else `shim lost`
    network   the bridge as recorded; endpoints of the dead given back
    disk      snapshots and directories that no record names: into the trash, which is emptied while the engine serves
    policies  restart policies of what does not run

The journal says where to look first; the scans look everywhere (design.md §5).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from corten.core import gc, imagemounts, recovery
from corten.core.content import ContentStore
from corten.core.journal import CONTAINER_DIR, TASK_DIR
from corten.core.metadata import Database
from corten.core.snapshots import Kind
from corten.engine import times
from corten.engine.attachments import Attachments
from corten.engine.container import Container
from corten.engine.events import untold_deaths
from corten.engine.execs import Execs
from corten.engine.finish import Finisher, exit_of
from corten.engine.health import Healths
from corten.engine.parts import Parts
from corten.engine.record import Place, Record, Status, decode
from corten.engine.restart import should_restart
from corten.engine.sharedmemory import release
from corten.engine.shimwatch import ShimWatch
from corten.engine.tasks import Task
from corten.engine.threads import in_own_thread
from corten.engine.volumemounts import VolumeMounts
from corten.errors import CortenError, NotFound, Unavailable
from corten.shim.protocol import NETNS_FD

log = logging.getLogger("corten.engine")

_CONCURRENT: Final = 32


class News:
    """What a shim tells while it is being taken over, kept until that is done.

    The end of a run that is nobody's yet would be told to nobody: its container would run for ever.
    """

    def __init__(self) -> None:
        self._kept: list[Callable[[], None]] | None = []

    def come(self, tell: Callable[[], None]) -> None:
        """Now or later."""
        if self._kept is None:
            tell()
        else:
            self._kept.append(tell)

    def tell(self) -> None:
        """What was kept, in its order; from here on all is told at once."""
        kept, self._kept = self._kept or [], None
        for tell in kept:
            tell()


class Recovery:
    """One start of the engine."""

    def __init__(
        self,
        parts: Parts,
        finisher: Finisher,
        execs: Execs,
        healths: Healths,
        watch: ShimWatch,
        *,
        database: Database,
        content: ContentStore,
    ) -> None:
        self._parts = parts
        self._attachments = Attachments(parts)
        self._finisher = finisher
        self._execs = execs
        self._healths = healths
        self._watch = watch
        watch.adopt = self._adopt
        self.volume_mounts: VolumeMounts  # given by the engine
        self.adopted: Callable[[Container], None]
        self.settle: Callable[[Container], Awaitable[None]]
        self._database = database
        self._content = content
        self._entries = {entry.name: entry for entry in parts.journal.entries(TASK_DIR)}

    async def run(self) -> None:
        """Every step but the policies, which wait until the engine serves.

        No container is started meanwhile: its cgroup or link would be taken for a stray.  Nothing waits for the disk
        to remove a tree.
        """
        self._parts.snapshots.trash.hold()
        self._finisher.restarts_wait = True
        self._load_records()
        self._tell_deaths()
        self.volume_mounts.know_holders()
        await self._adopt_all()
        self._restore_network()
        for container in self._parts.roster:
            if container.is_running:
                await self.settle(container)
        await self._remove_transient()
        await self._end_strays()
        await self._parts.settle()
        await asyncio.to_thread(self._clean_disk)

    def _load_records(self) -> None:
        for row in self._parts.containers.list():
            try:
                record = decode(row.engine)
            except msgspec.DecodeError as error:
                log.warning("record of container %s cannot be read, the container is left alone: %s", row.id, error)
                self._parts.unreadable[row.id] = row.engine
                self._parts.roster.reserve_name(row.name, row.id)
                continue
            self._parts.roster.reserve_name(record.name, record.id)
            self._parts.roster.add(Container(record, self._parts.loop))

    def _tell_deaths(self) -> None:
        """What the cortend before has recorded and not told any more."""
        ended = (one.record for one in self._parts.roster if not one.is_running and one.record.state.finished_ns)
        for event in untold_deaths(self._parts.event_log, ended):
            self._parts.bus.publish(event)

    # Tasks

    async def _adopt_all(self) -> None:
        """All shims at once: one that hangs must not hold up the others."""
        gate = asyncio.Semaphore(_CONCURRENT)

        async def one(container: Container) -> None:
            async with gate:
                await self._adopt(container)

        await asyncio.gather(*(one(container) for container in self._parts.roster))
        self._watch_signals()

    def _watch_signals(self) -> None:
        """Of those that run; what an earlier cortend has watched was watched all the time."""
        alive = [self._finisher.watched(one) for one in self._parts.roster if one.is_running]
        for pids, cgroup in alive:
            self._parts.senders.watch(*pids, cgroup=cgroup)
        self._parts.senders.keep((pid for pids, _ in alive for pid in pids), (cgroup for _, cgroup in alive))

    async def _adopt(self, container: Container) -> None:
        directory = self._parts.tasks.directory(container.id)
        was_running = container.is_running
        if not os.path.isdir(directory):
            if was_running:
                await self._bury(container, self._task(container))
            return
        task, before, news = self._task(container), container.task, News()
        try:
            status = await self._parts.tasks.adopt(
                task,
                events=lambda message: news.come(lambda: self._finisher.told(container, task, message)),
                lost=lambda: news.come(lambda: self._finisher.lost(container, task)),
            )
        except (NotFound, Unavailable) as error:
            if container.task is before:  # else somebody has ended it meanwhile
                await self._go_on_without(container, task, error)
            return
        if container.task is not before:
            assert task.shim is not None
            task.shim.close()
            return
        try:
            await self._take_over(container, task, status)
        finally:
            news.tell()

    async def _go_on_without(self, container: Container, task: Task, error: NotFound | Unavailable) -> None:
        if isinstance(error, Unavailable):
            await self._leave_hung(container, task, error)
            return
        log.warning("container %s: %s", container.id, error)
        await self._bury(container, task)

    def _task(self, container: Container) -> Task:
        directory = self._parts.tasks.directory(container.id)
        entry = self._entries.get(directory)
        return Task(container.id, directory, container.record.cgroup, entry.id if entry is not None else 0)

    async def _take_over(self, container: Container, task: Task, status: dict[str, Any]) -> None:
        """The shim's word against the record: the shim is right."""
        state, exited = status["state"], status.get("exit")
        if state not in ("running", "paused") and exited is None:
            log.info("container %s was being started: undone", container.id)
            await self._parts.tasks.end(task)
            self._forget_run(container)
            return
        if exited is not None and _is_recorded(container, status):
            log.info("container %s had ended: the rest of its cleanup", container.id)
            container.cleanup = self._parts.run_later(self._finisher.clean_up(container, task))
            return
        container.task = task
        container.endpoints = self._attachments.known(container)
        if not container.is_running:  # a kill came between its start and the record of it
            fresh = container.record.fresh_health()  # and the start was not stopped, whatever was before it
            container.record = container.record.with_state(health=fresh, stopped_by_user=False, oom_kills=0)
        self._healths.adopt(container, status.get("health"))
        self._parts.save(container, self._placed(container, _running(container.record, task, status)))
        self._execs.adopt(container, status.get("execs") or {})
        self._attachments.adopt(container)
        self._finisher.tell_oom(container, int((exited or status).get("oom_kill_count", 0)))
        await self._end_hold(container, task)
        self.adopted(container)
        if exited is not None:
            await self._finisher.finish(container, task, exit_of(exited))
        log.info("container %s adopted: %s", container.id, state)

    async def _end_hold(self, container: Container, task: Task) -> None:
        """What a commit froze goes on when the cortend of the commit is gone."""
        state = container.record.state
        if not state.is_held:
            return
        if state.status is Status.PAUSED and task.shim is not None:
            try:
                await task.shim.resume()
            except CortenError as error:
                log.warning("container %s stays paused after a commit: %s", container.id, error)
                return
            state = msgspec.structs.replace(state, status=Status.RUNNING)
            log.info("container %s goes on: its commit was interrupted", container.id)
        self._parts.save(container, container.record.with_state(status=state.status, is_held=False))

    def _placed(self, container: Container, record: Record) -> Record:
        """With its place in the network, when a kill came between the start of its process and the record of it.

        Without a place nobody would take it off the network at its exit.
        """
        asked = record.effective.asked_networks
        if container.is_running or not asked:
            return record
        endpoints = {name: one.endpoint_id for name, one in container.endpoints.items()}
        place = Place(
            networks=endpoints or {name: secrets.token_hex(32) for name in asked},
            sandbox_id=secrets.token_hex(32),
            sandbox_key=f"/proc/{record.state.shim_pid}/fd/{NETNS_FD}",
        )
        return msgspec.structs.replace(record, place=place)

    async def _bury(self, container: Container, task: Task) -> None:
        """No shim answers: what is left of the container dies, and its exit is told."""
        container.task = task  # first: nobody else ends this run and begins another meanwhile
        await self._parts.tasks.kill(task)
        if container.task is not task:
            return
        if container.is_running:
            await self._finisher.finish(container, task, self._finisher.verdict(container, task))
            return
        container.task = None
        release(task.directory)
        await self._parts.tasks.bury(task)

    async def _leave_hung(self, container: Container, task: Task, error: Unavailable) -> None:
        """Its container goes on, as far as anybody knows; of one that was not running yet nothing is worth keeping."""
        if not container.is_running:
            await self._bury(container, task)
            return
        log.warning("container %s: %s", container.id, error)
        container.task = task
        container.endpoints = self._attachments.known(container)
        self._watch.unresponsive(container)
        self.adopted(container)

    def _forget_run(self, container: Container) -> None:
        """A start that a kill interrupted never was."""
        record = container.record
        if container.is_running or record.place != record.place.left():
            status = Status.EXITED if record.state.started_ns else Status.CREATED
            record = record.with_state(status=status, pid=0, shim_pid=0)
            self._parts.save(container, msgspec.structs.replace(record, place=record.place.left()))

    async def _end_strays(self) -> None:
        """Task directories, cgroups and journal entries of containers that no record names."""
        parts = self._parts
        for container_id in list(parts.tasks.leftovers()):
            container = parts.roster.get(container_id)
            if container is None and container_id not in self._parts.unreadable:
                await self._end_stray(container_id)
        for entry in self._entries.values():
            if entry.data.get("id") not in self._parts.unreadable and not os.path.isdir(entry.name):
                self._remove_cgroup(str(entry.data.get("cgroup", "")))
                parts.journal.done(entry.id)
        await asyncio.to_thread(self._remove_stray_cgroups)

    async def _end_stray(self, container_id: str) -> None:
        parts = self._parts
        directory = parts.tasks.directory(container_id)
        entry = self._entries.get(directory)
        cgroup = str(entry.data.get("cgroup", "")) if entry is not None else ""
        task = Task(container_id, directory, cgroup or parts.cgroup_path(container_id), entry.id if entry else 0)
        log.warning("task of container %s has no record: ended", container_id)
        try:
            await parts.tasks.adopt(task, events=_ignore, lost=_ignore_loss)
        except (NotFound, Unavailable):
            task.shim = None
        release(directory)
        if task.shim is not None:
            await parts.tasks.end(task)
        else:
            await parts.tasks.bury(task)

    def _remove_cgroup(self, path: str) -> None:
        if path:
            cgroup = self._parts.tasks.cgroup(path)
            cgroup.kill_all()
            cgroup.remove()

    def _remove_stray_cgroups(self) -> None:
        """By the engine's id: children of its parent cgroup whose container does not run."""
        alive = {one.id for one in self._parts.roster if one.task is not None}
        parent = self._parts.tasks.cgroup(self._parts.cgroup_parent)
        names = {name for path in parent.paths.directories() for name in _subdirectories(path)}
        for name in names - alive - self._parts.unreadable.keys():
            log.warning("cgroup %s has no container: removed", name)
            self._remove_cgroup(f"{self._parts.cgroup_parent}/{name}")

    async def _remove_transient(self) -> None:
        """--rm containers that do not run, whose end came while nobody was here; and those that were never made."""
        for container in self._parts.roster:
            is_transient = container.record.effective.host.auto_remove or container.record.is_unfinished
            if is_transient and not container.is_running:
                async with container.lock:
                    self._finisher.remove(container)

    # Network and disk

    def _restore_network(self) -> None:
        alive = {one.id for one in self._parts.roster if one.is_running}
        for leftover in self._parts.bridge.restore(alive | self._parts.unreadable.keys()):
            log.warning("%s %s has no container: removed", leftover.kind, leftover.name)

    def _clean_disk(self) -> None:
        """Snapshots of containers, and directories, without a record; and records without a directory."""
        parts = self._parts
        containers = f"{parts.settings.data_root}/containers"
        for snapshot in parts.snapshots.all():
            is_owned = snapshot.key in parts.roster or snapshot.key in self._parts.unreadable
            if snapshot.kind is not Kind.COMMITTED and not is_owned:
                parts.snapshots.remove(snapshot.key)
        found = recovery.scan(self._database, parts.snapshots, self._content, containers_path=containers)
        for line in found.lines():
            log.warning("%s: removed", line)
        try:
            self._repair_images(found, containers)
        except (CortenError, OSError) as error:  # no reason to leave the containers alone
            log.warning("images are neither repaired nor cleaned up: %s", error)
        parts.journal.done(*(entry.id for entry in parts.journal.entries(CONTAINER_DIR)))
        self.volume_mounts.unmount_unheld()
        for line in (*parts.volumes.repair(self._is_orphan), *parts.snapshots.repair_sizes()):
            log.warning("%s", line)

    def _is_orphan(self, owner: str, name: str) -> bool:
        """Whether a volume was made for a container that was never made, and is nobody's."""
        mounts = (point for one in self._parts.roster for point in one.record.effective.mounts)
        is_held = any(point.kind == "volume" and point.name == name for point in mounts)
        return owner not in self._parts.roster and not is_held and not self._parts.unreadable

    def _repair_images(self, found: recovery.Leftovers, containers: str) -> None:
        parts = self._parts
        for key in recovery.repair(found, parts.images, parts.journal, containers_path=containers):
            log.warning("snapshot %s is lost", key)
        imagemounts.drop_stale(parts.images)
        collected = gc.collect(parts.images)
        if collected.blobs or collected.snapshots:
            log.info("removed %d blobs and %d layers of nobody", len(collected.blobs), len(collected.snapshots))

    async def empty_trash(self) -> None:
        """Remove what this start and those before have thrown away; an end of cortend leaves the rest to the next."""
        trash = self._parts.snapshots.trash
        trash.release()
        try:
            removed = await in_own_thread("trash", trash.empty)
        except OSError as error:
            log.warning("the trash is left to the next start: %s", error)
            return
        if removed:
            log.info("removed %d trees of nobody", removed)

    # Policies

    async def start_policies(self) -> None:
        """Start what its policy wants and what does not run.  `always` holds even for what was stopped by hand.

        Many at once, oldest first: one may wait for a file system.  What joins another's namespaces starts after that.
        """
        self._finisher.restarts_wait = False
        gate = asyncio.Semaphore(_CONCURRENT)
        starts: list[tuple[Container, asyncio.Task[None]]] = []
        for container in self._parts.roster:
            if _is_wanted(container) and not self._finisher.wait_out(container):
                owners = container.record.joined
                before = [task for other, task in starts if owners & {other.id, other.name}] if owners else []
                starts.append((container, self._parts.loop.create_task(self._start_after(before, container, gate))))
        await asyncio.gather(*(task for _, task in starts))

    async def _start_after(
        self, before: list[asyncio.Task[None]], container: Container, gate: asyncio.Semaphore
    ) -> None:
        if before:
            await asyncio.wait(before)
        async with gate, container.lock:
            if not _is_wanted(container):  # any more
                return
            if container.record.state.stopped_by_user:  # `always`: by now it counts no more
                container.record = container.record.with_state(stopped_by_user=False)
            try:
                await self._finisher.start_again(container)
            except CortenError as error:
                log.warning("container %s could not be started: %s", container.id, error)
                self._finisher.not_started(container, error)


def _is_wanted(container: Container) -> bool:
    """Whether its policy starts it now."""
    state = container.record.state
    if state.status not in (Status.EXITED, Status.RESTARTING) or container.restart_timer is not None:
        return False
    policy = container.record.effective.host.restart_policy
    wanted = should_restart(
        policy, state.exit_code, restarts=state.restart_count, stopped_by_user=state.stopped_by_user
    )
    return wanted or state.status is Status.RESTARTING


def _is_recorded(container: Container, status: dict[str, Any]) -> bool:
    """Whether the record has the end of the run that this shim tells of: it must not be told, or followed, twice."""
    started_ns = times.from_rfc3339(status["started_at"]) if status["started_at"] else 0
    return not container.is_running and started_ns == container.record.state.started_ns


def _running(record: Record, task: Task, status: dict[str, Any]) -> Record:
    """The record of a container whose shim lives."""
    is_paused = status["state"] == "paused"
    assert task.shim is not None
    return record.with_state(
        status=Status.PAUSED if is_paused else Status.RUNNING,
        pid=int(status["init_pid"]) or record.state.pid,
        shim_pid=task.shim.pid,
        exit_code=0,
        error="",
        started_ns=times.from_rfc3339(status["started_at"]) if status["started_at"] else record.state.started_ns,
    )


def _subdirectories(path: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _ignore(message: dict[str, Any]) -> None:
    """An event of a task that is being ended."""


def _ignore_loss() -> None:
    """The end of a task that is being ended."""
