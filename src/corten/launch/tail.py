"""The end of every plan: from the terminal to execve, the same for a container's init and for an exec.

The order matters (design.md §4): limits, working directory and ownership of stdio need root's rights; then the
bounding set, the ids and capset; the parent-death signal after the last change of ids; waiting for the start;
seccomp; and nothing between seccomp and execve.

A child that a container sees from its clone on has this done before the clone, as far as it goes: `add_visible`.
What cannot be, is done before the child waits for anything: then it has its own capabilities alone, and the filter.
"""

from __future__ import annotations

from corten.errors import FailedPrecondition, InvalidArgument
from corten.launch import enter
from corten.launch.context import CALLS, LIFE, LISTENER, NEW_LISTENER, SHIM
from corten.launch.execops import Exec, Hook, Seccomp
from corten.launch.ops import (
    Clone,
    CloneLegacy,
    CloseRange,
    JoinSessionKeyring,
    SendFd,
    SetControllingTerminal,
    SetDumpable,
    SetStdio,
    Wait,
    WriteFile,
    errno_text,
)
from corten.launch.userops import (
    Chdir,
    ChownStdio,
    DropBounding,
    FindExecutable,
    KeepCaps,
    NoNewPrivs,
    ParentDeathSignal,
    RaiseAmbient,
    SetCaps,
    SetHome,
    SetIds,
    SetRlimit,
    Umask,
)
from corten.spec.process import Capabilities, Rlimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.launch.builder import Builder
    from corten.launch.context import ExecContext, InitContext
    from corten.launch.ops import Op
    from corten.spec.process import Process

CAP_SYS_ADMIN = 1 << 21
CAP_SYS_NICE = 1 << 23
CAP_SYS_RESOURCE = 1 << 24
# chown dac_override dac_read_search setgid setuid setpcap sys_admin: to mount, to mask, to become the user
SETUP_CAPS = 0b111 | 0b111 << 6 | CAP_SYS_ADMIN
SIGKILL = 9
RLIMIT_NPROC = 6
RLIM_INFINITY = (1 << 64) - 1
DEFAULT_UMASK = 0o022

# what execve(2) can answer when the file was found: E2BIG, ENOENT (its interpreter), ENOEXEC, …
EXEC_ERRNOS = (1, 2, 5, 7, 8, 12, 13, 20, 21, 22, 26, 40, 80)


def add_early(b: Builder, process: Process, *, exec: bool) -> None:
    """The processors of the launcher until it is in the container's cgroup, which an init then may use.

    Linux 6.2 and later remember what was asked for before the cgroup: what the runtime inherited would stay.
    """
    affinity = process.exec_affinity if exec else None
    if affinity is not None and (affinity.initial or affinity.final):
        if affinity.initial:
            b.add(*_affinity(affinity.initial))
    elif b.facts.narrow_affinity:
        b.add(*_affinity(b""))


def final_affinity(process: Process) -> tuple[Op, ...]:
    """The processors of an exec once it is in the container's cgroup: without a word all that this gives."""
    affinity = process.exec_affinity
    return _affinity(affinity.final) if affinity is not None and (affinity.initial or affinity.final) else ()


def add_process(b: Builder, process: Process, context: InitContext | ExecContext, *, userns: bool) -> None:
    """From stdio to the capabilities, in a child that nobody sees: it is what it will be, but not filtered."""
    if process.terminal:
        b.add(SetStdio("tty"), SetControllingTerminal())
        b.close("tty")
    _become(b, process, context, () if userns else process.rlimits, userns=userns)


def add_end(b: Builder, process: Process, context: InitContext, *, hooks: list[Hook]) -> None:
    """The parent-death signal, closing, waiting for the start, startContainer hooks, seccomp and execve.

    For a child that nobody sees: what seccomp(2) wants of rights stays until execve.
    """
    _add_closing(b, context)
    if LISTENER in b.open:
        # before the wait for the start, as in runc; the agent has it before any other call asks
        _add_listener(b, context, ("write", "clock_gettime", "sendmsg"))
    _add_last(b, process, context, hooks=hooks, filter=not context.seccomp_flags & NEW_LISTENER)


