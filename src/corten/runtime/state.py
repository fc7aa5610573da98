"""What the runtime remembers of a container, and what follows from it and the kernel.

    <root>/<id>/state.json     written and renamed before the first kernel object of the container exists
    <root>/<id>/config.json    the bundle's configuration as it was at create, for exec
    <root>/<id>/start          FIFO: the init waits on it; `start` removes it
    <root>/<id>/trace          the steps of the launch with their times (corten.runtime.trace)

A status is never stored.  It is derived, as runc derives it:

    init alive?   ready?   frozen?   init waits at the FIFO?   status
    not yet       -        -         -                         creating
    yes           no       -         -                         creating
    yes           yes      yes       -                         paused
    yes           yes      no        yes                       created
    yes           yes      no        no                        running
    no            -        -         -                         stopped

Ready is what the record says once `create`, or `run`, has nothing left to do, its hooks among it.

A FIFO that nobody reads is what a `start` left that was killed after it had let the init go.
An init is known by pid and start time: a pid that the kernel gave to somebody else since is not ours.
"""

from __future__ import annotations

import posix

from corten.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound
from corten.runtime import fast
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.spec.runtime import Config

ENOENT, ENXIO = 2, 6
VERSION = 1
OCI_VERSION = "1.3.0"  # of the specification that the state complies with (runtime.md, "State")
STATE_FILE, CONFIG_FILE, START_FIFO, TRACE_FILE = "state.json", "config.json", "start", "trace"

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"

# verb: {status: what is said when the verb is refused}; a status that is not named is allowed.  Texts are runc's.
REFUSALS: dict[str, dict[str, str]] = {
    "start": {
        RUNNING: "cannot start an already running container",
        STOPPED: "cannot start a container that has stopped",
        PAUSED: "cannot start a container in the paused state",
        CREATING: "cannot start a container in the creating state",
    },
    "kill": {STOPPED: "container not running", CREATING: "container not running"},
    "delete": {
        RUNNING: "cannot delete container {id} that is not stopped: running",
        PAUSED: "cannot delete container {id} that is not stopped: paused",
        CREATING: "cannot delete container {id} that is not stopped: creating",
    },
    "exec": {
        STOPPED: "cannot exec in a stopped container",
        PAUSED: "cannot exec in a paused container (use --ignore-paused to override)",
        CREATING: "cannot exec in a container in the creating state",
    },
    "pause": {STOPPED: "container not running", PAUSED: "container not running", CREATING: "container not running"},
    "resume": dict.fromkeys((CREATING, CREATED, RUNNING, STOPPED), "container not paused"),
    "update": {STOPPED: "container not running", CREATING: "container not running"},
}

# fields that a record of an older version lacks: they then stand as the constructor sets them
LATER = frozenset(("devices", "devices_from", "invocation", "manager", "origins", "rdt", "ready", "unit"))

ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def allow(verb: str, id: str, status: str) -> None:
    """Consults the table; raises FailedPrecondition in runc's words."""
    refusal = REFUSALS[verb].get(status)
    if refusal is not None:
        raise FailedPrecondition(refusal.format(id=id))


def check_id(id: str) -> None:
    """Raises InvalidArgument, in runc's words, for what cannot be a container's id."""
    if not id:
        raise InvalidArgument("container id cannot be empty")
    if id in (".", "..") or not ID_LETTERS.issuperset(id) or len(id) > 255:
        raise InvalidArgument("invalid container ID format")


