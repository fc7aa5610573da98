"""Whole directory trees, by descriptor: removed, measured.  Depth costs neither recursion nor descriptors."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from corten.sys.openat2 import openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DEPTH_MAX = 64
# a directory that is gone, or something else by now, or that a container made beyond PATH_MAX
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Usage:
    """Space that a tree takes."""

    size: int
    """Bytes of files and links, each inode once: what Docker calls a layer's size."""
    inodes: int
    """Files of every kind, directories too."""


def remove_entry(parent_fd: int, name: bytes) -> int:
    """Removes `name` in `parent_fd`, a tree with everything in it, and returns the bytes of its files.

    What vanishes meanwhile is fine.  A tree deeper than _DEPTH_MAX is folded: deep branches are renamed to its top and
    removed from there, so that no number of levels exhausts descriptors.
    """
    try:
        fd = openat2(parent_fd, name, _DIRECTORY)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return 0
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        size = os.lstat(name, dir_fd=parent_fd).st_size
        os.unlink(name, dir_fd=parent_fd)
        return size
    try:
        size = _empty(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)
    return size


def remove_tree(path: str) -> None:
    """Removes what a path names, as `remove_entry` does; nothing when it is not there.  A link itself is removed."""
    if not os.path.lexists(path):
        return
    parent, name = os.path.split(path)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_entry(parent_fd, os.fsencode(name))
    finally:
        os.close(parent_fd)


def listed(path: str) -> list[str]:
    """What a directory holds, sorted; nothing when there is none."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _empty(top_fd: int) -> int:
    """Removes everything in a directory, returning the bytes of its files."""
    size = 0
    stack: list[tuple[int, bytes]] = [(top_fd, b"")]
    todo = [_names(top_fd)]
    try:
        while stack:
            fd, name = stack[-1]
            if not todo[-1]:
                stack.pop()
                todo.pop()
                if stack:
                    os.close(fd)
                    os.rmdir(name, dir_fd=stack[-1][0])
                continue
            child = todo[-1].pop()
            status = os.lstat(child, dir_fd=fd)
            if not stat.S_ISDIR(status.st_mode):
                size += _file_size(status)
                os.unlink(child, dir_fd=fd)
            elif len(stack) >= _DEPTH_MAX:
                moved = b".corten-folded-" + secrets.token_hex(8).encode()  # no name that a stranger's tree has
                os.rename(child, moved, src_dir_fd=fd, dst_dir_fd=top_fd)
                todo[0].append(moved)
            else:
                child_fd = openat2(fd, child, _DIRECTORY)
                stack.append((child_fd, child))
                todo.append(_names(child_fd))
    finally:
        for fd, _ in stack[1:]:
            os.close(fd)
    return size


def _names(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(fd)]


def _file_size(status: os.stat_result) -> int:
    return status.st_size if status.st_nlink == 1 else 0


def usage(root_fd: int) -> Usage:
    """Space of the tree in the directory `root_fd`, itself not counted; what vanishes meanwhile is left out."""
    size, inodes = 0, 0
    seen: set[int] = set()
    for status in walk(root_fd):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        inodes += 1
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            size += status.st_size
    return Usage(size, inodes)


def walk(root_fd: int) -> Iterator[os.stat_result]:
    """The status of everything in a tree, in no order, itself left out.  Directories are opened one at a time."""
    pending = [b"."]
    while pending:
        path = pending.pop()
        try:
            fd = openat2(root_fd, path, _DIRECTORY)
        except OSError as error:
            if error.errno in _VANISHED:
                continue
            raise
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield status
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(path + b"/" + os.fsencode(entry.name))
        finally:
            os.close(fd)
