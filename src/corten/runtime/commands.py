"""The verbs that other programs call all day: create, start, state, kill, delete, pause, resume.

Each takes the parsed command line, makes one call into `corten.runtime.container`, prints what runc prints, and
returns the exit status.
"""

from __future__ import annotations

import posix

from corten.errors import CortenError, InvalidArgument, NotFound
from corten.runtime import args, container, ending, fast, managers
from corten.runtime.options import CreateOptions
from corten.runtime.settings import in_user_namespace, root
from corten.runtime.state import allow
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation, Options
    from corten.runtime.log import Log
    from corten.runtime.notify import Notify
    from corten.runtime.pidfds import PidfdSocket

STDOUT_FD = 1
DEFAULT_SIGNAL = "TERM"


def create(invocation: Invocation, log: Log) -> int:
    """Everything up to the moment before execve."""
    options = create_options(invocation, log)
    options.console_fd = connect(invocation.options.text("console-socket"))
    pidfds = pidfd_socket(invocation.options)
    made = container.create(options)
    if pidfds is not None:
        try:
            pidfds.send_init(made.pidfd)
        except CortenError:
            ending.take_back(made.state, log.warning)
            raise
    log.debug(f"container {made.id} created, init {made.pid}")
    return 0


def create_options(invocation: Invocation, log: Log) -> CreateOptions:
    """The options that `create`, `run` and `plan` share; the console is the caller's."""
    from corten.runtime import defaults

    settings, options = invocation.settings, invocation.options
    node = defaults.of(settings)
    listening = activated()
    return CreateOptions(
        invocation.arguments[0],
        root(settings),
        files.absolute(options.text("bundle") or posix.getcwd()),
        pid_file=options.text("pid-file"),
        preserve_fds=listening + preserved(options, listening),
        no_pivot=options.is_set("no-pivot"),
        no_new_keyring=options.is_set("no-new-keyring"),
        default_pids_limit=node.pids_limit,
        default_pids_limit_origin=node.pids_limit_origin,
        manager=cgroup_manager(settings),
        warn=log.warning,
        node=node.node,
        extra_env=(f"LISTEN_FDS={listening}", "LISTEN_PID=1") if listening else (),
        notify=notifier(),
    )


def preserved(options: Options, before: int = 0) -> int:
    """How many descriptors go to the process, from 3 on and behind those of `before`; raises InvalidArgument."""
    count = max(0, options.number("preserve-fds"))  # less than none is none, as by runc
    first = 3 + before
    for fd in range(first, first + count):
        if not files.exists(f"/proc/self/fd/{fd}"):
            raise InvalidArgument(
                f"unable to stat preserved-fd {fd - first} (of {count}): "
                f"stat /proc/self/fd/{fd}: no such file or directory"
            )
    return count


def activated() -> int:
    """How many sockets a service manager opened for this process, from descriptor 3 on (sd_listen_fds(3))."""
    environment = posix.environ
    if environment.get(b"LISTEN_PID") != b"%d" % posix.getpid():
        return 0
    count = environment.get(b"LISTEN_FDS", b"")
    return int(count) if count.isdigit() else 0


def notifier() -> Notify | None:
    """The way to a service manager that waits for the container's process to be ready."""
    if not posix.environ.get(b"NOTIFY_SOCKET"):
        return None
    from corten.runtime.notify import Notify

    return Notify()


def pidfd_socket(options: Options) -> PidfdSocket | None:
    """Who is to get the new process's pidfd."""
    path = options.text("pidfd-socket")
    if not path:
        return None
    from corten.runtime.pidfds import PidfdSocket

    return PidfdSocket(path)


def cgroup_manager(settings: Options) -> str:
    """Who is to make the cgroups."""
    manager = settings.text("cgroup-manager") or ("systemd" if settings.is_set("systemd-cgroup") else "cgroupfs")
    if manager not in ("cgroupfs", "systemd", "disabled"):
        raise InvalidArgument(f"unknown cgroup manager {manager!r}")
    return managers.ROOTLESS if manager == managers.CGROUPFS and is_rootless(settings) else manager


def warn_of_cgroups(invocation: Invocation, log: Log) -> None:
    """runc's warning before what needs a cgroup of the container's own."""
    if is_rootless(invocation.settings):
        log.warning(f"{args.PROGRAM} {invocation.verb} may fail if you don't have the full access to cgroups")


def is_rootless(settings: Options) -> bool:
    """Whether cgroups may fail: as `--rootless` says, else for an ordinary user, and in a user namespace."""
    said = settings.text("rootless", "auto")
    if said != "auto":
        return said == "true"
    return posix.geteuid() != 0 or in_user_namespace()


def connect(path: str) -> int:
    """A stream connected to the unix socket at `path`, -1 for ''; raises NotFound."""
    if not path:
        return -1
    try:
        return fast.connect_in_time(files.absolute(path))
    except OSError as error:
        raise NotFound(f"console socket {path}: {files.why(error)}") from error


def start(invocation: Invocation, log: Log) -> int:
    """Lets a created container execute its process."""
    place, id = root(invocation.settings), invocation.arguments[0]
    notify = notifier()
    if notify is None:
        container.start(place, id, warn=log.warning)
        return 0
    record = container.state(place, id)
    allow("start", id, record.status())
    has_socket = notify.bind(record.directory)
    pidfd = record.open_pidfd()
    container.start(place, id, warn=log.warning)
    if has_socket and pidfd >= 0:
        notify.wait(pidfd, record.pid)
    return 0


def state(invocation: Invocation, log: Log) -> int:
    """Prints the state of one container."""
    record = container.state(root(invocation.settings), invocation.arguments[0])
    files.write_all(STDOUT_FD, encode(fast.dumps_indented(record.listing(record.status(), ""))))
    return 0


def encode(text: str) -> bytes:
    """Text for stdout; bytes that were not UTF-8 in the bundle come out as they were."""
    return text.encode("utf-8", "surrogateescape")


def kill(invocation: Invocation, log: Log) -> int:
    """Signals the init, or every process."""
    id, *rest = invocation.arguments
    signum = fast.signal_number((rest and rest[0]) or DEFAULT_SIGNAL)
    container.kill(root(invocation.settings), id, signum, all=invocation.options.is_set("all"))
    return 0


def delete(invocation: Invocation, log: Log) -> int:
    """Removes a container."""
    force = invocation.options.is_set("force")
    for complaint in container.delete(root(invocation.settings), invocation.arguments[0], force=force):
        log.warning(complaint)
    return 0


def pause(invocation: Invocation, log: Log) -> int:
    """Freezes a container."""
    warn_of_cgroups(invocation, log)
    container.pause(root(invocation.settings), invocation.arguments[0])
    return 0


def resume(invocation: Invocation, log: Log) -> int:
    """Thaws a container."""
    warn_of_cgroups(invocation, log)
    container.resume(root(invocation.settings), invocation.arguments[0])
    return 0
