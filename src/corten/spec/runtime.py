"""The OCI runtime configuration: what a bundle's `config.json` says, as values that cannot be wrong.

Rules: runtime-spec `config.md` and `config-linux.md`, version 1.0 to 1.3.  `parse_config` takes the object that a JSON
parser made, checks every field that is read later, and raises `InvalidArgument` naming the field.  Unknown fields are
ignored, as the specification asks.  Resources stand in `corten.spec.resources`.

This module is on the runtime's cold path (design.md §7): slot classes, no import beyond `corten.errors`.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.process import Process, read_process
from corten.spec.reader import U32, Reader, Value
from corten.spec.resources import Resources, read_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.rdt import IntelRdt
    from corten.spec.scheduling import MemoryPolicy

# of a time namespace (time_namespaces(7)); in the order of /proc/PID/timens_offsets
CLOCKS = ("monotonic", "boottime")
NAMESPACES = ("mount", "uts", "ipc", "pid", "network", "cgroup", "user", "time")
PROPAGATIONS = (
    "", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable",
)  # fmt: skip


class Root(Value):
    """The root filesystem: a path relative to the bundle, or absolute."""

    __slots__ = ("path", "readonly")

    def __init__(self, path: str, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly


class Mount(Value):
    """One mount of the configuration, options as written (config.md, "Mounts").

    The mappings are those of an id-mapped mount: a container's id is one of the file system, a host's id its owner.
    """

    __slots__ = ("destination", "gid_mappings", "options", "source", "type", "uid_mappings")

    def __init__(
        self,
        destination: str,
        type: str = "",
        source: str = "",
        options: tuple[str, ...] = (),
        *,
        uid_mappings: tuple[IdMapping, ...] = (),
        gid_mappings: tuple[IdMapping, ...] = (),
    ) -> None:
        self.destination = destination
        self.type = type
        self.source = source
        self.options = options
        self.uid_mappings = uid_mappings
        self.gid_mappings = gid_mappings


class Namespace(Value):
    """A namespace to make (`path` empty) or to join; `type` is a word of `NAMESPACES`."""

    __slots__ = ("path", "type")

    def __init__(self, type: str, path: str = "") -> None:
        self.type = type
        self.path = path


class IdMapping(Value):
    """A line of uid_map or gid_map (user_namespaces(7))."""

    __slots__ = ("container_id", "host_id", "size")

    def __init__(self, container_id: int, host_id: int, size: int) -> None:
        self.container_id = container_id
        self.host_id = host_id
        self.size = size


class TimeOffset(Value):
    """What a clock of a time namespace is ahead of the host's by; `clock` is a word of CLOCKS."""

    __slots__ = ("clock", "nanosecs", "secs")

    def __init__(self, clock: str, secs: int = 0, nanosecs: int = 0) -> None:
        self.clock = clock
        self.secs = secs
        self.nanosecs = nanosecs


class Device(Value):
    """A device node to make; `type` is one of c, b, u, p."""

    __slots__ = ("file_mode", "gid", "major", "minor", "path", "type", "uid")

    def __init__(
        self, path: str, type: str, major: int, minor: int, file_mode: int = 0o666, uid: int = 0, gid: int = 0
    ) -> None:
        self.path = path
        self.type = type
        self.major = major
        self.minor = minor
        self.file_mode = file_mode
        self.uid = uid
        self.gid = gid


class Hook(Value):
    """A program of a life-cycle hook; `timeout_s` 0 means none, and no `env` at all is not the same as an empty one."""

    __slots__ = ("args", "env", "path", "timeout_s")

    def __init__(
        self, path: str, args: tuple[str, ...] = (), env: tuple[str, ...] | None = None, timeout_s: int = 0
    ) -> None:
        self.path = path
        self.args = args
        self.env = env
        self.timeout_s = timeout_s


class Hooks(Value):
    """The hooks by the moment they run at (config.md, "POSIX-platform Hooks")."""

    __slots__ = (
        "create_container", "create_runtime", "poststart", "poststop", "prestart", "start_container",
    )  # fmt: skip

    def __init__(
        self,
        prestart: tuple[Hook, ...] = (),
        create_runtime: tuple[Hook, ...] = (),
        create_container: tuple[Hook, ...] = (),
        start_container: tuple[Hook, ...] = (),
        poststart: tuple[Hook, ...] = (),
        poststop: tuple[Hook, ...] = (),
    ) -> None:
        self.prestart = prestart
        self.create_runtime = create_runtime
        self.create_container = create_container
        self.start_container = start_container
        self.poststart = poststart
        self.poststop = poststop


