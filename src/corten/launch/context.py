"""What `compile` is told besides configuration and host: this container, and how it is launched.

A context says which descriptors the spawner will hand in; the plan then names them in `Plan.inputs`:

    rootfs      a detached mount, made by the shim (`InitContext.rootfs_fd`)
    console     a connected SOCK_STREAM socket that receives the pty's master (a terminal)
    start       a pipe or FIFO, opened O_RDWR: one byte starts the process (`wait_for_start`)
    idmaps      a pipe: one byte after the user namespace has its maps (`wait_for_idmaps`)
    hooks       a pipe: one byte after the host's hooks have run (`wait_for_hooks`)
    record      a pipe: one byte after the init's pid is written down (`wait_for_record`), and a limit of processes is
                set that leaves no room for a launcher (`wait_for_limit`)
    unit        a pipe: one byte when the cgroup has been made around the launcher (`wait_for_unit`)
    network     a pipe: one byte after the engine has furnished the new network namespace (`wait_for_network`)
    container   pidfd of the container's init (exec)
    listener    a stream socket that takes the seccomp filter's listener, and gives a byte once the agent has it, where
                the plan waits for one (NEW_LISTENER in `seccomp_flags`)
    life        readable when the shim dies, and no way to it: the container may get at this one (parent SHIM)
"""

from __future__ import annotations

from corten.spec.reader import Value

# who launches: a shim, whose death kills the container, or a command, which goes away (design.md §4)
SHIM, COMMAND = "shim", "command"
LIFE = "life"
LISTENER = "listener"
NEW_LISTENER = 1 << 3  # seccomp(2): in `seccomp_flags` of a profile with SCMP_ACT_NOTIFY
PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")  # the actions that let a call pass

# the system calls that a launcher makes between the filter and execve, when the filter comes before the clone: a bit
# each in `seccomp_calls`, in this order (`corten.launch.bpf` has their arguments)
CALLS = (
    "write", "close", "capset", "clone", "exit_group", "clock_gettime", "setsid", "prctl", "ppoll", "rt_sigaction",
    "execve", "ioctl", "prlimit64", "read", "sched_setaffinity", "sendmsg",
)  # fmt: skip


class InitContext(Value):
    """How a container's init is launched.

    cgroup_paths    controller list as in `HostFacts.cgroup_v1` → host directory of the container's own v1 cgroup
    cgroup_v2_dir   host directory of its own v2 cgroup, '' for none
    rootfs          absolute host path, '' with `rootfs_fd`
    host_namespaces kinds of namespaces that the configuration joins by path, and that are the runtime's own
    cgroup_views    controller list → cgroup that the container sees, read-only, where it has none of its own
    wait_for_idmaps its user namespace's maps are written by somebody else (rootless)
    seccomp         BPF program, b'' for none; `seccomp_flags` of seccomp(2); `seccomp_calls` are those of CALLS that
                    the program allows
    """

    __slots__ = (
        "bundle", "cgroup_paths", "cgroup_v2_dir", "cgroup_views", "console", "host_namespaces", "id", "new_keyring",
        "no_pivot", "parent", "preserve_fds", "rootfs", "rootfs_fd", "seccomp", "seccomp_calls", "seccomp_flags",
        "wait_for_hooks", "wait_for_idmaps", "wait_for_limit", "wait_for_network", "wait_for_record",
        "wait_for_start", "wait_for_unit",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        bundle: str,
        *,
        cgroup_paths: dict[str, str],
        cgroup_v2_dir: str = "",
        cgroup_views: dict[str, str] | None = None,
        rootfs: str = "",
        rootfs_fd: bool = False,
        wait_for_start: bool = True,
        wait_for_hooks: bool = False,
        wait_for_limit: bool = False,
        wait_for_record: bool = False,
        wait_for_network: bool = False,
        wait_for_idmaps: bool = False,
        wait_for_unit: bool = False,
        parent: str = COMMAND,
        console: bool = False,
        preserve_fds: int = 0,
        no_pivot: bool = False,
        new_keyring: bool = True,
        host_namespaces: tuple[str, ...] = (),
        seccomp: bytes = b"",
        seccomp_flags: int = 0,
        seccomp_calls: int = 0,
    ) -> None:
        self.id = id
        self.bundle = bundle
        self.cgroup_paths = cgroup_paths
        self.cgroup_v2_dir = cgroup_v2_dir
        self.cgroup_views = cgroup_views or {}
        self.rootfs = rootfs
        self.rootfs_fd = rootfs_fd
        self.wait_for_start = wait_for_start
        self.wait_for_hooks = wait_for_hooks
        self.wait_for_limit = wait_for_limit
        self.wait_for_record = wait_for_record
        self.wait_for_network = wait_for_network
        self.wait_for_idmaps = wait_for_idmaps
        self.wait_for_unit = wait_for_unit
        self.parent = parent
        self.console = console
        self.preserve_fds = preserve_fds
        self.no_pivot = no_pivot
        self.host_namespaces = host_namespaces
        self.new_keyring = new_keyring
        self.seccomp = seccomp
        self.seccomp_flags = seccomp_flags
        self.seccomp_calls = seccomp_calls

    def inputs(self) -> list[str]:
        """What the spawner hands in for the whole plan; `unit`, `rootfs` and `console` join where they are used."""
        is_wanted = {
            LIFE: self.parent == SHIM,
            LISTENER: bool(self.seccomp_flags & NEW_LISTENER),
            "start": self.wait_for_start,
            "idmaps": self.wait_for_idmaps,
            "hooks": self.wait_for_hooks,
            "record": self.wait_for_limit or self.wait_for_record,
            "network": self.wait_for_network,
        }
        return [slot for slot, wanted in is_wanted.items() if wanted]


class ExecContext(Value):
    """How a process is launched in a running container; the fields are those of `InitContext`.

    clone_into_cgroup   v2: the launcher by clone3 (first try), or the child by a write (the second plan, after EAGAIN
                        or EBUSY)
    """

    __slots__ = (
        "cgroup_paths", "cgroup_v2_dir", "clone_into_cgroup", "console", "id", "new_keyring", "parent",
        "preserve_fds", "seccomp", "seccomp_calls", "seccomp_flags",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        *,
        cgroup_paths: dict[str, str],
        cgroup_v2_dir: str = "",
        clone_into_cgroup: bool = True,
        parent: str = COMMAND,
        console: bool = False,
        preserve_fds: int = 0,
        new_keyring: bool = True,
        seccomp: bytes = b"",
        seccomp_flags: int = 0,
        seccomp_calls: int = 0,
    ) -> None:
        self.id = id
        self.cgroup_paths = cgroup_paths
        self.cgroup_v2_dir = cgroup_v2_dir
        self.clone_into_cgroup = clone_into_cgroup
        self.parent = parent
        self.console = console
        self.preserve_fds = preserve_fds
        self.new_keyring = new_keyring
        self.seccomp = seccomp
        self.seccomp_flags = seccomp_flags
        self.seccomp_calls = seccomp_calls

    def inputs(self) -> list[str]:
        """What the spawner hands in for the whole plan; `console` joins where it is used."""
        is_wanted = {
            "container": True,
            LIFE: self.parent == SHIM,
            LISTENER: bool(self.seccomp_flags & NEW_LISTENER),
        }
        return [slot for slot, wanted in is_wanted.items() if wanted]
