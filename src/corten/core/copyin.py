"""An archive into a directory of a container: `docker cp` into it.

Docker API PutContainerArchive; what becomes of each entry is moby's archive.Untar: directories merge, anything else
takes the place of what is there, links in the way of a name are followed inside the root, missing directories are made
0755 root, times of directories come last.  Who runs in the container may change everything meanwhile: each name is
looked up once (`inside`), a file is new or the copy fails, and what is given an owner or mode is what was made here.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from corten.core.inside import ENTER, VANISHED, Trail, find
from corten.core.limits import DEFAULT, Limits
from corten.core.streams import decompressed
from corten.core.tarheader import Entry, Kind
from corten.core.tarreader import TarReader
from corten.core.tree import components
from corten.core.trees import remove_entry
from corten.core.unpack import FOREIGN_XATTRS, write_all, write_segments
from corten.errors import CortenError, Internal, InvalidArgument, Unavailable
from corten.sys.openat2 import O_PATH, openat2
from corten.sys.projectquota import has_project

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_IMPLIED_MODE = 0o755
_RACES_MAX = 16
_SPACE_EVERY = 64 << 20
_PART = 8  # of a container's size
_NODES = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


@dataclass(frozen=True, slots=True)
class Rules:
    """How to treat what is there, and who owns what is made."""

    keeps_kinds: bool = False
    """A directory is not replaced by something else, nor the other way round (noOverwriteDirNonDir)."""
    owner: tuple[int, int] | None = None
    """uid and gid of everything, instead of the archive's."""
    outside: Callable[[int, int], tuple[int, int]] | None = None
    """The ids on the host of the container's, which archives have; None where they are the same."""
    maker: int = 0
    """The uid of what this thread makes."""


def extract(chunks: Iterable[bytes], root_fd: int, trail: Trail, rules: Rules, limits: Limits = DEFAULT) -> None:
    """Unpacks an archive, packed or not, into the directory of `trail` below the root; reads `chunks` to their end.

    Raises:
        InvalidArgument: the archive is damaged, too large, leads out, or does not go with what is there.
        Internal: something is mounted in its way, or the container is too.
        OSError: of the filesystem.
    """
    reader = TarReader(decompressed(chunks, limits), limits)
    writer = _Writer(reader, root_fd, trail, rules, limits)
    try:
        for entry in reader:
            writer.write(entry)
        writer.finish()
    finally:
        writer.close()
    reader.drain()


