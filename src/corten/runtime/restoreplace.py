"""Where CRIU puts a container together: a mount namespace of CRIU's own, with the root filesystem as a mount in it.

It is made between fork and exec, is a slave of the host's, and ends with CRIU: no mount of a restore is ever seen by
anybody else, and none is left behind, whoever is killed when.
"""

from __future__ import annotations

import errno
import os

from corten.errors import CortenError, FailedPrecondition, Internal
from corten.runtime import fast
from corten.sys import files, mount
from corten.sys.namespace import CLONE_NEWNS, unshare
from corten.sys.openat2 import O_PATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from corten.spec.runtime import Mount

INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
CGROUP_TYPES = ("cgroup", "cgroup2")  # their mount points are in a tmpfs, or come with sysfs


class Place:
    """The namespace to be; `enter` is called in the new process, `points` afterwards in the old one.

    rootfs   the container's root filesystem
    root     a directory, on which it is bound: CRIU wants a mount whose parent is visible
    """

    __slots__ = ("_mounts", "_report", "_root", "_rootfs")

    def __init__(self, mounts: Sequence[Mount], rootfs: str, root: str) -> None:
        self._mounts = mounts
        self._rootfs = rootfs
        self._root = root
        self._report = os.memfd_create("report", os.MFD_CLOEXEC)

    def close(self) -> None:
        """Nobody asks any more."""
        os.close(self._report)

    def enter(self) -> None:
        """Moves this process there; what goes wrong stands in the report, too."""
        try:
            unshare(CLONE_NEWNS)
            mount.mount("none", "/", None, mount.MS_REC | mount.MS_SLAVE)
            points = make_points(self._mounts, self._rootfs)
            mount.mount(self._rootfs, self._root, None, mount.MS_BIND | mount.MS_REC)
            self._tell({"points": points})
        except CortenError as error:
            self._tell({"error": error.text})
            raise
        except OSError as error:
            self._tell({"error": f"{error.filename}: {files.why(error)}"})
            raise

    def _tell(self, report: dict[str, object]) -> None:
        files.write_all(self._report, fast.dump_bytes(report))

    def points(self) -> list[list[str]]:
        """[destination, source] of every bind, the first as CRIU names it; raises FailedPrecondition when `enter`
        failed."""
        os.lseek(self._report, 0, os.SEEK_SET)
        told = files.read_fd(self._report)
        if not told:
            raise Internal("prepare the root filesystem: nothing was told of it")
        report = fast.loads(told)
        if "error" in report:
            raise FailedPrecondition(f"prepare the root filesystem: {report['error']}")
        points: list[list[str]] = report["points"]
        return points


def is_bind(entry: Mount) -> bool:
    """Whether it shows something of the host."""
    return entry.type == "bind" or "bind" in entry.options or "rbind" in entry.options


def make_points(mounts: Sequence[Mount], rootfs: str) -> list[list[str]]:
    """Makes the mount points that are missing in a root filesystem, as a start does; [destination, source] of binds.

    What is below a tmpfs is CRIU's to restore.  A bind is in place while points of others may have to be made in it.
    """
    fresh = [f"{files.absolute(entry.destination)}/" for entry in mounts if entry.type == "tmpfs"]
    found: list[list[str]] = []
    bound: list[int] = []
    root_fd = os.open(rootfs, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in mounts:
            if entry.type in CGROUP_TYPES:
                continue
            destination = files.absolute(entry.destination)
            binds = is_bind(entry)
            if destination.startswith(tuple(fresh)):
                found += [[destination, entry.source]] if binds else []
                continue
            fd = make_point(root_fd, destination, is_directory=not binds or files.is_directory(entry.source))
            if not binds:
                os.close(fd)
                continue
            found.append([_name(root_fd, fd), entry.source])
            mount.mount(entry.source, f"/proc/self/fd/{fd}", None, mount.MS_BIND | mount.MS_REC)
            bound.append(fd)
        for fd in reversed(bound):
            mount.umount(_top(fd), mount.MNT_DETACH)
    finally:
        for fd in (*bound, root_fd):
            os.close(fd)
    return found


def _name(root_fd: int, fd: int) -> str:
    """The path of what is open beneath a root, as one who has that root sees it."""
    root, path = (os.readlink(f"/proc/self/fd/{one}") for one in (root_fd, fd))
    return path.removeprefix(root.rstrip("/")) or "/"


def _top(fd: int) -> str:
    """The path of an open directory or file; a mount on it is found by the name alone, not by the descriptor."""
    return os.readlink(f"/proc/self/fd/{fd}")


def make_point(root_fd: int, path: str, *, is_directory: bool) -> int:
    """A descriptor of `path` beneath a root, its links followed within; made where it is missing."""
    parts = path.strip("/").split("/") if path != "/" else []
    fd = os.dup(root_fd)
    for count, name in enumerate(parts, 1):
        found = _look(root_fd, parts[:count])
        if found < 0:
            if is_directory or count < len(parts):
                os.mkdir(name, 0o755, dir_fd=fd)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=fd))
            found = openat2(root_fd, os.fsencode("/".join(parts[:count])), O_PATH, resolve=INSIDE)
        os.close(fd)
        fd = found
    return fd


def _look(root_fd: int, parts: list[str]) -> int:
    """A descriptor, or -1 where nothing is."""
    try:
        return openat2(root_fd, os.fsencode("/".join(parts)), O_PATH, resolve=INSIDE)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return -1
