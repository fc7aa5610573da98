"""The part of a plan that enters cgroups and namespaces and makes the child.

cgroup v1: the launcher joins every hierarchy but the one of `pids` by writing to `tasks` (a write to `cgroup.procs`
of a threadgroup stalls 7 to 13 ms on an idle machine); the child joins `pids` as its first op, so that a limit of one
works and no launcher counts against the container.  cgroup v2: CLONE_INTO_CGROUP, through a detached mount of the
container's own directory, so that no way leads up from the descriptor.  The cgroup namespace comes after both.

Where a container sees the child at once, the launcher clones itself into the v2 cgroup, long before (`join_v2`): with
the container's filter in place there is no clone3, and with the user's ids no right over the cgroup.
"""

from __future__ import annotations

from corten.launch.builder import NAMESPACE_FLAGS
from corten.launch.facts import is_rootless
from corten.launch.mountops import GUARDED, PROC_SUPER_MAGIC, FsMount, OpenTree
from corten.launch.ops import (
    CLONE_NEWCGROUP,
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    O_DIRECTORY,
    O_NONBLOCK,
    O_PATH,
    O_WRONLY,
    Clone,
    CloneLauncher,
    JoinCgroup,
    LoopbackUp,
    Open,
    Pipe,
    SendByte,
    SetDumpable,
    Setns,
    Setsid,
    Unshare,
    WaitByte,
    Write,
    WriteFile,
    WriteIdMaps,
)
from corten.launch.userops import ChownStdio, SetIds, SetRlimit, Umask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.builder import Builder
    from corten.launch.context import ExecContext, InitContext
    from corten.spec.process import Process
    from corten.spec.runtime import IdMapping

HOST_PROC = "hostproc"
PIDS, CGROUP = "pids", "cgroup"
IDMAP_SLOTS = "idmap."  # and what follows: user namespaces for mounts (`corten.launch.idmaps`)

# setns by path, without time (`join_time`): the user namespace last, because it takes away the rights over the others
JOIN_ORDER = ("ipc", "uts", "network", "cgroup", "user")


def begin(b: Builder, process: Process) -> None:
    """The launcher hides; without rights over the machine its files in /proc are its own only before that (proc(5))."""
    if not is_rootless(b.facts):
        b.add(SetDumpable(), Umask(0))
        return
    begin_dumpable(b, process)
    b.close(HOST_PROC)
    b.add(SetDumpable())


def begin_dumpable(b: Builder, process: Process) -> None:
    """What has to be done as long as the launcher is the user's."""
    b.add(Umask(0))
    if process.oom_score_adj is not None:
        add_oom_score_adj(b, process, host_proc(b))


def wait_for_unit(b: Builder) -> None:
    """Before the launcher clones anything: a manager makes the cgroup around it meanwhile."""
    b.add(WaitByte(b.input("unit"), "", "the unit"))
    b.close("unit")


def join_v1(b: Builder, context: InitContext | ExecContext, *, pids: bool = False) -> None:
    """The container's v1 cgroups; that of `pids` is opened for the child, unless the launcher joins it as well."""
    for controllers, path in context.cgroup_paths.items():
        if "pids" in controllers.split(",") and not pids:
            b.add(Open(b.opened(PIDS), f"{path}/tasks", O_WRONLY))
        else:
            b.add(JoinCgroup(f"{path}/tasks"))


def join_v2(b: Builder, context: InitContext | ExecContext) -> None:
    """The launcher goes on in the container's v2 cgroup, and its child begins there."""
    if context.cgroup_v2_dir:
        b.add(OpenTree(b.opened(CGROUP), context.cgroup_v2_dir, 0, "nothing"), CloneLauncher(CGROUP))
        b.close(CGROUP)


