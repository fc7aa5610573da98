"""The steps of a launch plan that mount, and that make files beneath the container's root.

Paths inside the container are resolved beneath the descriptor `root` with openat2(2), RESOLVE_IN_ROOT and
RESOLVE_NO_MAGICLINKS, missing directories are made one by one by descriptor; nothing is looked up twice.
See `corten.launch.ops` for what an op is.
"""

from __future__ import annotations

from corten.launch.ops import Op, errno_text

EPERM = 1

# mount_setattr(2)
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
GUARDED = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
ATTR_NAMES = (
    (MOUNT_ATTR_RDONLY, "ro"), (MOUNT_ATTR_NOSUID, "nosuid"), (MOUNT_ATTR_NODEV, "nodev"),
    (MOUNT_ATTR_NOEXEC, "noexec"), (MOUNT_ATTR_NOATIME, "noatime"), (MOUNT_ATTR_STRICTATIME, "strictatime"),
    (MOUNT_ATTR_NODIRATIME, "nodiratime"), (MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
)  # fmt: skip

# statfs(2)
PROC_SUPER_MAGIC = 0x9FA0

# mount(2)
MS_RDONLY = 1
MS_SYNCHRONOUS = 1 << 4
MS_MANDLOCK = 1 << 6
MS_DIRSYNC = 1 << 7
MS_LAZYTIME = 1 << 25
SUPER_NAMES = (
    (MS_RDONLY, "ro"), (MS_SYNCHRONOUS, "sync"), (MS_DIRSYNC, "dirsync"), (MS_LAZYTIME, "lazytime"),
    (MS_MANDLOCK, "mand"),
)  # fmt: skip
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
PROPAGATION_NAMES = (
    (MS_UNBINDABLE, "unbindable"), (MS_PRIVATE, "private"), (MS_SLAVE, "slave"), (MS_SHARED, "shared"),
)  # fmt: skip

# what a missing mount point becomes
# (plain: no link may lead to it; keep mode: what is mounted gets the mode of the directory that was there)
DIRECTORY, FILE, LIKE_SOURCE, PLAIN_DIRECTORY, KEEP_MODE = 0, 1, 2, 3, 4


def attr_names(attrs: int) -> str:
    """Mount attributes as mount(8) writes them: `ro,nosuid`."""
    return ",".join(name for flag, name in ATTR_NAMES if attrs & flag)


def propagation_name(flags: int) -> str:
    """A propagation type as mount(8) writes it: `rslave`."""
    names = [name for flag, name in PROPAGATION_NAMES if flags & flag]
    return ("r" if flags & MS_REC else "") + "".join(names)


class OpenTree(Op):
    """open_tree(2), OPEN_TREE_CLONE: a detached copy of the mount at a host path; `on` is where it will go."""

    __slots__ = ("on", "path", "recursive", "slot")
    code, form, order = 6, "dsn", ("slot", "path", "recursive")

    def __init__(self, slot: str, path: str, recursive: int, on: str) -> None:
        self.slot = slot
        self.path = path
        self.recursive = recursive
        self.on = on

    def describe(self) -> str:
        return f"open_tree {self.path}{' recursive' if self.recursive else ''} -> {self.slot}"

    def failure(self, errno: int, detail: int) -> str:
        return f"mount {self.path} on {self.on}: {errno_text(errno)}"


class CloneTree(Op):
    """open_tree(2) of a descriptor: a detached copy of one mount or file."""

    __slots__ = ("slot", "source")
    code, form, order = 7, "dd", ("slot", "source")

    def __init__(self, slot: str, source: str) -> None:
        self.slot = slot
        self.source = source

    def describe(self) -> str:
        return f"open_tree {self.source} -> {self.slot}"


class FsMount(Op):
    """fsopen(2), fsconfig(2), fsmount(2): a new detached mount; `magic` of statfs(2) is checked unless 0.

    `on` is where it will go, for the sentence; '' for a mount that stays detached.  `pidns` is the slot of the pid
    namespace that a procfs shows, '' for the caller's own (proc(5); Linux 6.17).
    """

    __slots__ = ("attrs", "fstype", "magic", "on", "options", "pidns", "slot")
    code, form, order = 8, "dslnnd", ("slot", "fstype", "options", "attrs", "magic", "pidns")

    def __init__(
        self,
        slot: str,
        fstype: str,
        options: tuple[str, ...],
        attrs: int,
        *,
        magic: int = 0,
        on: str = "",
        pidns: str = "",
    ) -> None:
        self.slot = slot
        self.fstype = fstype
        self.options = options
        self.attrs = attrs
        self.magic = magic
        self.on = on
        self.pidns = pidns

    def describe(self) -> str:
        shown = (f"of {self.pidns}",) if self.pidns else ()
        words = [f"fsmount {self.fstype}", *shown, ",".join(self.options), attr_names(self.attrs), "->", self.slot]
        return " ".join(word for word in words if word)

    def failure(self, errno: int, detail: int) -> str:
        return f"mount {self.fstype} on {self.on}: {errno_text(errno)}" if self.on else super().failure(errno, detail)


class MountDetached(Op):
    """mount(2) on the process's `/`, open_tree(2) of it and umount2(2) there: a new detached mount.

    `data` has up to a page, where `FsMount` takes options of up to 255 bytes; attributes are another op's.  `magic` and
    `on` are those of `FsMount`.
    """

    __slots__ = ("data", "flags", "fstype", "magic", "on", "slot", "source")
    code, form, order = 72, "dssnsn", ("slot", "fstype", "source", "flags", "data", "magic")

    def __init__(
        self, slot: str, fstype: str, source: str, flags: int, data: str, *, magic: int = 0, on: str = ""
    ) -> None:
        self.slot = slot
        self.fstype = fstype
        self.source = source
        self.flags = flags
        self.data = data
        self.magic = magic
        self.on = on

    def describe(self) -> str:
        words = [f"source={self.source}", *[name for flag, name in SUPER_NAMES if self.flags & flag], self.data]
        return f"mount {self.fstype} on / and take it off {','.join(word for word in words if word)} -> {self.slot}"

    def failure(self, errno: int, detail: int) -> str:
        return f"mount {self.fstype} on {self.on}: {errno_text(errno)}"


class MountSetattr(Op):
    """mount_setattr(2) of a mount by its descriptor; `propagation` is one MS_ flag or 0.

    `on` is where it will go, for the sentence.
    """

    __slots__ = ("clear", "on", "propagation", "recursive", "set", "slot")
    code, form, order = 9, "dnnnn", ("slot", "set", "clear", "propagation", "recursive")

    def __init__(self, slot: str, set: int, clear: int, propagation: int, recursive: int, *, on: str = "") -> None:
        self.on = on
        self.slot = slot
        self.set = set
        self.clear = clear
        self.propagation = propagation
        self.recursive = recursive

    def describe(self) -> str:
        words = [f"mount_setattr {self.slot}", attr_names(self.set)]
        words.append("-" + attr_names(self.clear).replace(",", ",-") if attr_names(self.clear) else "")
        words.append(propagation_name(self.propagation))
        words.append("recursive" if self.recursive else "")
        return " ".join(word for word in words if word)

    def failure(self, errno: int, detail: int) -> str:
        if not self.on:
            return super().failure(errno, detail)
        locked = errno == EPERM  # in a user namespace, of a mount that the host made
        what = f"cannot change locked flags of the mount for {self.on}: " if locked else f"mount for {self.on}: "
        return what + super().failure(errno, detail)


class ReconfigureMount(Op):
    """fspick(2) and fsconfig(2) of the file system of a mount; `on` is where that is, for the sentence."""

    __slots__ = ("on", "options", "slot")
    code, form, order = 67, "dl", ("slot", "options")

    def __init__(self, slot: str, options: tuple[str, ...], on: str) -> None:
        self.slot = slot
        self.options = options
        self.on = on

    def describe(self) -> str:
        return f"reconfigure {self.slot} {','.join(self.options)}"

    def failure(self, errno: int, detail: int) -> str:
        return f"remount {self.on}: {errno_text(errno)}"


class MountPropagation(Op):
    """mount(2) with MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, and MS_REC, on the process's `/`."""

    __slots__ = ("flags",)
    code, form, order = 10, "n", ("flags",)

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def describe(self) -> str:
        return f"mount / {propagation_name(self.flags)}"


class MoveMount(Op):
    """move_mount(2) of a detached mount to a path beneath `root`; `source` is only for the sentence.

    A missing mount point is made: `kind` says as what.
    """

    __slots__ = ("kind", "path", "root", "slot", "source")
    code, form, order = 11, "ddsn", ("slot", "root", "path", "kind")

    def __init__(self, slot: str, root: str, path: str, kind: int, source: str) -> None:
        self.slot = slot
        self.root = root
        self.path = path
        self.kind = kind
        self.source = source

    def describe(self) -> str:
        return f"move_mount {self.slot} ({self.source}) to {self.root}:{self.path}"

    def failure(self, errno: int, detail: int) -> str:
        return f"mount {self.source} on {self.path}: {errno_text(errno)}"


class CopyUp(Op):
    """Copy what the directory at a path beneath `root` holds into a tmpfs that is still detached (`tmpcopyup`)."""

    __slots__ = ("path", "root", "slot")
    code, form, order = 57, "dds", ("slot", "root", "path")

    def __init__(self, slot: str, root: str, path: str) -> None:
        self.slot = slot
        self.root = root
        self.path = path

    def describe(self) -> str:
        return f"copy {self.root}:{self.path} into {self.slot}"


class AttachRoot(Op):
    """move_mount(2) of the detached root onto `/`, which must be private; pivot_root(2) needs it attached."""

    __slots__ = ("slot",)
    code, form, order = 12, "d", ("slot",)

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"move_mount {self.slot} to /"


class AttachRootHere(Op):
    """move_mount(2) of the detached root onto the working directory, which becomes the root of that mount.

    Who enters a new mount namespace takes its working directory along, in the copy of the mount: the place where a hook
    looks for the root is found by the path once, on the host.
    """

    __slots__ = ("slot",)
    code, form, order = 70, "d", ("slot",)

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"move_mount {self.slot} to the working directory, fchdir"


class PivotRoot(Op):
    """pivot_root(2) into the attached root, umount2(2) MNT_DETACH of the old one, chdir(2) to `/`."""

    __slots__ = ("slot",)
    code, form, order = 14, "d", ("slot",)

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"pivot_root {self.slot}, detach the old root"


class Chroot(Op):
    """chroot(2) into the attached root, where pivot_root(2) cannot work (--no-pivot)."""

    __slots__ = ("slot",)
    code, form, order = 15, "d", ("slot",)

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"chroot {self.slot}"


class Mkdir(Op):
    """mkdirat(2) of every missing directory of a path beneath `root`: the working directory.  Words: runc's."""

    __slots__ = ("mode", "path", "root")
    code, form, order = 30, "dsn", ("root", "path", "mode")
    exact = True

    def __init__(self, root: str, path: str, mode: int) -> None:
        self.root = root
        self.path = path
        self.mode = mode

    def describe(self) -> str:
        return f"mkdir {self.root}:{self.path} {self.mode:04o}"

    def failure(self, errno: int, detail: int) -> str:
        return f"error during container init: mkdir {self.path}: {errno_text(errno)}"


class Symlink(Op):
    """symlinkat(2) beneath `root`; one that is there already is left alone."""

    __slots__ = ("path", "root", "target")
    code, form, order = 31, "dss", ("root", "path", "target")

    def __init__(self, root: str, path: str, target: str) -> None:
        self.root = root
        self.path = path
        self.target = target

    def describe(self) -> str:
        return f"symlink {self.root}:{self.path} -> {self.target}"


class Mknod(Op):
    """mknodat(2) beneath `root`, with chmod and chown; the same node that is there already is left alone.

    Anything else in its place is EEXIST (config-linux.md, "Devices").
    """

    __slots__ = ("gid", "major", "minor", "mode", "path", "root", "uid")
    code, form, order = 32, "dsnnnnn", ("root", "path", "mode", "major", "minor", "uid", "gid")

    def __init__(self, root: str, path: str, mode: int, major: int, minor: int, uid: int, gid: int) -> None:
        self.root = root
        self.path = path
        self.mode = mode
        self.major = major
        self.minor = minor
        self.uid = uid
        self.gid = gid

    def describe(self) -> str:
        kind = {0o020000: "c", 0o060000: "b", 0o010000: "p"}[self.mode & 0o170000]
        return (
            f"mknod {self.root}:{self.path} {kind} {self.major}:{self.minor} {self.mode & 0o7777:04o}"
            f" {self.uid}:{self.gid}"
        )

    def failure(self, errno: int, detail: int) -> str:
        return f"mknod {self.path}: {errno_text(errno)}"


class OpenPty(Op):
    """Open `ptmx` of the devpts beneath `root` and its peer (TIOCGPTPEER); the size in columns and rows, 0 for none."""

    __slots__ = ("height", "master", "root", "slave", "width")
    code, form, order = 33, "dddnn", ("root", "master", "slave", "width", "height")

    def __init__(self, root: str, master: str, slave: str, width: int, height: int) -> None:
        self.root = root
        self.master = master
        self.slave = slave
        self.width = width
        self.height = height

    def describe(self) -> str:
        size = f" {self.width}x{self.height}" if self.width or self.height else ""
        return f"open {self.root}:/dev/pts/ptmx{size} -> {self.master}, {self.slave}"


class Mask(Op):
    """Hide a path: /dev/null (`null`) over a file, an empty read-only tmpfs (`empty`) over a directory.

    A path that is not there is passed over (config-linux.md, "Masked Paths").
    """

    __slots__ = ("empty", "null", "path", "root")
    code, form, order = 13, "dsdd", ("root", "path", "null", "empty")

    def __init__(self, root: str, path: str, null: str, empty: str) -> None:
        self.root = root
        self.path = path
        self.null = null
        self.empty = empty

    def describe(self) -> str:
        return f"mask {self.root}:{self.path}"


class ReadonlyPath(Op):
    """Bind a path on itself, read-only; one that is not there is passed over (config-linux.md, "Readonly Paths")."""

    __slots__ = ("path", "root")
    code, form, order = 35, "ds", ("root", "path")

    def __init__(self, root: str, path: str) -> None:
        self.root = root
        self.path = path

    def describe(self) -> str:
        return f"read-only {self.root}:{self.path}"
