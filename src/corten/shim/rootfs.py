"""The container's root filesystem as a detached mount.

No mount namespace of the host ever shows it, and the kernel drops it with its last holder (design.md §3, step 8).  The
shim keeps the descriptor until `delete`; the built-in runtime moves the mount into the container.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from corten.errors import Internal, InvalidArgument
from corten.runtime.hostfacts import kernel_version
from corten.shim.protocol import receive_fds
from corten.sys import files, mount
from corten.sys.namespace import CLONE_NEWNS, unshare

_FSCONFIG_VALUE_BYTES = 255
_READ_ONLY = "ro"
_USERNS = "userns="  # corten.shim.idmapped
_APPENDS_LAYERS = (6, 7)  # the kernel that knows `lowerdir+`


class RootMount:
    """One mount as the snapshotter describes it: `overlay` with lowerdir, upperdir, workdir, or `bind`."""

    __slots__ = ("options", "source", "type")

    def __init__(self, type: str, source: str, options: list[str]) -> None:
        self.type = type
        self.source = source
        self.options = options


def make_detached(root: RootMount, scratch: str, kernel: tuple[int, int] | None = None) -> int:
    """The descriptor of the mount; close-on-exec, the caller's.

    `scratch` is an empty directory, made when missing and needed: for mounting on kernels before 6.7.
    `kernel` is the running one's version unless given.

    Raises:
        InvalidArgument: an unknown type.
        Internal: with what the kernel said.
    """
    kernel = kernel or kernel_version(os.uname().release)
    if any(option.startswith(_USERNS) for option in root.options):
        from corten.shim import idmapped  # a shim has no use for it: its helper does this

        return idmapped.make(root, scratch, kernel)
    if root.type == "overlay":
        return _overlay(root, scratch, kernel)
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


def _overlay(root: RootMount, scratch: str, kernel: tuple[int, int]) -> int:
    """Layers one by one; before Linux 6.7 all in one value, which by this interface has 255 bytes at most."""
    with _Directories() as directories:
        if kernel >= _APPENDS_LAYERS:
            settings = _one_by_one(root.options, directories)
        else:
            settings = _at_once(root.options, directories)
            if any(len(os.fsencode(value)) > _FSCONFIG_VALUE_BYTES for _, value in settings):
                return _overlay_by_mount(root, scratch)
        context = mount.fsopen("overlay")
        try:
            mount.fsconfig_string(context, "source", "overlay")
            for key, value in settings:
                if value:
                    mount.fsconfig_string(context, key, value)
                else:
                    mount.fsconfig_flag(context, key)
            mount.fsconfig_create(context)
            return mount.fsmount(context, mount.MOUNT_ATTR_RDONLY if _READ_ONLY in root.options else 0)
        except OSError as error:
            detail = "; ".join(mount.messages(context)) or files.why(error)
            raise Internal(f"rootfs: overlay: {detail}") from error
        finally:
            os.close(context)


def _one_by_one(options: list[str], directories: _Directories) -> list[tuple[str, str]]:
    """Parameters of an overlay; a flag has no value."""
    settings = []
    for option in options:
        key, _, value = option.partition("=")
        if key in ("lowerdir", "lowerdir+"):
            settings += [("lowerdir+", directories.short(layer)) for layer in split_layers(value)]
        elif key in ("upperdir", "workdir"):
            settings.append((key, directories.short(value)))
        elif option not in (_READ_ONLY, "rw"):
            settings.append((key, value))
    return settings


def _at_once(options: list[str], directories: _Directories) -> list[tuple[str, str]]:
    """The same for kernels before 6.7: layers joined, by short names where the sum is too long for a value."""
    settings = _one_by_one(options, directories)
    layers = [value for key, value in settings if key == "lowerdir+"]
    limit = _FSCONFIG_VALUE_BYTES if len(os.fsencode(":".join(layers))) <= _FSCONFIG_VALUE_BYTES else 0
    joined = ":".join(directories.plain(layer, limit) for layer in layers)
    rest = [(key, directories.plain(value) if key in ("upperdir", "workdir") else value) for key, value in settings]
    return [("lowerdir", joined), *(row for row in rest if row[0] != "lowerdir+")]


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

    def plain(self, path: str, limit: int = _FSCONFIG_VALUE_BYTES) -> str:
        """Short as well where the path has what separates options or layers."""
        return self.short(path, 0 if any(mark in path for mark in ",:\\") else limit)


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
    """Many layers before Linux 6.7."""

    def mounted() -> int:
        with _Directories() as directories:
            flags = mount.MS_RDONLY if _READ_ONLY in root.options else 0
            mount.mount("overlay", scratch, "overlay", flags, mount_data(root.options, directories))
        return mount.open_tree(scratch)

    return mounted_apart(scratch, mounted)


def mounted_apart(scratch: str, mounted: Callable[[], int]) -> int:
    """What a child mounts on `scratch` in a mount namespace of its own: the detached copy that `mounted` gives there.

    Raises Internal with the child's reason.
    """
    os.makedirs(scratch, 0o700, exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _send(mounted, theirs)
    theirs.close()
    with ours:
        said, fds, _ = receive_fds(ours, 1024, 1)
    os.waitpid(child, 0)
    if not fds:
        raise Internal(f"rootfs: overlay: {said.decode(errors='replace') or 'mount helper died'}")
    return fds[0]


def _send(mounted: Callable[[], int], out: socket.socket) -> None:
    """The child of `mounted_apart`; does not return."""
    try:
        unshare(CLONE_NEWNS)
        mount.mount("none", "/", None, mount.MS_REC | mount.MS_PRIVATE)
        socket.send_fds(out, [b"."], [mounted()])
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
            words.append(key + "=" + ":".join(directories.plain(layer, limit) for layer in layers))
        elif option not in (_READ_ONLY, "rw"):
            words.append(option)
    return ",".join(words)
