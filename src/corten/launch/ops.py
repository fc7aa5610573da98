"""The steps that a launch plan is made of: descriptors, namespaces, the conversation with the parent.

An op is a value named after the man page of the call it makes.  No op holds a choice: a fallback is another plan
(design.md §4).  The steps that change the file system are in `corten.launch.mountops`, those that make the process
what its user may be in `corten.launch.userops`, those that execute something in `corten.launch.execops`.  `form` gives
the encoding of the fields, one letter each (see `corten.launch.encode`); `code` is the op's place in the launcher's
table (`launcher/ops.h`); a test compares the two.

Descriptors are named, not numbered: a *slot* is a name such as `rootfs`, which `encode` turns into an index of the
launcher's table.  A slot is filled by one op or handed in by the spawner (`Plan.inputs`).

After `Clone` the launcher itself only runs the ops whose `side` is `LAUNCHER`, then exits; the child runs the others.
"""

from __future__ import annotations

from posix import strerror

from corten.spec.reader import Value

CHILD, LAUNCHER = 0, 1

# open(2)
O_WRONLY, O_NONBLOCK, O_DIRECTORY, O_PATH = 0o1, 0o4000, 0o200000, 0o10000000

# clone(2), in the order in which they are printed
CLONE_FLAGS = (
    (0x00020000, "mnt"), (0x04000000, "uts"), (0x08000000, "ipc"), (0x20000000, "pid"), (0x40000000, "net"),
    (0x02000000, "cgroup"), (0x10000000, "user"), (0x00000080, "time"),
)  # fmt: skip
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWTIME = (
    flag for flag, _ in CLONE_FLAGS
)


class Op(Value):
    """One step.  Fields are the slots of the class, in order of `form`; `joint` goes before what explains a failure."""

    __slots__: tuple[str, ...] = ()
    code = 0
    form = ""
    order: tuple[str, ...] = ()
    side = CHILD
    exact = False
    joint = ": "

    def fields(self) -> tuple[object, ...]:
        """The values to encode, one for each letter of `form`."""
        return tuple([getattr(self, name) for name in self.order])

    def describe(self) -> str:
        """One line for people, without a line break; by default the name alone."""
        return type(self).__name__

    @property
    def place(self) -> str:
        """The path that the step is about, as the configuration has it; '' for a step about none."""
        return str(getattr(self, "path", "") or getattr(self, "on", ""))

    def failure(self, errno: int, detail: int) -> str:
        """The sentence for a failure with `errno` here; `detail` is the number that came with it, 0 for most ops."""
        return f"{self.describe()}: {errno_text(errno)}"


class Plan(Value):
    """A whole start: ops in order, the slots that the spawner hands in, and what the launched process keeps open.

    `preserve_fds` is the number of descriptors from 3 on that the process inherits.
    """

    __slots__ = ("inputs", "ops", "preserve_fds")

    def __init__(self, ops: tuple[Op, ...], inputs: tuple[str, ...], preserve_fds: int = 0) -> None:
        self.ops = ops
        self.inputs = inputs
        self.preserve_fds = preserve_fds

    def clone_index(self) -> int:
        """Where the child begins: what comes before is the launcher's; 0 in a plan without a child."""
        return next((i for i, op in enumerate(self.ops) if isinstance(op, Clone)), 0)

    def describe(self) -> str:
        """The plan as text, a numbered line for each op."""
        return "".join(f"{i:3}  {op.describe()}\n" for i, op in enumerate(self.ops, 1))


def errno_text(errno: int) -> str:
    """The C library's text for an errno, with a small first letter."""
    text = strerror(errno)
    return text[:1].lower() + text[1:]


def clone_names(flags: int) -> str:
    """Names of the namespaces in clone(2) flags: `mnt uts pid`."""
    return " ".join(name for flag, name in CLONE_FLAGS if flags & flag)


class SetDumpable(Op):
    """PR_SET_DUMPABLE(0): nobody in a container may look at the launcher (prctl(2))."""

    code, form = 1, ""

    def describe(self) -> str:
        return "prctl dumpable off"


class JoinCgroup(Op):
    """Write `0` to the `tasks` (v1) or `cgroup.procs` (v2) file of a cgroup, by host path (cgroups(7))."""

    __slots__ = ("path",)
    code, form, order = 2, "s", ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"join cgroup {self.path}"


class Open(Op):
    """Open a path of the host; `flags` as in open(2), close-on-exec is added."""

    __slots__ = ("flags", "path", "slot")
    code, form, order = 3, "dsn", ("slot", "path", "flags")

    def __init__(self, slot: str, path: str, flags: int) -> None:
        self.slot = slot
        self.path = path
        self.flags = flags

    def describe(self) -> str:
        return f"open {self.path} -> {self.slot}"


