"""A tree of files as a tar archive: the same tree gives the same bytes, on every machine, in every order of making.

Entries in order of their names; hard links name the first of theirs; times in whole seconds; numbers for owners; no
access times, sizes of directories, inode or device numbers (`tarwriter`).  Attributes go in except those that are the
host's; sockets stay out, as with dockerd.  Holes are written as zeros: where they lie is the file system's business.

    style     used by   whiteouts                          hidden
    layer     commit    `.wh.name`, `.wh..wh..opq`         names that would be taken for whiteouts
    plain     export    (there are none)                   nothing
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterable, Iterator

from corten.core.layered import VANISHED, Node, check_here, reopen
from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.tarheader import Entry, Kind
from corten.core.tarwriter import END, header, padding
from corten.core.unpack import FOREIGN_XATTRS, WHITEOUT_OPAQUE, WHITEOUT_PREFIX
from corten.errors import InvalidArgument

EMPTY_TAR = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""Digest of an archive without entries, which dockerd does not count as a layer."""

_CHUNK = 1 << 20
KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


def plain(nodes: Iterable[Node]) -> Generator[bytes, None, None]:
    """The archive of `docker export`.  Raises OSError."""
    writer = _Writer(None)
    for node in nodes:
        yield from writer.write(node)
    yield END


def layer(nodes: Iterable[Node], lower: LowerView, limits: Limits = DEFAULT) -> Iterator[bytes]:
    """The layer that `nodes` of an upper directory are over `lower`; whiteouts over nothing are left out.

    Raises InvalidArgument when it is beyond the limits, OSError.
    """
    writer = _Writer(limits)
    for node in nodes:
        name = node.path.rpartition(b"/")[2]
        if b"/" + WHITEOUT_PREFIX in b"/" + node.path:  # what is in such a directory goes with it
            continue
        if node.is_whiteout:
            if lower.find(node.path) is not None:
                yield writer.mark(_beside(node.path, WHITEOUT_PREFIX + name))
            continue
        yield from writer.write(node)
        found = lower.find(node.path) if node.is_opaque else None
        if found is not None and found.is_directory:
            yield writer.mark(node.path + b"/" + WHITEOUT_OPAQUE)
    yield END


def _beside(path: bytes, name: bytes) -> bytes:
    folder, slash, _ = path.rpartition(b"/")
    return folder + slash + name


class _Writer:
    """Entries one after the other; knows the hard links so far, and what all of it comes to."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        self._links: dict[tuple[int, int], bytes] = {}
        self._entries = 0
        self._apparent = 0

    def mark(self, path: bytes) -> bytes:
        """An empty file of nobody and no time: a whiteout."""
        self._count(0)
        return header(Entry(Kind.FILE, path, b"", 0o644, 0, 0, 0, 0, 0, (), None))

    def write(self, node: Node) -> Iterator[bytes]:
        """What the archive has of a file; nothing of one that has vanished or become another since it was listed."""
        kind = KINDS.get(stat.S_IFMT(node.status.st_mode))
        if kind is None:
            return
        try:
            fd = node.open()
        except OSError as error:
            if error.errno in VANISHED:
                return
            raise
        try:
            status = os.fstat(fd)
            if stat.S_IFMT(status.st_mode) == stat.S_IFMT(node.status.st_mode):
                yield from self._opened(node, kind, fd, status)
        finally:
            os.close(fd)

    def _opened(self, node: Node, kind: Kind, fd: int, status: os.stat_result) -> Iterator[bytes]:
        link = b""
        if kind is Kind.SYMLINK:
            link = os.readlink(b"", dir_fd=fd)
        if kind is not Kind.DIRECTORY and status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), node.path)
            if first != node.path:
                kind, link = Kind.HARD_LINK, first
        size = status.st_size if kind is Kind.FILE else 0
        self._count(size)
        entry = Entry(
            kind,
            node.path,
            link,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            size,
            status.st_mtime_ns,
            status.st_rdev,
            _xattrs(fd, node.path) if kind in (Kind.FILE, Kind.DIRECTORY) else (),
            None,
        )
        yield header(entry)
        if size:
            yield from content(fd, size)
            yield padding(size)

    def _count(self, size: int) -> None:
        self._entries += 1
        self._apparent += size
        limits = self._limits
        if limits is None:
            return
        if self._entries > limits.entries:
            raise InvalidArgument(f"layer has more than {limits.entries} files")
        if self._apparent > limits.apparent:
            raise InvalidArgument(f"files of the layer are larger than {limits.apparent} bytes")


def content(fd: int, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes: of a file that grows meanwhile no more, of one that shrinks zeros."""
    source = reopen(fd)
    try:
        while size:
            chunk = os.read(source, min(size, _CHUNK)) or bytes(min(size, _CHUNK))
            size -= len(chunk)
            yield chunk
    finally:
        os.close(source)


def _xattrs(fd: int, shown: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Attributes in order of their names.  A name with `=` fits into no archive."""
    path = f"/proc/self/fd/{fd}"
    names = os.listxattr(path)
    check_here(names, shown)
    found = []
    for text in sorted(names):
        name = os.fsencode(text)
        if not name.startswith(FOREIGN_XATTRS) and b"=" not in name:
            try:
                found.append((name, os.getxattr(path, text)))
            except OSError:  # taken away meanwhile, or not for us
                continue
    return tuple(found)
