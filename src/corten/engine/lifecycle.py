"""What clients do with containers: create, start, stop, kill, restart, pause, rename, remove, prune, wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.core import asker
from corten.core import journal as kinds
from corten.core.images import Image
from corten.core.init import init_layer
from corten.engine import blockio, names, oci, storage
from corten.engine.container import CONDITIONS, Container, Waiter
from corten.engine.copyups import CopyUps
from corten.engine.deciding import Decider
from corten.engine.effective import Effective
from corten.engine.events import container_event
from corten.engine.finish import Finisher
from corten.engine.parts import Parts, row
from corten.engine.record import Move, Record, Status, advance
from corten.engine.removal import Removal
from corten.engine.shimwatch import ShimWatch
from corten.engine.signals import parse_signal
from corten.engine.start import Starter, check_startable
from corten.engine.tasks import Task
from corten.engine.update import left_alone
from corten.engine.volumes import Volumes
from corten.errors import (
    Conflict,
    CortenError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotModified,
    Unavailable,
)
from corten.spec.docker import ContainerCreateRequest, ContainerUpdateRequest

Json = dict[str, Any]

log = logging.getLogger("corten.engine")

SIGKILL: Final = 9
_SIGTERM: Final = 15
_AFTER_KILL_S: Final = 10.0
_LONGEST_STOP_S: Final = 600  # where a policy stops it: the time between its signal and SIGKILL is the client's word
_PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})


class Lifecycle:
    """The verbs.  Each takes a container's lock for as long as it changes its state."""

    def __init__(self, parts: Parts, starter: Starter, finisher: Finisher, removal: Removal, watch: ShimWatch) -> None:
        self._parts = parts
        self._starter = starter
        self._finisher = finisher
        self._watch = watch
        self._removal = removal
        self._decider = Decider(parts)
        self.volumes: Volumes  # given by the engine
        self.copy_ups: CopyUps
        self.renamed: Callable[[Container], Awaitable[None]] = _nobody_asks

    def find(self, ref: str) -> Container:
        """By id, name or prefix.  Raises NotFound."""
        return self._parts.roster.find(ref)

    # Making

    async def create(self, request: ContainerCreateRequest, name: str, platform: str) -> Json:
        """`{"Id", "Warnings"}`."""
        container_id = secrets.token_hex(32)
        name = self._reserve(name, container_id)
        try:
            image, decided, warnings = await self._decider.decide(request, container_id, platform, name=name)
            points, new = self.volumes.make_for(decided.mounts, container_id)
            record = Record(
                id=container_id,
                name=name,
                image_id=image.id,
                image_ref=request.config.image,
                created_ns=time.time_ns(),
                effective=replace(decided, mounts=points),
                cgroup=oci.cgroup_path(decided.host, self._parts.cgroup_parent, container_id),
                is_unfinished=any(point.copies for point in points),
            )
            try:
                container = self._make(record, image, new)
            except BaseException:
                self.volumes.unmake(new)
                raise
        except BaseException:
            self._parts.roster.release_name(name, container_id)
            raise
        if record.is_unfinished:
            await self._fill_volumes(container, new)
        self._parts.bus.publish(container_event(record, "create"))
        if new or not decided.host.auto_remove:
            await asyncio.to_thread(self._parts.sync)
        return {"Id": container_id, "Warnings": warnings}

    async def _fill_volumes(self, container: Container, new: Sequence[str]) -> None:
        """What the image has where the volumes are; nobody can start it meanwhile.  Without that it is not made."""
        async with container.lock:
            try:
                await self.copy_ups.fill(container)
                self._parts.save(container, replace(container.record, is_unfinished=False))
            except BaseException:
                self._removal.remove_soon(container)
                self.volumes.unmake(new)
                raise

    def _reserve(self, name: str, container_id: str) -> str:
        """The name without its slash, the container's from now on."""
        roster = self._parts.roster
        bare = name.removeprefix("/")
        if name and not names.NAME_PATTERN.match(name):
            raise InvalidArgument(f"Invalid container name ({name}), only {names.NAME_CHARS} are allowed")
        bare = bare or names.random_name(roster.is_taken)
        roster.reserve_name(bare, container_id)
        return bare

    def _make(self, record: Record, image: Image, volumes: Sequence[str]) -> Container:
        """Directories first, each announced, then the record; its new volumes are announced until then.

        A --rm container's is not synced: after the machine's end it would be removed anyway (`recovery`).
        """
        parts = self._parts
        paths = parts.paths(record.id)
        entry = parts.journal.begin(kinds.CONTAINER_DIR, paths.directory)
        try:
            os.mkdir(paths.directory, 0o710)
            size = storage.size_of(record.effective.host.storage_opt)
            parts.snapshots.prepare(record.id, init_layer(parts.snapshots, image.chain), size=size)
            with parts.images.database.transaction():
                parts.containers.create(row(record), durable=False)
                parts.images.touch(image.id)
                parts.journal.done(entry)
                parts.volumes.settle(volumes)
        except BaseException:
            self._removal.discard_unmade(record.id, image.id)
            raise
        container = Container(record, parts.loop)
        parts.roster.add(container)
        return container

    async def explain(self, request: ContainerCreateRequest, name: str) -> tuple[Image, Effective]:
        """What `create` would decide; nothing is made."""
        if name and self._parts.roster.is_taken(name.removeprefix("/")):
            self._parts.roster.reserve_name(name.removeprefix("/"), "")
        image, decided, _ = await self._decider.decide(request, secrets.token_hex(32), "", name=name.removeprefix("/"))
        return image, replace(decided, mounts=self.volumes.placed(decided.mounts))

    # Starting and stopping

    async def start(self, ref: str, detach_keys: str = "") -> None:
        """Raises NotModified when it runs."""
        container = self.find(ref)
        async with container.lock:
            if container.record.state.status is Status.RESTARTING:
                raise NotModified(f"container {container.id} is restarting")
            await self._start(container)

    async def _start(self, container: Container) -> None:
        """By hand: restarts begin to count anew.  One that runs is left as it is, perhaps about to be stopped."""
        check_startable(container)
        if container.restart_timer is not None:
            container.restart_timer.cancel()
            container.restart_timer = None
        container.backoff.reset()
        container.is_stopping = False
        state = container.record.state
        if state.stopped_by_user or state.restart_count:
            container.record = container.record.with_state(stopped_by_user=False, restart_count=0, restart_delay_s=0.0)
        try:
            await self._starter.start(container)
        except NotModified:
            raise
        except CortenError:
            if container.record.effective.host.auto_remove and not container.is_running:
                self._removal.remove_soon(container)
            raise

    async def stop(self, ref: str, signal: str = "", timeout_s: int | None = None) -> None:
        """Signal, wait, kill.  Raises NotModified when it does not run."""
        container = self.find(ref)
        if not container.is_active:
            raise NotModified(f"container {container.id} is not running")
        number = parse_signal(signal) if signal else 0
        await self._stop(container, number, timeout_s)
        self._parts.bus.publish(container_event(container.record, "stop"))

    async def _stop(self, container: Container, number: int, timeout_s: int | None) -> None:
        config = container.record.effective.config
        number = number or parse_signal(config.stop_signal or "SIGTERM")
        if timeout_s is None:
            timeout_s = config.stop_timeout if config.stop_timeout is not None else 10
        waiter = await self._signal_to_end(container, number)
        run = container.task
        if waiter is not None and not await _ended(waiter, timeout_s if timeout_s >= 0 else None):
            await self.kill_to_end(container, run)

    async def _signal_to_end(self, container: Container, number: int, run: Task | None = None) -> Waiter | None:
        """Send a signal that is meant to end it.  Who waits for that end; None when it does not run (any more).

        With `run` it is meant for that one, not for what another client has started since.
        """
        async with container.lock:
            if run is not None and container.task is not run:
                return None
            if container.record.state.status is Status.RESTARTING:
                self._mark_stopped(container)
                self._finisher.give_up(container)
            if not container.is_running:
                return None
            self._mark_stopped(container)
            waiter = container.wait("next-exit")
            await self._send(container, number)
            return waiter

    def _mark_stopped(self, container: Container) -> None:
        """The user wants it stopped: no policy starts it again."""
        container.is_stopping = True
        if not container.record.state.stopped_by_user:
            self._parts.note(container, container.record.with_state(stopped_by_user=True))

    async def _send(self, container: Container, number: int) -> None:
        """A signal to the init.  Around a shim that hangs: by pid, for SIGKILL through the cgroup and to the shim."""
        task = container.task
        assert task is not None
        try:
            by: Json = msgspec.to_builtins(asker.current())
            container.note_kill(number, by)
            await container.require_running().kill(number, by=by)
        except FailedPrecondition:
            return  # it is dead; its exit is on the way
        except Unavailable:
            if task.shim is not None and not task.shim.is_open:
                return  # the shim is dead, and its container with it: likewise
            self._watch.unresponsive(container)
            if number == SIGKILL:
                await self._parts.tasks.kill(task)
                await self._bury_hung(container, task)
            else:
                _signal_init(container, number)
        self._parts.bus.publish(container_event(container.record, "kill", signal=str(number)))
        if container.record.state.status is Status.PAUSED and number in (SIGKILL, _SIGTERM):
            await self._thaw(container)
            if number != SIGKILL:  # as dockerd tells it
                self._parts.bus.publish(container_event(container.record, "unpause"))

    async def _bury_hung(self, container: Container, task: Task) -> None:
        """End a shim that does not answer.  Its connection's end is its exit; without one it is told here."""
        self._parts.tasks.kill_shim(task)
        if task.shim is None:
            self._parts.run_later(self._finisher.finish(container, task, self._finisher.verdict(container, task)))

    async def _thaw(self, container: Container) -> None:
        """So that it can die of the signal.  One that is dead already cannot be thawed."""
        try:
            await container.require_running().resume()
        except CortenError as error:
            log.log(_thaw_level(error), "container %s is not thawed: %s", container.id, error)
            return
        record = container.record.with_state(status=advance(container.record.state.status, Move.UNPAUSE))
        self._parts.note(container, record)

    async def kill_to_end(self, container: Container, run: Task | None = None) -> None:
        """SIGKILL and, when even that does not end it in time, its whole cgroup.  `run`: see `_signal_to_end`."""
        waiter = await self._signal_to_end(container, SIGKILL, run)
        if waiter is None or await _ended(waiter, _AFTER_KILL_S):
            return
        if container.task is not None:
            await self._parts.tasks.kill(container.task)
        if not await _ended(waiter, _AFTER_KILL_S):
            text = "tried to kill container, but did not receive an exit event"
            raise Internal(f"could not kill container: {container.name}: {text}")

    async def end(self, container: Container, by: asker.Asker) -> None:
        """Stop what runs, as a client would, for somebody else: in a time that no client can make endless."""
        asker.set_to(by)
        own = container.record.effective.config.stop_timeout
        is_short = own is None or 0 <= own <= _LONGEST_STOP_S
        await self._stop(container, 0, None if is_short else _LONGEST_STOP_S)
        self._parts.bus.publish(container_event(container.record, "stop"))

    async def restart(self, ref: str, signal: str = "", timeout_s: int | None = None) -> None:
        """Stop if it runs, then start, unless another client has done that meanwhile."""
        container = self.find(ref)
        number = parse_signal(signal) if signal else 0
        if container.is_active:
            container.keepers += 1
            try:
                await self._stop(container, number, timeout_s)
            finally:
                container.keepers -= 1
            self._parts.bus.publish(container_event(container.record, "stop"))
        async with container.lock:
            if not container.is_active:
                await self._start(container)
        self._parts.bus.publish(container_event(container.record, "restart"))

    async def kill(self, ref: str, signal: str = "SIGKILL") -> None:
        """A signal; SIGKILL waits for the end."""
        number = parse_signal(signal)
        container = self.find(ref)
        if container.record.state.status is Status.RESTARTING:
            await self._signal_to_end(container, number)
            return
        container.require_running()
        if number == SIGKILL:
            await self.kill_to_end(container)
            return
        async with container.lock:
            container.require_running()  # nothing was sent to one that has ended meanwhile
            stop_signal = container.record.effective.config.stop_signal
            if not stop_signal or parse_signal(stop_signal) == number:
                self._mark_stopped(container)
            await self._send(container, number)

    async def pause(self, ref: str) -> None:
        """Freeze."""
        container = self.find(ref)
        async with container.lock:
            if container.record.state.status is Status.PAUSED:
                raise Conflict(f"Container {container.id} is already paused")
            with container.asked() as shim:
                await shim.pause()
            self._move(container, Move.PAUSE, "pause")

    async def unpause(self, ref: str) -> None:
        """Thaw."""
        container = self.find(ref)
        async with container.lock:
            if container.record.state.status is not Status.PAUSED:
                raise Internal(f"Container {container.id} is not paused")
            with container.asked() as shim:
                await shim.resume()
            self._move(container, Move.UNPAUSE, "unpause")

    def _move(self, container: Container, move: Move, action: str) -> None:
        record = container.record
        self._parts.note(container, record.with_state(status=advance(record.state.status, move)))
        self._parts.bus.publish(container_event(container.record, action))

    async def wait(self, ref: str, condition: str) -> Waiter:
        """Registered at once."""
        container = self.find(ref)
        if condition not in CONDITIONS:
            raise InvalidArgument(f'invalid condition: "{condition}"')
        return container.wait(condition)

    # Names

    async def rename(self, ref: str, name: str) -> None:
        """Raises Conflict when the name is taken."""
        if not ref or not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        container = self.find(ref)
        bare = name.removeprefix("/")
        _check_other_name(container, bare)
        if not names.NAME_PATTERN.match(name):
            shown = f"/{bare}"
            raise InvalidArgument(
                f"Error when allocating new name: Invalid container name ({shown}), only {names.NAME_CHARS} are allowed"
            )
        async with container.lock:
            _check_other_name(container, bare)  # another client may have renamed it meanwhile
            self._rename(container, bare)
            await self.renamed(container)

    def _rename(self, container: Container, bare: str) -> None:
        roster, before = self._parts.roster, container.name
        try:
            roster.reserve_name(bare, container.id)
        except Conflict as error:
            raise Conflict(f"Error when allocating new name: {error}") from error
        try:
            self._parts.save(container, replace(container.record, name=bare))
        except BaseException:  # it was removed meanwhile, or the disk is full
            roster.release_name(bare, container.id)
            raise
        roster.release_name(before, container.id)
        self._parts.bus.publish(container_event(container.record, "rename", oldName=f"/{before}"))

    # Changing

    async def update(self, ref: str, request: ContainerUpdateRequest) -> Json:
        """New limits and restart policy, for the record and for what runs."""
        container = self.find(ref)
        async with container.lock:
            try:
                warnings = await self._update(container, request)
            except (Conflict, Internal) as error:
                raise type(error)(f"Cannot update container {container.id}: {error}") from error
        self._parts.bus.publish(container_event(container.record, "update"))
        return {"Warnings": warnings or None}

    async def _update(self, container: Container, request: ContainerUpdateRequest) -> list[str]:
        if container.record.state.status in (Status.REMOVING, Status.DEAD):
            raise Conflict('container is marked for removal and cannot be "update"')
        less, warnings = blockio.adapt(request, self._parts.machine)
        before, request = container.record.effective, replace(request, **less)
        changed = await self._decider.update(container, request)
        warnings += left_alone(before, request)
        if container.is_running:
            await self._limit(container, changed)
        self._parts.save(container, replace(container.record, effective=changed))
        return warnings

    async def _limit(self, container: Container, changed: Effective) -> None:
        """What runs gets its new limits; of one that ends meanwhile the next run has them."""
        try:
            with container.asked() as shim:
                await shim.update(oci.update_resources(changed))
        except Conflict as error:
            log.debug("container %s ended before its update: %s", container.id, error)


async def _nobody_asks(container: Container) -> None:
    """Where nobody answers names."""


def _check_other_name(container: Container, bare: str) -> None:
    if bare == container.name:
        raise InvalidArgument("Renaming a container with the same name as its current name")


def _thaw_level(error: CortenError) -> int:
    """An end that came first is nothing to tell."""
    return logging.DEBUG if isinstance(error, FailedPrecondition) else logging.WARNING


def _signal_init(container: Container, number: int) -> None:
    """By pid: nobody but the hung shim can reap it, so the number is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(container.record.state.pid, number)


async def _ended(waiter: Waiter, timeout_s: float | None) -> bool:
    """Whether the end came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await waiter.result()
    except TimeoutError:
        return False
    return True
