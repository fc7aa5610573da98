"""The files of one container as one detached tree of mounts: its root, and on it the mounts that it was made with.

No path of the host leads to the tree, and it ends with its descriptor.  It is put together in a mount namespace that a
thread has for a moment: there the root gets its binds, volumes and the engine's files (`/etc/hosts` …) by descriptor,
destinations looked up inside the root (`core.inside`); a recursive copy of that is the tree.

    root        running: the container's own mount, copied (`liveroot`); else its layers, mounted here
    binds       the host's, when the container has the very same there; else what it has, if it is of the same device
    tmpfs       running: what the container has there (dockerd shows what is below); else nothing
    /proc, /sys, /dev and what the container mounted itself: what is below them
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from corten.core.inside import ENTER, Trail, find
from corten.engine.liveroot import copies
from corten.errors import Conflict, Internal, Unavailable
from corten.launch.spawn import Launcher
from corten.sys import mount
from corten.sys.namespace import CLONE_NEWNS, unshare
from corten.sys.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)

_TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class Graft:
    """One mount; an empty source is a tmpfs."""

    target: str
    source: str = ""
    subpath: str = ""
    """Of the source, looked up beneath it."""
    within: str = ""
    """The source of another mount of the container in which this one's lies, where its links are not to lead out."""
    is_mapped: bool = False
    """With other owners than on the host: while the container runs its own mount is copied."""
    read_only: bool = False
    is_shallow: bool = False
    """Without what is mounted below the source."""
    is_shallow_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Live:
    """A container that runs: its init, its shim, and the shim's descriptor of its root, which stays the caller's."""

    pid: int
    shim_pid: int
    root_fd: int


@dataclass(slots=True)
class _Found:
    """What the container has at the destinations of its mounts: an O_PATH descriptor and the file system's type."""

    fds: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


def of_running(live: Live, grafts: Sequence[Graft], scratch: str, launcher: Launcher, *, read_only: bool) -> int:
    """The tree of a container that runs; the caller's.  For a thread of its own.

    Raises Conflict when it does not run (any more), Unavailable when it cannot be reached, OSError.
    """
    with ExitStack() as stack:
        found = _look(live, grafts, stack)
        taken = [graft for graft in grafts if _needs_copy(graft, found)]
        mounts = [live.root_fd, *(found.fds[graft.target] for graft in taken)]
        root_fd, *copied = _copies(live, launcher, mounts)
        stack.callback(os.close, root_fd)
        for fd in copied:
            stack.callback(os.close, fd)
        by_target = {graft.target: fd for graft, fd in zip(taken, copied, strict=True)}
        wanted = [graft for graft in grafts if graft.target in by_target or _is_same(graft, found)]
        theirs = {target: os.fstat(fd) for target, fd in found.fds.items() if target not in by_target}
        return _assemble(root_fd, wanted, by_target, scratch, theirs=theirs, read_only=read_only)


def of_stopped(root_fd: int, grafts: Sequence[Graft], scratch: str, *, read_only: bool) -> int:
    """The tree of one that does not, on a detached mount of its layers, which stays the caller's.

    Destinations that are missing are made, as its start would.
    """
    return _assemble(root_fd, [graft for graft in grafts if graft.source], {}, scratch, read_only=read_only)


