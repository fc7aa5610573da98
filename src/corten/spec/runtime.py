"""The OCI runtime configuration: what a bundle's `config.json` says, as values that cannot be wrong.

Rules: runtime-spec `config.md` and `config-linux.md`, version 1.0 to 1.3.  `parse_config` takes the object that a JSON
parser made, checks every field that is read later, and raises `InvalidArgument` naming the field.  Unknown fields are
ignored, as the specification asks.  Resources stand in `corten.spec.resources`.

This module is on the runtime's cold path (design.md §7): slot classes, no import beyond `corten.errors`.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.reader import Reader, Value
from corten.spec.resources import Resources, read_resources

# capabilities(7), in the order of their numbers
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

# getrlimit(2), in the order of their numbers
RLIMITS = (
    "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC",
    "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
)  # fmt: skip

NAMESPACES = ("mount", "uts", "ipc", "pid", "network", "cgroup", "user", "time")
PROPAGATIONS = (
    "", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable",
)  # fmt: skip

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF


class User(Value):
    """Numeric ids of a process (config.md, "POSIX-platform User"); names were resolved by whoever wrote the bundle."""

    __slots__ = ("additional_gids", "gid", "uid", "umask")

    def __init__(
        self, uid: int = 0, gid: int = 0, umask: int | None = None, additional_gids: tuple[int, ...] = ()
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.umask = umask
        self.additional_gids = additional_gids


class Capabilities(Value):
    """The five sets, each a bit mask by capability number; names that this version does not know are left out."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted", "unknown")

    def __init__(
        self,
        bounding: int = 0,
        effective: int = 0,
        inheritable: int = 0,
        permitted: int = 0,
        ambient: int = 0,
        unknown: tuple[str, ...] = (),
    ) -> None:
        self.bounding = bounding
        self.effective = effective
        self.inheritable = inheritable
        self.permitted = permitted
        self.ambient = ambient
        self.unknown = unknown


class Rlimit(Value):
    """One resource limit; `type` is the kernel's number, `soft` and `hard` are as in prlimit(2)."""

    __slots__ = ("hard", "soft", "type")

    def __init__(self, type: int, soft: int, hard: int) -> None:
        self.type = type
        self.soft = soft
        self.hard = hard


class Process(Value):
    """What to execute and as whom (config.md, "Process"); also the whole of an exec's process file."""

    __slots__ = (
        "apparmor_profile", "args", "capabilities", "console_height", "console_width", "cwd", "env",
        "no_new_privileges", "oom_score_adj", "rlimits", "selinux_label", "terminal", "user",
    )  # fmt: skip

    def __init__(
        self,
        args: tuple[str, ...],
        cwd: str = "/",
        *,
        env: tuple[str, ...] = (),
        terminal: bool = False,
        console_width: int = 0,
        console_height: int = 0,
        user: User | None = None,
        capabilities: Capabilities | None = None,
        rlimits: tuple[Rlimit, ...] = (),
        no_new_privileges: bool = False,
        oom_score_adj: int | None = None,
        apparmor_profile: str = "",
        selinux_label: str = "",
    ) -> None:
        self.args = args
        self.cwd = cwd
        self.env = env
        self.terminal = terminal
        self.console_width = console_width
        self.console_height = console_height
        self.user = user or User()
        self.capabilities = capabilities
        self.rlimits = rlimits
        self.no_new_privileges = no_new_privileges
        self.oom_score_adj = oom_score_adj
        self.apparmor_profile = apparmor_profile
        self.selinux_label = selinux_label


class Root(Value):
    """The root filesystem: a path relative to the bundle, or absolute."""

    __slots__ = ("path", "readonly")

    def __init__(self, path: str, readonly: bool = False) -> None:
        self.path = path
        self.readonly = readonly


class Mount(Value):
    """One mount of the configuration, options as written (config.md, "Mounts")."""

    __slots__ = ("destination", "options", "source", "type")

    def __init__(self, destination: str, type: str = "", source: str = "", options: tuple[str, ...] = ()) -> None:
        self.destination = destination
        self.type = type
        self.source = source
        self.options = options


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
    """A program of a life-cycle hook; `timeout_s` 0 means none."""

    __slots__ = ("args", "env", "path", "timeout_s")

    def __init__(self, path: str, args: tuple[str, ...] = (), env: tuple[str, ...] = (), timeout_s: int = 0) -> None:
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
        "cgroups_path", "devices", "gid_mappings", "masked_paths", "mount_label", "namespaces", "readonly_paths",
        "resources", "rootfs_propagation", "seccomp", "sysctl", "uid_mappings",
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
        _process(process) if process else None,
        Root(root.string("path", required=True), root.boolean("readonly")) if root else None,
        hostname=top.string("hostname"),
        domainname=top.string("domainname"),
        mounts=tuple(_mount(item) for item in top.children("mounts")),
        hooks=_hooks(hooks) if hooks else None,
        annotations=top.string_map("annotations"),
        linux=_linux(linux) if linux else None,
    )


