"""The part of a plan that builds what the container sees: root, mounts, devices, terminal, masks.

What is taken from the host (sources of binds, the root, device nodes for a user namespace, cgroup directories) is
opened as detached mounts before any namespace is entered (`open_sources`), so that no lookup in the host's tree
happens in the container's process, and `-v /:/host` does not show the container's own root.
Then each is moved to its place, in the order of the configuration.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.launch import cgroupmounts
from corten.launch.builder import NAMESPACE_FLAGS, Builder
from corten.launch.enter import IDMAP_SLOTS, host_proc
from corten.launch.facts import is_rootless
from corten.launch.mountops import (
    DIRECTORY,
    FILE,
    GUARDED,
    KEEP_MODE,
    LIKE_SOURCE,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
    PLAIN_DIRECTORY,
    PROC_SUPER_MAGIC,
    AttachRoot,
    AttachRootHere,
    Chroot,
    CloneTree,
    CopyUp,
    FsMount,
    Mask,
    Mkdir,
    Mknod,
    MountPropagation,
    MountSetattr,
    MoveMount,
    OpenPty,
    OpenTree,
    PivotRoot,
    ReadonlyPath,
    ReconfigureMount,
    Symlink,
)
from corten.launch.nsops import LockMounts, MapMount
from corten.launch.ops import O_DIRECTORY, O_PATH, Fchdir, Open, OpenDevice, SendFd
from corten.launch.options import PROPAGATIONS, MountOptions, is_long
from corten.launch.userops import ReopenNull
from corten.spec.runtime import Device, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.context import InitContext
    from corten.spec.process import Process

ROOT = "rootfs"
PROC = "proc"
NULL = "null"
EMPTY = "empty"
PLACE = "place"
# their file systems belong to a namespace, which others may share
SHARED_TYPES = ("proc", "sysfs", "mqueue", "cgroup", "cgroup2")

# runtime-spec config-linux.md, "Default Devices"
DEFAULT_DEVICES = (
    Device("/dev/null", "c", 1, 3),
    Device("/dev/zero", "c", 1, 5),
    Device("/dev/full", "c", 1, 7),
    Device("/dev/random", "c", 1, 8),
    Device("/dev/urandom", "c", 1, 9),
    Device("/dev/tty", "c", 5, 0),
)
PTMX = "/dev/ptmx"
# runtime-spec config-linux.md, "Dev symbolic links", and "Default Devices" for ptmx, which a node never replaces
DEV_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    (PTMX, "pts/ptmx"),
)
# files of /proc that may be mounted over: what lxcfs emulates
EMULATED = (
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
    "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
)  # fmt: skip
NODE_MODES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


class Entry:
    """One mount of the configuration with its options sorted, and the slot that holds it."""

    __slots__ = ("destination", "mount", "options", "slot", "source")

    def __init__(self, index: int, mount: Mount, bundle: str) -> None:
        self.mount = mount
        where = f"config.json.mounts[{index}]"
        self.destination = clean_path(mount.destination)
        self.options = MountOptions(mount.options, where, is_bind=mount.type == "bind")
        check_destination(self.destination, "bind" if self.options.is_bind else mount.type, where)
        if self.options.copies_up and mount.type != "tmpfs":
            raise InvalidArgument(f"{where}.options: tmpcopyup is for tmpfs alone")
        self.slot = f"mount.{index}"
        if self.options.is_bind:
            self.source = mount.source if mount.source.startswith("/") else f"{bundle}/{mount.source}"
        else:
            self.source = mount.source  # '' too: the kernel shows what is given
        self.options.id_mapped = self.options.id_mapped or bool(mount.uid_mappings)
        if self.options.id_mapped and not (self.options.is_bind and not self.options.is_remount):
            raise InvalidArgument(f"{where}: id-mapped mounts are only supported for bind-mounts")

    def is_beneath(self, path: str) -> bool:
        """The mount is at `path` or below it."""
        return self.destination == path or self.destination.startswith(path.rstrip("/") + "/")


class Filesystem:
    """Adds the file-system part of a plan to a builder, in the order of its public methods."""

    __slots__ = (
        "b", "context", "deferred", "entries", "in_userns", "is_shown", "keep_proc", "pidns", "readonly_later",
        "rootless", "userns",
    )  # fmt: skip

    def __init__(self, b: Builder, context: InitContext, *, keep_proc: bool) -> None:
        self.b = b
        self.context = context
        self.keep_proc = keep_proc
        self.pidns = ""  # slot of the pid namespace that procfs is to show, '' for the mounting process's own
        self.userns = bool((b.new_flags() | b.joined_flags()) & NAMESPACE_FLAGS["user"])
        self.entries = [Entry(i, mount, context.bundle) for i, mount in enumerate(b.config.mounts)]
        self.deferred: list[Entry] = []
        self.rootless = is_rootless(b.facts)
        # whoever is root there makes no device nodes: the host's are bound
        self.in_userns = self.userns or self.rootless
        self.readonly_later: list[str] = []
        hooks = b.config.hooks
        # somebody looks for the root at its path before it is entered (runtime-spec config.md, "Createcontainer Hooks")
        self.is_shown = bool(hooks.prestart or hooks.create_runtime or hooks.create_container)

    def open_sources(self) -> None:
        """Everything that comes from the host, as detached mounts and checked devices."""
        if self.userns and not self.rootless:
            # an ordinary user's child opens them by itself, in a mount namespace that is such a copy
            self.b.add(LockMounts(host_proc(self.b)))
        for entry in self.entries:
            if entry.options.is_remount:
                continue
            if cgroupmounts.is_v2(self.b, entry):
                cgroupmounts.settle_v2(self.b, self.context, entry, in_userns=self.in_userns)
            if entry.options.is_bind:
                self._open_bind(entry)
            elif cgroupmounts.is_v1(self.b, entry):
                cgroupmounts.open_v1(self.b, self.context, entry)
        if self.in_userns:
            for i, device in enumerate(self._devices()):
                slot = self.b.opened(f"device.{i}")
                # in the host's peer group whoever is root in the container would mount over the host's own node
                self.b.add(OpenTree(slot, device.path, 0, device.path), MountSetattr(slot, 0, 0, MS_SLAVE, 0))
        self._open_root()
        self.b.close(*[slot for slot in self.b.open if slot.startswith(IDMAP_SLOTS)])

    def attach_root(self) -> None:
        """Make the old tree private, so that nothing that follows reaches the host, and put the root in place.

        For hooks that is where the bundle has it; nobody else could tell, and "/" needs no place.
        """
        self.b.add(MountPropagation(MS_PRIVATE | MS_REC))
        self.b.add(AttachRootHere(ROOT) if self.is_shown else AttachRoot(ROOT))

    def mount_all(self, *, late: bool) -> None:
        """The configuration's mounts in their order; with `late`, those that need the new process are put off."""
        for entry in self.entries:
            if late and self._must_wait(entry):
                self.deferred.append(entry)
            else:
                self._mount(entry)

    def mount_deferred(self) -> None:
        """The mounts that `mount_all` put off."""
        for entry in self.deferred:
            self._mount(entry)

    def kept_late(self) -> list[str]:
        """Slots that `mount_deferred` and `protect` still use."""
        return [ROOT, *[slot for slot in self.b.open if slot.startswith("mount.") and self._is_kept(slot)]]

    def fill_dev(self) -> None:
        """Nodes and links in /dev, unless the configuration binds a /dev of its own."""
        if any(entry.destination == "/dev" and entry.options.is_bind for entry in self.entries):
            return
        for i, device in enumerate(self._devices()):
            if self.in_userns:
                self.b.add(MoveMount(f"device.{i}", ROOT, device.path, FILE, device.path))
            else:
                mode = NODE_MODES[device.type] | device.file_mode
                numbers = (device.major, device.minor) if device.type != "p" else (0, 0)
                self.b.add(Mknod(ROOT, device.path, mode, *numbers, device.uid, device.gid))
        for path, target in DEV_LINKS:
            self.b.add(Symlink(ROOT, path, target))
        if self.b.facts.has_kcore:
            self.b.add(Symlink(ROOT, "/dev/core", "/proc/kcore"))

    def open_terminal(self, process: Process) -> None:
        """The pty: its master to the console socket, its slave on /dev/console and kept for stdio."""
        open_terminal(self.b, process)
        self.b.add(
            CloneTree(self.b.opened("tty.mount"), "tty"),
            MoveMount("tty.mount", ROOT, "/dev/console", FILE, "tty"),
        )

    def reopen_null(self) -> None:
        """Stdio that is the host's /dev/null becomes the container's."""
        self.b.add(ReopenNull(ROOT))

    def make_cwd(self, process: Process) -> None:
        """The working directory is made where it is missing, as runc does."""
        if process.cwd != "/":
            self.b.add(Mkdir(ROOT, process.cwd, 0o755))

    def enter_root(self) -> None:
        """The container's root becomes the process's; the old one is gone."""
        if not self.context.no_pivot:
            self.b.add(PivotRoot(ROOT))
        else:
            self.b.add(*([AttachRoot(ROOT)] if self.is_shown else []), Chroot(ROOT))
        propagation = PROPAGATIONS.get(self.b.config.linux.rootfs_propagation, 0)
        if propagation and not propagation & MS_PRIVATE:
            self.b.add(MountPropagation(propagation))

    def protect(self) -> None:
        """Read-only and masked paths, then mounts and root that had to be writable until here.

        Files are masked with the container's own /dev/null, whose owner and mode are its own business; the op sees to
        it that it is this device, whatever the container may put there.
        """
        linux = self.b.config.linux
        self.b.add(*[ReadonlyPath(ROOT, path) for path in linux.readonly_paths])
        if linux.masked_paths:
            self.b.add(
                OpenDevice(self.b.opened(NULL), ROOT, "/dev/null", 1, 3),
                FsMount(self.b.opened(EMPTY), "tmpfs", ("source=tmpfs", "ro"), MOUNT_ATTR_RDONLY),
            )
            self.b.add(*[Mask(ROOT, path, NULL, EMPTY) for path in linux.masked_paths])
        for slot in self.readonly_later:
            self.b.add(MountSetattr(slot, MOUNT_ATTR_RDONLY, 0, 0, 0))
        if self.b.config.root is not None and self.b.config.root.readonly:
            self.b.add(MountSetattr(ROOT, MOUNT_ATTR_RDONLY, 0, 0, 0))

    def private_proc(self) -> str:
        """The slot of a procfs of the new pid namespace that nobody else can reach, for writes to /proc."""
        if PROC not in self.b.open:
            slot = self.b.opened(PROC)
            self.b.add(FsMount(slot, "proc", (), GUARDED, magic=PROC_SUPER_MAGIC, pidns=self.pidns))
        return PROC

    def _open_root(self) -> None:
        path = self.context.rootfs
        if self.is_shown:
            place = path or self._place()
            self.b.add(Open(self.b.opened(PLACE), place, O_PATH | O_DIRECTORY), Fchdir(PLACE))
            self.b.close(PLACE)
            path = "."
        if self.context.rootfs_fd:
            self.b.input(ROOT)
            return
        # without a word on it a root follows the host's mounts, as for runc; one that is to be shared is so in a group
        # of its own (config-linux.md, "Rootfs Mount Propagation"; `enter_root`)
        asked = PROPAGATIONS.get(self.b.config.linux.rootfs_propagation, MS_SLAVE)
        kind = MS_SLAVE if asked & MS_SLAVE else MS_PRIVATE
        self.b.add(
            OpenTree(self.b.opened(ROOT), path, 1, "/"),
            MountSetattr(ROOT, 0, 0, kind, 1),
        )

    def _place(self) -> str:
        """Where the bundle has a root that comes as a descriptor."""
        path = self.b.config.root.path if self.b.config.root is not None else ROOT
        return path if path.startswith("/") else f"{self.context.bundle}/{path}"

    def _open_bind(self, entry: Entry) -> None:
        options = entry.options
        self.b.add(OpenTree(self.b.opened(entry.slot), entry.source, int(options.recursive), entry.destination))
        if options.id_mapped:
            from corten.launch import idmaps  # for the few that ask for it

            namespace = idmaps.namespace_of(self.b, entry.mount)
            where = {"path": entry.source, "on": entry.destination}
            self.b.add(MapMount(entry.slot, namespace, int(options.maps_below), **where))
        if self.rootless and options.recursive and self._is_of_cgroups(entry):
            options.all_set |= MOUNT_ATTR_RDONLY
        # without a word on it a bind follows the host's mounts: "/" is a slave of the host for runc, too
        propagation = options.propagation or MS_SLAVE | MS_REC
        rec = int(bool(propagation & MS_REC)) if options.recursive else 0
        kind = propagation & ~MS_REC
        on = entry.destination
        if (options.all_set or options.all_clear) and options.recursive:
            self.b.add(MountSetattr(entry.slot, options.all_set, options.all_clear, 0, 1, on=on))
        set_ = options.attr_set | (0 if options.recursive else options.all_set)
        clear = options.attr_clear | (0 if options.recursive else options.all_clear)
        if rec and (set_ or clear):
            self.b.add(MountSetattr(entry.slot, set_, clear, 0, 0, on=on), MountSetattr(entry.slot, 0, 0, kind, 1))
        else:
            self.b.add(MountSetattr(entry.slot, set_, clear, kind, rec, on=on))

    def _is_of_cgroups(self, entry: Entry) -> bool:
        """A tree to be shown read-only or as cgroups that has those of the host in it (CVE-2023-25809).

        Some may be the user's own, and the container's root is that user.
        """
        wanted = entry.options.attr_set & MOUNT_ATTR_RDONLY or entry.mount.type in ("cgroup", "cgroup2")
        return bool(wanted) and cgroupmounts.are_below(self.b, clean_path(entry.source))

    def _must_wait(self, entry: Entry) -> bool:
        """procfs shows the pid namespace of the process that mounts it, cgroup2 its cgroup namespace."""
        waits = entry.mount.type == "proc" or cgroupmounts.is_v2(self.b, entry)
        return waits or any(entry.is_beneath(other.destination) for other in self.deferred)

    def _mount(self, entry: Entry) -> None:
        mount = entry.mount
        if entry.options.is_remount:
            self._remount(entry)
        elif entry.options.is_bind:
            self.b.add(MoveMount(entry.slot, ROOT, entry.destination, LIKE_SOURCE, entry.source))
        elif cgroupmounts.is_v1(self.b, entry):
            cgroupmounts.mount_v1(self.b, self.context, entry, root=ROOT)
        elif cgroupmounts.is_v2(self.b, entry):
            self._mount_fs(entry, "cgroup2", entry.options.data)
        elif mount.type == "proc":
            self._mount_proc(entry)
        else:
            self._mount_fs(entry, mount.type, entry.options.data)

    def _remount(self, entry: Entry) -> None:
        """Change a mount that an earlier entry made, and its file system where that is the container's alone.

        By its descriptor: a path could lead to another mount by now.
        """
        before = self.entries[: self.entries.index(entry)]
        made = [other for other in before if other.destination == entry.destination and not other.options.is_remount]
        if not made:
            raise InvalidArgument(f"remount of {entry.destination}: no mount before it goes there")
        first, data = made[-1], entry.options.data
        own = not first.options.is_bind and first.mount.type not in SHARED_TYPES
        if data and not own:
            raise InvalidArgument(
                f"remount of {entry.destination}: {', '.join(data)} would change a file system that others use, too"
            )
        set_, clear = entry.options.replacing()
        if own and first.mount.type == "tmpfs":
            # nodes and mount points are still to be made in it
            self.readonly_later = [slot for slot in self.readonly_later if slot != first.slot]
            if set_ & MOUNT_ATTR_RDONLY:
                self.readonly_later.append(first.slot)
            set_, clear = set_ & ~MOUNT_ATTR_RDONLY, clear & ~MOUNT_ATTR_RDONLY
        elif own and not entry.options.is_bind:
            data = ("ro" if set_ & MOUNT_ATTR_RDONLY else "rw", *data)
        if data:
            self.b.add(ReconfigureMount(first.slot, data, entry.destination))
        self.b.add(MountSetattr(first.slot, set_, clear, 0, 0))
        self._set_propagation(entry, first.slot)

    def _mount_fs(self, entry: Entry, fstype: str, data: tuple[str, ...]) -> None:
        attrs = entry.options.attr_set | entry.options.all_set
        kind = DIRECTORY
        flags: tuple[str, ...] = ()
        if fstype == "tmpfs":
            if attrs & MOUNT_ATTR_RDONLY:
                # nodes and mount points are still to be made in it
                self.readonly_later.append(entry.slot)
                attrs &= ~MOUNT_ATTR_RDONLY
            if not any(word.startswith("mode=") for word in data):
                kind = KEEP_MODE
        elif attrs & MOUNT_ATTR_RDONLY:
            flags = ("ro",)
        if fstype == "sysfs" or entry.destination == "/dev":
            kind = PLAIN_DIRECTORY
        self._new_mount(entry, fstype, (*flags, *data), attrs)
        if entry.options.copies_up:
            self.b.add(CopyUp(entry.slot, ROOT, entry.destination))
        self.b.add(MoveMount(entry.slot, ROOT, entry.destination, kind, entry.source))
        self._set_propagation(entry)

    def _new_mount(self, entry: Entry, fstype: str, words: tuple[str, ...], attrs: int, magic: int = 0) -> None:
        slot, on, pidns = self.b.opened(entry.slot), entry.destination, self.pidns if fstype == "proc" else ""
        options = (f"source={entry.source}", *words)
        if pidns or not is_long(options):
            self.b.add(FsMount(slot, fstype, options, attrs, magic=magic, on=on, pidns=pidns))
        else:
            from corten.launch.longmounts import long_mount  # for the few that need it

            self.b.add(*long_mount(slot, fstype, entry.source, words, attrs, magic=magic, on=on))

    def _mount_proc(self, entry: Entry) -> None:
        options = entry.options
        readonly = bool(options.attr_set & MOUNT_ATTR_RDONLY)
        words = (*(("ro",) if readonly else ()), *options.data)
        self._new_mount(entry, "proc", words, options.attr_set, PROC_SUPER_MAGIC)
        self.b.add(MoveMount(entry.slot, ROOT, entry.destination, PLAIN_DIRECTORY, entry.source))
        if self.keep_proc and PROC not in self.b.open and not readonly and not options.data:
            # a copy of the mount that stays detached: nothing can be mounted over what is written through it
            self.b.add(CloneTree(self.b.opened(PROC), entry.slot))
        self._set_propagation(entry)

    def _is_kept(self, slot: str) -> bool:
        """A mount that is still to be placed (`mount.3`, `mount.3.cpu`) or to be made read-only."""
        return slot in self.readonly_later or any(
            slot == entry.slot or slot.startswith(f"{entry.slot}.") for entry in self.deferred
        )

    def _set_propagation(self, entry: Entry, slot: str = "") -> None:
        if entry.options.propagation:
            rec = int(bool(entry.options.propagation & MS_REC))
            self.b.add(MountSetattr(slot or entry.slot, 0, 0, entry.options.propagation & ~MS_REC, rec))

    def _devices(self) -> tuple[Device, ...]:
        """The default devices and the configuration's, but for ptmx: what is at that path is the link."""
        given = [device for device in self.b.config.linux.devices if clean_path(device.path) != PTMX]
        paths = {device.path for device in given}
        return (*[device for device in DEFAULT_DEVICES if device.path not in paths], *given)


def open_terminal(b: Builder, process: Process) -> None:
    """Open a pty beneath the slot `rootfs`, send its master to the console socket, keep its slave as `tty`."""
    b.input("console")
    b.add(
        OpenPty(ROOT, b.opened("pty"), b.opened("tty"), process.console_width, process.console_height),
        SendFd("console", "pty", b"/dev/ptmx"),
    )
    b.close("console", "pty")


def clean_path(path: str) -> str:
    """An absolute path without `.`, `..` and doubled slashes, for comparing; the kernel resolves links."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def check_destination(path: str, type: str, where: str) -> None:
    """No mount over the root, and in /proc only what emulators of single files put there (as in runc).

    A bind on /proc itself may be one of a procfs: the launcher sees that, and links in the path (`check_proc`).
    """
    if path == "/":
        raise InvalidArgument(f"{where}.destination: cannot mount over the root")
    if path == "/proc" and type not in ("proc", "bind"):
        raise InvalidArgument(f'"{path}" cannot be mounted because it is not of type proc')
    if path.startswith("/proc/") and type != "proc" and path not in EMULATED:
        raise InvalidArgument(f'"{path}" cannot be mounted because it is inside /proc')