class Fchdir(Op):
    """fchdir(2): the working directory of the launcher, or of a child that is still on the host."""

    __slots__ = ("slot",)
    code, form, order = 68, "d", ("slot",)

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"fchdir {self.slot}"


class OpenDevice(Op):
    """Open a character device by path only, and check its number, so that nothing else can stand in for it.

    The path is the process's own, or beneath the slot `root`.
    """

    __slots__ = ("major", "minor", "path", "root", "slot")
    code, form, order = 4, "ddsnn", ("slot", "root", "path", "major", "minor")

    def __init__(self, slot: str, root: str, path: str, major: int, minor: int) -> None:
        self.slot = slot
        self.root = root
        self.path = path
        self.major = major
        self.minor = minor

    def describe(self) -> str:
        where = f"{self.root}:" if self.root else ""
        return f"open device {where}{self.path}, check {self.major}:{self.minor} -> {self.slot}"


class Unshare(Op):
    """unshare(2)."""

    __slots__ = ("flags",)
    code, form, order = 16, "n", ("flags",)

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def describe(self) -> str:
        return f"unshare {clone_names(self.flags)}"


class Setns(Op):
    """setns(2) by the descriptor of a namespace (one flag) or of a process (any set of flags).

    `path` is where the namespace was found, for the sentence; a namespace of another kind is EINVAL.
    """

    __slots__ = ("flags", "path", "slot")
    code, form, order = 17, "dn", ("slot", "flags")

    def __init__(self, slot: str, flags: int, path: str = "") -> None:
        self.slot = slot
        self.flags = flags
        self.path = path

    def describe(self) -> str:
        return f"setns {self.slot} {clone_names(self.flags)}"

    def failure(self, errno: int, detail: int) -> str:
        if not self.path:
            return super().failure(errno, detail)
        return f"failed to setns into {clone_names(self.flags)} namespace {self.path}: {errno_text(errno)}"


class Clone(Op):
    """clone3(2) with CLONE_PARENT: the child is the spawner's; `cgroup` is a slot for CLONE_INTO_CGROUP or ''.

    With CLONE_PARENT the kernel gives the child the launcher's own exit signal, SIGCHLD: the spawner waits for it as
    for any child (tried with waitid(P_PIDFD) and waitpid, no __WALL needed).
    """

    __slots__ = ("cgroup", "flags")
    code, form, order = 18, "nd", ("flags", "cgroup")

    def __init__(self, flags: int, cgroup: str = "") -> None:
        self.flags = flags
        self.cgroup = cgroup

    def describe(self) -> str:
        names = clone_names(self.flags)
        return "clone3" + (f" {names}" if names else "") + (f" into {self.cgroup}" if self.cgroup else "")


class CloneLegacy(Clone):
    """clone(2) with CLONE_PARENT: a `Clone` under a filter that answers clone3(2) with ENOSYS; knows no `cgroup`.

    The launcher is over: no op of its side may follow.
    """

    __slots__ = ()
    code = 59

    def describe(self) -> str:
        return " ".join(filter(None, ("clone", clone_names(self.flags))))


class CloneLauncher(Op):
    """clone3(2) with CLONE_PARENT and CLONE_INTO_CGROUP: the launcher goes on in the cgroup, and the old one is over.

    A write to `cgroup.procs` would stall for milliseconds.  Both are children of the spawner, in a process group that
    has the old one's pid; they share their memory, as in vfork(2), and the old one ends behind the new one.
    """

    __slots__ = ("cgroup",)
    code, form, order = 58, "d", ("cgroup",)

    def __init__(self, cgroup: str) -> None:
        self.cgroup = cgroup

    def describe(self) -> str:
        return f"clone3 into {self.cgroup}, the launcher goes on there"


class Pipe(Op):
    """pipe2(2) between launcher and child."""

    __slots__ = ("read", "write")
    code, form, order = 19, "dd", ("read", "write")

    def __init__(self, read: str, write: str) -> None:
        self.read = read
        self.write = write

    def describe(self) -> str:
        return f"pipe2 -> {self.read}, {self.write}"


class WriteIdMaps(Op):
    """The launcher writes uid_map, gid_map and, with `deny`, setgroups of the child (user_namespaces(7))."""

    __slots__ = ("deny", "gid_map", "proc", "uid_map")
    code, form, order = 20, "dssn", ("proc", "uid_map", "gid_map", "deny")
    side = LAUNCHER

    def __init__(self, proc: str, uid_map: str, gid_map: str, deny: int = 0) -> None:
        self.proc = proc
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.deny = deny

    def describe(self) -> str:
        maps = [text.strip().replace("\n", ", ") for text in (self.uid_map, self.gid_map)]
        return f"launcher: write id maps of the child: uid {maps[0]}; gid {maps[1]}"