def parse_process(obj: object) -> Process:
    """The process in a parsed `process.json` of `exec --process`; raises `InvalidArgument` naming the field."""
    return _process(Reader.of(obj, "process"))


def capability_mask(names: tuple[str, ...]) -> int:
    """Bit mask of capability names; unknown names are left out (runc warns and goes on)."""
    mask = 0
    for name in names:
        if name in CAPABILITIES:
            mask |= 1 << CAPABILITIES.index(name)
    return mask


def _process(reader: Reader) -> Process:
    user = reader.child("user")
    capabilities = reader.child("capabilities")
    console = reader.child("consoleSize")
    cwd = reader.string("cwd", required=True)
    if not cwd.startswith("/"):
        raise InvalidArgument(f"{reader.where}.cwd: {cwd!r} is not an absolute path")
    _refuse(reader, "ioPriority", "scheduler", "execCPUAffinity")
    return Process(
        reader.strings("args"),
        cwd,
        env=reader.strings("env"),
        terminal=reader.boolean("terminal"),
        console_width=console.integer("width", high=0xFFFF) if console else 0,
        console_height=console.integer("height", high=0xFFFF) if console else 0,
        user=_user(user) if user else None,
        capabilities=_capabilities(capabilities) if capabilities else None,
        rlimits=_rlimits(reader),
        no_new_privileges=reader.boolean("noNewPrivileges"),
        oom_score_adj=reader.optional_integer("oomScoreAdj", low=-1000, high=1000),
        apparmor_profile=reader.string("apparmorProfile"),
        selinux_label=reader.string("selinuxLabel"),
    )


def _user(reader: Reader) -> User:
    return User(
        reader.integer("uid", high=U32 - 1),
        reader.integer("gid", high=U32 - 1),
        reader.optional_integer("umask", high=0o777),
        reader.integers("additionalGids", high=U32 - 1),
    )


def _capabilities(reader: Reader) -> Capabilities:
    sets = {name: reader.strings(name) for name in ("bounding", "effective", "inheritable", "permitted", "ambient")}
    unknown = {name for names in sets.values() for name in names if name not in CAPABILITIES}
    masks = {name: capability_mask(names) for name, names in sets.items()}
    return Capabilities(**masks, unknown=tuple(sorted(unknown)))


def _rlimits(reader: Reader) -> tuple[Rlimit, ...]:
    limits: list[Rlimit] = []
    for item in reader.children("rlimits"):
        name = item.string("type", required=True)
        if name not in RLIMITS:
            raise InvalidArgument(f"wrong rlimit value: {name}")  # runc's words
        number = RLIMITS.index(name)
        if any(limit.type == number for limit in limits):
            raise InvalidArgument(f"{item.where}.type: {name} is given twice")
        limits.append(Rlimit(number, item.integer("soft", high=U64), item.integer("hard", high=U64)))
    return tuple(limits)


def _mount(reader: Reader) -> Mount:
    _refuse(reader, "uidMappings", "gidMappings")
    return Mount(
        reader.string("destination", required=True),
        reader.string("type"),
        reader.string("source"),
        reader.strings("options"),
    )


def _hooks(reader: Reader) -> Hooks:
    names = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    return Hooks(*(tuple(_hook(item) for item in reader.children(name)) for name in names))


def _hook(reader: Reader) -> Hook:
    path = reader.string("path", required=True)
    if not path.startswith("/"):
        raise InvalidArgument(f"{reader.where}.path: {path!r} is not an absolute path")
    timeout_s = reader.optional_integer("timeout", low=1, high=U32)
    return Hook(path, reader.strings("args"), reader.strings("env"), timeout_s or 0)


def _linux(reader: Reader) -> Linux:
    resources = reader.child("resources")
    propagation = reader.string("rootfsPropagation")
    if propagation not in PROPAGATIONS:
        raise InvalidArgument(f"{reader.where}.rootfsPropagation: unknown value {propagation!r}")
    seccomp = reader.child("seccomp")
    _refuse(reader, "intelRdt", "timeOffsets", "personality", "netDevices", "memoryPolicy")
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


def _refuse(reader: Reader, *names: str) -> None:
    """Fields that this version knows and cannot honour are an error, never silence."""
    for name in names:
        if reader.obj.get(name):
            raise InvalidArgument(f"{reader.where}.{name}: not supported yet")