class State:
    """One container's record; `pid` is 0 until the init exists."""

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup",
        "created",
        "devices",
        "devices_from",
        "directory",
        "id",
        "invocation",
        "manager",
        "objects",
        "origins",
        "owner",
        "pid",
        "pids_limit",
        "pids_limit_origin",
        "poststart",
        "poststop",
        "private_pid",
        "rdt",
        "ready",
        "rootfs",
        "start_time",
        "terminal",
        "unit",
    )

    def __init__(self, directory: str, id: str, bundle: str, rootfs: str) -> None:
        self.directory = directory
        self.id = id
        self.bundle = bundle
        self.rootfs = rootfs
        self.annotations: dict[str, str] = {}
        self.cgroup = CgroupPaths("v1", {}, "")
        self.invocation = ""  # of `unit`, as systemd counts its lives: 32 hexadecimal digits, once it is started
        self.manager = "cgroupfs"
        self.created = fast.rfc3339()
        self.devices: list[dict[str, Any]] = []  # of the network, moved to it: corten.runtime.netdevices
        self.devices_from = ""  # the network namespace that they are of
        self.objects: list[str] = []  # every path that will exist, in the order of making
        self.origins: dict[str, list[dict[str, Any]]] = {}  # what the node added: corten.runtime.effective
        self.owner = posix.geteuid()
        self.pid = 0
        self.start_time = 0
        self.pids_limit = 0
        self.pids_limit_origin = ""
        self.poststart: list[dict[str, Any]] = []
        self.poststop: list[dict[str, Any]] = []
        self.private_pid = True
        self.ready = True
        self.rdt: list[str] = []  # directories of resctrl that were made for it
        self.terminal = False
        self.unit = ""  # of systemd, whose name comes before the unit

    # on disk

    def save(self) -> None:
        """Writes state.json and renames it into place."""
        obj = {name: getattr(self, name) for name in self.__slots__ if name not in ("directory", "cgroup")}
        obj["cgroup"] = self.cgroup.to_obj()
        obj["version"] = VERSION
        files.replace(f"{self.directory}/{STATE_FILE}", fast.dump_bytes(obj))

    @classmethod
    def load(cls, root: str, id: str) -> State:
        """The record of `id` below `root`; raises NotFound in runc's words, Internal when it is damaged."""
        check_id(id)
        directory = f"{root}/{id}"
        try:
            obj = fast.loads(files.read(f"{directory}/{STATE_FILE}"))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound("container does not exist") from None
        except InvalidArgument as error:
            raise Internal(f"{directory}/{STATE_FILE}: {error}") from error
        try:
            state = cls(directory, id, obj["bundle"], obj["rootfs"])
            state.cgroup = CgroupPaths.from_obj(obj["cgroup"])
            for name in cls.__slots__:
                if name not in ("directory", "cgroup", "id") and (name in obj or name not in LATER):
                    setattr(state, name, obj[name])
        except (KeyError, TypeError, AttributeError) as error:
            raise Internal(f"{directory}/{STATE_FILE}: {error} is missing") from error
        return state

    def path(self, name: str) -> str:
        """A file of the state directory."""
        return f"{self.directory}/{name}"

    def config_bytes(self) -> bytes:
        """The configuration as it was when the container was created."""
        return files.read(self.path(CONFIG_FILE))

    def config(self) -> Config:
        """The same, read; raises InvalidArgument with the file's name when it is damaged."""
        from corten.spec.runtime import parse_config

        path = self.path(CONFIG_FILE)
        obj = fast.loads_from(path, self.config_bytes())
        try:
            return parse_config(obj)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: {error.text}") from error

    # from the kernel

    def status(self) -> str:
        """The derived status; see the table in the module's text."""
        if not self.pid:
            return CREATING
        if not is_alive(self.pid, self.start_time):
            return STOPPED
        if not self.ready:
            return CREATING
        if Cgroup(self.cgroup).is_frozen():
            return PAUSED
        return CREATED if is_read(self.path(START_FIFO)) else RUNNING

    def open_pidfd(self) -> int:
        """A pidfd of the init, or -1 when it is gone.  The start time is compared after the pidfd is open: no
        signal reaches a process that got the pid since."""
        if not self.pid:
            return -1
        try:
            pidfd = posix.pidfd_open(self.pid)
        except ProcessLookupError:
            return -1
        is_init = False
        try:
            is_init = is_alive(self.pid, self.start_time)
        finally:
            if not is_init:
                posix.close(pidfd)
        return pidfd if is_init else -1

    # as others see it

    def oci(self, status: str) -> dict[str, Any]:
        """The state of runtime-spec runtime.md, "State", as hooks get it; without a pid once stopped."""
        obj: dict[str, Any] = {"ociVersion": OCI_VERSION, "id": self.id, "status": status}
        if self.pid and status != STOPPED:
            obj["pid"] = self.pid
        obj["bundle"] = self.bundle
        if self.annotations:
            obj["annotations"] = self.annotations
        return obj

    def listing(self, status: str, owner: str) -> dict[str, Any]:
        """The object that `state` and `list` print: runc's keys in runc's order, ours behind them."""
        obj: dict[str, Any] = {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "pid": 0 if status == STOPPED else self.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
        }
        if self.annotations:
            obj["annotations"] = self.annotations
        obj["owner"] = owner
        obj["corten"] = {"pidsLimit": {"value": self.pids_limit, "origin": self.pids_limit_origin}, **self.origins}
        return obj


def process_start(pid: int) -> tuple[int, str]:
    """(start time in clock ticks since boot, state letter) of a process; (0, '') when it is gone.  proc_pid_stat(5)."""
    try:
        text = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0, ""
    fields = text.rpartition(b") ")[2].split()
    return int(fields[19]), fields[0].decode()


def is_alive(pid: int, start_time: int) -> bool:
    """Whether the process that had `pid` since `start_time` still runs; a zombie does not."""
    started, letter = process_start(pid)
    return started == start_time and letter not in ("Z", "X", "")


def is_read(fifo: str) -> bool:
    """Whether a FIFO exists and somebody has it open for reading (fifo(7)); nobody there notices the question."""
    try:
        posix.close(posix.open(fifo, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (ENOENT, ENXIO):
            raise
        return False
    return True


def make_directory(root: str, id: str) -> str:
    """The state directory of a new container, 0711 for the root and 0700 for itself; raises AlreadyExists."""
    check_id(id)
    directory = f"{root}/{id}"
    files.make_directories(root, 0o711)
    try:
        posix.mkdir(directory, 0o700)
    except FileExistsError:
        raise AlreadyExists("container with given ID already exists") from None
    return directory


def list_ids(root: str) -> list[str]:
    """The ids of all containers below `root`, sorted."""
    try:
        names = [entry.name for entry in posix.scandir(root) if entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if files.exists(f"{root}/{name}/{STATE_FILE}"))
