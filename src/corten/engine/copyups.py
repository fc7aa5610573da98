"""What an image has at the targets of a new container's volumes, into those that are empty (dockerd: populateVolumes).

The container is known by then, and nobody can start it: its lock is held.  A volume that nobody has bound gets its
content all at once, so that no crash leaves half of it; one that another container uses is filled where it is.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import Final

from corten.core import copyup
from corten.core.snapshots import Mount
from corten.core.volumes import VolumeStore
from corten.engine import mapped
from corten.engine.container import Container
from corten.engine.mountspec import MountPoint
from corten.engine.parts import Parts
from corten.engine.threads import NoThread, in_own_thread
from corten.engine.volumemounts import VolumeMounts
from corten.errors import Internal
from corten.shim.rootfs import RootMount, make_detached

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CopyUps:
    """Those of one engine."""

    def __init__(self, parts: Parts, mounts: VolumeMounts) -> None:
        self._parts = parts
        self._mounts = mounts

    async def fill(self, container: Container) -> None:
        """Fills the volumes of a container that is being made.

        Raises Internal (500 in dockerd) for a volume over what is no directory, and for what the disk says.
        """
        points = container.record.effective.mounts
        wanted = [point for point in points if point.kind == "volume" and point.copies and not point.subpath]
        if not wanted:
            return
        id_map = container.record.effective.id_map
        layers = self._parts.snapshots.mounts(container.id)[0]
        root = mapped.root(layers, id_map, self._parts.user_namespaces)
        root_fd = await in_own_thread("copy-up", functools.partial(self._mount, root), late=os.close)
        try:
            for point in wanted:
                async with self._mounts.filling(point.name, container.id) as is_bound:
                    own_fd = os.dup(root_fd)  # the thread's, which goes on when nobody waits for it any more
                    work = functools.partial(self._fill, point, own_fd, is_bound=is_bound)
                    try:
                        await in_own_thread("copy-up", work)
                    except NoThread:
                        os.close(own_fd)
                        raise
        finally:
            os.close(root_fd)

    def _mount(self, root: Mount) -> int:
        """The container's root for a moment, with the owners that it sees: nothing is written through it."""
        scratch = f"{self._parts.settings.exec_root}/empty"
        return make_detached(RootMount(root.type, root.source, list(root.options)), scratch)

    def _fill(self, point: MountPoint, root_fd: int, *, is_bound: bool) -> None:
        """Blocks, and closes the root's descriptor."""
        try:
            source_fd = copyup.source_at(root_fd, point.target)
        except NotADirectoryError:
            raise Internal(f"lstat {point.target}: not a directory") from None
        finally:
            os.close(root_fd)
        if source_fd == -1:
            return
        try:
            if not copyup.is_directory(source_fd):
                over = "cannot mount volume over existing file, file exists"
                of_config = point.is_anonymous and not point.mode
                raise Internal(f"{over} {point.target}" if of_config else f"source {point.target} is not directory")
            fill(self._parts.volumes, point.name, source_fd, is_bound=is_bound)
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else point.target
            reason = os.strerror(error.errno or 0).lower()
            raise Internal(f"failed to copy {point.target} into volume {point.name}: {where}: {reason}") from error
        finally:
            os.close(source_fd)


def fill(store: VolumeStore, name: str, source_fd: int, *, is_bound: bool) -> None:
    """Copies a directory into a volume that is empty; does nothing to one that is not.  Raises OSError."""
    target = store.mountpoint(name)
    if not copyup.is_empty(target):
        return
    staged = "" if is_bound else store.stage(name)
    target_fd = os.open(staged or target, _DIRECTORY)
    try:
        copyup.copy(source_fd, target_fd)
        if staged:
            store.adopt_staged(name)
    except BaseException as error:
        if staged:
            store.discard_staged(name)
        if not (isinstance(error, OSError) and error.errno == errno.ENOTEMPTY):  # somebody of the host was faster
            raise
    finally:
        os.close(target_fd)
