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
    from corten.runtime.args import Invocation
    from corten.runtime.log import Log
    from corten.runtime.notify import Notify
    from corten.runtime.terminal import Terminal
    from corten.spec.process import Process

# not passed on: the two that cannot be, our own children, what a defect of ours raises, and what Python ignores
KEPT = frozenset(fast.SIGNALS[name] for name in ("KILL", "STOP", "CHLD", "SEGV", "BUS", "FPE", "ILL", "TRAP", "PIPE"))
SIGWINCH = fast.SIGNALS["WINCH"]
SIGCHLD = fast.SIGNALS["CHLD"]
LAST_PLAIN_SIGNAL = 31


class Console:
    """Where the master of a new terminal goes: the caller's socket, ours, or nowhere."""

    __slots__ = ("fd", "ours")

    def __init__(self, path: str, *, wanted: bool, detach: bool) -> None:
        from corten.runtime.prepare import NO_CONSOLE

        if path and not (detach and wanted):
            raise InvalidArgument(NO_CONSOLE)
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
    pidfds = commands.pidfd_socket(flags)
    adopts = not detach and not flags.is_set("no-subreaper") and config.linux.namespace("pid") is None
    signals = None if detach else Signals(adopts=adopts)
    made = container.create(options, Host())
    keep = flags.is_set("keep")
    try:
        if pidfds is not None:
            pidfds.send_init(made.pidfd)
        container.run_poststart(made.state)
        if signals is not None:
            status = stay(made.pidfd, signals, console.terminal(), options.notify)
        elif options.notify is not None:
            options.notify.wait(made.pidfd, made.pid)
    except BaseException:
        ending.take_back(made.state, log.warning, keep=keep)
        raise
    if signals is None:
        return 0
    if not keep:
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
    pidfds = commands.pidfd_socket(flags)
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
            cgroups=sub_cgroups(flags.items("cgroup")),
            warn=log.warning,
        )
    )
    try:
        if pidfds is not None:
            pidfds.send_exec(started.pidfd)
        return 0 if signals is None else stay(started.pidfd, signals, console.terminal())
    except BaseException:
        fast.pidfd_send_signal(started.pidfd, fast.SIGNALS["KILL"])
        raise


def exec_process(place: str, id: str, invocation: Invocation) -> Process:
    """The process of `--process FILE`, or the container's own with the command line's changes."""
    from corten.runtime import exec_process as building

    path = invocation.options.text("process")
    if path:
        return building.from_file(path)
    if len(invocation.arguments) < 2:
        raise InvalidArgument("process args cannot be empty")
    return building.from_flags(container.state(place, id), invocation.arguments[1:], invocation.options)


def sub_cgroups(given: list[str]) -> dict[str, str]:
    """`--cgroup PATH` for all controllers, or `--cgroup CTRL[,CTRL]:PATH` again and again; in runc's words."""
    found: dict[str, str] = {}
    for item in given:
        controllers, colon, path = item.partition(":")
        if ":" in path:
            raise InvalidArgument(f"invalid --cgroup argument: {item}")
        if not colon:
            if len(given) != 1:
                raise InvalidArgument(f"invalid --cgroup argument: {item} (missing <controller>: prefix)")
            return {"": item} if item else {}
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


class Signals:
    """Catches every signal that is to be passed on, from before the process exists: none is lost.

    With `adopts` this process becomes the parent of what the container's processes leave behind, which without a pid
    namespace would be the host's init, and SIGCHLD is caught as well: each is collected when it ends, as by runc.
    """

    __slots__ = ("fd",)

    def __init__(self, *, adopts: bool = False) -> None:
        self.fd, write_fd = posix.pipe()
        posix.set_blocking(self.fd, False)
        posix.set_blocking(write_fd, False)
        caught = [n for n in range(1, LAST_PLAIN_SIGNAL + 1) if n not in KEPT]
        if adopts:
            from corten.sys.prctl import set_child_subreaper

            set_child_subreaper()
            caught.append(SIGCHLD)
        fast.catch_signals(caught, write_fd)

    def take(self) -> bytes:
        """The numbers of the signals that came, one byte each."""
        try:
            return posix.read(self.fd, 256)
        except BlockingIOError:
            return b""


def stay(pidfd: int, signals: Signals, terminal: Terminal | None, notify: Notify | None = None) -> int:
    """Passes on signals, bytes and the news that the process is ready, until it ends; its exit status."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(signals.fd, select.POLLIN)
    if notify is not None:
        poll.register(notify.fileno(), select.POLLIN)
    if terminal is not None:
        terminal.open(poll)
    try:
        while True:
            ready = dict(poll.poll())
            for signum in signals.take() if signals.fd in ready else b"":
                _pass_on(pidfd, signum, terminal)
            if notify is not None and notify.fileno() in ready and notify.take(posix.getpid()):
                poll.unregister(notify.fileno())
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
    if signum == SIGCHLD:
        collect(pidfd)
        return
    try:
        fast.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return  # it ended meanwhile: the next poll says so


def collect(pidfd: int) -> None:
    """Reaps what others left to this process; the process behind `pidfd` is left for its own wait."""
    while True:
        ended = posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        own = posix.waitid(posix.P_PIDFD, pidfd, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        if ended is None or (own is not None and own.si_pid == ended.si_pid):
            return
        posix.waitpid(ended.si_pid, 0)
