"""The end of every plan: from the terminal to execve, the same for a container's init and for an exec.

The order matters (design.md §4): limits, working directory and ownership of stdio need root's rights; then the
bounding set, the ids and capset; the parent-death signal after the last change of ids; waiting for the start;
seccomp; and nothing between seccomp and execve.
"""

from __future__ import annotations

from posix import strerror

from corten.errors import FailedPrecondition, InvalidArgument
from corten.launch.context import SHIM
from corten.launch.ops import (
    CloseRange,
    Exec,
    Hook,
    JoinSessionKeyring,
    Seccomp,
    SetControllingTerminal,
    SetStdio,
    Wait,
    WriteFile,
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
from corten.spec.runtime import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.builder import Builder
    from corten.launch.context import ExecContext, InitContext
    from corten.spec.runtime import Process

CAP_SYS_ADMIN = 1 << 21
SIGKILL = 9
DEFAULT_UMASK = 0o022

# what execve(2) can answer when the file was found: E2BIG, ENOENT (its interpreter), ENOEXEC, …
EXEC_ERRNOS = (1, 2, 5, 7, 8, 12, 13, 20, 21, 22, 26, 40, 80)


def add_process(b: Builder, process: Process, context: InitContext | ExecContext, *, userns: bool) -> None:
    """From stdio to the capabilities: the process is what it will be, but has not waited and not been filtered."""
    if process.terminal:
        b.add(SetStdio("tty"), SetControllingTerminal())
        b.close("tty")
    if context.new_keyring:
        b.add(JoinSessionKeyring(f"_ses.{context.id}"))
    if process.user.uid or userns:
        b.add(ChownStdio(process.user.uid))
    env = environment(process)
    if "HOME" not in env:
        b.add(SetHome(process.user.uid))
    b.add(Chdir(process.cwd))
    if not userns:
        b.add(*[SetRlimit(limit.type, limit.soft, limit.hard) for limit in process.rlimits])
    _add_identity(b, process, with_seccomp=bool(context.seccomp), userns=userns)
    umask = process.user.umask
    b.add(Umask(DEFAULT_UMASK if umask is None else umask))
    b.add(FindExecutable(process.args[0], candidates(process.args[0], env.get("PATH", ""))))


def add_end(b: Builder, process: Process, context: InitContext | ExecContext, *, wait: bool, hooks: list[Hook]) -> None:
    """The parent-death signal, closing, waiting for the start, startContainer hooks, seccomp and execve."""
    if context.parent == SHIM:
        b.add(ParentDeathSignal(SIGKILL))
    b.add(CloseRange(3 + context.preserve_fds))
    b.close_others("start")
    if wait:
        b.add(Wait("start", "start"))
        b.close("start")
    b.add(*hooks)
    if context.seccomp:
        b.add(Seccomp(context.seccomp, context.seccomp_flags))
    env = tuple(f"{name}={value}" for name, value in environment(process).items())
    b.add(Exec(process.args, env, EXEC_ERRNOS, tuple(strerror(n)[:1].lower() + strerror(n)[1:] for n in EXEC_ERRNOS)))


def add_apparmor(b: Builder, process: Process, proc: str) -> None:
    """The profile of the next execve, through a procfs of our own."""
    b.add(WriteFile(proc, "thread-self/attr/apparmor/exec", f"exec {process.apparmor_profile}".encode()))


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


def _add_identity(b: Builder, process: Process, *, with_seccomp: bool, userns: bool) -> None:
    """Bounding set, ids, capabilities, no_new_privs."""
    facts = b.facts
    all_caps = (1 << facts.cap_last + 1) - 1
    # a new user namespace comes with every capability over itself, whatever the host's bounding set
    possible = all_caps if userns else all_caps & facts.cap_bounding
    caps = process.capabilities or Capabilities()
    user = process.user
    b.add(
        DropBounding(caps.bounding & possible, facts.cap_last),
        KeepCaps(),
        SetIds(user.uid, user.gid, user.additional_gids),
        Chdir(process.cwd, again=1),
    )
    # without no_new_privs seccomp(2) wants CAP_SYS_ADMIN; execve takes it away again, because it keeps only what is
    # in the bounding set (root) or ambient (others)
    for_seccomp = CAP_SYS_ADMIN if with_seccomp and not process.no_new_privileges else 0
    b.add(
        SetCaps(
            caps.effective & possible | for_seccomp,
            caps.permitted & possible | for_seccomp,
            caps.inheritable & possible,
        )
    )
    # capabilities(7): no bit can be ambient that is not both permitted and inheritable; runc passes over such bits
    ambient = caps.ambient & caps.permitted & caps.inheritable & possible
    if ambient:
        b.add(RaiseAmbient(ambient))
    if process.no_new_privileges:
        b.add(NoNewPrivs())
