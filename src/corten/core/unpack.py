"""Unpacks a layer's archive into a directory, as overlayfs wants it.

image-spec layer.md.  Whiteouts become character devices 0/0, opaque whiteouts `trusted.overlay.opaque`; both hide what
lies below and nothing of their own layer, wherever they stand in the archive.  A later entry replaces an earlier one.
Owners, modes (with set-id bits), times in nanoseconds, extended attributes, devices, fifos, hard links, holes.

    applied = apply_layer(chunks, root_fd, lower=None)      # parallel: layers below not known yet
    applied = settle(applied, root_fd, lower)               # …then: NeedsLower = unpack again, with lower

The directory is one that only this process knows (0700, above it 0710), and is renamed when the digest was right.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from corten.core.limits import DEFAULT, Limits
from corten.core.lower import Found, LowerView, is_whiteout
from corten.core.tarheader import Entry, Kind
from corten.core.tarreader import TarReader
from corten.core.tree import LayerTree, Place, copy_attributes
from corten.core.trees import remove_entry
from corten.errors import InvalidArgument, Unavailable
from corten.sys.openat2 import O_PATH, openat2

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META = b".wh..wh."
WHITEOUT_OPAQUE = b".wh..wh..opq"
WHITEOUT_MODE = stat.S_IFCHR
WHITEOUT_DEVICE = 0

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES = 1 << 20
# EMLINK: more links than an inode has room for; ENOENT: the link replaces the directory that its target lies in
_REFUSED_LINKS = (errno.EISDIR, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOENT)
_SPACE_EVERY = 64 << 20
_IGNORED_SHOWN = 64

FOREIGN_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"security.ima", b"security.evm")
"""Attributes that only this host may set: overlayfs would take them for its own, labels are the host's."""


class NeedsLower(Exception):
    """The archive refers to a file of a layer below: unpack again when those are known."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of unpacking one layer."""

    size: int
    """Bytes of its files and links, each inode once: Docker's layer size."""
    entries: int
    implied: tuple[bytes, ...] = ()
    """Directories without an entry, to be settled; parents first."""
    guessed: tuple[bytes, ...] = ()
    """Those, and others that had none at first: each would have been gone through had it been a link below."""
    whiteouts: tuple[bytes, ...] = ()
    """Paths of whiteouts, to be settled."""
    opaque: frozenset[bytes] = frozenset()
    ignored_xattrs: tuple[str, ...] = ()
    """Attributes that the filesystem did not take, as `path: name`; the first of them."""


def apply_layer(chunks: Iterable[bytes], root_fd: int, *, lower: LowerView | None, limits: Limits = DEFAULT) -> Applied:
    """Unpacks an uncompressed archive into the empty directory `root_fd`, and reads `chunks` to their end.

    `lower` is what lies below (empty for a base layer), or None while that is unknown.

    Raises:
        InvalidArgument: the archive is damaged, hostile or too large.
        NeedsLower: only with `lower` None.
        Unavailable: the disk is about to be full.
        OSError: of the filesystem.
    """
    reader = TarReader(chunks, limits)
    with LayerTree(root_fd, lower, limits) as tree:
        writer = _Writer(reader, tree, limits)
        for entry in reader:
            writer.write(entry)
        applied = writer.finish()
    reader.drain()
    return applied


def settle(applied: Applied, root_fd: int, lower: LowerView, limits: Limits = DEFAULT) -> Applied:
    """Completes a layer that was unpacked before the layers below were known.

    Raises:
        NeedsLower: a directory that the archive left out, until its entry came or to the end, is a link below.
    """
    with LayerTree(root_fd, lower, limits) as tree:
        tree.opaque.update(applied.opaque)
        for path in applied.guessed:
            found = lower.find(path)
            if found is not None and found.is_symlink:
                raise NeedsLower(_shown(path))
        for path in applied.implied:
            found = lower.find(path)
            if found is not None and found.is_directory:
                _settle_directory(tree, path, found)
        _drop_idle_whiteouts(tree, applied.whiteouts)
    return Applied(applied.size, applied.entries, opaque=applied.opaque, ignored_xattrs=applied.ignored_xattrs)


def _settle_directory(tree: LayerTree, path: bytes, found: Found) -> None:
    fd = tree.open_directory(path)
    try:
        copy_attributes(found, fd)
    finally:
        os.close(fd)


