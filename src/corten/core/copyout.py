"""A file or directory of a container as an archive: `docker cp` out of it.

Docker API ContainerArchive, ContainerArchiveInfo.  The archive is dockerd's (moby daemon/archive_unix.go, archive.Tar):
the entry of a directory is named as the client named it, `/x/.` gives `./…`; whole seconds, numbers for owners, of the
attributes `security.capability` alone, hard links to the first name; sockets stay out.  All paths: `inside`.
"""

from __future__ import annotations

import os
import posixpath
import stat
import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from corten.core.inside import ENTER, VANISHED, Trail, find, follow_broken, walk
from corten.core.tarheader import Entry, Kind
from corten.core.tarwriter import END, header, padding
from corten.core.treetar import KINDS, content
from corten.sys.openat2 import O_PATH, openat2

_CAPABILITY = "security.capability"
_REVISION_2, _REVISION_3 = 0x02000000, 0x03000000  # linux/capability.h
_WITH_ROOT = struct.Struct("<6I")

Inside = Callable[[int, int], tuple[int, int]]

# Go's os.FileMode, whose number the API gives
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@dataclass(frozen=True, slots=True)
class PathStat:
    """What `X-Docker-Container-Path-Stat` tells of a file; `mode` is Go's os.FileMode."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str
    """Of a link: where it ends, from the root; missing parts as they are written."""


def absolute(path: str) -> str:
    """A path as the API takes it, cleaned by text; a slash or `.` at its end, which ask for a directory, stay."""
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    last = path.rstrip("/").rpartition("/")[2]
    if last == "." and cleaned != "/":
        return cleaned + "/."
    if path.endswith("/") and cleaned != "/":
        return cleaned + "/"
    return cleaned


def base(path: str) -> str:
    """The last component, as Go's path.Base has it."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def look(root_fd: int, path: str) -> tuple[PathStat, Trail]:
    """What is at `path`, and the way there, which is the caller's; a link is told of, not followed.  Raises OSError."""
    raw = os.fsencode(path)
    trail = find(root_fd, raw, follows_last=False)
    try:
        status = trail.status
        target = follow_broken(root_fd, raw) if stat.S_ISLNK(status.st_mode) else b""
    except BaseException:
        trail.close()
        raise
    shown = target.decode("utf-8", "replace")
    return PathStat(base(path), status.st_size, go_mode(status.st_mode), status.st_mtime_ns, shown), trail


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    bits = sum(theirs for ours, theirs in _GO_BITS if mode & ours)
    return _GO_KINDS.get(stat.S_IFMT(mode), 0) | bits | mode & 0o777


def archive(trail: Trail, path: str, *, inside: Inside | None = None) -> Generator[bytes, None, None]:
    """The archive of what `look` has found at `path`, and of everything below it.  Raises OSError.

    `inside` gives the container's ids of the host's, where they are not the same.
    """
    writer = _Writer(inside)
    name = os.fsencode(base(path))
    if not trail.is_directory:
        yield from writer.write(name, os.dup(trail.fd))
    else:
        yield from _directory(trail, b"" if name == b"/" else name, writer)
    yield END


def _directory(trail: Trail, name: bytes, writer: _Writer) -> Iterator[bytes]:
    yield from writer.write(name, os.dup(trail.fd))
    for path in walk(trail.fd):
        try:
            fd = openat2(trail.fd, path, O_PATH | os.O_NOFOLLOW, resolve=ENTER)
        except OSError as error:
            if error.errno in VANISHED:
                continue
            raise
        yield from writer.write(name + b"/" + path, fd)


class _Writer:
    """Entries one after the other; knows the hard links so far."""

    def __init__(self, inside: Inside | None) -> None:
        self._links: dict[tuple[int, int], bytes] = {}
        self._inside = inside

    def write(self, name: bytes, fd: int) -> Iterator[bytes]:
        """What the archive has of the file of an O_PATH descriptor, which is closed; nothing of a socket."""
        try:
            status = os.fstat(fd)
            kind = KINDS.get(stat.S_IFMT(status.st_mode))
            if kind is not None:
                yield from self._write(name, fd, kind, status)
        finally:
            os.close(fd)

    def _write(self, name: bytes, fd: int, kind: Kind, status: os.stat_result) -> Iterator[bytes]:
        link = os.readlink(b"", dir_fd=fd) if kind is Kind.SYMLINK else b""
        if kind is not Kind.DIRECTORY and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                kind, link = Kind.HARD_LINK, first
        size = status.st_size if kind is Kind.FILE else 0
        owner = status.st_uid, status.st_gid
        yield header(
            Entry(
                kind,
                name,
                link,
                stat.S_IMODE(status.st_mode),
                *(self._inside(*owner) if self._inside is not None else owner),
                size,
                status.st_mtime_ns,
                status.st_rdev,
                _capability(fd) if kind is Kind.FILE else (),
                None,
            )
        )
        if size:
            yield from content(fd, size)
            yield padding(size)


def _capability(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    try:
        found = os.getxattr(f"/proc/self/fd/{fd}", _CAPABILITY)
    except OSError:  # it has none
        return ()
    if len(found) == _WITH_ROOT.size:  # those of root of a user namespace, who is root in there
        magic, *sets, _ = _WITH_ROOT.unpack(found)
        found = struct.pack("<5I", magic & ~_REVISION_3 | _REVISION_2, *sets)
    return ((_CAPABILITY.encode(), found),)