class Linux(Value):
    """config-linux.md.  `seccomp` stays the object of the bundle: `launch.seccomp` reads it, on a cache miss only."""

    __slots__ = (
        "cgroups_path", "devices", "gid_mappings", "intel_rdt", "masked_paths", "memory_policy", "mount_label",
        "namespaces", "net_devices", "personality", "readonly_paths", "resources", "rootfs_propagation", "seccomp",
        "sysctl", "time_offsets", "uid_mappings",
    )  # fmt: skip

    def __init__(
        self,
        *,
        namespaces: tuple[Namespace, ...] = (),
        uid_mappings: tuple[IdMapping, ...] = (),
        gid_mappings: tuple[IdMapping, ...] = (),
        devices: tuple[Device, ...] = (),
        cgroups_path: str = "",
        resources: Resources | None = None,
        rootfs_propagation: str = "",
        masked_paths: tuple[str, ...] = (),
        readonly_paths: tuple[str, ...] = (),
        mount_label: str = "",
        sysctl: dict[str, str] | None = None,
        seccomp: dict[str, object] | None = None,
        personality: int | None = None,
        memory_policy: MemoryPolicy | None = None,
        time_offsets: tuple[TimeOffset, ...] = (),
        net_devices: dict[str, str] | None = None,
        intel_rdt: IntelRdt | None = None,
    ) -> None:
        self.namespaces = namespaces
        self.uid_mappings = uid_mappings
        self.gid_mappings = gid_mappings
        self.devices = devices
        self.cgroups_path = cgroups_path
        self.resources = resources or Resources()
        self.rootfs_propagation = rootfs_propagation
        self.masked_paths = masked_paths
        self.readonly_paths = readonly_paths
        self.mount_label = mount_label
        self.sysctl = sysctl or {}
        self.seccomp = seccomp
        self.personality = personality
        self.memory_policy = memory_policy
        self.time_offsets = time_offsets
        self.net_devices = net_devices or {}
        self.intel_rdt = intel_rdt

    def namespace(self, type: str) -> Namespace | None:
        """The entry for a kind of namespace, or None when the container shares the runtime's."""
        for entry in self.namespaces:
            if entry.type == type:
                return entry
        return None


class Config(Value):
    """The whole bundle configuration; `process` is None where the bundle has none (then `start` is refused)."""

    __slots__ = (
        "annotations", "domainname", "hooks", "hostname", "linux", "mounts", "oci_version", "process", "root",
    )  # fmt: skip

    def __init__(
        self,
        oci_version: str,
        process: Process | None,
        root: Root | None,
        *,
        hostname: str = "",
        domainname: str = "",
        mounts: tuple[Mount, ...] = (),
        hooks: Hooks | None = None,
        annotations: dict[str, str] | None = None,
        linux: Linux | None = None,
    ) -> None:
        self.oci_version = oci_version
        self.process = process
        self.root = root
        self.hostname = hostname
        self.domainname = domainname
        self.mounts = mounts
        self.hooks = hooks or Hooks()
        self.annotations = annotations or {}
        self.linux = linux or Linux()


def parse_config(obj: object) -> Config:
    """The configuration in a parsed `config.json`; raises `InvalidArgument` naming the field."""
    top = Reader.of(obj, "config.json")
    process = top.child("process")
    root = top.child("root")
    linux = top.child("linux")
    hooks = top.child("hooks")
    return Config(
        top.string("ociVersion", required=True),
        read_process(process) if process else None,
        Root(root.string("path", required=True), root.boolean("readonly")) if root else None,
        hostname=top.string("hostname"),
        domainname=top.string("domainname"),
        mounts=tuple(_mount(item) for item in top.children("mounts")),
        hooks=_hooks(hooks) if hooks else None,
        annotations=top.string_map("annotations"),
        linux=_linux(linux) if linux else None,
    )


def _mount(reader: Reader) -> Mount:
    uids = tuple(_mapping(item) for item in reader.children("uidMappings"))
    gids = tuple(_mapping(item) for item in reader.children("gidMappings"))
    if bool(uids) != bool(gids):
        raise InvalidArgument(f"{reader.where}: id-mapped mounts must have both UID and GID mappings specified")
    return Mount(
        reader.string("destination", required=True),
        reader.string("type"),
        reader.string("source"),
        reader.strings("options"),
        uid_mappings=uids,
        gid_mappings=gids,
    )


def _hooks(reader: Reader) -> Hooks:
    names = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    return Hooks(*(tuple(_hook(item) for item in reader.children(name)) for name in names))


def _hook(reader: Reader) -> Hook:
    path = reader.string("path", required=True)
    if not path.startswith("/"):
        raise InvalidArgument(f"{reader.where}.path: {path!r} is not an absolute path")
    timeout_s = reader.optional_integer("timeout", low=1, high=U32)
    env = None if reader.obj.get("env") is None else reader.strings("env")
    return Hook(path, reader.strings("args"), env, timeout_s or 0)