def _drop_idle_whiteouts(tree: LayerTree, paths: Iterable[bytes]) -> None:
    """A whiteout over nothing would show as an unreadable name in a directory that only this layer has."""
    for path in paths:
        if tree.below(path) is None:
            place, name = tree.split(path)
            os.unlink(name, dir_fd=place.fd)


class _Writer:
    """Writes entries, one after the other; `finish` gives directories what must come last."""

    def __init__(self, reader: TarReader, tree: LayerTree, limits: Limits) -> None:
        self._reader = reader
        self._tree = tree
        self._limits = limits
        self._size = 0
        self._entries = 0
        self._directories: dict[bytes, Entry] = {}
        self._whiteouts: dict[bytes, None] = {}
        self._ignored: list[str] = []
        self._until_space_check = _SPACE_EVERY
        self._write: dict[Kind, Callable[[Place, bytes, Entry], None]] = {
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
        self._entries += 1
        name = entry.name
        if b".wh..wh." in name and self._is_metadata(name):
            return
        place, base = self._tree.split(name)
        if self._tree.followed:
            self._tree.covers(place.child(base.removeprefix(WHITEOUT_PREFIX)))
        if base.startswith(WHITEOUT_PREFIX):
            self._whiteout(place, base)
        elif base:
            self._write[entry.kind](place, base, entry)
        elif entry.kind is Kind.DIRECTORY:
            self._directories[b""] = entry
        else:
            raise InvalidArgument(f"invalid tar entry: the root is a {entry.kind.value}")

    @staticmethod
    def _is_metadata(name: bytes) -> bool:
        """AUFS's own files (`.wh..wh.plnk/`, `.wh..wh.aufs`), which no layer has since 2015."""
        return any(part.startswith(WHITEOUT_META) and part != WHITEOUT_OPAQUE for part in name.split(b"/"))

    def _file(self, place: Place, base: bytes, entry: Entry) -> None:
        fd = self._create(place, base)
        try:
            if entry.segments is None:
                for piece in self._reader.data():
                    write_all(fd, piece)
            else:
                os.ftruncate(fd, entry.size)
                write_segments(fd, entry.segments, self._reader.data())
            self._size += entry.size
            if entry.uid or entry.gid:  # new files are root's: no directory has its set-id bit yet
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        self._take_room(entry.size + 4096, place)

    def _create(self, place: Place, base: bytes) -> int:
        try:
            return os.open(base, _CREATE, 0o600, dir_fd=place.fd)
        except FileExistsError:
            self._clear(place, base)
            return os.open(base, _CREATE, 0o600, dir_fd=place.fd)

    def _directory(self, place: Place, base: bytes, entry: Entry) -> None:
        path = place.child(base)
        try:
            os.mkdir(base, 0o700, dir_fd=place.fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(base, dir_fd=place.fd).st_mode):
                self._clear(place, base)
                os.mkdir(base, 0o700, dir_fd=place.fd)
                # what was here hid the directory below; the new one must too
                self._tree.mark_opaque(self._tree.directory(path))
        self._tree.has_entry(path)
        self._directories[path] = entry

    def _symlink(self, place: Place, base: bytes, entry: Entry) -> None:
        if not entry.link:
            raise InvalidArgument("invalid tar entry: symbolic link without a target")
        try:
            os.symlink(entry.link, base, dir_fd=place.fd)
        except FileExistsError:
            self._clear(place, base)
            os.symlink(entry.link, base, dir_fd=place.fd)
        self._size += len(entry.link)
        self._finish_node(place, base, entry)

    def _node(self, place: Place, base: bytes, entry: Entry) -> None:
        kind = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}[entry.kind]
        try:
            os.mknod(base, kind | 0o600, entry.device, dir_fd=place.fd)
        except FileExistsError:
            self._clear(place, base)
            os.mknod(base, kind | 0o600, entry.device, dir_fd=place.fd)
        self._finish_node(place, base, entry)

    def _finish_node(self, place: Place, base: bytes, entry: Entry) -> None:
        """Owner, mode, attributes and time of what cannot be opened."""
        os.chown(base, entry.uid, entry.gid, dir_fd=place.fd, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            _chmod_node(place, base, entry.mode)
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%b" % (place.fd, base), entry)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=place.fd, follow_symlinks=False)

    def _hard_link(self, place: Place, base: bytes, entry: Entry) -> None:
        path = place.child(base)
        target_place, target = self._tree.split(entry.link)
        if not target:
            raise InvalidArgument(f"link {_shown(entry.link)} {_shown(path)}: operation not permitted")
        if target_place.child(target) == path:
            return
        source_fd = os.dup(target_place.fd)
        try:
            self._require_target(Place(source_fd, target_place.path), target, path)
            place, base = self._tree.split(path)
            try:
                os.link(target, base, src_dir_fd=source_fd, dst_dir_fd=place.fd, follow_symlinks=False)
            except FileExistsError:
                self._clear(place, base)
                os.link(target, base, src_dir_fd=source_fd, dst_dir_fd=place.fd, follow_symlinks=False)
            self._finish_link(place, base, entry)
        except OSError as error:
            if error.errno not in _REFUSED_LINKS:
                raise
            raise InvalidArgument(f"link {_shown(entry.link)} {_shown(path)}: {error.strerror}") from error
        finally:
            os.close(source_fd)

    def _finish_link(self, place: Place, base: bytes, entry: Entry) -> None:
        """What a hard link's entry says of owner, mode and time holds for the file, as with dockerd.

        Only where it says something new: chown(2) takes set-id bits and capabilities away.
        """
        status = os.lstat(base, dir_fd=place.fd)
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.chown(base, entry.uid, entry.gid, dir_fd=place.fd, follow_symlinks=False)
            status = os.lstat(base, dir_fd=place.fd)
        if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) != entry.mode:
            _chmod_node(place, base, entry.mode)
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%b" % (place.fd, base), entry)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=place.fd, follow_symlinks=False)

    def _require_target(self, place: Place, base: bytes, link: bytes) -> None:
        """The file that a hard link means, copied up when only a layer below has it."""
        path = place.child(base)
        try:
            status = os.lstat(base, dir_fd=place.fd)
        except FileNotFoundError:
            if self._tree.lower is None:
                raise NeedsLower(_shown(path)) from None
            found = self._tree.below(path)
        else:
            if not is_whiteout(status):
                return
            found = None
        if found is None:
            raise InvalidArgument(f"link /{_shown(path)} /{_shown(link)}: no such file or directory")
        if found.is_directory:
            raise InvalidArgument(f"link /{_shown(path)} /{_shown(link)}: operation not permitted")
        self._copy_up(found, place, base)

    def _copy_up(self, found: Found, place: Place, base: bytes) -> None:
        mode = found.status.st_mode
        if stat.S_ISLNK(mode):
            os.symlink(found.target(), base, dir_fd=place.fd)
            self._copy_up_node(found, place, base)
        elif stat.S_ISREG(mode):
            self._copy_up_file(found, place, base)
        else:
            os.mknod(base, mode, found.status.st_rdev, dir_fd=place.fd)
            self._copy_up_node(found, place, base)
            _chmod_node(place, base, stat.S_IMODE(mode))
        self._size += found.status.st_size

    def _copy_up_file(self, found: Found, place: Place, base: bytes) -> None:
        source_fd = found.open(os.O_RDONLY)
        try:
            fd = os.open(base, _CREATE, 0o600, dir_fd=place.fd)
            try:
                os.ftruncate(fd, found.status.st_size)
                for start, length in stored(source_fd, found.status.st_size):
                    self._take_room(length, place)
                    _copy_range(source_fd, fd, start, start + length)
                copy_attributes(found, fd)
            finally:
                os.close(fd)
        finally:
            os.close(source_fd)

    @staticmethod
    def _copy_up_node(found: Found, place: Place, base: bytes) -> None:
        status = found.status
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.chown(base, status.st_uid, status.st_gid, dir_fd=place.fd, follow_symlinks=False)
        os.utime(base, ns=times, dir_fd=place.fd, follow_symlinks=False)

    def _whiteout(self, place: Place, base: bytes) -> None:
        if base == WHITEOUT_OPAQUE:
            self._tree.mark_opaque(place)
            return
        name = base[len(WHITEOUT_PREFIX) :]
        if name in (b"", b".", b".."):
            raise InvalidArgument(f"invalid whiteout {_shown(place.child(base))}")
        if self._tree.lower is not None and self._tree.lower.is_empty:
            return
        path = place.child(name)
        try:
            os.mknod(name, WHITEOUT_MODE, WHITEOUT_DEVICE, dir_fd=place.fd)
            self._whiteouts[path] = None
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(name, dir_fd=place.fd).st_mode):
                self._tree.mark_opaque(self._tree.directory(path))

    def _clear(self, place: Place, base: bytes) -> None:
        """Removes what an earlier entry of this layer made at this name."""
        path = place.child(base)
        status = os.lstat(base, dir_fd=place.fd)
        self._whiteouts.pop(path, None)
        if status.st_nlink == 1 and (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            self._size -= status.st_size
        if stat.S_ISDIR(status.st_mode):
            gone = self._tree.below_here(path)
            self._size -= remove_entry(place.fd, base)
            self._forget_below(path, gone)
        else:
            os.unlink(base, dir_fd=place.fd)
            if stat.S_ISLNK(status.st_mode):
                self._tree.forget_links()

    def _forget_below(self, path: bytes, gone: Sequence[bytes]) -> None:
        """Not by going through all that is known: a layer may remove a directory as often as it makes one."""
        self._tree.forget_below(path, gone)
        for known in gone:
            self._directories.pop(known, None)
            self._whiteouts.pop(known, None)

    def _set_xattrs(self, target: int | bytes, entry: Entry) -> None:
        for name, value in entry.xattrs:
            if name.startswith(FOREIGN_XATTRS):
                continue
            try:
                os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                # as with Docker: what the filesystem does not have, an image does not need
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
                if len(self._ignored) < _IGNORED_SHOWN:
                    self._ignored.append(f"{_shown(entry.name)}: {_shown(name)}")

    def _take_room(self, size: int, place: Place) -> None:
        self._until_space_check -= size
        if self._until_space_check >= 0:
            return
        self._until_space_check = _SPACE_EVERY
        space = os.fstatvfs(place.fd)
        if space.f_bavail * space.f_frsize < self._limits.disk_reserve:
            raise Unavailable(f"no space left for layers: less than {self._limits.disk_reserve} bytes are free")
        if space.f_files and space.f_favail < 1024:
            raise Unavailable("no space left for layers: the filesystem is out of inodes")

    def finish(self) -> Applied:
        """Gives directories their attributes, deepest first, and sums up."""
        tree = self._tree
        for path, found in tree.borrowed.items():
            _settle_directory(tree, path, found)
        for path in sorted(self._directories, reverse=True):
            self._finish_directory(path, self._directories[path])
        if tree.lower is not None:
            _drop_idle_whiteouts(tree, self._whiteouts)
            self._whiteouts.clear()
        return Applied(
            self._size,
            self._entries,
            tuple(tree.implied),
            tuple(tree.guessed),
            tuple(self._whiteouts),
            frozenset(tree.opaque),
            tuple(self._ignored),
        )

    def _finish_directory(self, path: bytes, entry: Entry) -> None:
        fd = self._tree.open_directory(path)
        try:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)


