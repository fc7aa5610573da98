"""The steps of a launch plan that make the process what its user may be: names, limits, ids, capabilities, program.

See `corten.launch.ops` for what an op is.
"""

from __future__ import annotations

from corten.launch.ops import Op, errno_text
from corten.spec.process import CAPABILITIES, RLIMITS


def capability_names(mask: int) -> str:
    """Names of the capabilities in a bit mask, without `CAP_`, `none` or `all 41` where that is shorter."""
    names = [name[4:].lower() for i, name in enumerate(CAPABILITIES) if mask >> i & 1]
    if len(names) == len(CAPABILITIES):
        return f"all {len(names)}"
    return " ".join(names) or "none"


class SetHostname(Op):
    """sethostname(2)."""

    __slots__ = ("name",)
    code, form, order = 38, "s", ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"sethostname {self.name}"


class SetDomainname(Op):
    """setdomainname(2)."""

    __slots__ = ("name",)
    code, form, order = 39, "s", ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"setdomainname {self.name}"


class SetRlimit(Op):
    """prlimit(2) of the process itself.  The sentence is runc's."""

    __slots__ = ("hard", "resource", "soft")
    code, form, order = 40, "nnn", ("resource", "soft", "hard")
    exact = True

    def __init__(self, resource: int, soft: int, hard: int) -> None:
        self.resource = resource
        self.soft = soft
        self.hard = hard

    def describe(self) -> str:
        return f"setrlimit {RLIMITS[self.resource][7:].lower()} {self.soft} {self.hard}"

    def failure(self, errno: int, detail: int) -> str:
        return (
            f"error setting rlimits for ready process: error setting rlimit type {self.resource}: {errno_text(errno)}"
        )


class Umask(Op):
    """umask(2)."""

    __slots__ = ("mask",)
    code, form, order = 41, "n", ("mask",)

    def __init__(self, mask: int) -> None:
        self.mask = mask

    def describe(self) -> str:
        return f"umask {self.mask:04o}"


class SetIds(Op):
    """setgroups(2) (not when `groups` is None: a user namespace may forbid it), setresgid(2), setresuid(2)."""

    __slots__ = ("gid", "groups", "uid")
    code, form = 42, "nnng"

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...] | None) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups

    def fields(self) -> tuple[object, ...]:
        return (self.uid, self.gid, int(self.groups is not None), self.groups or ())

    def describe(self) -> str:
        groups = "kept" if self.groups is None else " ".join(map(str, self.groups)) or "none"
        return f"setresuid {self.uid}, setresgid {self.gid}, groups {groups}"


class ChownStdio(Op):
    """Give stdin, stdout and stderr to the user, so that /dev/stdout can be opened; never /dev/null (fchown(2))."""

    __slots__ = ("uid",)
    code, form, order = 43, "n", ("uid",)

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def describe(self) -> str:
        return f"fchown stdio {self.uid}"


class ReopenNull(Op):
    """Replace each of stdin, stdout and stderr that is /dev/null by the container's own: none leads to a mount of the
    host, which CRIU could not name.  Where the container has no such device, nothing changes.
    """

    __slots__ = ("root",)
    code, form, order = 69, "d", ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def describe(self) -> str:
        return f"reopen /dev/null of {self.root} as stdio"


class KeepCaps(Op):
    """PR_SET_KEEPCAPS(1): capabilities survive the change of ids (prctl(2))."""

    code, form = 44, ""

    def describe(self) -> str:
        return "prctl keepcaps on"


class DropBounding(Op):
    """PR_CAPBSET_DROP of every capability up to `last` that is not in `keep` (capabilities(7))."""

    __slots__ = ("keep", "last")
    code, form, order = 45, "nn", ("keep", "last")

    def __init__(self, keep: int, last: int) -> None:
        self.keep = keep
        self.last = last

    def describe(self) -> str:
        return f"bounding set: {capability_names(self.keep)}"


class SetCaps(Op):
    """capset(2); the masks are by capability number."""

    __slots__ = ("effective", "inheritable", "permitted")
    code, form, order = 46, "nnn", ("effective", "permitted", "inheritable")

    def __init__(self, effective: int, permitted: int, inheritable: int) -> None:
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable

    def describe(self) -> str:
        return (
            f"capset effective: {capability_names(self.effective)}; permitted: {capability_names(self.permitted)};"
            f" inheritable: {capability_names(self.inheritable)}"
        )


class RaiseAmbient(Op):
    """PR_CAP_AMBIENT_RAISE of each capability in the mask (capabilities(7))."""

    __slots__ = ("mask",)
    code, form, order = 47, "n", ("mask",)

    def __init__(self, mask: int) -> None:
        self.mask = mask

    def describe(self) -> str:
        return f"ambient set: {capability_names(self.mask)}"


class NoNewPrivs(Op):
    """PR_SET_NO_NEW_PRIVS(1) (prctl(2))."""

    code, form = 48, ""

    def describe(self) -> str:
        return "prctl no_new_privs"


class ParentDeathSignal(Op):
    """PR_SET_PDEATHSIG, after the last change of ids; ESRCH when the parent died before.

    getppid(2) cannot tell: it is 0 for a parent outside the pid namespace, dead or not.  Two descriptors can.  The
    slot `life` becomes readable when the parent dies.  The trace pipe loses its reader when whoever follows the launch
    dies, and with him `life` may never tell any more.
    """

    __slots__ = ("life", "signal")
    code, form, order = 49, "nd", ("signal", "life")

    def __init__(self, signal: int, life: str) -> None:
        self.signal = signal
        self.life = life

    def describe(self) -> str:
        return f"prctl pdeathsig {self.signal}, check that the parent is alive"


class Chdir(Op):
    """chdir(2), then getcwd(2) must lie inside the root (CVE-2024-21626).  The sentences are runc's.

    There are two of them: the first with root's rights, where EACCES is passed over; `again` with the user's, which
    acts only then (a network file system may admit the user alone).
    """

    __slots__ = ("again", "path")
    code, form, order = 50, "sn", ("path", "again")
    exact = True

    def __init__(self, path: str, again: int = 0) -> None:
        self.path = path
        self.again = again

    def describe(self) -> str:
        return f"chdir {self.path}, check that it is inside the root{', if refused before' if self.again else ''}"

    def failure(self, errno: int, detail: int) -> str:
        if detail:
            return "current working directory is outside of container mount namespace root"
        return f'chdir to cwd ("{self.path}") set in config.json failed: {errno_text(errno)}'


class FindExecutable(Op):
    """The first of `candidates` that is a file with an execute bit, which `Exec` will use.  The sentences are Go's."""

    __slots__ = ("candidates", "name")
    code, form, order = 51, "l", ("candidates",)
    exact = True

    def __init__(self, name: str, candidates: tuple[str, ...]) -> None:
        self.name = name
        self.candidates = candidates

    @property
    def place(self) -> str:
        return self.name

    def describe(self) -> str:
        return f"find executable {self.name} in {' '.join(self.candidates) or 'nothing'}"

    def failure(self, errno: int, detail: int) -> str:
        if "/" not in self.name:
            return f'exec: "{self.name}": executable file not found in $PATH'
        if detail:
            return f'exec: "{self.name}": {errno_text(errno)}'
        return f'exec: "{self.name}": stat {self.name}: {errno_text(errno)}'


class SetHome(Op):
    """Add HOME to the environment, from the container's /etc/passwd by uid, `/` where it has no line."""

    __slots__ = ("uid",)
    code, form, order = 52, "n", ("uid",)

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def describe(self) -> str:
        return f"HOME of uid {self.uid} from /etc/passwd"
