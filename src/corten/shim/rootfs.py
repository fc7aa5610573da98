"""The container's root filesystem as a detached mount.

No mount namespace of the host ever shows it, and the kernel drops it with its last holder (design.md §3, step 8).  The
shim keeps the descriptor until `delete`; the built-in runtime moves the mount into the container.
"""

from __future__ import annotations

import errno
import os
import socket

from corten.errors import Internal, InvalidArgument
from corten.shim.protocol import receive_fds
from corten.sys import files, mount
from corten.sys.namespace import CLONE_NEWNS, unshare

_FSCONFIG_VALUE_BYTES = 255
_READ_ONLY = "ro"


class RootMount:
    """One mount as the snapshotter describes it: `overlay` with lowerdir, upperdir, workdir, or `bind`."""

    __slots__ = ("options", "source", "type")

    def __init__(self, type: str, source: str, options: list[str]) -> None:
        self.type = type
        self.source = source
        self.options = options


def make_detached(root: RootMount, scratch: str) -> int:
    """The descriptor of the mount; close-on-exec, the caller's.

    `scratch` is an empty directory, made when missing; used for mounting only on kernels before 6.7.

    Raises:
        InvalidArgument: an unknown type.
        Internal: with what the kernel said.
    """
    os.makedirs(scratch, 0o700, exist_ok=True)
    if root.type == "overlay":
        return _overlay(root, scratch)
    if root.type in ("bind", "rbind"):
        return _bind(root)
    raise InvalidArgument(f"rootfs: unknown mount type {root.type!r}")


def _bind(root: RootMount) -> int:
    try:
        fd = mount.open_tree(root.source, recursive=root.type == "rbind")
        if _READ_ONLY in root.options:
            mount.mount_setattr(fd, attr_set=mount.MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise Internal(f"rootfs: bind {root.source}: {files.why(error)}") from error
    return fd


def _overlay(root: RootMount, scratch: str) -> int:
    context = mount.fsopen("overlay")
    try:
        mount.fsconfig_string(context, "source", "overlay")
        with _Directories() as directories:
            for option in root.options:
                _set_option(context, option, directories)
            mount.fsconfig_create(context)
        attributes = mount.MOUNT_ATTR_RDONLY if _READ_ONLY in root.options else 0
        return mount.fsmount(context, attributes)
    except OSError as error:
        said = mount.messages(context)
        if error.errno == errno.EINVAL and any("lowerdir+" in line or "unknown" in line.lower() for line in said):
            return _overlay_by_mount(root, scratch)
        detail = "; ".join(said) or files.why(error)
        raise Internal(f"rootfs: overlay: {detail}") from error
    finally:
        os.close(context)


def _set_option(context: int, option: str, directories: _Directories) -> None:
    key, equals, value = option.partition("=")
    if option in (_READ_ONLY, "rw"):
        return
    if key in ("lowerdir", "lowerdir+"):
        for layer in split_layers(value):
            mount.fsconfig_string(context, "lowerdir+", directories.short(layer))
    elif key in ("upperdir", "workdir"):
        mount.fsconfig_string(context, key, directories.short(value))
    elif equals:
        mount.fsconfig_string(context, key, value)
    else:
        mount.fsconfig_flag(context, key)


class _Directories:
    """Short names for paths that fsconfig would refuse, valid inside the `with`."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def __enter__(self) -> _Directories:
        return self

    def __exit__(self, *exception: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def short(self, path: str, limit: int = _FSCONFIG_VALUE_BYTES) -> str:
        if len(os.fsencode(path)) <= limit:
            return path
        self._fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return f"/proc/self/fd/{self._fds[-1]}"


def split_layers(value: str) -> list[str]:
    """The directories of a `lowerdir` option, topmost first; `\\:` and `\\\\` are undone (overlayfs.rst)."""
    layers: list[str] = [""]
    escaped = False
    for character in value:
        if escaped or character not in ":\\":
            layers[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            layers.append("")
    return [layer for layer in layers if layer]


def _overlay_by_mount(root: RootMount, scratch: str) -> int:
    """Before Linux 6.7 (no `lowerdir+`): mount in a child's own mount namespace and send a detached copy out."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _send_overlay(root, scratch, theirs)
    theirs.close()
    with ours:
        said, fds, _ = receive_fds(ours, 1024, 1)
    os.waitpid(child, 0)
    if not fds:
        raise Internal(f"rootfs: overlay: {said.decode(errors='replace') or 'mount helper died'}")
    return fds[0]


def _send_overlay(root: RootMount, scratch: str, out: socket.socket) -> None:
    """The child of `_overlay_by_mount`; does not return."""
    try:
        unshare(CLONE_NEWNS)
        mount.mount("none", "/", None, mount.MS_REC | mount.MS_PRIVATE)
        with _Directories() as directories:
            flags = mount.MS_RDONLY if _READ_ONLY in root.options else 0
            mount.mount("overlay", scratch, "overlay", flags, mount_data(root.options, directories))
        socket.send_fds(out, [b"."], [mount.open_tree(scratch)])
    except OSError as error:
        out.send(files.why(error).encode())
    finally:
        os._exit(0)


def mount_data(options: list[str], directories: _Directories) -> str:
    """The data of mount(2), a page at most: every directory by a short name when the sum is too long."""
    limit = 4096 if sum(map(len, options)) < 4000 else 0
    words: list[str] = []
    for option in options:
        key, _, value = option.partition("=")
        if key in ("lowerdir", "upperdir", "workdir"):
            layers = split_layers(value) if key == "lowerdir" else [value]
            names = (directories.short(layer, limit) for layer in layers)
            words.append(key + "=" + ":".join(name.replace("\\", "\\\\").replace(":", "\\:") for name in names))
        elif option not in (_READ_ONLY, "rw"):
            words.append(option)
    return ",".join(words)
