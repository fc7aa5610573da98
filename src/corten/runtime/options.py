"""What the verbs that spawn are told; plain values without a decision in them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.runtime.effective import Node
    from corten.runtime.notify import Notify
    from corten.spec.process import Process

BUILT_IN_PIDS_LIMIT = 500
BUILT_IN = "built-in default"


def ignore(text: str) -> None:
    """Nobody wants to hear warnings."""


class CreateOptions:
    """What `create` is told besides the bundle.

    root, id             state goes to `<root>/<id>/`
    bundle               absolute path of the directory with config.json
    stdio                descriptors that become 0, 1, 2 of the container (ignored with a terminal)
    console_fd           connected stream socket that receives the pty's master, -1 for none
    pid_file             written atomically once the init exists, '' for none
    preserve_fds         how many descriptors from 3 on the container inherits
    rootfs_fd            detached mount that is the root filesystem, -1: `root.path` of the bundle
    parent               'shim' (dies with its parent) or 'command'
    default_pids_limit   where the bundle has none; -1 for no limit; `..._origin` says who chose it
    wait_for_start       False: `run`, no FIFO, the process is executed at once
    manager              who makes the cgroups, a key of `corten.runtime.managers.MANAGERS`
    warn                 is told, in a sentence each, what the bundle asks for and nobody can do
    node                 what else the node says where the bundle is silent
    extra_env            rows for the process's environment, behind the bundle's
    notify               the process is to have a socket for sd_notify(3) messages; None: no
    """

    __slots__ = (
        "bundle",
        "console_fd",
        "default_pids_limit",
        "default_pids_limit_origin",
        "extra_env",
        "id",
        "manager",
        "no_new_keyring",
        "no_pivot",
        "node",
        "notify",
        "parent",
        "pid_file",
        "preserve_fds",
        "root",
        "rootfs_fd",
        "stdio",
        "wait_for_start",
        "warn",
    )

    def __init__(
        self,
        id: str,
        root: str,
        bundle: str,
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        console_fd: int = -1,
        pid_file: str = "",
        preserve_fds: int = 0,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        rootfs_fd: int = -1,
        parent: str = "command",
        default_pids_limit: int = BUILT_IN_PIDS_LIMIT,
        default_pids_limit_origin: str = BUILT_IN,
        wait_for_start: bool = True,
        manager: str = "cgroupfs",
        warn: Callable[[str], None] = ignore,
        node: Node | None = None,
        extra_env: tuple[str, ...] = (),
        notify: Notify | None = None,
    ) -> None:
        self.id = id
        self.root = root
        self.bundle = bundle
        self.stdio = stdio
        self.console_fd = console_fd
        self.pid_file = pid_file
        self.preserve_fds = preserve_fds
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.rootfs_fd = rootfs_fd
        self.parent = parent
        self.default_pids_limit = default_pids_limit
        self.default_pids_limit_origin = default_pids_limit_origin
        self.wait_for_start = wait_for_start
        self.manager = manager
        self.warn = warn
        self.node = node
        self.extra_env = extra_env
        self.notify = notify


class ExecOptions:
    """What `exec` is told; fields as in `CreateOptions`.

    cgroups         controller, or '' for all → a path below the container's cgroup; empty for the cgroup itself
    ignore_paused   spawn into a paused container all the same; it will freeze
    """

    __slots__ = (
        "cgroups",
        "console_fd",
        "id",
        "ignore_paused",
        "parent",
        "pid_file",
        "preserve_fds",
        "process",
        "root",
        "stdio",
        "warn",
    )

    def __init__(
        self,
        id: str,
        root: str,
        process: Process,
        *,
        stdio: tuple[int, int, int] = (0, 1, 2),
        console_fd: int = -1,
        pid_file: str = "",
        preserve_fds: int = 0,
        parent: str = "command",
        ignore_paused: bool = False,
        cgroups: dict[str, str] | None = None,
        warn: Callable[[str], None] = ignore,
    ) -> None:
        self.id = id
        self.root = root
        self.process = process
        self.stdio = stdio
        self.console_fd = console_fd
        self.pid_file = pid_file
        self.preserve_fds = preserve_fds
        self.parent = parent
        self.ignore_paused = ignore_paused
        self.cgroups = cgroups or {}
        self.warn = warn