def _look(live: Live, grafts: Sequence[Graft], stack: ExitStack) -> _Found:
    """What is mounted where, seen from the container's own root."""
    found = _Found()
    try:
        root_fd = os.open(f"/proc/{live.pid}/root", os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, root_fd)
        types = _mount_types(live.pid)
    except OSError as error:
        raise Conflict("the container is not running") from error
    if _parent_of(live.pid) != live.shim_pid:
        raise Conflict("the container is not running")
    for graft in grafts:
        with suppress(OSError):
            fd = openat2(root_fd, os.fsencode(graft.target), os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
            stack.callback(os.close, fd)
            found.fds[graft.target] = fd
            found.types[graft.target] = types.get(_mount_id(fd), "")
    return found


def _is_same(graft: Graft, found: _Found) -> bool:
    """Whether the container has at the destination what the host has at the source."""
    if not graft.source or graft.is_mapped or graft.target not in found.fds:
        return False
    with suppress(OSError):
        source_fd = _source(graft)
        try:
            return os.path.samestat(os.fstat(source_fd), os.fstat(found.fds[graft.target]))
        finally:
            os.close(source_fd)
    return False


def _source(graft: Graft) -> int:
    """An O_PATH descriptor of what is mounted, the caller's."""
    fd = os.open(graft.within or graft.source, os.O_PATH | os.O_CLOEXEC)
    if graft.within:
        rest = os.path.relpath(graft.source, graft.within)
        try:
            below = openat2(fd, os.fsencode(rest), os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
        finally:
            os.close(fd)
        fd = below
    if not graft.subpath:
        return fd
    try:
        return openat2(fd, os.fsencode(graft.subpath), os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    finally:
        os.close(fd)


def _needs_copy(graft: Graft, found: _Found) -> bool:
    """Whether the container's own mount is to be copied: a tmpfs, or a bind whose source on the host is another by now.

    Nothing else that a container may have mounted over its destinations: a procfs would take what is copied into it.
    """
    fd = found.fds.get(graft.target)
    if fd is None or _is_same(graft, found):
        return False
    if not graft.source:
        return found.types[graft.target] == _TMPFS
    with suppress(OSError):
        return os.fstat(fd).st_dev == os.stat(os.path.dirname(graft.source)).st_dev
    return False


def _copies(live: Live, launcher: Launcher, mount_fds: Sequence[int]) -> list[int]:
    """Copies of mounts of the container's namespace; of its shim's, where an external runtime's root is."""
    try:
        return _copied(live.pid, launcher, mount_fds)
    except Unavailable:
        root = _copied(live.shim_pid, launcher, mount_fds[:1])
    try:
        return root + _copied(live.pid, launcher, mount_fds[1:])
    except BaseException:
        os.close(root[0])
        raise


def _copied(pid: int, launcher: Launcher, mount_fds: Sequence[int]) -> list[int]:
    try:
        namespace_fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Conflict("the container is not running") from error
    try:
        return copies(launcher, namespace_fd, mount_fds)
    finally:
        os.close(namespace_fd)


def _assemble(
    root_fd: int,
    grafts: Sequence[Graft],
    copied: dict[str, int],
    scratch: str,
    *,
    theirs: Mapping[str, os.stat_result] | None = None,
    read_only: bool,
) -> int:
    """Puts the tree together; the thread leaves its mount namespace for good, and must end.

    `root_fd` is a detached mount, which may be mounted here; `copied` has mounts by destination, `theirs` what the
    container has at others, which is what their sources must still be.
    """
    unshare(CLONE_NEWNS)
    mount.mount("none", "/", None, mount.MS_REC | mount.MS_PRIVATE)
    with ExitStack() as stack:
        mount.mount_setattr(root_fd, propagation=mount.MS_PRIVATE)
        mount.move_mount(root_fd, scratch)
        for graft in sorted(grafts, key=lambda one: one.target.rstrip("/").count("/")):
            copied_fd = copied.get(graft.target, -1)
            if copied_fd >= 0:
                mount.mount_setattr(copied_fd, propagation=mount.MS_PRIVATE)
                if os.fstat(copied_fd).st_nlink:
                    _attach(root_fd, graft, copied_fd)
                    continue
            source_fd = _opened(graft, (theirs or {}).get(graft.target)) if copied_fd < 0 else _replaced(graft)
            if source_fd >= 0:
                stack.callback(os.close, source_fd)
                _attach(root_fd, graft, source_fd)
        if read_only:
            mount.mount_setattr(root_fd, attr_set=mount.MOUNT_ATTR_RDONLY)
        return mount.open_tree("", dir_fd=root_fd, recursive=True)


def _replaced(graft: Graft) -> int:
    """What is at the source now, for one that the host has removed: the kernel mounts no removed file again.

    -1 when a link is on the way: the container may have made it, in a volume where the source was.
    """
    if graft.subpath:
        return -1
    try:
        fd = openat2(mount.AT_FDCWD, os.fsencode(graft.source), os.O_PATH, resolve=RESOLVE_NO_SYMLINKS)
    except OSError:
        return -1
    try:
        return _guarded(graft, mount.open_tree("", dir_fd=fd, recursive=not graft.is_shallow))
    finally:
        os.close(fd)


def _opened(graft: Graft, theirs: os.stat_result | None) -> int:
    """The mount of its source, which is what it was checked to be: the way there is looked up again.

    Raises Conflict when it is another by now (moby's CVE-2018-15664), Internal.
    """
    try:
        source_fd = _source(graft)
        try:
            if theirs is not None and not os.path.samestat(os.fstat(source_fd), theirs):
                raise Conflict(f"{graft.source}, which is mounted on {graft.target}, was replaced meanwhile")
            return _guarded(graft, mount.open_tree("", dir_fd=source_fd, recursive=not graft.is_shallow))
        finally:
            os.close(source_fd)
    except OSError as error:
        leads_out = f"a link leads out of {graft.within}, which the container has too"
        why = leads_out if graft.within and error.errno == errno.EXDEV else (error.strerror or "").lower()
        raise Internal(f"mount {graft.source}: {why}") from error


def _guarded(graft: Graft, fd: int) -> int:
    """The mount, read-only where it has to be."""
    if graft.read_only:
        mount.mount_setattr(
            fd, attr_set=mount.MOUNT_ATTR_RDONLY, recursive=not (graft.is_shallow or graft.is_shallow_read_only)
        )
    return fd


def _attach(root_fd: int, graft: Graft, source_fd: int) -> None:
    is_directory = stat.S_ISDIR(os.fstat(source_fd).st_mode)
    try:
        with _destination(root_fd, os.fsencode(graft.target), is_directory=is_directory) as trail:
            mount.move_mount_onto(source_fd, trail.fd)
    except OSError as error:
        if error.errno != errno.EROFS:  # of a root that has no such place, and takes none
            raise Internal(f"mount on {graft.target}: {(error.strerror or '').lower()}") from error


def _destination(root_fd: int, target: bytes, *, is_directory: bool) -> Trail:
    """Where a mount goes, made when missing."""
    with suppress(FileNotFoundError):
        return find(root_fd, target)
    head, _, last = target.strip(b"/").rpartition(b"/")
    trail = Trail(root_fd)
    try:
        for name in head.split(b"/") if head else ():
            trail.make_directory(name, 0o755)
        if is_directory:
            trail.make_directory(last, 0o755)
        else:
            os.close(openat2(trail.fd, last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o644, resolve=ENTER))
            trail.walk(last)
    except BaseException:
        trail.close()
        raise
    return trail


def _parent_of(pid: int) -> int:
    """proc(5), stat: the parent; 0 for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _mount_types(pid: int) -> dict[int, str]:
    """proc(5), mountinfo: type of file system by id of mount."""
    found = {}
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            found[int(left.split(" ", 1)[0])] = right.split(" ", 1)[0]
    return found


def _mount_id(fd: int) -> int:
    """proc(5), fdinfo: the id of the mount that a descriptor is on; 0 when it is not told."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == "mnt_id":
                return int(value)
    return 0