class _Writer:
    """Writes entries, one after the other."""

    def __init__(self, reader: TarReader, root_fd: int, base: Trail, rules: Rules, limits: Limits) -> None:
        self._reader = reader
        self._base = base
        self._rules = rules
        self._limits = limits
        self._device = os.fstat(root_fd).st_dev
        self._until_space_check = 0
        self._directories: dict[bytes, int] = {}
        self._known: tuple[bytes, Trail] | None = None  # the directory of the last entry
        self._is_stale = False  # a directory was removed since
        self._write: dict[Kind, Callable[[Trail, bytes, Entry], None]] = {
            Kind.FILE: self._file,
            Kind.DIRECTORY: self._directory,
            Kind.SYMLINK: self._symlink,
            Kind.HARD_LINK: self._hard_link,
            Kind.CHAR: self._node,
            Kind.BLOCK: self._node,
            Kind.FIFO: self._node,
        }

    def write(self, entry: Entry) -> None:
        """Makes what `entry` says."""
        path = self._inside(entry.name)
        if path in (b"", b"."):
            if entry.name.startswith(b"/") and entry.kind is Kind.DIRECTORY:
                self._look_as(self._base.fd, b".", entry)
            return
        place, base = self._parent(path)
        self._write[entry.kind](place, base, entry)
        if entry.kind is Kind.DIRECTORY:
            self._directories.pop(path, None)
            self._directories[path] = entry.mtime_ns

    def finish(self) -> None:
        """Gives directories their times, as far as they are still there."""
        for path, mtime_ns in reversed(self._directories.items()):
            try:
                place, base = self._parent(path)
                fd = openat2(place.fd, base, _DIRECTORY, resolve=ENTER)
            except OSError as error:
                if error.errno in VANISHED:
                    continue
                raise
            try:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)

    def close(self) -> None:
        """Gives back what is open."""
        if self._known is not None:
            self._known[1].close()
            self._known = None

    # Names

    def _inside(self, name: bytes) -> bytes:
        """A name below the directory, without `..`.  Raises InvalidArgument when it leads out."""
        path = posixpath.normpath(name.lstrip(b"/")) if name.strip(b"/") else b""
        if path == b".." or path.startswith(b"../"):
            if self._base.path != b"/":
                raise InvalidArgument(f'"{_shown(name)}" is outside of "{_shown(self._base.path)}"')
            path = b"/".join(components(path))
        if len(path.rpartition(b"/")[2]) > self._limits.name:
            raise InvalidArgument(f"{_shown(path)}: file name too long")
        return path

    def _parent(self, path: bytes) -> tuple[Trail, bytes]:
        """The directory of a name, made when missing, and its last component."""
        head, _, base = path.rpartition(b"/")
        if self._known is None or self._known[0] != head or self._is_stale:
            self.close()
            self._is_stale = False
            self._known = head, self._made(head)
        return self._known[1], base

    def _made(self, path: bytes) -> Trail:
        place = self._base.copy()
        try:
            for name in path.split(b"/") if path else ():
                place.make_directory(name, _IMPLIED_MODE)
        except BaseException:
            place.close()
            raise
        return place

    def _shown_path(self, base: bytes) -> str:
        folder = self._known[1].path if self._known is not None else b""
        return _shown(posixpath.join(folder, base))

    # What is there

    def _clear(self, place: Trail, base: bytes, entry: Entry) -> bool:
        """Makes room for an entry; whether a directory stays where one is to come."""
        try:
            status = os.lstat(base, dir_fd=place.fd)
        except FileNotFoundError:
            return False
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and entry.kind is Kind.DIRECTORY:
            return True
        if self._rules.keeps_kinds and is_directory != (entry.kind is Kind.DIRECTORY):
            there, new = ("directory", "non-directory") if is_directory else ("non-directory", "directory")
            shown = self._shown_path(base)
            raise InvalidArgument(f'cannot overwrite {there} "{shown}" with {new} "{_shown(self._base.path)}"')
        self._is_stale |= is_directory
        try:
            remove_entry(place.fd, base)
        except OSError as error:
            if error.errno == errno.EXDEV:  # something is mounted there
                raise Internal(f"unlinkat {self._shown_path(base)}: device or resource busy") from error
            raise
        return False

    def _new(self, place: Trail, base: bytes, entry: Entry, make: Callable[[], int | None]) -> int:
        """`make()`, unless a directory stays; a name that somebody makes at the same time is treated as one before."""
        for _ in range(_RACES_MAX):
            if self._clear(place, base, entry):
                return 0
            try:
                return make() or 0
            except FileExistsError:
                continue
        raise Internal(f"{self._shown_path(base)}: the container makes it again and again")

    # Kinds

    def _file(self, place: Trail, base: bytes, entry: Entry) -> None:
        fd = self._new(place, base, entry, lambda: os.open(base, _CREATE, 0o600, dir_fd=place.fd))
        try:
            self._check_space(fd, entry.size)
            if entry.segments is None:
                for piece in self._reader.data():
                    write_all(fd, piece)
            else:
                os.ftruncate(fd, entry.size)
                write_segments(fd, entry.segments, self._reader.data())
            os.fchown(fd, *self._owner(entry))
            os.fchmod(fd, entry.mode)
            _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, place: Trail, base: bytes, entry: Entry) -> None:
        self._new(place, base, entry, lambda: os.mkdir(base, 0o700, dir_fd=place.fd))
        self._look_as(place.fd, base, entry)

    def _look_as(self, parent_fd: int, base: bytes, entry: Entry) -> None:
        fd = openat2(parent_fd, base, _DIRECTORY, resolve=ENTER)
        try:
            os.fchown(fd, *self._owner(entry))
            os.fchmod(fd, entry.mode)
            _set_xattrs(fd, entry)
        finally:
            os.close(fd)

    def _symlink(self, place: Trail, base: bytes, entry: Entry) -> None:
        self._new(place, base, entry, lambda: os.symlink(entry.link, base, dir_fd=place.fd))
        self._finish_node(place, base, stat.S_IFLNK, entry)

    def _node(self, place: Trail, base: bytes, entry: Entry) -> None:
        kind = _NODES[entry.kind]
        self._new(place, base, entry, lambda: os.mknod(base, kind | 0o600, entry.device, dir_fd=place.fd))
        self._finish_node(place, base, kind, entry)

    def _finish_node(self, place: Trail, base: bytes, kind: int, entry: Entry) -> None:
        """Owner, mode and time of what cannot be opened: by the magic link of exactly what was made."""
        fd = openat2(place.fd, base, O_PATH | os.O_NOFOLLOW, resolve=ENTER)
        try:
            status = os.fstat(fd)
            if stat.S_IFMT(status.st_mode) != kind or status.st_nlink != 1 or status.st_uid != self._rules.maker:
                raise Internal(f"{self._shown_path(base)}: the container has changed it")
            name = f"/proc/self/fd/{fd}"
            os.chown(name, *self._owner(entry))
            if kind != stat.S_IFLNK:
                os.chmod(name, entry.mode)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _hard_link(self, place: Trail, base: bytes, entry: Entry) -> None:
        """To a file of the directory; owner and mode are those that the file has."""
        target = self._inside(entry.link)
        source = self._base.copy()
        try:
            head, _, last = target.rpartition(b"/")
            source.walk(head)
            self._new(
                *(place, base, entry),
                lambda: os.link(last, base, src_dir_fd=source.fd, dst_dir_fd=place.fd, follow_symlinks=False),
            )
        except OSError as error:
            shown = f"link {_shown(posixpath.join(self._base.path, target))} {self._shown_path(base)}"
            raise InvalidArgument(f"{shown}: {(error.strerror or '').lower()}") from error
        finally:
            source.close()

    def _owner(self, entry: Entry) -> tuple[int, int]:
        owner = self._rules.owner or (entry.uid, entry.gid)
        return self._rules.outside(*owner) if self._rules.outside is not None else owner

    def _check_space(self, fd: int, size: int) -> None:
        """What containers write into their own layers takes the engine's disk, of which some stays free.

        Of a container with a size, fstatvfs(3) says how much of that is left: a part of it is enough.
        """
        self._until_space_check -= size + 4096
        if self._until_space_check >= 0 or os.fstat(fd).st_dev != self._device:
            return
        self._until_space_check = _SPACE_EVERY
        space = os.fstatvfs(fd)
        reserve = self._limits.disk_reserve
        if space.f_bavail * space.f_frsize < reserve + size and has_project(fd):
            reserve = min(reserve, space.f_blocks * space.f_frsize // _PART)
        if space.f_bavail * space.f_frsize < reserve + size:
            raise Unavailable(f"no space left: less than {reserve} bytes would be free")


def _set_xattrs(fd: int, entry: Entry) -> None:
    for name, value in entry.xattrs:
        if name.startswith(FOREIGN_XATTRS):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):  # as dockerd
                raise


def destination(root_fd: int, path: str) -> Trail:
    """The directory to unpack into, links followed; the caller's.

    Raises OSError; InvalidArgument in dockerd's words when it is none.
    """
    trail = find(root_fd, os.fsencode(path))
    if not trail.is_directory:
        trail.close()
        raise InvalidArgument("extraction point is not a directory")
    return trail


def told(error: OSError, path: str) -> CortenError:
    """An error of the file system as the API tells it."""
    name = error.filename
    shown = _shown(name) if isinstance(name, bytes) else name or path
    return Internal(f"{shown}: {(error.strerror or str(error)).lower()}")


def _shown(name: bytes) -> str:
    return name[:256].decode("utf-8", "backslashreplace")
