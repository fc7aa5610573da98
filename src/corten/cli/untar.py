"""A container's files into a local directory, and local files as an archive: the client's half of `cp`.

What comes is a stranger's: names are taken apart here, each directory on the way is opened by descriptor, and no link
is followed, neither one of the archive nor one that was there.  Files are the caller's own; set-id bits stay, as with
docker's CLI.  The reader is the standard library's, which makes no file by itself.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO

from corten.cli.command import Failure

_CHUNK_BYTES = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}

Renamed = Callable[[str], str]


def unpack(source: IO[bytes], folder: str, renamed: Renamed) -> None:
    """Unpacks an archive in a directory, which may be a link.  Raises Failure, OSError."""
    root_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Unpacking(root_fd, folder, renamed).run(source)
    except tarfile.TarError as error:
        raise Failure(f"unexpected EOF: {error}") from error
    finally:
        os.close(root_fd)


class _Unpacking:
    """One archive on its way into a directory."""

    def __init__(self, root_fd: int, folder: str, renamed: Renamed) -> None:
        self._root_fd = root_fd
        self._folder = folder
        self._renamed = renamed
        self._directories: dict[str, tarfile.TarInfo] = {}

    def run(self, source: IO[bytes]) -> None:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for entry in archive:
                self._entry(archive, entry)
        for name, entry in reversed(self._directories.items()):
            fd = self._open(name)
            os.utime(fd, (entry.mtime, entry.mtime))
            os.close(fd)

    def _entry(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        name = self._inside(self._renamed(entry.name))
        if name in ("", "."):
            return
        head, _, base = name.rpartition("/")
        parent_fd = self._open(head)
        try:
            self._clear(parent_fd, base, entry)
            if entry.isdir():
                self._directory(parent_fd, base, entry)
                self._directories[name] = entry
            elif entry.isfile():
                self._file(parent_fd, base, entry, archive)
            else:
                self._special(parent_fd, base, entry)
        finally:
            os.close(parent_fd)

    def _inside(self, name: str) -> str:
        path = posixpath.normpath(name.lstrip("/")) if name.strip("/") else ""
        if path == ".." or path.startswith("../"):
            raise Failure(f'"{path}" is outside of "{self._folder}"')
        return path

    def _open(self, path: str) -> int:
        """A directory below the root, made when missing; links are refused (ENOTDIR, ELOOP)."""
        fd = os.dup(self._root_fd)
        for name in path.split("/") if path else ():
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=fd)
                below = os.open(name, _FOLDER, dir_fd=fd)
            except OSError as error:
                raise Failure(f"{posixpath.join(self._folder, path)}: {(error.strerror or '').lower()}") from error
            finally:
                os.close(fd)
            fd = below
        return fd

    def _clear(self, parent_fd: int, base: str, entry: tarfile.TarInfo) -> None:
        """Nothing that is there stays, but for directories where one is to come."""
        try:
            mode = os.lstat(base, dir_fd=parent_fd).st_mode
        except FileNotFoundError:
            return
        shown = posixpath.join(self._folder, base)
        if stat.S_ISDIR(mode) != entry.isdir():
            there, new = ("directory", "non-directory") if stat.S_ISDIR(mode) else ("non-directory", "directory")
            raise Failure(f'cannot overwrite {there} "{shown}" with {new} "{self._folder}"')
        if not stat.S_ISDIR(mode):
            os.unlink(base, dir_fd=parent_fd)

    def _file(self, parent_fd: int, base: str, entry: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        content = archive.extractfile(entry)
        fd = os.open(base, _CREATE, 0o600, dir_fd=parent_fd)
        with os.fdopen(fd, "wb") as file:
            while content is not None and (chunk := content.read(_CHUNK_BYTES)):
                file.write(chunk)
            file.flush()
            os.fchmod(fd, entry.mode & 0o7777)
            os.utime(fd, (entry.mtime, entry.mtime))

    def _directory(self, parent_fd: int, base: str, entry: tarfile.TarInfo) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(base, 0o700, dir_fd=parent_fd)
        fd = os.open(base, _FOLDER, dir_fd=parent_fd)
        try:
            os.fchmod(fd, entry.mode & 0o7777)
        finally:
            os.close(fd)

    def _special(self, parent_fd: int, base: str, entry: tarfile.TarInfo) -> None:
        if entry.issym():
            os.symlink(entry.linkname, base, dir_fd=parent_fd)
            os.utime(base, (entry.mtime, entry.mtime), dir_fd=parent_fd, follow_symlinks=False)
        elif entry.islnk():
            self._hard_link(parent_fd, base, entry)
        elif entry.type in _NODES:
            kind = _NODES[entry.type]
            os.mknod(base, kind | entry.mode & 0o777, os.makedev(entry.devmajor, entry.devminor), dir_fd=parent_fd)
        else:
            raise Failure(f"unhandled tar header type {entry.type!r}")

    def _hard_link(self, parent_fd: int, base: str, entry: tarfile.TarInfo) -> None:
        target = self._inside(self._renamed(entry.linkname))
        head, _, last = target.rpartition("/")
        source_fd = self._open(head)
        try:
            os.link(last, base, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        finally:
            os.close(source_fd)


def pack(path: str, name: str, renamed: Renamed) -> Iterator[bytes]:
    """The archive of a local file or directory, under a name; sockets are left out.  Raises OSError."""
    links: dict[tuple[int, int], str] = {}
    for place, shown in _found(path, name):
        try:
            status = os.lstat(place)
        except FileNotFoundError:  # by now
            continue
        entry = _entry(place, renamed(shown), status)
        if entry is None:
            continue
        if status.st_nlink > 1 and not entry.isdir():
            first = links.setdefault((status.st_dev, status.st_ino), entry.name)
            if first != entry.name:
                entry.type, entry.linkname, entry.size = tarfile.LNKTYPE, first, 0
        yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if entry.isreg():
            yield from _content(place, entry.size)
    yield _END


def _found(path: str, name: str) -> Iterator[tuple[str, str]]:
    """(local path, name in the archive) of everything, in order of names."""
    pending = [(path, name)]
    while pending:
        place, shown = pending.pop()
        yield place, shown
        if stat.S_ISDIR(os.lstat(place).st_mode):
            below = sorted(os.listdir(place), reverse=True)
            pending += [(os.path.join(place, one), f"{shown.rstrip('/')}/{one}") for one in below]


def _entry(place: str, name: str, status: os.stat_result) -> tarfile.TarInfo | None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    entry.mtime = int(status.st_mtime)
    match stat.S_IFMT(status.st_mode):
        case stat.S_IFREG:
            entry.size = status.st_size
        case stat.S_IFDIR:
            entry.type = tarfile.DIRTYPE
        case stat.S_IFLNK:
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(place)
        case stat.S_IFIFO:
            entry.type = tarfile.FIFOTYPE
        case stat.S_IFCHR | stat.S_IFBLK as kind:
            entry.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        case _:
            return None
    return entry


def _content(place: str, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes, zeros for what was cut off meanwhile, and what fills the last block."""
    left = size
    with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES)) or bytes(min(left, _CHUNK_BYTES))
            left -= len(chunk)
            yield chunk
    yield bytes(-size % _BLOCK)
