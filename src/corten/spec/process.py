"""The process of an OCI configuration: what to execute, as whom, with which rights (config.md, "Process").

The same object is the whole of an exec's process file.  On the runtime's cold path like `corten.spec.runtime`.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.reader import U32, U64, Reader, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.scheduling import ExecAffinity, Scheduler

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
        "exec_affinity", "io_priority", "no_new_privileges", "oom_score_adj", "rlimits", "scheduler", "selinux_label",
        "terminal", "user",
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
        scheduler: Scheduler | None = None,
        io_priority: int | None = None,
        exec_affinity: ExecAffinity | None = None,
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
        self.scheduler = scheduler
        self.io_priority = io_priority
        self.exec_affinity = exec_affinity


def parse_process(obj: object) -> Process:
    """The process in a parsed `process.json` of `exec --process`; raises `InvalidArgument` naming the field."""
    return read_process(Reader.of(obj, "process"))


def capability_mask(names: tuple[str, ...]) -> int:
    """Bit mask of capability names; unknown names are left out (runc warns and goes on)."""
    mask = 0
    for name in names:
        if name in CAPABILITIES:
            mask |= 1 << CAPABILITIES.index(name)
    return mask


def read_process(reader: Reader) -> Process:
    """The process object that `reader` stands at; raises `InvalidArgument` naming the field."""
    user = reader.child("user")
    capabilities = reader.child("capabilities")
    console = reader.child("consoleSize")
    cwd = reader.string("cwd", required=True)
    if not cwd.startswith("/"):
        raise InvalidArgument(f"{reader.where}.cwd: {cwd!r} is not an absolute path")
    scheduler, io_priority, exec_affinity = _scheduling(reader)
    return Process(
        reader.strings("args"),
        cwd,
        env=reader.strings("env"),
        terminal=reader.boolean("terminal"),
        console_width=console.integer("width", high=0xFFFF) if console else 0,
        console_height=console.integer("height", high=0xFFFF) if console else 0,
        user=_user(user) if user else None,
        capabilities=_capabilities(capabilities) if capabilities else None,
        rlimits=read_rlimits(reader, "rlimits"),
        no_new_privileges=reader.boolean("noNewPrivileges"),
        oom_score_adj=reader.optional_integer("oomScoreAdj", low=-1000, high=1000),
        apparmor_profile=reader.string("apparmorProfile"),
        selinux_label=reader.string("selinuxLabel"),
        scheduler=scheduler,
        io_priority=io_priority,
        exec_affinity=exec_affinity,
    )


def _scheduling(reader: Reader) -> tuple[Scheduler | None, int | None, ExecAffinity | None]:
    children = [reader.child(name) for name in ("scheduler", "ioPriority", "execCPUAffinity")]
    if not any(children):
        return None, None, None
    from corten.spec import scheduling  # for the few that ask for it

    scheduler, io_priority, affinity = children
    return (
        scheduling.read_scheduler(scheduler) if scheduler else None,
        scheduling.read_io_priority(io_priority) if io_priority else None,
        scheduling.read_exec_affinity(affinity) if affinity else None,
    )


def _user(reader: Reader) -> User:
    return User(
        reader.integer("uid", high=U32 - 1),
        reader.integer("gid", high=U32 - 1),
        reader.optional_integer("umask", high=0o777),
        tuple(dict.fromkeys(reader.integers("additionalGids", high=U32 - 1))),  # each once, as runc sets them
    )


def _capabilities(reader: Reader) -> Capabilities:
    sets = {name: reader.strings(name) for name in ("bounding", "effective", "inheritable", "permitted", "ambient")}
    unknown = {name for names in sets.values() for name in names if name not in CAPABILITIES}
    masks = {name: capability_mask(names) for name, names in sets.items()}
    return Capabilities(**masks, unknown=tuple(sorted(unknown)))


def read_rlimits(reader: Reader, name: str) -> tuple[Rlimit, ...]:
    """The array of limits at `name`; raises `InvalidArgument` naming the field."""
    limits: list[Rlimit] = []
    for item in reader.children(name):
        type = item.string("type", required=True)
        if type not in RLIMITS:
            raise InvalidArgument(f"wrong rlimit value: {type}")  # runc's words
        number = RLIMITS.index(type)
        if any(limit.type == number for limit in limits):
            raise InvalidArgument(f"{item.where}.type: {type} is given twice")
        limits.append(Rlimit(number, item.integer("soft", high=U64), item.integer("hard", high=U64)))
    return tuple(limits)