class SendByte(Op):
    """The launcher tells the child to go on."""

    __slots__ = ("slot",)
    code, form, order = 21, "d", ("slot",)
    side = LAUNCHER

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"launcher: send a byte to {self.slot}"


class WaitByte(Op):
    """The child waits for the launcher; fails with EPIPE when the launcher is gone (`closing` is its write end).

    Or the launcher for its spawner, without a report: there is no child yet; `what` tells which it is.
    """

    __slots__ = ("closing", "slot", "what")
    code, form, order = 22, "dd", ("slot", "closing")

    def __init__(self, slot: str, closing: str, what: str = "the launcher") -> None:
        self.slot = slot
        self.closing = closing
        self.what = what

    def describe(self) -> str:
        return f"wait for {self.what} on {self.slot}"


class Wait(Op):
    """Report that the step is reached and wait for a byte from the spawner; `why` names what happens meanwhile."""

    __slots__ = ("slot", "why")
    code, form, order = 23, "d", ("slot",)

    def __init__(self, slot: str, why: str) -> None:
        self.slot = slot
        self.why = why

    def describe(self) -> str:
        return f"wait for {self.why} on {self.slot}"


class Close(Op):
    """Close descriptors of the launcher's table; slots that are not open are passed over."""

    __slots__ = ("slots",)
    code, form, order = 24, "D", ("slots",)

    def __init__(self, slots: tuple[str, ...]) -> None:
        self.slots = slots

    def describe(self) -> str:
        return f"close {', '.join(self.slots)}"


class Write(Op):
    """write(2) to an open descriptor, all or nothing."""

    __slots__ = ("data", "slot")
    code, form, order = 25, "db", ("slot", "data")

    def __init__(self, slot: str, data: bytes) -> None:
        self.slot = slot
        self.data = data

    def describe(self) -> str:
        return f"write {self.data.decode(errors='backslashreplace')!r} to {self.slot}"


class WriteFile(Op):
    """Write a file beneath a descriptor; there is no form with an absolute path (openat2(2), RESOLVE_BENEATH)."""

    __slots__ = ("data", "path", "slot")
    code, form, order = 26, "dsb", ("slot", "path", "data")

    def __init__(self, slot: str, path: str, data: bytes) -> None:
        self.slot = slot
        self.path = path
        self.data = data

    def describe(self) -> str:
        return f"write {self.data.decode(errors='backslashreplace')!r} to {self.slot}:{self.path}"


class Setsid(Op):
    """setsid(2)."""

    code, form = 27, ""

    def describe(self) -> str:
        return "setsid"


class JoinSessionKeyring(Op):
    """A new session keyring, searchable by its user (keyctl(2)); a kernel without keys is no failure."""

    __slots__ = ("name",)
    code, form, order = 28, "s", ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"keyctl join session {self.name}"


class LoopbackUp(Op):
    """Bring `lo` up in a new network namespace (netdevice(7))."""

    code, form = 29, ""

    def describe(self) -> str:
        return "link lo up"


class SendFd(Op):
    """Send the descriptor in `slot` over a connected unix socket, with `data` (unix(7), SCM_RIGHTS)."""

    __slots__ = ("data", "slot", "socket")
    code, form, order = 34, "ddb", ("socket", "slot", "data")

    def __init__(self, socket: str, slot: str, data: bytes) -> None:
        self.socket = socket
        self.slot = slot
        self.data = data

    def describe(self) -> str:
        return f"send {self.slot} over {self.socket}"


class SetStdio(Op):
    """dup2(2) of one descriptor to 0, 1 and 2."""

    __slots__ = ("slot",)
    code, form, order = 36, "d", ("slot",)

    def __init__(self, slot: str) -> None:
        self.slot = slot

    def describe(self) -> str:
        return f"{self.slot} as stdin, stdout, stderr"


class SetControllingTerminal(Op):
    """TIOCSCTTY on stdin (ioctl_tty(2))."""

    code, form = 37, ""

    def describe(self) -> str:
        return "stdin as controlling terminal"


class CloseRange(Op):
    """Close-on-exec for every descriptor from `first` on (close_range(2))."""

    __slots__ = ("first",)
    code, form, order = 5, "n", ("first",)

    def __init__(self, first: int) -> None:
        self.first = first

    def describe(self) -> str:
        return f"close_range {self.first} to the last, on exec"
