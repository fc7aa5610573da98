"""Steps that execute something, or come right before it: hooks, the filter of system calls, the program itself."""

from __future__ import annotations

from corten.launch.ops import Op, errno_text

ETIMEDOUT = 110
# in the words of Go, which runc's texts have
SIGNALS = {
    1: "hangup", 2: "interrupt", 3: "quit", 4: "illegal instruction", 5: "trace/breakpoint trap", 6: "aborted",
    7: "bus error", 8: "floating point exception", 9: "killed", 10: "user defined signal 1", 11: "segmentation fault",
    12: "user defined signal 2", 13: "broken pipe", 14: "alarm clock", 15: "terminated",
}  # fmt: skip


def how_it_ended(status: int, signal: int) -> str:
    """The end of a hook by exit status or, unless 0, by signal, in runc's words."""
    return f"signal: {SIGNALS.get(signal, f'signal {signal}')}" if signal else f"exit status {status}"


class Hook(Op):
    """Run a hook in the container's namespaces and wait for it (config.md, "POSIX-platform Hooks").

    Its stdin is `head`, the child's own pid in decimal, `tail`: the container's state.  A non-zero exit status or the
    timeout (seconds, 0 for none) fails the step; then `detail` is the wait status, or 0 for the timeout and for what
    cannot be executed.  With an exit status comes the end of its output.  `number`: its place in the configuration.
    `home`: HOME as `SetHome` has found it, if it has, joins the environment.
    """

    __slots__ = ("args", "env", "head", "home", "kind", "number", "path", "tail", "timeout_s")
    code, form, order = 53, "slnlbbn", ("path", "args", "home", "env", "head", "tail", "timeout_s")
    joint = ", "

    def __init__(
        self,
        kind: str,
        path: str,
        args: tuple[str, ...],
        env: tuple[str, ...],
        head: bytes,
        tail: bytes,
        timeout_s: int,
        number: int = 0,
        *,
        home: int = 0,
    ) -> None:
        self.kind = kind
        self.path = path
        self.args = args
        self.env = env
        self.head = head
        self.tail = tail
        self.timeout_s = timeout_s
        self.number = number
        self.home = home

    def describe(self) -> str:
        return f"{self.kind} hook {self.path}"

    def failure(self, errno: int, detail: int) -> str:
        if detail:
            why = f"error running hook: {how_it_ended(detail >> 8, detail & 0x7F)}"
        elif errno == ETIMEDOUT:
            why = f"hook ran past specified timeout of {self.timeout_s:.1f}s"
        else:
            why = f"fork/exec {self.path}: {errno_text(errno)}"
        return f"error running hook #{self.number}: {why}"


class Stop(Op):
    """kill(2) of itself: never compiled, a fault test puts it into a plan."""

    __slots__ = ("signal",)
    code, form, order = 54, "n", ("signal",)

    def __init__(self, signal: int) -> None:
        self.signal = signal

    def describe(self) -> str:
        return f"raise signal {self.signal}"


class Seccomp(Op):
    """SECCOMP_SET_MODE_FILTER (seccomp(2)).

    As the last step before `Exec` (`last`) the profile need allow execve alone: the trace is written before.  With
    SECCOMP_FILTER_FLAG_NEW_LISTENER the slot `listener` gets the descriptor of seccomp_unotify(2).
    """

    __slots__ = ("filter", "flags", "last", "listener")
    code, form, order = 55, "bnnd", ("filter", "flags", "last", "listener")

    def __init__(self, filter: bytes, flags: int, last: int = 1, listener: str = "") -> None:
        self.filter = filter
        self.flags = flags
        self.last = last
        self.listener = listener

    def describe(self) -> str:
        text = f"seccomp filter of {len(self.filter) // 8} instructions, flags {self.flags}"
        return f"{text} -> {self.listener}" if self.listener else text


class Exec(Op):
    """execve(2) of the file that `FindExecutable` found.  The sentence is runc's.

    By then nobody may be left to write it: the launcher puts it on stderr, with the text in `texts` of the errno.
    """

    __slots__ = ("args", "env", "errnos", "texts")
    code, form, order = 56, "llgl", ("args", "env", "errnos", "texts")
    exact = True

    def __init__(
        self, args: tuple[str, ...], env: tuple[str, ...], errnos: tuple[int, ...], texts: tuple[str, ...]
    ) -> None:
        self.args = args
        self.env = env
        self.errnos = errnos
        self.texts = texts

    @property
    def place(self) -> str:
        return self.args[0]

    def describe(self) -> str:
        return f"execve {' '.join(map(repr, self.args))}, {len(self.env)} variables"

    def failure(self, errno: int, detail: int) -> str:
        return f"exec {self.args[0]}: {errno_text(errno)}"