def add_end_seen(b: Builder, process: Process, context: InitContext, *, userns: bool, hooks: list[Hook]) -> None:
    """The same for a child that a container sees: it is filtered, with its own capabilities alone, before it waits."""
    _add_closing(b, context)
    # the change of ids has reset it to fs.suid_dumpable, which need not be 0
    b.add(SetDumpable())
    if LISTENER in b.open:
        caps = _last_caps(b, process, userns=userns)
        _add_listener(b, context, _calls_behind_wait(b, process), caps)
        filter = False
    else:
        filter = not _add_before_wait(b, process, context, userns=userns, hooks=hooks)
    _add_last(b, process, context, hooks=hooks, filter=filter)


def add_visible(
    b: Builder,
    process: Process,
    context: InitContext | ExecContext,
    *,
    userns: bool,
    hooks: tuple[Hook, ...] = (),
    affinity: tuple[Op, ...] = (),
) -> None:
    """All of it for a child that a container sees from its clone on: what fork keeps is done by the launcher.

    The child is left with what only it can do: its pids cgroup, its session and terminal, the parent-death signal, the
    wait for the start, and a scheduler that fork does not keep.  The filter comes before the clone where it allows
    that, and CAP_SYS_ADMIN goes with it.  `affinity` is for a child that joins its cgroup by itself.
    """
    if process.terminal:
        b.add(SetStdio("tty"))
        b.close("tty")
    before, after = _limits(b, process, userns=userns)
    _become(b, process, context, before, userns=userns, visible=True)
    b.add(CloseRange(3 + context.preserve_fds))
    b.close_others(enter.PIDS, enter.CGROUP, "record", "start", LIFE, LISTENER)
    # the change of ids has reset it to fs.suid_dumpable, which need not be 0
    b.add(SetDumpable())
    calls = _calls_left(b, process, limits=bool(after), affinity=bool(affinity))
    is_filtered = _add_before_clone(b, process, context, calls, userns=userns)
    b.add(CloneLegacy(0))
    _begin_visible(b, process, context, affinity, after)
    if not is_filtered:
        is_filtered = _add_before_wait(b, process, context, userns=userns, hooks=hooks)
    _add_last(b, process, context, hooks=hooks, filter=not is_filtered)


def _add_closing(b: Builder, context: InitContext) -> None:
    """The parent-death signal, and nothing open but what is still needed."""
    if context.parent == SHIM:
        b.add(ParentDeathSignal(SIGKILL, LIFE))
    b.add(CloseRange(3 + context.preserve_fds))
    b.close_others("record", "start", LISTENER)


def _add_before_clone(
    b: Builder, process: Process, context: InitContext | ExecContext, calls: tuple[str, ...], *, userns: bool
) -> bool:
    """The filter and the last capset for a child that begins with both; `calls` are still to be made behind them.

    False without a filter, where it does not allow these calls, and where the scheduler still needs a capability.
    """
    if LISTENER in b.open:
        if _stays_behind(process):
            raise InvalidArgument("linux.seccomp: SCMP_ACT_NOTIFY with a scheduler that a fork does not keep")
        # the child would hold the socket, and be seen: the filter is there before it, hooks or not
        _add_listener(b, context, (*calls, "sendmsg"))
    elif not context.seccomp or _stays_behind(process) or _refused(context, calls):
        return False
    else:
        b.add(Seccomp(context.seccomp, context.seccomp_flags, last=0))
    if not process.no_new_privileges:
        b.add(_final_caps(b, process, userns=userns))
    return True


def _begin_visible(
    b: Builder,
    process: Process,
    context: InitContext | ExecContext,
    affinity: Iterable[Op],
    limits: Iterable[Op],
) -> None:
    """What only the child can do, before it waits for anything."""
    enter.begin_child(b, 0)
    b.add(*affinity)
    if process.terminal:
        b.add(SetControllingTerminal())
    if _stays_behind(process):
        b.add(_scheduler(process))
    b.add(*limits)
    if context.parent == SHIM:
        b.add(ParentDeathSignal(SIGKILL, LIFE))
        b.close(LIFE)


