"""`corten image mount`: an image's files, read only, at a directory of the host.

What an image holds is a stranger's: no set-user-id program and no device of it works there, and the directories that
are made for mounts are the superuser's alone.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final

from corten.core import imagemounts
from corten.core.imagemounts import ImageMount
from corten.engine.imagebinds import merged
from corten.engine.parts import Parts
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, Internal
from corten.spec.image import Platform
from corten.sys import mount

Json = dict[str, Any]

FOLDER: Final = "images"
_SCRATCH: Final = "empty"
_ATTRIBUTES: Final = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV


class ImageMounts:
    """The mounts of one engine."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()  # a mount that has its lease and is not there yet looks like one that is stale

    async def mount(self, ref: str, target: str, platform: Platform | None) -> Json:
        """Mounts at `target`, or at a directory of the engine's own when that is empty.

        Raises NotFound, InvalidArgument, Conflict.
        """
        return await in_own_thread("mount", lambda: self._mount(ref, target, platform))

    async def mounts(self) -> list[Json]:
        """What is mounted."""
        return await in_own_thread("mounts", self._list)

    async def unmount(self, wanted: str) -> list[Json]:
        """Ends the mount at a path, or all of an image; what they were.  Raises NotFound, Conflict."""
        return await in_own_thread("unmount", lambda: self._unmount(wanted))

    def _mount(self, ref: str, target: str, platform: Platform | None) -> Json:
        images = self._parts.images
        image = images.get(ref, platform)
        with self._lock:
            one = self._mounted(image.id, target)
        images.touch(one.image_id)
        return _shown(one)

    def _mounted(self, image_id: str, target: str) -> ImageMount:
        images = self._parts.images
        path = target or self._directory(image_id)
        try:
            one = imagemounts.begin(images, image_id, path, is_own=not target)
        except CortenError:
            if not target:
                os.rmdir(path)
            raise
        try:
            self._attach(one)
        except BaseException:
            imagemounts.forget(images, one)
            raise
        return one

    def _directory(self, image_id: str) -> str:
        folder = os.path.join(self._parts.settings.exec_root, FOLDER)
        os.makedirs(folder, 0o700, exist_ok=True)
        name = image_id.removeprefix("sha256:")[:12]
        for number in range(1, 1000):
            path = os.path.join(folder, name if number == 1 else f"{name}-{number}")
            try:
                os.mkdir(path, 0o700)
                return path
            except FileExistsError:
                continue
        raise Internal(f"image {name} is mounted too often")

    def _attach(self, one: ImageMount) -> None:
        fd = merged(one.layers, os.path.join(self._parts.settings.exec_root, _SCRATCH))
        try:
            mount.mount_setattr(fd, attr_set=_ATTRIBUTES)
            mount.move_mount(fd, one.path)
        except OSError as error:
            raise Internal(f"mount at {one.path}: {error.strerror}") from error
        finally:
            os.close(fd)

    def _list(self) -> list[Json]:
        with self._lock:
            imagemounts.drop_stale(self._parts.images)
            return [_shown(one) for one in imagemounts.listed(self._parts.images)]

    def _unmount(self, wanted: str) -> list[Json]:
        with self._lock:
            found = imagemounts.find(self._parts.images, wanted)
            for one in found:
                imagemounts.end(self._parts.images, one)
        return [_shown(one) for one in found]


def _shown(one: ImageMount) -> Json:
    return {"Id": one.id, "Image": one.image_id, "Path": one.path}
