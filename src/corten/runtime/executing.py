"""`exec`: another process in a running container, by a plan of setns steps."""

from __future__ import annotations

import posix

from corten.errors import CortenError, Internal, InvalidArgument, NotFound
from corten.launch.compile import compile_exec
from corten.launch.context import LISTENER, ExecContext
from corten.launch.ops import Clone, CloneLauncher
from corten.runtime import fast, launching
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.prepare import seccomp_program, warn_of_capabilities
from corten.runtime.state import RUNNING, STOPPED, State, allow
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.ops import Plan
    from corten.runtime.options import ExecOptions
    from corten.runtime.prepare import Host
    from corten.spec.runtime import Config

EAGAIN, EBUSY = 11, 16


def launch(options: ExecOptions, host: Host) -> launching.Running:
    """Checks, compiles, spawns and follows; raises FailedPrecondition or LaunchFailure in runc's words."""
    record = State.load(options.root, options.id)
    status = record.status()
    if not (options.ignore_paused and status == "paused"):
        allow("exec", options.id, status)
    if not options.process.args:
        raise Internal("process args cannot be empty")
    container = record.open_pidfd()
    if container < 0:
        allow("exec", options.id, STOPPED)
    try:
        running = _spawn(options, host, record, container)
    finally:
        posix.close(container)
    running.launch.close()
    if options.pid_file:
        try:
            launching.write_pid_file(options.pid_file, running.pid)
        except OSError as error:
            running.abandon()
            raise InvalidArgument(f"pid file {options.pid_file}: {files.why(error)}") from error
    return running


def _spawn(options: ExecOptions, host: Host, record: State, container: int) -> launching.Running:
    """The first plan; where the kernel refuses to clone into the cgroup, the second one.

    EAGAIN  the container is at its pids limit: the child joins by itself
    EBUSY   the container has handed controllers down to cgroups of its own, as systemd does in it, so that no process
            may be in the one above (cgroup-v2.rst, "No Internal Process Constraint"): its init's is taken, as by runc
    """
    config = record.config()
    if record.origins:
        from corten.runtime import effective

        effective.again(config, options.process, record.origins)
    warn_of_capabilities(config, options.process, host.facts, options.warn)
    paths = sub_cgroup(record.cgroup, options.cgroups)
    try:
        plan = compile_for(options, host, config, paths)
        return _spawn_with_agent(options, host, plan, container, record, config)
    except launching.LaunchFailure as failure:
        if failure.errno not in (EAGAIN, EBUSY) or not isinstance(failure.op, Clone | CloneLauncher):
            raise
        if failure.errno == EBUSY and not options.cgroups:
            paths = _paths_of_init(record, paths)
    plan = compile_for(options, host, config, paths, clone_into_cgroup=False)
    return _spawn_with_agent(options, host, plan, container, record, config)


def _spawn_with_agent(
    options: ExecOptions, host: Host, plan: Plan, container: int, record: State, config: Config
) -> launching.Running:
    """One plan; its seccomp listener goes to the agent once there is a process: no call asks before execve."""
    fds = {"container": container}
    if LISTENER not in plan.inputs:
        return _spawn_plan(options, host, plan, fds)
    from corten.runtime import listener  # for the few with an agent

    ours, launchers = fast.socket_pair()
    try:
        running = _spawn_plan(options, host, plan, {**fds, LISTENER: launchers.fileno()})
        try:
            listener.hand_over(ours.fileno(), config, record, record.oci(RUNNING), running.pid)
        except CortenError:
            running.abandon()
            raise
    finally:
        ours.close()
        launchers.close()
    return running


def _spawn_plan(options: ExecOptions, host: Host, plan: Plan, fds: dict[str, int]) -> launching.Running:
    """One plan; its terminal goes to the console once the plan has succeeded.

    A clone that the kernel refuses comes after the pty is open: nobody may get that one before the second plan's.
    """
    if options.console_fd < 0:
        return launching.spawn_plan(host, plan, fds, options.stdio)
    ours, launchers = fast.socket_pair()
    try:
        running = launching.spawn_plan(host, plan, {**fds, "console": launchers.fileno()}, options.stdio)
        try:
            fast.pass_fd_on(ours, options.console_fd)
        except OSError as error:
            running.abandon()
            raise Internal(f"{launching.START_FAILURE}: send terminal to the console: {files.why(error)}") from error
    finally:
        ours.close()
        launchers.close()
    return running


def _paths_of_init(record: State, paths: CgroupPaths) -> CgroupPaths:
    """The v2 cgroup of the container's init where that is below the container's own, else the container's."""
    for line in files.read_text(f"/proc/{record.pid}/cgroup").splitlines():
        directory = paths.mount + line[3:]
        if line.startswith("0::") and directory.startswith(f"{paths.v2}/"):
            return CgroupPaths(paths.mode, paths.v1, directory, paths.mount)
    return paths


def compile_for(
    options: ExecOptions, host: Host, config: Config, paths: CgroupPaths, *, clone_into_cgroup: bool = True
) -> Plan:
    """The plan of an exec into the cgroup at `paths`."""
    program, flags, calls = seccomp_program(config, host.seccomp_cache)
    context = ExecContext(
        options.id,
        cgroup_paths=paths.v1,
        cgroup_v2_dir=paths.v2,
        clone_into_cgroup=clone_into_cgroup,
        parent=options.parent,
        console=options.console_fd >= 0,
        preserve_fds=options.preserve_fds,
        seccomp=program,
        seccomp_flags=flags,
        seccomp_calls=calls,
    )
    return compile_exec(config, options.process, host.facts, context)


def sub_cgroup(paths: CgroupPaths, below: dict[str, str]) -> CgroupPaths:
    """The container's cgroup, or existing ones below it (`--cgroup`): for the controllers named, or all for ''.

    Raises InvalidArgument and NotFound.  In hybrid mode the v2 cgroup, which limits nothing, is followed where it is.
    """
    if not below:
        return paths
    everywhere = below.get("", "")
    v1, left = {}, set(below) - {""}
    for names, directory in paths.v1.items():
        mine = left & {*names.split(",")}
        left -= mine
        added = next((below[name] for name in sorted(mine)), everywhere)
        v1[names] = _existing(directory, added) if added else directory
    if left:
        raise InvalidArgument(f"unknown controller {sorted(left)[0]} in SubCgroupPaths")
    v2 = paths.v2
    if v2 and everywhere and (paths.mode == "v2" or files.is_directory(_beneath(v2, everywhere))):
        v2 = _existing(v2, everywhere)
    return CgroupPaths(paths.mode, v1, v2, paths.mount)


def _existing(directory: str, below: str) -> str:
    """The cgroup `below` a directory; raises NotFound when it is not there."""
    found = _beneath(directory, below)
    if not files.is_directory(found):
        raise NotFound(f"cgroup {found} does not exist")
    return found


def _beneath(directory: str, below: str) -> str:
    """The path; raises InvalidArgument, in runc's words, for one that leads out."""
    found = files.absolute(f"{directory}/{below}")
    if found != directory and not found.startswith(directory + "/"):
        raise InvalidArgument(f"{below} is not a sub cgroup path")
    return found