def _add_before_wait(
    b: Builder, process: Process, context: InitContext | ExecContext, *, userns: bool, hooks: Iterable[Hook]
) -> bool:
    """The filter and the last capset of a child that is seen, before something else says how long it stays as it is.

    False without a filter, and where nothing is waited for: then it comes right before execve.  startContainer hooks
    run under it, as in runc.
    """
    if not (_waits(b) or hooks):
        return False
    if not context.seccomp:
        b.add(*_last_caps(b, process, userns=userns))
        return False
    why = "a process that another container sees is filtered before it waits for its start, and"
    _require(context, _calls_behind_wait(b, process), why)
    filter = Seccomp(context.seccomp, context.seccomp_flags, last=0)
    caps = _last_caps(b, process, userns=userns)
    # seccomp(2) wants CAP_SYS_ADMIN or no_new_privs; with the latter no call is left over
    b.add(*((*caps, filter) if process.no_new_privileges else (filter, *caps)))
    return True


def _calls_behind_wait(b: Builder, process: Process) -> tuple[str, ...]:
    """Those of CALLS that a child makes behind a filter that comes before it waits: for its start, or the agent."""
    calls = ["write", "close", "clock_gettime", "rt_sigaction", "execve"]
    if not process.no_new_privileges:
        calls.append("capset")
    if _waits(b) or LISTENER in b.open:
        calls.append("read")
    if LISTENER in b.open:
        calls.append("sendmsg")
    return tuple(calls)


def _last_caps(b: Builder, process: Process, *, userns: bool) -> tuple[Op, ...]:
    """The program's own capabilities, where the last capset left it more."""
    own = _final_caps(b, process, userns=userns)
    held = next(op for op in reversed(b.ops) if isinstance(op, SetCaps))
    return () if (held.effective, held.permitted) == (own.effective, own.permitted) else (own,)


def _add_last(
    b: Builder, process: Process, context: InitContext | ExecContext, *, hooks: Iterable[Hook], filter: bool
) -> None:
    """The wait for the start, startContainer hooks, the filter unless it is there, and execve."""
    for slot in ("record", "start"):
        b.wait(slot)
        b.close(slot)
    b.add(*hooks)
    if context.seccomp and filter:
        b.add(Seccomp(context.seccomp, context.seccomp_flags))
    env = tuple(f"{name}={value}" for name, value in environment(process).items())
    b.add(Exec(process.args, env, EXEC_ERRNOS, tuple(map(errno_text, EXEC_ERRNOS))))


def _become(
    b: Builder,
    process: Process,
    context: InitContext | ExecContext,
    limits: Iterable[Rlimit],
    *,
    userns: bool,
    visible: bool = False,
) -> None:
    """Keyring, ownership of stdio, directory, scheduling, limits, ids, capabilities, the executable.

    Fork keeps it all, but for what `add_visible` does in the child.
    """
    scheduled_later = visible and _stays_behind(process)
    if context.new_keyring:
        b.add(JoinSessionKeyring(f"_ses.{context.id}"))
    if process.user.uid or userns:
        b.add(ChownStdio(process.user.uid))
    env = environment(process)
    if "HOME" not in env:
        b.add(SetHome(process.user.uid))
    b.add(Chdir(process.cwd))
    _add_scheduling(b, process, with_policy=not scheduled_later)
    b.add(*[SetRlimit(limit.type, limit.soft, limit.hard) for limit in limits])
    # without no_new_privs seccomp(2) wants CAP_SYS_ADMIN; what has not been given back before execve is taken away by
    # it, because it keeps only what is in the bounding set (root) or ambient (others)
    more = CAP_SYS_ADMIN if context.seccomp and not process.no_new_privileges else 0
    if scheduled_later:
        more |= CAP_SYS_NICE & _possible(b, userns=userns)
    _add_identity(b, process, more=more, userns=userns)
    umask = process.user.umask
    b.add(Umask(DEFAULT_UMASK if umask is None else umask))
    b.add(FindExecutable(process.args[0], candidates(process.args[0], env.get("PATH", ""))))


