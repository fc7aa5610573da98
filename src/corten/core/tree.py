"""The directories of a layer that is being unpacked: names of an archive become descriptors.

No path of an archive is ever given to the kernel as a path of the host.  A name is taken apart here; each directory on
its way is opened beneath the layer's root with links forbidden (`openat2`, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), and
who writes a file gets (descriptor of its directory, last component).  A link on the way is followed by text, with the
layer's root as `/`: as in a chroot, and as dockerd's unpacking does.

A directory that the archive leaves out looks like the one in the layers below, when they are known; a link there is
followed too, so that `lib/x` over `lib -> usr/lib` ends in `usr/lib/x`.  When they are not known yet (layers unpack in
parallel), it is made and noted in `implied`, and `settle` of the unpacking looks again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from corten.core.limits import Limits
from corten.core.lower import OPAQUE_XATTR, Found, LowerView, is_whiteout
from corten.errors import InvalidArgument
from corten.sys.openat2 import STRICT, openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OPEN_MAX = 192
_NAMES_MAX = 4096
IMPLIED_MODE = 0o755


def components(name: bytes) -> list[bytes]:
    """The parts of a name, `.` and empty ones left out, `..` taken back by text and lost at the root.

    What Go's path.Clean makes of `"/" + name`: no archive name leads out.
    """
    kept: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del kept[-1:]
        elif part not in (b"", b"."):
            kept.append(part)
    return kept


def is_within(path: bytes, directory: bytes) -> bool:
    """Whether `path` is `directory` or below it."""
    return not directory or path == directory or path.startswith(directory + b"/")


class Place:
    """A directory of the layer: its descriptor, valid until the next call of the tree, and its path from the root."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path

    def child(self, name: bytes) -> bytes:
        """The path of `name` in this directory."""
        return self.path + b"/" + name if self.path else name


