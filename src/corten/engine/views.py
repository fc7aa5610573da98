"""The files of containers as trees of mounts, for as long as somebody copies (`rootview`).

A container that does not run has one tree for all who copy, because its layers must not be mounted twice with the same
upper directory; for the same reason a start waits for them.  Who takes too long is cut off: no client keeps a container
from starting.  A tree belongs to the threads that use it, and ends with the last of them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from msgspec import structs

from corten.engine import mapped, sources
from corten.engine.container import Container
from corten.engine.rootview import Graft, Live, of_running, of_stopped
from corten.engine.threads import NoThread, disk_error, in_own_thread
from corten.errors import Conflict, FailedPrecondition, Internal, Unavailable
from corten.launch.spawn import Launcher
from corten.shim.rootfs import RootMount, make_detached

if TYPE_CHECKING:
    from corten.engine.parts import Parts
    from corten.engine.volumemounts import VolumeMounts

log = logging.getLogger("corten.engine")

PATIENCE_S: Final = 10.0  # of a start, for who copies
_CUT_S: Final = 5.0  # until who was cut off is gone
_POLL_S: Final = 0.02
_END_S: Final = 1.0  # until the end of a container is told


class View:
    """One tree.  `with view:` in the thread that uses it, after a `hold` for that thread."""

    def __init__(self, container_id: str, fd: int, ended: Callable[[View], None]) -> None:
        self.container_id = container_id
        self.fd = fd
        self.at_end: Callable[[], object] = lambda: None
        self._ended = ended
        self._users = 1
        self._lock = threading.Lock()
        self._cut = ""
        self._on_cut: list[Callable[[], object]] = []

    def hold(self) -> bool:
        """One more user, who releases it; False when it has ended."""
        with self._lock:
            self._users += 1 if self._users else 0
            return bool(self._users)

    def release(self) -> None:
        """One user less; the last closes the tree."""
        with self._lock:
            self._users -= 1
            is_last = not self._users
        if is_last:
            os.close(self.fd)
            self._ended(self)

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @contextmanager
    def cutting(self, callback: Callable[[], object]) -> Iterator[None]:
        """Have `callback` run, in the event loop, when the use of it is to end before the `with` does."""
        self._on_cut.append(callback)
        try:
            yield
        finally:
            self._on_cut.remove(callback)

    def cut(self, why: str) -> None:
        """End the use of it."""
        self._cut = why
        for callback in list(self._on_cut):
            callback()

    def check(self) -> None:
        """Raises Conflict when it was cut."""
        if self._cut:
            raise Conflict(self._cut)


class Views:
    """All trees of an engine.  Everything but the use of a view runs in the engine's event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.volume_mounts: VolumeMounts  # given by the engine
        self._launcher: Launcher | None = None
        self._views: dict[str, set[View]] = {}
        self._stopped: dict[str, View] = {}
        self._making: dict[str, set[asyncio.Task[View]]] = {}

    async def open(self, container: Container) -> View:
        """A tree of the container's files, with one user.  Raises Conflict, Unavailable, Internal.

        One that ends meanwhile cannot be reached any more, before its end is told: it is asked again.
        """
        deadline = self._parts.loop.time() + _END_S
        while True:
            if _is_running(container):
                try:
                    return await self._running(container)
                except (Conflict, FailedPrecondition, Unavailable):
                    if _is_running(container) and self._parts.loop.time() > deadline:
                        raise
                await asyncio.sleep(_POLL_S)
                continue
            await self._prepare_sources(container)
            async with container.lock:
                if not _is_running(container) and not self._making.get(container.id):
                    return await self._of_stopped(container)
            await asyncio.sleep(_POLL_S)

    async def leave(self, container_id: str, why: str, *, patience_s: float = PATIENCE_S) -> None:
        """Wait until nobody copies from or to a container; who takes too long is cut off, and told `why`."""
        for limit_s in (patience_s, _CUT_S):
            deadline = self._parts.loop.time() + limit_s
            while self._is_used(container_id):
                if self._parts.loop.time() > deadline:
                    break
                await asyncio.sleep(_POLL_S)
            for view in list(self._views.get(container_id, ())):
                view.cut(why)
        if self._is_used(container_id):
            log.warning("container %s: a file system in the way of a copy does not respond", container_id)

    def _is_used(self, container_id: str) -> bool:
        return bool(self._views.get(container_id) or self._making.get(container_id))

    # Making

    async def _running(self, container: Container) -> View:
        shim = container.require_running()
        live = Live(container.record.state.pid, shim.pid, await shim.rootfs())
        launcher = self._launcher = self._launcher or Launcher()
        grafts, read_only = self._grafts(container), container.record.effective.host.readonly_rootfs

        def work() -> int:
            try:
                with mapped.acting(container.record.effective.id_map):
                    return of_running(live, grafts, self._scratch, launcher, read_only=read_only)
            finally:
                os.close(live.root_fd)

        try:
            return await self._made(container, work)
        except NoThread:
            os.close(live.root_fd)
            raise

    async def _prepare_sources(self, container: Container) -> None:
        """Of its binds, as a start does, made where they are missing; what they propagate is nothing to a copy."""
        for point in container.record.effective.mounts:
            if point.kind == "bind":
                prepare = functools.partial(sources.prepare, structs.replace(point, propagation="rprivate"))
                try:
                    await self._parts.host_looks.look("bind source", point.source, prepare)
                except OSError as error:
                    raise Internal(f"mount {point.source}: {(error.strerror or '').lower()}") from error

    async def _of_stopped(self, container: Container) -> View:
        """The caller holds the container's lock."""
        known = self._stopped.get(container.id)
        if known is not None and known.hold():
            return known
        if container.cleanup is not None:
            await asyncio.wait([container.cleanup])
        if container.id not in self._parts.roster:
            raise Conflict(f"container {container.id} was removed")
        grafts, read_only = self._grafts(container), container.record.effective.host.readonly_rootfs
        described = mapped.root(
            self._parts.snapshots.mounts(container.id)[0],
            container.record.effective.id_map,
            self._parts.user_namespaces,
        )
        root = RootMount(described.type, described.source, list(described.options))

        holder = f"copies of {container.id} {secrets.token_hex(8)}"  # its end may come after the next one's beginning
        await self.volume_mounts.acquire(container, (), holder=holder)

        def work() -> int:
            root_fd = make_detached(root, self._scratch)
            try:
                with mapped.acting(container.record.effective.id_map):
                    return of_stopped(root_fd, grafts, self._scratch, read_only=read_only)
            finally:
                os.close(root_fd)

        def at_end() -> None:
            self._parts.run_later(self.volume_mounts.release(container, holder=holder))

        view = self._stopped[container.id] = await self._made(container, work, at_end)
        return view

    async def _made(
        self, container: Container, work: Callable[[], int], at_end: Callable[[], object] = lambda: None
    ) -> View:
        """The tree of which `work` makes the descriptor; `at_end` is called at its end, or when there is none.

        A task of its own makes it to its end, for who has asked may go away meanwhile: a start waits for it still.
        """
        task = self._parts.loop.create_task(self._make(container, work, at_end))
        self._making.setdefault(container.id, set()).add(task)
        task.add_done_callback(functools.partial(self._is_made, container.id))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_abandon)
            raise

    async def _make(self, container: Container, work: Callable[[], int], at_end: Callable[[], object]) -> View:
        try:
            fd = await in_own_thread("view", work, late=os.close)
        except BaseException as error:
            at_end()
            if isinstance(error, OSError) and not isinstance(error, NoThread):
                raise disk_error(error) from error
            raise
        view = self._note(container, fd)
        view.at_end = at_end
        return view

    def _is_made(self, container_id: str, task: asyncio.Task[View]) -> None:
        making = self._making[container_id]
        making.discard(task)
        if not making:
            del self._making[container_id]

    def _note(self, container: Container, fd: int) -> View:
        loop = self._parts.loop

        def ended(view: View) -> None:
            loop.call_soon_threadsafe(self._ended, view)

        view = View(container.id, fd, ended)
        self._views.setdefault(container.id, set()).add(view)
        return view

    def _ended(self, view: View) -> None:
        found = self._views.get(view.container_id, set())
        found.discard(view)
        if not found:
            self._views.pop(view.container_id, None)
        if self._stopped.get(view.container_id) is view:
            del self._stopped[view.container_id]
        view.at_end()

    @property
    def _scratch(self) -> str:
        return f"{self._parts.settings.exec_root}/empty"

    def _grafts(self, container: Container) -> Sequence[Graft]:
        """The mounts that the container was made with, and the engine's own files once they are there."""
        host = container.record.effective.host
        grafts = {}
        paths = self._parts.paths(container.record.effective.network.partition("container:")[2] or container.id)
        for target, source in (
            ("/etc/resolv.conf", paths.resolv_conf),
            ("/etc/hostname", paths.hostname),
            ("/etc/hosts", paths.hosts),
        ):
            if os.path.exists(source):
                grafts[target] = Graft(target, source, read_only=host.readonly_rootfs)
        for point in container.record.effective.mounts:
            if point.kind == "image":  # its layers are mounted for the container alone
                continue
            if point.kind == "tmpfs":
                grafts[point.target] = Graft(point.target, read_only=point.read_only)
                continue
            grafts[point.target] = Graft(
                point.target,
                self._parts.volumes.mountpoint(point.name) if point.kind == "volume" else point.source,
                subpath=point.subpath,
                is_mapped=bool(point.id_map),
                read_only=point.read_only,
                is_shallow=point.non_recursive,
                is_shallow_read_only=point.read_only_non_recursive,
            )
        return [replace(graft, within=_holder(graft, grafts.values())) for graft in grafts.values()]


def _holder(graft: Graft, others: Iterable[Graft]) -> str:
    """The outermost other source in which this one's lies."""
    sources = sorted((other.source for other in others if other.source and not other.read_only), key=len)
    return next((source for source in sources if graft.source.startswith(source.rstrip("/") + "/")), "")


def _abandon(task: asyncio.Task[View]) -> None:
    """Nobody waits for it any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().release()


def _is_running(container: Container) -> bool:
    return container.is_running  # asked again after each wait