def _add_scheduling(b: Builder, process: Process, *, with_policy: bool) -> None:
    """Policy, I/O priority, memory policy and personality, with root's rights."""
    linux = b.config.linux
    if process.scheduler is not None and with_policy:
        b.add(_scheduler(process))
    if (process.io_priority, linux.memory_policy, linux.personality) == (None, None, None):
        return
    from corten.launch.procops import Personality, SetIoPriority, SetMempolicy

    if process.io_priority is not None:
        b.add(SetIoPriority(process.io_priority))
    if linux.memory_policy is not None:
        b.add(SetMempolicy(linux.memory_policy.mode, linux.memory_policy.nodes))
    if linux.personality is not None:
        b.add(Personality(linux.personality))


def _scheduler(process: Process) -> Op:
    from corten.launch.procops import SetScheduler

    it = process.scheduler
    assert it is not None
    return SetScheduler(it.policy, it.flags, it.nice, it.priority, it.runtime_ns, it.deadline_ns, it.period_ns)


def _stays_behind(process: Process) -> bool:
    return process.scheduler is not None and process.scheduler.stays_behind


def _affinity(mask: bytes) -> tuple[Op, ...]:
    """To these processors, or to all of them."""
    from corten.launch.procops import ALL_CPUS, SetAffinity

    return (SetAffinity(mask or ALL_CPUS),)


def _limits(b: Builder, process: Process, *, userns: bool) -> tuple[list[Rlimit], list[SetRlimit]]:
    """The limits that the launcher sets, and those that the child does.

    A user's launcher is one process of that user more: its own limit of processes is higher by one, and the child,
    which could not raise it, lowers it.
    """
    if userns:
        return [], []
    before, after = [], []
    for limit in process.rlimits:
        if limit.type != RLIMIT_NPROC or not process.user.uid:
            before.append(limit)
            continue
        after.append(SetRlimit(limit.type, limit.soft, limit.hard))
        if b.facts.can_raise_rlimits:
            soft, hard = (min(value + 1, RLIM_INFINITY) for value in (limit.soft, limit.hard))
            before.append(Rlimit(limit.type, soft, hard))
    return before, after


def _calls_left(b: Builder, process: Process, *, limits: bool, affinity: bool) -> tuple[str, ...]:
    """Those of CALLS that are made between a filter that comes before the clone, and execve."""
    is_made = {  # the others always are
        "ioctl": process.terminal,
        "prlimit64": limits,
        "read": _waits(b),
        "sched_setaffinity": affinity,
        "sendmsg": False,
    }
    return tuple([name for name in CALLS if is_made.get(name, True)])


def _waits(b: Builder) -> bool:
    """The spawner still has to send a byte before the program: the pid is written down, or the process is started."""
    return "start" in b.open or "record" in b.open


def _require(context: InitContext | ExecContext, calls: Iterable[str], why: str) -> None:
    """Raises `InvalidArgument` unless the filter allows these calls; `why` it has to."""
    refused = _refused(context, calls)
    if refused:
        raise InvalidArgument(f"linux.seccomp: {why} these calls have to be allowed: {', '.join(refused)}")


def _refused(context: InitContext | ExecContext, calls: Iterable[str]) -> list[str]:
    """Those calls that the filter does not simply allow."""
    return [name for name in calls if not context.seccomp_calls >> CALLS.index(name) & 1]


