"""Configuration and host facts in, launch plan out.  Pure: nothing is read, opened or started here.

A container's init, as a rule:

    launcher   not dumpable · own cgroups but pids · the host's sources as detached mounts · setns by path · clone3
    child      own pids cgroup, then the cgroup namespace · mounts · hooks · pivot_root · names, sysctls, masks · tail

Where it joins another container's pid namespace, its child is seen there at once.  Then the launcher does everything,
the tail as well ("whole"); or, where the kernel cannot mount another namespace's procfs, everything that touches the
host, and the child the rest ("late").  In both it is the launcher that waits for hooks, and its pid that they get.

An exec is the same with setns in place of clone flags and without mounts: the launcher does everything.
"""

from __future__ import annotations

from corten.launch import enter
from corten.launch.builder import Builder
from corten.launch.checks import check_config, check_exec, check_label
from corten.launch.context import LIFE, LISTENER, ExecContext, InitContext
from corten.launch.filesystem import ROOT, Filesystem, open_terminal
from corten.launch.furnish import finish_root, furnish, wait_for_hooks, writes_proc
from corten.launch.hooks import hook_ops
from corten.launch.ops import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    O_DIRECTORY,
    O_PATH,
    Open,
    Plan,
    Setns,
)
from corten.launch.options import is_long
from corten.launch.tail import (
    add_apparmor,
    add_early,
    add_end,
    add_end_seen,
    add_process,
    add_visible,
    final_affinity,
    needs_apparmor,
    reduce_caps,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.spec.process import Process
    from corten.spec.runtime import Config


def compile_init(config: Config, facts: HostFacts, context: InitContext) -> Plan:
    """The plan of a container's first process; raises `InvalidArgument` or `FailedPrecondition`."""
    process = check_config(config, facts, context)
    user = config.linux.namespace("user")
    if facts.euid or (facts.in_user_namespace and user is not None and not user.path):
        from corten.launch.rootless import compile_rootless_init

        return compile_rootless_init(config, process, facts, context)
    b = Builder(config, facts)
    fs = Filesystem(b, context, keep_proc=writes_proc(config, process))
    flags = b.new_flags() & ~CLONE_NEWTIME
    # the pid namespace of another user namespace cannot be joined from within ours: then it is joined first
    late = bool(b.joined_flags() & CLONE_NEWPID) and not flags & CLONE_NEWUSER
    whole = late and _can_be_whole(config, facts, context)
    enter.begin(b, process)
    add_early(b, process, exec=False)
    if context.wait_for_unit:
        enter.wait_for_unit(b)
    enter.join_time(b)
    _join_cgroups(b, context, whole=whole)
    b.add_inputs(context.inputs())
    fs.open_sources()
    if (late or fs.userns) and enter.needs_oom_score_adj(b, process):
        enter.add_oom_score_adj(b, process, enter.host_proc(b))
    if fs.userns:
        enter.raise_rlimits(b, process)
        enter.give_stdio(b, process)
    if whole and needs_apparmor(b, process):
        enter.host_proc(b)
    enter.make_time(b)
    enter.join_by_path(b, pid_now=not late)
    hooks = hook_ops(config, context, "startContainer", config.hooks.start_container)
    if whole:
        _enter_whole(b, fs, process, context, flags)
        add_visible(b, process, context, userns=fs.userns, hooks=tuple(hooks))
        return b.plan(context.preserve_fds)
    if late:
        _enter_late(b, fs, process, context, flags)
    else:
        _enter_early(b, fs, process, context, flags)
    b.close_others("tty", "start", LIFE, LISTENER, *(["record"] if late else []))
    add_process(b, process, context, userns=fs.userns)
    if late:
        add_end_seen(b, process, context, userns=fs.userns, hooks=hooks)
    else:
        add_end(b, process, context, hooks=hooks)
    return b.plan(context.preserve_fds)


def compile_exec(config: Config, process: Process, facts: HostFacts, context: ExecContext) -> Plan:
    """The plan of another process in a running container; the slot `container` is a pidfd of its init.

    What `process` leaves out (capabilities, limits, profile, umask, oom_score_adj) is taken from the container's.
    """
    process = check_exec(config, process)
    check_label(process.selinux_label, facts)
    b = Builder(config, facts)
    namespaces = b.new_flags() | b.joined_flags()
    userns = bool(namespaces & CLONE_NEWUSER)
    b.add_inputs(context.inputs())
    if facts.euid:
        from corten.launch.rootless import check_user

        check_user(config, process)
    enter.begin(b, process)
    add_early(b, process, exec=True)
    if namespaces & CLONE_NEWTIME:
        # before a launcher that shares its memory with the first one
        b.add(Setns("container", CLONE_NEWTIME))
        namespaces &= ~CLONE_NEWTIME
    enter.join_v1(b, context)
    affinity = final_affinity(process)
    if context.clone_into_cgroup and not facts.euid:
        enter.join_v2(b, context)
        b.add(*affinity)
        affinity = ()
    else:
        enter.open_v2(b, context, by_write=True)
    apparmor, oom_score_adj = needs_apparmor(b, process), enter.needs_oom_score_adj(b, process)
    if apparmor or oom_score_adj:
        enter.open_proc(b)
    if oom_score_adj:
        enter.add_oom_score_adj(b, process, enter.HOST_PROC)
    if userns:
        enter.raise_rlimits(b, process)
        enter.give_stdio(b, process)
    if apparmor:
        add_apparmor(b, process, enter.HOST_PROC)
    b.close(enter.HOST_PROC)
    b.add(Setns("container", namespaces))
    b.close("container")
    enter.become_root_inside(b)
    if process.terminal:
        b.add(Open(b.opened(ROOT), "/", O_PATH | O_DIRECTORY))
        open_terminal(b, process)
    add_visible(b, process, context, userns=userns, affinity=affinity)
    return b.plan(context.preserve_fds)


def _can_be_whole(config: Config, facts: HostFacts, context: InitContext) -> bool:
    """The launcher of a late init can do everything: procfs can be mounted for the child, which mount(2) cannot.

    Being in the container's cgroup before the child, it needs room there for both.
    """
    has_room = config.linux.resources.pids_limit != 1 and not context.wait_for_limit
    of_proc = [mount for mount in config.mounts if mount.type == "proc"]
    is_short = not any(is_long((f"source={mount.source}", *mount.options)) for mount in of_proc)
    return facts.procfs_pidns and has_room and is_short


def _join_cgroups(b: Builder, context: InitContext, *, whole: bool) -> None:
    if whole:
        # the cgroup namespace has its launcher's cgroups as roots, that of pids among them
        enter.join_v1(b, context, pids=bool(b.new_flags() & CLONE_NEWCGROUP))
        enter.join_v2(b, context)
    else:
        enter.join_v1(b, context)
        enter.open_v2(b, context, by_write=bool(b.joined_flags() & (CLONE_NEWUSER | CLONE_NEWCGROUP)))


def _enter_early(b: Builder, fs: Filesystem, process: Process, context: InitContext, flags: int) -> None:
    """The child makes everything: nobody can see it yet."""
    later = flags & CLONE_NEWIPC if fs.userns else 0
    enter.clone_early(b, flags & ~later)
    enter.begin_child(b, flags)
    enter.become_root_inside(b)
    enter.unshare(b, later)
    enter.loopback_up(b, flags)
    b.wait("network")
    fs.attach_root()
    fs.mount_all(late=False)
    if not fs.userns and enter.needs_oom_score_adj(b, process):
        enter.add_oom_score_adj(b, process, fs.private_proc())
    finish_root(fs, process)
    b.wait("record")
    wait_for_hooks(b, context)
    furnish(b, fs, process)
    fs.enter_root()


def _enter_late(b: Builder, fs: Filesystem, process: Process, context: InitContext, flags: int) -> None:
    """The launcher makes the root and changes into it; the child only mounts what shows its own namespaces."""
    b.close(enter.HOST_PROC)
    enter.become_root_inside(b)
    enter.unshare(b, flags & ~CLONE_NEWCGROUP)
    enter.loopback_up(b, flags)
    b.wait("network")
    fs.attach_root()
    fs.mount_all(late=True)
    finish_root(fs, process)
    wait_for_hooks(b, context)
    fs.enter_root()
    reduce_caps(b, process, userns=fs.userns)
    enter.clone_late(b, "start", "record", "tty", LIFE, LISTENER, *fs.kept_late())
    enter.begin_child(b, flags)
    fs.mount_deferred()
    furnish(b, fs, process)


def _enter_whole(b: Builder, fs: Filesystem, process: Process, context: InitContext, flags: int) -> None:
    """The launcher makes everything; the pid namespace is joined last, for the child."""
    enter.become_root_inside(b)
    enter.unshare(b, flags)
    enter.loopback_up(b, flags)
    b.wait("network")
    fs.pidns = "ns.pid"
    fs.attach_root()
    fs.mount_all(late=False)
    finish_root(fs, process)
    wait_for_hooks(b, context)
    furnish(b, fs, process, launcher=True)
    fs.enter_root()
    b.add(Setns("ns.pid", CLONE_NEWPID))
