"""Mounts by descriptor: one thin wrapper per call of the new mount API (fsopen(2), fsconfig(2), fsmount(2),
move_mount(2), open_tree(2), mount_setattr(2)) and of the old one where that is still needed.

Every descriptor returned here is close-on-exec and belongs to the caller.
"""

from __future__ import annotations

import ctypes
import os
import struct

from corten.sys.libc import fail, function, syscall

# System call numbers; the calls since 424 have the same number on every architecture.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_MOUNT_SETATTR = 442

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


def fsopen(filesystem: str) -> int:
    """A new filesystem context; its messages are read with `messages`."""
    return syscall(_FSOPEN, filesystem.encode(), FSOPEN_CLOEXEC)


def fsconfig_string(context_fd: int, key: str, value: str) -> None:
    """FSCONFIG_SET_STRING; the kernel refuses values over 255 bytes with EINVAL."""
    syscall(_FSCONFIG, context_fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def fsconfig_flag(context_fd: int, key: str) -> None:
    """FSCONFIG_SET_FLAG."""
    syscall(_FSCONFIG, context_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0)


def fsconfig_create(context_fd: int) -> None:
    """FSCONFIG_CMD_CREATE: makes the superblock."""
    syscall(_FSCONFIG, context_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(context_fd: int, attributes: int = 0) -> int:
    """The detached mount of a created superblock."""
    return syscall(_FSMOUNT, context_fd, FSMOUNT_CLOEXEC, attributes)


def messages(context_fd: int) -> list[str]:
    """What the filesystem had to say, oldest first: `e …` errors, `w …` warnings, `i …` information."""
    lines: list[str] = []
    while True:
        try:
            line = os.read(context_fd, 4096)
        except OSError:  # ENODATA: nothing more
            return lines
        lines.append(line.decode(errors="replace").rstrip("\n"))


def open_tree(path: str, *, dir_fd: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` (OPEN_TREE_CLONE); of `dir_fd` itself for an empty one."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return syscall(_OPEN_TREE, dir_fd, os.fsencode(path), flags)


def move_mount(mount_fd: int, target: str) -> None:
    """Attach a detached mount at `target`."""
    syscall(_MOVE_MOUNT, mount_fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)


def move_mount_onto(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount on what `target_fd` is open on."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    syscall(_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags)


def mount_setattr(
    mount_fd: int, *, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0, recursive: bool = False
) -> None:
    """Change the attributes of the mount that the descriptor refers to; not below it unless `recursive`."""
    attributes = struct.pack("=4Q", attr_set, attr_clr, propagation, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(_MOUNT_SETATTR, mount_fd, b"", flags, attributes, len(attributes))


def mount(source: str, target: str, filesystem: str | None, flags: int, data: str | None = None) -> None:
    """`mount(2)`; `data` is limited to a page (4095 bytes)."""
    call = function("mount")
    result = call(
        os.fsencode(source),
        os.fsencode(target),
        filesystem.encode() if filesystem else None,
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    if result != 0:
        fail(target)


def umount(target: str, flags: int = 0) -> None:
    """`umount2(2)`."""
    if function("umount2")(os.fsencode(target), ctypes.c_int(flags)) != 0:
        fail(target)


def mount_points() -> list[str]:
    """proc(5), mountinfo: paths of this namespace's mounts, in the order in which they were made."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = line.split()[4]
            points.append(
                point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
            )
    return points


def detached_tmpfs() -> int:
    """A tmpfs that no path leads to; it ends with the descriptor, which is the caller's."""
    context = fsopen("tmpfs")
    try:
        fsconfig_create(context)
        return fsmount(context)
    finally:
        os.close(context)