def _add_listener(
    b: Builder, context: InitContext | ExecContext, calls: tuple[str, ...], caps: tuple[Op, ...] = ()
) -> None:
    """The filter, and its listener to this plan's spawner, who gives it to the agent (config-linux.md, "Seccomp").

    `calls` are made before the agent can answer, or by a child that nobody waits for: the filter has to allow them.
    `caps` come at once behind the filter.
    Without a child there is nobody yet whose pid the agent could be told, so that nothing waits for it here.
    """
    _require(context, calls, "with SCMP_ACT_NOTIFY")
    b.add(Seccomp(context.seccomp, context.seccomp_flags, last=0, listener=b.opened("seccomp")), *caps)
    b.add(SendFd(LISTENER, "seccomp", b"\0"))
    if any(isinstance(op, Clone) for op in b.ops):
        b.add(Wait(LISTENER, "the seccomp agent"))
    b.close("seccomp", LISTENER)


def reduce_caps(b: Builder, process: Process, *, userns: bool) -> None:
    """Of the launcher's capabilities those that the rest of a plan needs, in a child that still has to mount."""
    caps = process.capabilities or Capabilities()
    own = caps.effective | caps.permitted | caps.inheritable
    keep = own | SETUP_CAPS | (CAP_SYS_RESOURCE if process.rlimits else 0)
    keep |= CAP_SYS_NICE if process.scheduler is not None or process.io_priority is not None else 0
    keep &= _possible(b, userns=userns)
    b.add(SetCaps(keep, keep, caps.inheritable & keep))


def add_apparmor(b: Builder, process: Process, proc: str) -> None:
    """The profile of the next execve, through a procfs of our own."""
    words = f"exec {process.apparmor_profile}".encode("utf-8", "surrogateescape")
    b.add(WriteFile(proc, "thread-self/attr/apparmor/exec", words))


def needs_apparmor(b: Builder, process: Process) -> bool:
    """A profile is asked for; raises `FailedPrecondition` where the host cannot give it."""
    if not process.apparmor_profile or (process.apparmor_profile == "unconfined" and not b.facts.apparmor):
        return False
    if not b.facts.apparmor:
        raise FailedPrecondition(f"apparmor profile {process.apparmor_profile!r}: apparmor is not active on this host")
    return True


def environment(process: Process) -> dict[str, str]:
    """The variables by name: of a name given twice the last value counts, an empty HOME counts as none (as in runc)."""
    env: dict[str, str] = {}
    for pair in process.env:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"process.env: invalid environment variable: {pair!r}")
        env[name] = value
    if env.get("HOME") == "":
        del env["HOME"]
    return env


def candidates(name: str, path: str) -> tuple[str, ...]:
    """Where an executable is looked for: as it stands with a slash, else in each absolute directory of PATH."""
    if "/" in name:
        return (name,)
    if not name:
        return ()
    return tuple(f"{directory.rstrip('/')}/{name}" for directory in path.split(":") if directory[:1] == "/")


def _add_identity(b: Builder, process: Process, *, more: int, userns: bool) -> None:
    """Bounding set, ids, capabilities, no_new_privs."""
    possible = _possible(b, userns=userns)
    caps = process.capabilities or Capabilities()
    user = process.user
    b.add(
        DropBounding(caps.bounding & possible, b.facts.cap_last),
        KeepCaps(),
        SetIds(user.uid, user.gid, None if b.facts.setgroups_denied else user.additional_gids),
        Chdir(process.cwd, again=1),
    )
    b.add(_final_caps(b, process, userns=userns, more=more))
    # capabilities(7): no bit can be ambient that is not both permitted and inheritable; runc passes over such bits
    ambient = caps.ambient & caps.permitted & caps.inheritable & possible
    if ambient:
        b.add(RaiseAmbient(ambient))
    if process.no_new_privileges:
        b.add(NoNewPrivs())


def _final_caps(b: Builder, process: Process, *, userns: bool, more: int = 0) -> SetCaps:
    possible = _possible(b, userns=userns)
    caps = process.capabilities or Capabilities()
    return SetCaps(caps.effective & possible | more, caps.permitted & possible | more, caps.inheritable & possible)


def _possible(b: Builder, *, userns: bool) -> int:
    """What can be given: a new user namespace comes with every capability over itself, whatever the host's set."""
    all_caps = (1 << b.facts.cap_last + 1) - 1
    return all_caps if userns else all_caps & b.facts.cap_bounding
