"""What a start makes of volumes: mounts of their driver's options, subpaths by descriptor; and what its end undoes.

A volume with driver options is mounted on its directory while a container runs that has it: who holds it is known by
token, and after a start of the engine by the containers that run.  A subpath is looked up beneath the volume's
directory, no link out of it followed, and bound from its descriptor to a place that no container reaches; the container
gets that, so that whoever swaps names in the volume meanwhile changes nothing (kubernetes CVE-2017-1002101,
CVE-2021-25741).  The place is empty again as soon as the container has its own bind of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import posixpath
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from typing import Final

from msgspec.structs import replace

from corten.core.owners import IdMap
from corten.core.volumes import DATA, Volume
from corten.engine import imagebinds, localdriver
from corten.engine.container import Container
from corten.engine.events import volume_event
from corten.engine.looks import Looks, NoAnswer
from corten.engine.mountspec import MountPoint
from corten.engine.parts import Parts
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, Internal, InvalidArgument, NotFound
from corten.shim import idmapped
from corten.sys import mount
from corten.sys.openat2 import O_PATH, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

log = logging.getLogger("corten.engine")

MOUNT_TIMEOUT_S: Final = 60.0  # that a server may take; its mount is found by the next start
SUBPATHS: Final = "subpaths"  # below the tasks, whose mounts nobody else sees
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class VolumeMounts:
    """Those of one engine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.volumes
        self._looks = Looks(MOUNT_TIMEOUT_S)
        self._busy: dict[str, asyncio.Event] = {}
        self._holders: dict[str, set[str]] = {}

    @property
    def _places(self) -> str:
        return f"{self._parts.tasks.root}/{SUBPATHS}"

    # A start and its end

    async def acquire(
        self, container: Container, points: Sequence[MountPoint], *, holder: str = ""
    ) -> list[MountPoint]:
        """The mounts of a container's start with every volume there; those with a subpath still lack it.

        `holder`: who holds them, unless it is the container.  Raises NotFound, Internal; nothing is held then.
        """
        held: list[str] = []
        try:
            for point in _volumes_of(container):
                await self._hold(point.name, holder or container.id)
                held.append(point.name)
        except BaseException:
            for name in held:
                await self._let_go(name, holder or container.id)
            raise
        return [self._placed(point) for point in points]

    def _placed(self, point: MountPoint) -> MountPoint:
        return replace(point, source=self._store.mountpoint(point.name)) if point.kind == "volume" else point

    async def release(self, container: Container, *, holder: str = "") -> None:
        """The end of what `acquire` began; what cannot be unmounted is left to the next start of the engine."""
        for name in {point.name for point in _volumes_of(container)}:
            await self._let_go(name, holder or container.id)

    def tell_mount(self, container: Container) -> None:
        """The event `mount` of each of its volumes."""
        for point in _volumes_of(container):
            more = {"destination": point.target, "read/write": _go_bool(not point.read_only), "propagation": ""}
            self._parts.bus.publish(
                volume_event(point.name, "mount", driver=point.driver, container=container.id, **more)
            )

    def tell_unmount(self, container: Container) -> None:
        """The event `unmount`: as with dockerd before `die`."""
        for point in _volumes_of(container):
            self._parts.bus.publish(volume_event(point.name, "unmount", driver=point.driver, container=container.id))

    @contextlib.asynccontextmanager
    async def filling(self, name: str, holder: str) -> AsyncIterator[bool]:
        """The volume is there meanwhile, and nobody begins to use it; whether somebody has it bound already."""
        await self._hold(name, holder)
        try:
            async with self._alone(name):
                volume = self._store.get(name)
                is_mounted = volume is not None and localdriver.needs_mount(volume.options)
                yield is_mounted or len(self._holders[name]) > 1
        finally:
            await self._let_go(name, holder)

    @contextlib.asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """One at a time for a volume."""
        while (other := self._busy.get(name)) is not None:
            await other.wait()
        self._busy[name] = done = asyncio.Event()
        try:
            yield
        finally:
            del self._busy[name]
            done.set()

    async def _hold(self, name: str, holder: str) -> None:
        volume = self._store.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        async with self._alone(name):
            if localdriver.needs_mount(volume.options):
                await self._mount(volume)
            self._holders.setdefault(name, set()).add(holder)

    async def _mount(self, volume: Volume) -> None:
        target = self._store.mountpoint(volume.name)
        if localdriver.is_mounted(target):
            return
        try:
            work = functools.partial(localdriver.mount_volume, volume.options or {}, target)
            await self._looks.look("volume", volume.name, work)
        except NoAnswer:
            raise
        except CortenError as error:
            raise Internal(f"error while mounting volume '{target}': {error.text}") from error

    async def _let_go(self, name: str, holder: str) -> None:
        async with self._alone(name):
            holders = self._holders.get(name, set())
            holders.discard(holder)
            if holders:
                return
            self._holders.pop(name, None)
            volume = self._store.get(name)
            if volume is not None and localdriver.needs_mount(volume.options):
                await self._unmount(name)

    async def _unmount(self, name: str) -> None:
        target = self._store.mountpoint(name)
        try:
            if localdriver.is_mounted(target):
                await in_own_thread("volume", functools.partial(localdriver.unmount_volume, target))
        except OSError as error:
            log.warning("volume %s stays mounted: %s", name, error)

    def know_holders(self) -> None:
        """After an end of cortend: who ran holds, as long as nobody has told otherwise."""
        for container in self._parts.roster:
            for point in _volumes_of(container) if container.is_running else ():
                self._holders.setdefault(point.name, set()).add(container.id)

    def unmount_unheld(self) -> None:
        """What was held by those whose end was told meanwhile, and places of subpaths.  Nobody starts anything yet."""
        release_places(self._places)
        for name in self._mounted_names():
            if not self._holders.get(name):
                log.info("volume %s: nobody has it any more: unmounted", name)
                try:
                    localdriver.unmount_volume(self._store.mountpoint(name))
                except OSError as error:
                    log.warning("volume %s stays mounted: %s", name, error)

    def _mounted_names(self) -> list[str]:
        root = os.path.realpath(self._store.path) + "/"
        points = {point.removeprefix(root) for point in mount.mount_points() if point.startswith(root)}
        return [volume.name for volume in self._store.all() if f"{volume.name}/{DATA}" in points]

    # Subpaths

    async def bind_subpaths(
        self, points: Sequence[MountPoint], undo: contextlib.ExitStack, *, id_map: IdMap | None = None
    ) -> list[MountPoint]:
        """Points whose subpath or image is bound to a place of its own, which is the source now, until `undo` ends."""
        if not any(point.subpath or point.kind == "image" for point in points):
            return list(points)
        work = functools.partial(self._bind_all, points, undo, id_map)
        return await in_own_thread("subpath", work)

    def _bind_all(
        self, points: Sequence[MountPoint], undo: contextlib.ExitStack, id_map: IdMap | None
    ) -> list[MountPoint]:
        os.makedirs(self._places, 0o700, exist_ok=True)
        out = []
        for point in points:
            found = self._with_image(point, undo, id_map) if point.kind == "image" else point
            out.append(self._bound(found, undo) if found.subpath else found)
        return out

    def _with_image(self, point: MountPoint, undo: contextlib.ExitStack, id_map: IdMap | None) -> MountPoint:
        scratch, owners = f"{self._parts.settings.exec_root}/empty", []
        if id_map is not None:
            owners = idmapped.options(self._parts.user_namespaces.path(id_map), id_map.root)
        tree_fd = imagebinds.detached(point, self._parts.images, scratch, owners=owners)
        try:
            return replace(point, source=self._placed_at(tree_fd, undo))
        finally:
            os.close(tree_fd)

    def _bound(self, point: MountPoint, undo: contextlib.ExitStack) -> MountPoint:
        fd = open_subpath(point.source, point.subpath)
        try:
            tree_fd = mount.open_tree(f"/proc/self/fd/{fd}", recursive=True)
        finally:
            os.close(fd)
        try:
            return replace(point, source=self._placed_at(tree_fd, undo))
        finally:
            os.close(tree_fd)

    def _placed_at(self, tree_fd: int, undo: contextlib.ExitStack) -> str:
        """Where a detached mount is attached until `undo` ends."""
        place = f"{self._places}/{secrets.token_hex(8)}"
        if stat.S_ISDIR(os.fstat(tree_fd).st_mode):
            os.mkdir(place, 0o700)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        undo.callback(_remove_place, place)
        mount.move_mount(tree_fd, place)
        return place