def open_v2(b: Builder, context: InitContext | ExecContext, *, by_write: bool) -> None:
    """The container's v2 cgroup for the child: for clone3 into it, or for its own write to `cgroup.procs`.

    clone3 asks for the rights of who calls, and the root of a user namespace has none over the host's cgroups, and
    nobody in a joined cgroup namespace over those outside where cgroup2 is mounted with nsdelegate, as systemd does
    (ENOENT; cgroup-v2.rst, "Delegation Containment"); a write asks for those of who opened the file.
    """
    if context.cgroup_v2_dir and by_write:
        b.add(Open(b.opened(CGROUP), f"{context.cgroup_v2_dir}/cgroup.procs", O_WRONLY))
    elif context.cgroup_v2_dir:
        b.add(OpenTree(b.opened(CGROUP), context.cgroup_v2_dir, 0, "nothing"))


def join_time(b: Builder) -> None:
    """A time namespace that is named by path, before anything else: this needs a launcher that shares no memory."""
    time = b.config.linux.namespace("time")
    if time is not None and time.path:
        b.add(Open(b.opened("ns.time"), time.path, O_NONBLOCK), Setns("ns.time", CLONE_NEWTIME, time.path))
        b.close("ns.time")


def make_time(b: Builder) -> None:
    """A new time namespace, in which the child begins: offsets can be written only while nobody is in it."""
    time = b.config.linux.namespace("time")
    if time is None or time.path:
        return
    offsets = b.config.linux.time_offsets
    proc = host_proc(b) if offsets else ""
    b.add(Unshare(CLONE_NEWTIME))
    if offsets:
        lines = "".join(f"{offset.clock} {offset.secs} {offset.nanosecs}\n" for offset in offsets)
        b.add(WriteFile(proc, "self/timens_offsets", lines.encode()))


def needs_oom_score_adj(b: Builder, process: Process) -> bool:
    """One is asked for, and still to be written: without rights over the machine `begin` has done it."""
    return process.oom_score_adj is not None and not is_rootless(b.facts)


def add_oom_score_adj(b: Builder, process: Process, proc: str) -> None:
    """How soon the kernel ends the process when memory runs out, through a procfs; a child inherits it (proc(5))."""
    b.add(WriteFile(proc, "self/oom_score_adj", str(process.oom_score_adj).encode()))


def raise_rlimits(b: Builder, process: Process) -> None:
    """Before a user namespace is entered, in which nobody may raise a hard limit."""
    b.add(*[SetRlimit(limit.type, limit.soft, limit.hard) for limit in process.rlimits])


def give_stdio(b: Builder, process: Process) -> None:
    """Stdio to the user before a user namespace is joined: nobody in there may take what is the host's root's."""
    user = b.config.linux.namespace("user")
    if user is None or not user.path or is_rootless(b.facts):
        return
    for entry in b.config.linux.uid_mappings:
        if entry.container_id <= process.user.uid < entry.container_id + entry.size:
            b.add(ChownStdio(entry.host_id + process.user.uid - entry.container_id))


def open_proc(b: Builder) -> None:
    """The slot of `host_proc` from the host's own /proc, for an exec: a mount and its end cost a tenth of the launch.

    A way to all of the host: to be closed before there is a child.
    """
    b.add(Open(b.opened(HOST_PROC), "/proc", O_PATH | O_DIRECTORY))


def host_proc(b: Builder) -> str:
    """The slot of the launcher's own procfs, of the host's pid namespace: processes only.

    Who has no right over that namespace cannot mount one, and takes what is mounted.
    """
    if HOST_PROC not in b.open and is_rootless(b.facts):
        open_proc(b)
    elif HOST_PROC not in b.open:
        b.add(FsMount(b.opened(HOST_PROC), "proc", ("subset=pid",), GUARDED, magic=PROC_SUPER_MAGIC))
    return HOST_PROC


