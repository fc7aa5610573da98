"""`run` and `exec`: the verbs that may stay until their process ends, as its stdio, terminal and signals.

Without a terminal the process has our own stdin, stdout and stderr, and only signals are passed on.  With one, the
bytes go through us: our terminal is made raw, and its size follows (`corten.runtime.terminal`).
"""

from __future__ import annotations

import posix
import select

from corten.errors import InvalidArgument
from corten.runtime import commands, container, ending, fast
from corten.runtime.options import ExecOptions
from corten.runtime.settings import root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation, Options
    from corten.runtime.log import Log
    from corten.runtime.terminal import Terminal
    from corten.spec.process import Process

# not passed on: the two that cannot be, our own children, what a defect of ours raises, and what Python ignores
KEPT = frozenset(fast.SIGNALS[name] for name in ("KILL", "STOP", "CHLD", "SEGV", "BUS", "FPE", "ILL", "TRAP", "PIPE"))
SIGWINCH = fast.SIGNALS["WINCH"]
LAST_PLAIN_SIGNAL = 31


class Console:
    """Where the master of a new terminal goes: the caller's socket, ours, or nowhere."""

    __slots__ = ("fd", "ours")

    def __init__(self, path: str, *, wanted: bool, detach: bool) -> None:
        self.ours = None
        self.fd = commands.connect(path)
        if self.fd < 0 and wanted and not detach:
            self.ours, theirs = fast.socket_pair()
            self.fd = theirs.detach()

    def terminal(self) -> Terminal | None:
        """Our end of the terminal, once the process exists."""
        if self.ours is None:
            return None
        from corten.runtime.terminal import Terminal

        return Terminal(fast.receive_fd(self.ours))


def run(invocation: Invocation, log: Log) -> int:
    """Creates and starts a container; in the foreground its exit status, after everything is removed."""
    from corten.runtime.prepare import SPEC, Host, read_config
    from corten.spec.runtime import parse_config

    flags = invocation.options
    options = commands.create_options(invocation, log)
    options.wait_for_start = False
    detach = flags.is_set("detach")
    config = parse_config(fast.loads_from(SPEC, read_config(options.bundle)))
    wanted = config.process is not None and config.process.terminal
    console = Console(flags.text("console-socket"), wanted=wanted, detach=detach)
    options.console_fd = console.fd
    signals = None if detach else Signals()
    made = container.create(options, Host())
    container.run_poststart(made.state)
    if signals is None:
        return 0
    status = stay(made.pidfd, signals, console.terminal())
    if not flags.is_set("keep"):
        for complaint in ending.destroy(made.state):
            log.warning(complaint)
    return status


def exec(invocation: Invocation, log: Log) -> int:
    """Starts another process in a container; in the foreground its exit status."""
    from corten.runtime.prepare import check_console

    flags = invocation.options
    place, id = root(invocation.settings), invocation.arguments[0]
    detach = flags.is_set("detach")
    process = exec_process(place, id, invocation)
    console = Console(flags.text("console-socket"), wanted=process.terminal, detach=detach)
    check_console(process, console.fd)
    signals = None if detach else Signals()
    started = container.exec(
        ExecOptions(
            id,
            place,
            process,
            console_fd=console.fd,
            pid_file=flags.text("pid-file"),
            preserve_fds=commands.preserved(flags),
            ignore_paused=flags.is_set("ignore-paused"),
            cgroup=sub_cgroup(flags),
        )
    )
    return 0 if signals is None else stay(started.pidfd, signals, console.terminal())


def exec_process(place: str, id: str, invocation: Invocation) -> Process:
    """The process of `--process FILE`, or the container's own with the command line's changes."""
    from corten.runtime import exec_process as building

    path = invocation.options.text("process")
    if path:
        return building.from_file(path)
    if len(invocation.arguments) < 2:
        raise InvalidArgument("process args cannot be empty")
    return building.from_flags(container.state(place, id), invocation.arguments[1:], invocation.options)


def sub_cgroup(flags: Options) -> str:
    """The one sub-cgroup of `--cgroup`; a path per controller is refused."""
    given = flags.items("cgroup")
    if len(given) > 1 or any(":" in item for item in given):
        raise InvalidArgument("cgroup: one path for all controllers is supported, not a path for each")
    return given[0] if given else ""


class Signals:
    """Catches every signal that is to be passed on, from before the process exists: none is lost."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd, write_fd = posix.pipe()
        posix.set_blocking(self.fd, False)
        posix.set_blocking(write_fd, False)
        fast.catch_signals([n for n in range(1, LAST_PLAIN_SIGNAL + 1) if n not in KEPT], write_fd)

    def take(self) -> bytes:
        """The numbers of the signals that came, one byte each."""
        try:
            return posix.read(self.fd, 256)
        except BlockingIOError:
            return b""


def stay(pidfd: int, signals: Signals, terminal: Terminal | None) -> int:
    """Passes on signals and bytes until the process ends; its exit status."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(signals.fd, select.POLLIN)
    if terminal is not None:
        terminal.open(poll)
    try:
        while True:
            ready = {fd for fd, _ in poll.poll()}
            for signum in signals.take() if signals.fd in ready else b"":
                _pass_on(pidfd, signum, terminal)
            if terminal is not None:
                terminal.copy(ready, poll)
            if pidfd in ready:
                break
    finally:
        if terminal is not None:
            terminal.close()
    return fast.wait_status(pidfd)


def _pass_on(pidfd: int, signum: int, terminal: Terminal | None) -> None:
    if signum == SIGWINCH and terminal is not None:
        terminal.resize()
        return
    try:
        fast.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return  # it ended meanwhile: the next poll says so
