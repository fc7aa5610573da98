"""Copy-up: what an image has at a path, into a new volume, as dockerd does it for the mounts of `-v name:/path`.

Both ends are descriptors, and everything below them is opened by one name at a time with links and mount points
forbidden (`openat2`): what the image calls a link is copied as one and leads nowhere here, and a container that already
uses the volume and swaps names in it meanwhile makes the copy fail (containerd CVE-2022-23648, podman CVE-2020-1726).
Kept are: owner, mode, times, extended attributes, links by name and by inode, devices, fifos, holes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from corten.core.unpack import FOREIGN_XATTRS, stored
from corten.sys.openat2 import O_PATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_PIECE: Final = 64 << 20
_NO_COPY_RANGE: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
# of the file system's own, or refused by the one below: not the image's to give
_FOREIGN: Final = tuple(name.decode() for name in FOREIGN_XATTRS)


def source_at(root_fd: int, path: str) -> int:
    """A descriptor of what an image's root has at `path`, with links led back into the root; -1 when it has nothing.

    The descriptor is O_PATH, the caller's.  Raises NotADirectoryError where a file is on the way; OSError.
    """
    try:
        relative = os.fsencode(path).lstrip(b"/") or b"."
        return openat2(root_fd, relative, O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return -1
        raise


def is_directory(fd: int) -> bool:
    """Whether a descriptor is of a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def is_empty(path: str) -> bool:
    """Whether a directory of the engine's own has nothing in it."""
    with os.scandir(path) as entries:
        return next(entries, None) is None


def copy(source_fd: int, target_fd: int) -> None:
    """Everything in one directory into another, and what that directory itself looks like.

    Raises OSError: of the disk, and of names in the target that somebody else makes or swaps meanwhile.
    """
    _Copy(source_fd, target_fd).run()


@dataclass(frozen=True, slots=True)
class _Made:
    """The copy of a file of several names: where its first one is, and which file that was."""

    folder: bytes
    name: bytes
    status: os.stat_result


class _Copy:
    """One copy.  Directories are named from the two roots, so that depth costs neither recursion nor descriptors."""

    def __init__(self, source_fd: int, target_fd: int) -> None:
        self._source_fd = source_fd
        self._target_fd = target_fd
        self._pending = [b""]
        self._made: list[bytes] = []
        self._linked: dict[tuple[int, int], _Made] = {}  # by device and inode of the image's

    def run(self) -> None:
        """Contents first; a directory looks alike when nothing more is put into it."""
        while self._pending:
            path = self._pending.pop()
            self._made.append(path)
            with _opened(self._source_fd, path) as source_fd, _opened(self._target_fd, path) as target_fd:
                for name in os.listdir(source_fd):
                    self._entry(source_fd, target_fd, os.fsencode(name), path)
        for path in reversed(self._made):
            with _opened(self._source_fd, path) as source_fd, _opened(self._target_fd, path) as target_fd:
                _look_alike(source_fd, target_fd, os.fstat(source_fd))

    def _entry(self, source_fd: int, target_fd: int, name: bytes, path: bytes) -> None:
        fd = openat2(source_fd, name, O_PATH | os.O_NOFOLLOW)
        try:
            status = os.fstat(fd)
            known = self._linked.get((status.st_dev, status.st_ino))
            if known is not None:
                self._link(known, target_fd, name)
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target_fd)
                self._pending.append(path + b"/" + name if path else name)
            else:
                _make(fd, target_fd, name, status)
                made = self._finish(fd, target_fd, name, status)
                if status.st_nlink > 1:
                    self._linked[status.st_dev, status.st_ino] = _Made(path, name, made)
        finally:
            os.close(fd)

    def _finish(self, fd: int, target_fd: int, name: bytes, status: os.stat_result) -> os.stat_result:
        made_fd = openat2(target_fd, name, O_PATH | os.O_NOFOLLOW)
        try:
            made = os.fstat(made_fd)
            if stat.S_IFMT(made.st_mode) != stat.S_IFMT(status.st_mode):
                raise _stale(name)
            _look_alike(fd, made_fd, status)
            return made
        finally:
            os.close(made_fd)

    def _link(self, made: _Made, target_fd: int, name: bytes) -> None:
        """A further name of the file, by its descriptor: the name could be another's by now."""
        with _opened(self._target_fd, made.folder) as folder_fd:
            fd = openat2(folder_fd, made.name, O_PATH | os.O_NOFOLLOW)
        try:
            if not os.path.samestat(os.fstat(fd), made.status):
                raise _stale(made.name)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=target_fd, follow_symlinks=True)
        finally:
            os.close(fd)


def _stale(name: bytes) -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)


@contextmanager
def _opened(root_fd: int, path: bytes) -> Iterator[int]:
    fd = openat2(root_fd, path or b".", _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _make(fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
    """One that is no directory."""
    if stat.S_ISREG(status.st_mode):
        _file(fd, target_fd, name, status)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(b"", dir_fd=fd), name, dir_fd=target_fd)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target_fd)


def _file(fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        writer = openat2(target_fd, name, _CREATE, mode=0o600)
        try:
            _copy_data(reader, writer, status.st_size)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_data(reader: int, writer: int, size: int) -> None:
    """Pieces between holes; the kernel shares or copies them."""
    os.ftruncate(writer, size)
    for begin, length in stored(reader, size, _PIECE):
        _copy_piece(reader, writer, begin, begin + length)


def _copy_piece(reader: int, writer: int, begin: int, end: int) -> None:
    while begin < end:
        count = end - begin
        try:
            done = os.copy_file_range(reader, writer, count, begin, begin)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
            done = os.pwrite(writer, os.pread(reader, min(count, 1 << 20), begin), begin)
        if not done:
            return
        begin += done


def _look_alike(source_fd: int, made_fd: int, status: os.stat_result) -> None:
    """Owner, attributes, mode, times: in this order, for a new owner takes set-id bits and capabilities away.

    The magic links name exactly these files, a symbolic link itself too.
    """
    made, source = f"/proc/self/fd/{made_fd}", f"/proc/self/fd/{source_fd}"
    os.chown(made, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        _copy_attributes(source, made)
        os.chmod(made, stat.S_IMODE(status.st_mode))
    os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_attributes(source: str, made: str) -> None:
    for name in os.listxattr(source):
        if name.startswith(_FOREIGN):
            continue
        try:
            os.setxattr(made, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != errno.ENOTSUP:  # the file system of the volume has none, as with dockerd
                raise