def write_all(fd: int, piece: memoryview) -> None:
    """All of a piece."""
    written = os.write(fd, piece)
    while written < len(piece):
        written += os.write(fd, piece[written:])


def stored(fd: int, size: int, piece: int = _COPY_BYTES) -> Iterator[tuple[int, int]]:
    """(offset, length) of what a file has, in pieces, without its holes: those may be larger than any disk."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        for offset in range(start, end, piece):
            yield offset, min(piece, end - offset)


def _copy_range(source_fd: int, fd: int, start: int, end: int) -> None:
    while start < end and (copied := os.copy_file_range(source_fd, fd, end - start, start, start)):
        start += copied


def _chmod_node(place: Place, base: bytes, mode: int) -> None:
    """fchmodat(2) follows links and fchmod(2) needs an open file: the magic link names exactly this node."""
    fd = openat2(place.fd, base, O_PATH | os.O_NOFOLLOW)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def write_segments(fd: int, segments: Iterable[tuple[int, int]], pieces: Iterator[memoryview]) -> None:
    """Writes stored pieces to where a sparse file has them."""
    rest = memoryview(b"")
    for start, length in segments:
        offset, end = start, start + length
        while offset < end:
            rest = rest or next(pieces)
            written = os.pwrite(fd, rest[: end - offset], offset)
            offset += written
            rest = rest[written:]


def _shown(name: bytes) -> str:
    return name[:256].decode("utf-8", "backslashreplace")