def _volumes_of(container: Container) -> list[MountPoint]:
    return [point for point in container.record.effective.mounts if point.kind == "volume"]


def open_subpath(directory: str, subpath: str) -> int:
    """An O_PATH descriptor of what is there, links followed inside the directory alone; the caller's.

    Raises InvalidArgument for a way out, NotFound in dockerd's words.
    """
    root_fd = os.open(directory, _DIRECTORY)
    try:
        return openat2(root_fd, os.fsencode(subpath), O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP):
            text = f"path concatenation escapes the base directory, base: {directory}, subpath: {subpath}"
            raise InvalidArgument(text) from error
        path, reason = posixpath.join(directory, subpath), os.strerror(error.errno or 0).lower()
        raise NotFound(f"cannot access path {path}: lstat {path}: {reason}") from error
    finally:
        os.close(root_fd)


def _remove_place(place: str) -> None:
    """Never the tree in it: what cannot be unmounted stays."""
    with contextlib.suppress(OSError):
        mount.umount(place, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    with contextlib.suppress(OSError):
        (os.rmdir if os.path.isdir(place) else os.unlink)(place)


def release_places(folder: str) -> None:
    """All that a killed cortend left there."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            _remove_place(f"{folder}/{name}")


def _go_bool(value: bool) -> str:
    return "true" if value else "false"