def _linux(reader: Reader) -> Linux:
    resources = reader.child("resources")
    propagation = reader.string("rootfsPropagation")
    if propagation not in PROPAGATIONS:
        raise InvalidArgument(f"{reader.where}.rootfsPropagation: unknown value {propagation!r}")
    seccomp = reader.child("seccomp")
    if seccomp and not (seccomp.obj.get("defaultAction") or seccomp.obj.get("syscalls")):
        seccomp = None  # filters nothing, as in runc
    personality, memory_policy = _scheduling(reader)
    return Linux(
        namespaces=_namespaces(reader),
        uid_mappings=tuple(_mapping(item) for item in reader.children("uidMappings")),
        gid_mappings=tuple(_mapping(item) for item in reader.children("gidMappings")),
        devices=tuple(_device(item) for item in reader.children("devices")),
        cgroups_path=reader.string("cgroupsPath"),
        resources=read_resources(resources) if resources else None,
        rootfs_propagation=propagation,
        masked_paths=reader.strings("maskedPaths"),
        readonly_paths=reader.strings("readonlyPaths"),
        mount_label=reader.string("mountLabel"),
        sysctl=reader.string_map("sysctl"),
        seccomp=seccomp.obj if seccomp else None,
        personality=personality,
        memory_policy=memory_policy,
        time_offsets=_time_offsets(reader),
        net_devices=_net_devices(reader),
        intel_rdt=_intel_rdt(reader),
    )


def _net_devices(reader: Reader) -> dict[str, str]:
    given = reader.child("netDevices")
    if given is None:
        return {}
    from corten.spec.netdevices import read_net_devices  # for the few that ask for it

    return read_net_devices(given)


def _intel_rdt(reader: Reader) -> IntelRdt | None:
    given = reader.child("intelRdt")
    if given is None:
        return None
    from corten.spec.rdt import read_rdt  # for the few that ask for it

    return read_rdt(given)


def _scheduling(reader: Reader) -> tuple[int | None, MemoryPolicy | None]:
    personality, policy = reader.child("personality"), reader.child("memoryPolicy")
    if not (personality or policy):
        return None, None
    from corten.spec import scheduling  # for the few that ask for it

    return (
        scheduling.read_personality(personality) if personality else None,
        scheduling.read_memory_policy(policy) if policy else None,
    )


def _namespaces(reader: Reader) -> tuple[Namespace, ...]:
    found: list[Namespace] = []
    for item in reader.children("namespaces"):
        type = item.string("type", required=True)
        path = item.string("path")
        if type not in NAMESPACES:
            raise InvalidArgument(f"{item.where}.type: {type!r} is not a namespace")
        if path and not path.startswith("/"):
            raise InvalidArgument(f"{item.where}.path: {path!r} is not an absolute path")
        if any(entry.type == type for entry in found):
            raise InvalidArgument(f"{item.where}.type: {type} is given twice")
        found.append(Namespace(type, path))
    return tuple(found)


def _mapping(reader: Reader) -> IdMapping:
    return IdMapping(
        reader.integer("containerID", high=U32 - 1),
        reader.integer("hostID", high=U32 - 1),
        reader.integer("size", low=1, high=U32),
    )


def _time_offsets(reader: Reader) -> tuple[TimeOffset, ...]:
    offsets = reader.child("timeOffsets")
    if offsets is None:
        return ()
    for name in offsets.obj:
        if name not in CLOCKS:
            raise InvalidArgument(f"{offsets.where}: {name!r} is not a clock of a time namespace")
    clocks = ((name, offsets.child(name)) for name in CLOCKS)
    return tuple(
        TimeOffset(name, clock.integer("secs", low=-(1 << 63)), clock.integer("nanosecs", high=999_999_999))
        for name, clock in clocks
        if clock is not None
    )


def _device(reader: Reader) -> Device:
    path = reader.string("path", required=True)
    type = reader.string("type", required=True)
    if not path.startswith("/"):
        raise InvalidArgument(f"{reader.where}.path: {path!r} is not an absolute path")
    if type not in ("c", "b", "u", "p"):
        raise InvalidArgument(f"{reader.where}.type: {type!r} is not one of c, b, u, p")
    mode = reader.optional_integer("fileMode", high=0o177777)
    return Device(
        path,
        type,
        reader.integer("major", high=U32),
        reader.integer("minor", high=U32),
        0o666 if mode is None else mode & 0o7777,
        reader.integer("uid", high=U32 - 1),
        reader.integer("gid", high=U32 - 1),
    )