def join_by_path(b: Builder, *, pid_now: bool) -> None:
    """setns into what the configuration names by path; the pid namespace now or, in `clone_late`, as the last step.

    Not blocking, because a path may lead to a FIFO as well.
    """
    paths = {entry.type: entry.path for entry in b.config.linux.namespaces if entry.path and entry.type != "time"}
    b.add(*[Open(b.opened(f"ns.{type}"), path, O_NONBLOCK) for type, path in paths.items()])
    if pid_now and "pid" in paths:
        b.add(Setns("ns.pid", CLONE_NEWPID, paths["pid"]))
    b.add(*[Setns(f"ns.{type}", NAMESPACE_FLAGS[type], paths[type]) for type in JOIN_ORDER if type in paths])
    b.close(*[f"ns.{type}" for type in paths if pid_now or type != "pid"])


def clone_early(b: Builder, flags: int) -> None:
    """The child and its new namespaces at once."""
    if flags & CLONE_NEWUSER:
        clone_mapped(b, flags)
    else:
        b.close(HOST_PROC)
        clone(b, flags)


def clone_mapped(b: Builder, flags: int, *, deny: int = 0) -> None:
    """The child in a user namespace of its own: it waits until the launcher has written its id maps.

    With `deny` the launcher forbids setgroups(2) first, as whoever has no right over groups must (user_namespaces(7)).
    """
    linux = b.config.linux
    host_proc(b)
    b.add(Pipe(b.opened("sync"), b.opened("sync.write")))
    clone(b, flags)
    b.add(
        WriteIdMaps(HOST_PROC, id_map(linux.uid_mappings), id_map(linux.gid_mappings), deny),
        SendByte("sync.write"),
        WaitByte("sync", "sync.write"),
    )
    b.close("sync", "sync.write", HOST_PROC)


def clone(b: Builder, flags: int) -> None:
    """The child in its new namespaces but that of cgroups: it makes that one in its own cgroups (`begin_child`)."""
    b.add(Clone(flags & ~CLONE_NEWCGROUP, _clone_cgroup(b)))


def unshare(b: Builder, flags: int) -> None:
    """New namespaces for whoever is root inside by now: mqueue, which comes with that of ipc, belongs to its maker."""
    flags &= ~CLONE_NEWPID
    if flags:
        b.add(Unshare(flags))


def clone_late(b: Builder, *kept: str) -> None:
    """Into the pid namespace of another container: from here on the child is seen, and holds nothing of the host."""
    b.add(Setns("ns.pid", CLONE_NEWPID))
    b.close_others(PIDS, CGROUP, *kept)
    clone(b, 0)


def begin_child(b: Builder, flags: int) -> None:
    """The child's first ops: its pids cgroup, then the cgroup namespace that has it as its root, its own session."""
    if PIDS in b.open:
        b.add(Write(PIDS, b"0"))
    if CGROUP in b.open and not _clone_cgroup(b):
        b.add(Write(CGROUP, b"0"))
    b.close(PIDS, CGROUP)
    if flags & CLONE_NEWCGROUP:
        b.add(Unshare(CLONE_NEWCGROUP))
    b.add(Setsid())


def become_root_inside(b: Builder) -> None:
    """In a user namespace the launcher's ids mean nobody: from here on it is that namespace's root."""
    if b.config.linux.namespace("user") is not None:
        b.add(SetIds(0, 0, None))


def loopback_up(b: Builder, flags: int) -> None:
    """A new network namespace begins with `lo` down."""
    if flags & CLONE_NEWNET:
        b.add(LoopbackUp())


def id_map(mappings: tuple[IdMapping, ...]) -> str:
    """Lines of uid_map or gid_map (user_namespaces(7))."""
    return "".join(f"{entry.container_id} {entry.host_id} {entry.size}\n" for entry in mappings)


def _clone_cgroup(b: Builder) -> str:
    """The slot for CLONE_INTO_CGROUP: open and a directory, not `cgroup.procs`."""
    is_directory = any(isinstance(op, OpenTree) and op.slot == CGROUP for op in b.ops)
    return CGROUP if CGROUP in b.open and is_directory else ""
