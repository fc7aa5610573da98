"""Paths inside a container, by descriptor, one component at a time.

The root is a mount of the container's files that only this process has.  Whoever runs in the container may rename and
replace what lies below it at any moment: so nothing is looked up twice, a component is opened with links forbidden
(`openat2`, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), and a link is followed here, by its text, with the root as `/`.
What is mounted below the root is part of it.  Devices and fifos are never opened for more than their name (O_PATH).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from types import TracebackType

from corten.sys.openat2 import O_PATH, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

ENTER = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
"""The rules for what is opened below a directory in one go: plain names, mount points among them."""

VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ESTALE, errno.EXDEV})
"""What says that a name is gone by now, or that something else is in its place."""

_LINKS_MAX = 40  # as the kernel's
_DEPTH_MAX = 256
_NAME = O_PATH | os.O_NOFOLLOW


class Trail:
    """A file inside the root, and the directories that lead to it: so `..` is where the walk came from.

    A context manager: it owns its descriptors, but not that of the root.
    """

    __slots__ = ("_fds", "_names")

    def __init__(self, root_fd: int) -> None:
        self._fds = [root_fd]
        self._names: list[bytes] = []

    def __enter__(self) -> Trail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """An O_PATH descriptor of the file, good as long as the trail is."""
        return self._fds[-1]

    @property
    def path(self) -> bytes:
        """From the root, links resolved; `/` for the root."""
        return b"/" + b"/".join(self._names)

    @property
    def status(self) -> os.stat_result:
        """Of the file itself."""
        return os.fstat(self.fd)

    @property
    def is_directory(self) -> bool:
        """Whether the file is one."""
        return stat.S_ISDIR(self.status.st_mode)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        while len(self._fds) > 1:
            os.close(self._fds.pop())
        self._names.clear()

    def copy(self) -> Trail:
        """The same place, with descriptors of its own."""
        other = Trail(self._fds[0])
        other._fds += [os.dup(fd) for fd in self._fds[1:]]
        other._names += self._names
        return other

    def walk(self, path: bytes, *, follows_last: bool = True) -> None:
        """Go on to `path`, from the root where it begins with a slash, else from here.

        A slash or `.` at its end asks for a directory, and follows a link there.  Raises OSError as the kernel would:
        ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG; then the trail ends somewhere on the way.
        """
        todo = list(reversed(path.split(b"/")))
        if path.startswith(b"/"):
            self._rewind()
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                self._require_directory(path)
                self._back()
            elif name in (b"", b"."):
                self._require_directory(path)
            elif (target := self._enter(name, follows=bool(todo) or follows_last)) is not None:
                links += 1
                if links > _LINKS_MAX:
                    raise _error(errno.ELOOP, path)
                if target.startswith(b"/"):
                    self._rewind()
                todo += reversed(target.split(b"/"))

    def make_directory(self, name: bytes, mode: int) -> None:
        """Go on to a directory here, through a link, too; it is made where there is nothing.

        Raises OSError; ESTALE for something else that somebody has put in the place of the new one.
        """
        try:
            os.mkdir(name, mode, dir_fd=self.fd)
        except FileExistsError:
            self.walk(name + b"/")
            return
        self._push(name)
        if not self.is_directory:
            raise _error(errno.ESTALE, name)
        place = f"/proc/self/fd/{self.fd}"
        if stat.S_IMODE(self.status.st_mode) & 0o777 != mode and not os.listdir(place):  # a new one is empty
            os.chmod(place, mode)

    def _enter(self, name: bytes, *, follows: bool) -> bytes | None:
        """One component; the target of a link that is to be followed, which is not entered."""
        self._push(name)
        if not follows or not stat.S_ISLNK(self.status.st_mode):
            return None
        target = os.readlink(b"", dir_fd=self.fd)
        self._back()
        if not target:
            raise _error(errno.ENOENT, name)
        return target

    def _push(self, name: bytes) -> None:
        if len(self._fds) > _DEPTH_MAX:
            raise _error(errno.ENAMETOOLONG, name)
        self._fds.append(openat2(self.fd, name, _NAME, resolve=ENTER))
        self._names.append(name)

    def _back(self) -> None:
        if len(self._fds) > 1:
            os.close(self._fds.pop())
            self._names.pop()

    def _rewind(self) -> None:
        while len(self._fds) > 1:
            self._back()

    def _require_directory(self, path: bytes) -> None:
        if not self.is_directory:
            raise _error(errno.ENOTDIR, path)


def find(root_fd: int, path: bytes, *, follows_last: bool = True) -> Trail:
    """What `path` means inside the root; the caller's.  Raises OSError."""
    trail = Trail(root_fd)
    try:
        trail.walk(b"/" + path, follows_last=follows_last)
    except BaseException:
        trail.close()
        raise
    return trail


def follow_broken(root_fd: int, path: bytes) -> bytes:
    """The path without links, as far as there is something; what is missing is taken as it is written.

    For the target that `docker cp` is told of a link.  Raises OSError (ELOOP).
    """
    todo, links = list(reversed(path.split(b"/"))), 0
    kept: list[bytes] = []
    while todo:
        name = todo.pop()
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            target = _target(root_fd, b"/".join([*kept, name]))
            if target is None:
                kept.append(name)
                continue
            links += 1
            if links > _LINKS_MAX:
                raise _error(errno.ELOOP, path)
            if target.startswith(b"/"):
                kept.clear()
            todo += reversed(target.split(b"/"))
    return b"/" + b"/".join(kept)


def _target(root_fd: int, path: bytes) -> bytes | None:
    """Of a link whose directories are plain names; None for all else."""
    try:
        fd = openat2(root_fd, path, _NAME, resolve=ENTER)
    except OSError:
        return None
    try:
        return os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def walk(directory_fd: int) -> Iterator[bytes]:
    """The names of everything below a directory, as paths from it, in order, a directory before what is in it.

    One descriptor at a time, however deep it is.  What vanishes or is beyond PATH_MAX is left out; no link is followed.
    """
    pending = [iter(_listed(directory_fd, b"."))]
    prefixes = [b""]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            prefixes.pop()
            continue
        name, is_directory = found
        path = prefixes[-1] + name
        yield path
        if is_directory:
            pending.append(iter(_listed(directory_fd, path)))
            prefixes.append(path + b"/")


def _listed(directory_fd: int, path: bytes) -> Sequence[tuple[bytes, bool]]:
    """(name, whether it is a directory) of what is in a directory; nothing when it is gone by now."""
    try:
        fd = openat2(directory_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=ENTER)
    except OSError as error:
        if error.errno in VANISHED:
            return ()
        raise
    try:
        with os.scandir(fd) as entries:
            return sorted((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(fd)


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), path)
