"""A container's root filesystem whose files have other owners in it than on the disk (`userns-remap`).

overlayfs takes no mapping itself (mount_setattr(2)), but its layers may have one (Linux 5.19): each is a detached copy
of its mount with the map of a user namespace.  So the layers on the disk keep the ids that the container sees, and one
store serves containers with a map, with another one and without.

    who mounts     acts as the container's root to file systems: what overlayfs makes in the work directory has to have
                   an owner that the map knows
    Linux 6.15     takes layers that are mounted nowhere; before, a child mounts them in a mount namespace of its own

Options of a `RootMount`: `userns=PATH` of the namespace, `root=UID:GID` of its root on the host.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack

from corten.errors import FailedPrecondition, Internal
from corten.shim.rootfs import RootMount, mounted_apart, split_layers
from corten.sys import files, mount
from corten.sys.fsids import acting_as
from corten.sys.libc import syscall

OLDEST = (5, 19)
_DETACHED = (6, 15)
_MOUNT_SETATTR = 442
_MOUNT_ATTR_IDMAP = 0x00100000
_UPPER, _WORK = "upperdir", "workdir"


def options(path: str, root: tuple[int, int]) -> list[str]:
    """What to add to the options of a root filesystem."""
    return [f"userns={path}", f"root={root[0]}:{root[1]}"]


def make(root: RootMount, scratch: str, kernel: tuple[int, int]) -> int:
    """The descriptor of the mount; close-on-exec, the caller's.  `scratch` as for `rootfs.make_detached`.

    Raises FailedPrecondition where kernel or file system cannot, Internal.
    """
    words = dict(option.partition("=")[::2] for option in root.options)
    uid, _, gid = words["root"].partition(":")
    if kernel < OLDEST:
        raise FailedPrecondition(f"rootfs: kernel {kernel[0]}.{kernel[1]}: mapped users need 5.19 or later")
    with ExitStack() as stack:
        userns_fd = os.open(words["userns"], os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, userns_fd)
        if root.type != "overlay":
            return _attributes(mapped(root.source, userns_fd), is_read_only="ro" in words)
        layers = [mapped(path, userns_fd, stack) for path in split_layers(words["lowerdir"])]
        top = mapped(os.path.dirname(words[_UPPER]), userns_fd, stack) if _UPPER in words else -1
        names = [os.path.basename(words[key]) for key in (_UPPER, _WORK) if key in words]
        try:
            with acting_as(int(uid), int(gid)):
                if kernel >= _DETACHED:
                    fd = _overlay([f"/proc/self/fd/{layer}" for layer in layers], f"/proc/self/fd/{top}", names)
                else:
                    fd = _attached(layers, top, names, scratch)
        except OSError as error:
            raise Internal(f"rootfs: overlay: {files.why(error)}") from error
        return _attributes(fd, is_read_only="ro" in words)


def mapped(path: str, userns_fd: int, stack: ExitStack | None = None) -> int:
    """A detached copy of the mount at `path` with the owners of a user namespace; the caller's, or the stack's.

    Raises FailedPrecondition when the file system has no such thing.
    """
    fd = mount.open_tree(path)
    try:
        attributes = struct.pack("=4Q", _MOUNT_ATTR_IDMAP, 0, 0, userns_fd)
        syscall(_MOUNT_SETATTR, fd, b"", mount.AT_EMPTY_PATH, attributes, len(attributes))
    except OSError as error:
        os.close(fd)
        raise FailedPrecondition(f"{path}: its file system cannot map owners: {files.why(error)}") from error
    if stack is not None:
        stack.callback(os.close, fd)
    return fd


def _attributes(fd: int, *, is_read_only: bool) -> int:
    if is_read_only:
        mount.mount_setattr(fd, attr_set=mount.MOUNT_ATTR_RDONLY)
    return fd


def _overlay(layers: list[str], top: str, names: list[str]) -> int:
    context = mount.fsopen("overlay")
    try:
        mount.fsconfig_string(context, "source", "overlay")
        for layer in layers:
            mount.fsconfig_string(context, "lowerdir+", layer)
        for key, name in zip((_UPPER, _WORK), names, strict=False):
            mount.fsconfig_string(context, key, f"{top}/{name}")
        mount.fsconfig_create(context)
        return mount.fsmount(context)
    except OSError as error:
        detail = "; ".join(mount.messages(context)) or files.why(error)
        raise Internal(f"rootfs: overlay: {detail}") from error
    finally:
        os.close(context)


def _attached(layers: list[int], top: int, names: list[str], scratch: str) -> int:
    """Before Linux 6.15: where each layer is mounted, with short names."""

    def mounted() -> int:
        mount.mount("tmpfs", scratch, "tmpfs", 0)
        os.chdir(scratch)
        for name, fd in (("t", top), *((str(number), fd) for number, fd in enumerate(layers))):
            os.mkdir(name)
            if fd >= 0:
                mount.move_mount(fd, name)
        os.mkdir("m")
        words = ["lowerdir=" + ":".join(str(number) for number in range(len(layers)))]
        words += [f"{key}=t/{name}" for key, name in zip((_UPPER, _WORK), names, strict=False)]
        mount.mount("overlay", "m", "overlay", 0, ",".join(words))
        return mount.open_tree("m")

    return mounted_apart(scratch, mounted)
