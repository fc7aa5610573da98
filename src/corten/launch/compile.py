"""Configuration and host facts in, launch plan out.  Pure: nothing is read, opened or started here.

A container's init, as a rule:

    launcher   not dumpable · own cgroups but pids · the host's sources as detached mounts · setns by path · clone3
    child      own pids cgroup, then the cgroup namespace · mounts · hooks · pivot_root · names, sysctls, masks · tail

Where it joins another container's pid namespace ("late"), everything that touches the host happens in the launcher
before clone3, because the child is seen there at once; only procfs and cgroup2 are mounted by the child.

An exec is the same with setns in place of clone flags and without mounts.
"""

from __future__ import annotations

from corten.launch import enter
from corten.launch.builder import Builder
from corten.launch.checks import check_config, check_exec, sysctl_path
from corten.launch.context import ExecContext, InitContext
from corten.launch.filesystem import PRIVATE_PROC_ATTRS, PROC_SUPER_MAGIC, ROOT, Filesystem, open_terminal
from corten.launch.hooks import hook_ops
from corten.launch.mountops import FsMount
from corten.launch.ops import CLONE_NEWPID, CLONE_NEWUSER, Open, Plan, Setns, Wait, WriteFile
from corten.launch.tail import add_apparmor, add_end, add_process, needs_apparmor
from corten.launch.userops import SetDomainname, SetHostname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.facts import HostFacts
    from corten.spec.runtime import Config, Process

O_PATH, O_DIRECTORY = 0o10000000, 0o200000


def compile_init(config: Config, facts: HostFacts, context: InitContext) -> Plan:
    """The plan of a container's first process; raises `InvalidArgument` or `FailedPrecondition`."""
    process = check_config(config, facts, context)
    b = Builder(config, facts)
    fs = Filesystem(b, context, keep_proc=_writes_proc(config, process))
    flags = b.new_flags()
    # the pid namespace of another user namespace cannot be joined from within ours: then it is joined first
    late = bool(b.joined_flags() & CLONE_NEWPID) and not flags & CLONE_NEWUSER
    enter.begin(b, context)
    _add_inputs(b, context)
    fs.open_sources()
    if late or fs.userns:
        enter.write_oom_score_adj(b, process)
    if fs.userns:
        enter.raise_rlimits(b, process)
    enter.join_by_path(b, pid_now=not late)
    if late:
        _enter_late(b, fs, process, context, flags)
    else:
        _enter_early(b, fs, process, context, flags)
    b.close_others("tty", "start")
    add_process(b, process, context, userns=fs.userns)
    hooks = hook_ops(config, context, "startContainer", config.hooks.start_container)
    add_end(b, process, context, wait=context.wait_for_start, hooks=hooks)
    return b.plan(context.preserve_fds)


def compile_exec(config: Config, process: Process, facts: HostFacts, context: ExecContext) -> Plan:
    """The plan of another process in a running container; the slot `container` is a pidfd of its init.

    What `process` leaves out (capabilities, limits, profile, umask, oom_score_adj) is taken from the container's.
    """
    process = check_exec(config, process)
    b = Builder(config, facts)
    namespaces = b.new_flags() | b.joined_flags()
    userns = bool(namespaces & CLONE_NEWUSER)
    b.input("container")
    enter.begin(b, context)
    enter.write_oom_score_adj(b, process)
    if userns:
        enter.raise_rlimits(b, process)
    b.close(enter.HOST_PROC)
    late = enter.joined_late(b, namespaces)
    b.add(Setns("container", namespaces & ~late))
    if not late:
        b.close("container")
    enter.become_root_inside(b)
    if process.terminal:
        b.add(Open(b.opened(ROOT), "/", O_PATH | O_DIRECTORY))
        open_terminal(b, process)
    enter.clone_visible(b, "tty", "container")
    enter.begin_child(b, 0)
    if late:
        b.add(Setns("container", late))
        b.close("container")
    if needs_apparmor(b, process):
        options = ("subset=pid",)
        b.add(FsMount(b.opened("proc"), "proc", options, PRIVATE_PROC_ATTRS, magic=PROC_SUPER_MAGIC))
        add_apparmor(b, process, "proc")
        b.close("proc")
    add_process(b, process, context, userns=userns)
    add_end(b, process, context, wait=False, hooks=[])
    return b.plan(context.preserve_fds)


def _add_inputs(b: Builder, context: InitContext) -> None:
    if context.wait_for_start:
        b.input("start")
    if context.wait_for_hooks:
        b.input("hooks")
    if context.wait_for_network:
        b.input("network")


def _enter_early(b: Builder, fs: Filesystem, process: Process, context: InitContext, flags: int) -> None:
    """The child makes everything: nobody can see it yet."""
    enter.clone_early(b, flags)
    enter.begin_child(b, flags)
    enter.become_root_inside(b)
    enter.loopback_up(b, flags)
    if context.wait_for_network:
        b.add(Wait("network", "network"))
    fs.attach_root()
    fs.mount_all(late=False)
    if process.oom_score_adj is not None and not fs.userns:
        b.add(WriteFile(fs.private_proc(), "self/oom_score_adj", str(process.oom_score_adj).encode()))
    _finish_root(fs, process)
    if context.wait_for_hooks:
        b.add(Wait("hooks", "hooks"))
    b.add(*hook_ops(b.config, context, "createContainer", b.config.hooks.create_container))
    _furnish(b, fs, process, late=False)
    fs.enter_root()


def _enter_late(b: Builder, fs: Filesystem, process: Process, context: InitContext, flags: int) -> None:
    """The launcher makes the root and changes into it; the child only mounts what shows its own namespaces."""
    enter.unshare(b, flags)
    enter.become_root_inside(b)
    enter.loopback_up(b, flags)
    fs.attach_root()
    fs.mount_all(late=True)
    _finish_root(fs, process)
    b.add(*hook_ops(b.config, context, "createContainer", b.config.hooks.create_container))
    fs.enter_root()
    enter.clone_late(b, "start", "hooks", "network", "tty", *fs.kept_late())
    enter.begin_child(b, flags)
    fs.mount_deferred()
    for name in ("network", "hooks"):
        if name in b.open:
            b.add(Wait(name, name))
    _furnish(b, fs, process, late=True)


def _finish_root(fs: Filesystem, process: Process) -> None:
    fs.fill_dev()
    if process.terminal:
        fs.open_terminal(process)
    fs.make_cwd(process)


def _writes_proc(config: Config, process: Process) -> bool:
    """The plan writes to files of the container's procfs."""
    return bool(config.linux.sysctl or process.apparmor_profile or process.oom_score_adj is not None)


def _furnish(b: Builder, fs: Filesystem, process: Process, *, late: bool) -> None:
    """Names, sysctls, the AppArmor profile, protections: after the hooks, which may still need what is protected."""
    config = b.config
    if config.hostname:
        b.add(SetHostname(config.hostname))
    if config.domainname:
        b.add(SetDomainname(config.domainname))
    for name, value in config.linux.sysctl.items():
        b.add(WriteFile(fs.private_proc(), sysctl_path(name), value.encode()))
    if needs_apparmor(b, process):
        add_apparmor(b, process, fs.private_proc())
    fs.protect(late=late)