class LayerTree:
    """Directories beneath `root_fd`, opened once and kept, made when missing.

    `lower` is None while the layers below are unknown.  A context manager: it owns what it opens, not `root_fd`.
    """

    def __init__(self, root_fd: int, lower: LowerView | None, limits: Limits) -> None:
        self._root = Place(root_fd, b"")
        self.lower = lower
        self._limits = limits
        self._open: dict[bytes, Place] = {}
        self._names: dict[bytes, Place] = {}
        self.implied: dict[bytes, None] = {}
        """Directories made for want of an entry, while the layers below were unknown; in order of making."""
        self.guessed: dict[bytes, None] = {}
        """All that ever were in `implied`: what went through them depends on their not being links below."""
        self.followed: set[bytes] = set()
        """Links of the layers below that names led through."""
        self.borrowed: dict[bytes, Found] = {}
        """Directories made for want of an entry, which are to look as below.  Not at once: in a directory with the
        set-group-id bit new files would get its group."""
        self.opaque: set[bytes] = set()

    def __enter__(self) -> LayerTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    @property
    def root(self) -> Place:
        """The layer's root."""
        return self._root

    def forget(self) -> None:
        """Closes every directory: names may mean something else from now on."""
        for place in self._open.values():
            os.close(place.fd)
        self._open.clear()
        self._names.clear()

    def forget_links(self) -> None:
        """A link was removed: names that led through it must be looked up again."""
        self._names = dict(self._open)

    def covers(self, path: bytes) -> None:
        """From now on this layer has something of its own at `path`, or hides it."""
        if path in self.followed:
            self.followed.discard(path)
            self.forget_links()

    def has_entry(self, path: bytes) -> None:
        """The archive says itself what the directory `path` looks like."""
        self.implied.pop(path, None)
        self.borrowed.pop(path, None)

    def below_here(self, path: bytes) -> list[bytes]:
        """What this layer has at the directory `path` and below it."""
        found, pending = [], [path]
        while pending:
            directory = pending.pop()
            found.append(directory)
            fd = self.open_directory(directory)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        known = pending if entry.is_dir(follow_symlinks=False) else found
                        known.append(directory + b"/" + os.fsencode(entry.name))
            finally:
                os.close(fd)
        return found

    def forget_below(self, path: bytes, gone: Sequence[bytes]) -> None:
        """The directory `path` was removed with everything in it, which is `gone`.

        Only what lay in it is closed: who removed it still works in the directory above.
        """
        for known in [known for known in self._open if is_within(known, path)]:
            os.close(self._open.pop(known).fd)
        self._names = dict(self._open)
        for known in gone:
            self.has_entry(known)
        self.opaque.difference_update(gone)

    def directory(self, name: bytes) -> Place:
        """The directory that `name` (of an archive, or a plain path) means, made when missing."""
        place = self._names.get(name)
        if place is None:
            place = self._walk(components(name))
            if len(self._names) >= _NAMES_MAX:  # a directory has any number of spellings
                self._names = dict(self._open)
            self._names[name] = place
        return place

    def split(self, name: bytes) -> tuple[Place, bytes]:
        """The directory in which `name` lies, and its last component; (root, b"") for the root itself."""
        head, _, base = name.rpartition(b"/")
        if base in (b"", b".", b"..") or b".." in head:
            parts = components(name)
            if not parts:
                return self._root, b""
            head, base = b"/".join(parts[:-1]), parts[-1]
        if len(base) > self._limits.name:
            raise InvalidArgument(f"{_shown(name)}: file name too long")
        return (self.directory(head) if head else self._root), base

    def mark_opaque(self, place: Place) -> None:
        """Hides what the layers below have in this directory."""
        if self.lower is not None and self.lower.is_empty:
            return
        os.setxattr(place.fd, OPAQUE_XATTR, b"y")
        if self.followed:
            self.followed.clear()
            self.forget_links()
        self.opaque.add(place.path)

    def below(self, path: bytes) -> Found | None:
        """What the known layers below show at `path`, unless this layer hides it."""
        if self.lower is None or self.is_hidden(path):
            return None
        return self.lower.find(path)

    def is_hidden(self, path: bytes) -> bool:
        """Whether a directory above `path` is opaque in this layer."""
        if not self.opaque:
            return False
        while path:
            path = path.rpartition(b"/")[0]
            if path in self.opaque:
                return True
        return False

    def _walk(self, parts: Sequence[bytes]) -> Place:
        place, todo, links = self._root, list(reversed(parts)), 0
        while todo:
            name = todo.pop()
            if name == b"..":
                place = self._reopen(place.path.rpartition(b"/")[0])
                continue
            step = self._open.get(place.child(name)) or self._step(place, name)
            if isinstance(step, Place):
                place = step
                continue
            links += 1
            if links > self._limits.links:
                raise InvalidArgument(f"{_shown(b'/'.join(parts))}: too many levels of symbolic links")
            if step.startswith(b"/"):
                place = self._root
            todo.extend(part for part in reversed(step.split(b"/")) if part not in (b"", b"."))
        return place

    def _reopen(self, path: bytes) -> Place:
        """A directory that the walk came through."""
        if not path:
            return self._root
        return self._open.get(path) or self._keep(openat2(self._root.fd, path, _DIRECTORY), path)

    def _keep(self, fd: int, path: bytes) -> Place:
        if len(self._open) >= _OPEN_MAX:
            self.forget()
        place = self._open[path] = Place(fd, path)
        return place

    def _step(self, place: Place, name: bytes) -> Place | bytes:
        """The directory `name` in `place`, made when missing; or the target of the link that is there."""
        path = place.child(name)
        if len(name) > self._limits.name or len(path) >= self._limits.path:
            raise InvalidArgument(f"{_shown(path)}: file name too long")
        try:
            return self._keep(openat2(place.fd, name, _DIRECTORY), path)
        except FileNotFoundError:
            return self._missing(place, name)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        return self._not_a_directory(place, name)

    def _not_a_directory(self, place: Place, name: bytes) -> Place | bytes:
        status = os.lstat(name, dir_fd=place.fd)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=place.fd)
        if not is_whiteout(status):
            raise InvalidArgument(f"{_shown(place.child(name))}: not a directory")
        os.unlink(name, dir_fd=place.fd)
        made = self._make(place, name)
        self.mark_opaque(made)
        return made

    def _missing(self, place: Place, name: bytes) -> Place | bytes:
        path = place.child(name)
        found = self.below(path)
        if found is not None and found.is_symlink:
            self.followed.add(path)
            return found.target()
        made = self._make(place, name)
        if found is not None and found.is_directory:
            self.borrowed[path] = found
        elif self.lower is None and not self.is_hidden(path):
            self.implied[path] = self.guessed[path] = None
        return made

    def _make(self, place: Place, name: bytes) -> Place:
        os.mkdir(name, 0o700, dir_fd=place.fd)
        fd = openat2(place.fd, name, _DIRECTORY)
        os.fchmod(fd, IMPLIED_MODE)
        return self._keep(fd, place.child(name))

    def open_directory(self, path: bytes) -> int:
        """A descriptor of an existing directory of this layer, by its real path; the caller closes it."""
        return openat2(self._root.fd, path or b".", _DIRECTORY, resolve=STRICT)


def copy_attributes(found: Found, fd: int) -> None:
    """Gives the directory or file `fd` the owner, mode, times and attributes of `found` (containerd: copy-up)."""
    status = found.status
    os.fchown(fd, status.st_uid, status.st_gid)  # first: it takes capabilities and set-id bits away
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    source = found.open(os.O_RDONLY)
    try:
        for name in os.listxattr(source):
            if name != OPAQUE_XATTR:
                os.setxattr(fd, name, os.getxattr(source, name))
    finally:
        os.close(source)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _shown(name: bytes) -> str:
    return name[:256].decode("utf-8", "backslashreplace")
