"""The verbs that other programs call all day: create, start, state, kill, delete, pause, resume.

Each takes the parsed command line, makes one call into `corten.runtime.container`, prints what runc prints, and
returns the exit status.
"""

from __future__ import annotations

import posix

from corten import errors
from corten.errors import InvalidArgument, NotFound
from corten.runtime import container, fast
from corten.runtime.options import CreateOptions
from corten.runtime.settings import root
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation, Options
    from corten.runtime.log import Log

STDOUT_FD = 1
DEFAULT_SIGNAL = "TERM"


def create(invocation: Invocation, log: Log) -> int:
    """Everything up to the moment before execve."""
    options = create_options(invocation, log)
    console = connect(invocation.options.text("console-socket"))
    options.console_fd = console
    made = container.create(options)
    log.debug(f"container {made.id} created, init {made.pid}")
    return 0


def create_options(invocation: Invocation, log: Log) -> CreateOptions:
    """The options that `create`, `run` and `plan` share; the console is the caller's."""
    from corten.runtime import defaults

    settings, options = invocation.settings, invocation.options
    limit, origin = defaults.pids_limit(settings)
    return CreateOptions(
        invocation.arguments[0],
        root(settings),
        files.absolute(options.text("bundle") or posix.getcwd()),
        pid_file=options.text("pid-file"),
        preserve_fds=preserved(options),
        no_pivot=options.is_set("no-pivot"),
        no_new_keyring=options.is_set("no-new-keyring"),
        default_pids_limit=limit,
        default_pids_limit_origin=origin,
        manager=cgroup_manager(settings),
        warn=log.warning,
    )


def preserved(options: Options) -> int:
    """How many descriptors from 3 on go to the process; raises InvalidArgument when one is not open."""
    count = options.number("preserve-fds")
    for fd in range(3, 3 + count):
        if not files.exists(f"/proc/self/fd/{fd}"):
            raise InvalidArgument(f"preserve-fds: descriptor {fd} is not open")
    return count


def cgroup_manager(settings: Options) -> str:
    """Who is to make the cgroups; raises NotImplemented for a manager that is not there."""
    manager = settings.text("cgroup-manager") or ("systemd" if settings.is_set("systemd-cgroup") else "cgroupfs")
    if manager == "systemd":
        if not files.is_directory("/run/systemd/system"):
            raise errors.NotImplemented("systemd cgroup manager requested, but systemd is not running on this machine")
        raise errors.NotImplemented("the systemd cgroup manager is not supported yet: use cgroupfs")
    if manager not in ("cgroupfs", "disabled"):
        raise InvalidArgument(f"unknown cgroup manager {manager!r}")
    return manager


def connect(path: str) -> int:
    """A stream connected to the unix socket at `path`, -1 for ''; raises NotFound."""
    if not path:
        return -1
    try:
        return fast.connect_unix(files.absolute(path))
    except OSError as error:
        raise NotFound(f"console socket {path}: {files.why(error)}") from error


def start(invocation: Invocation, log: Log) -> int:
    """Lets a created container execute its process."""
    container.start(root(invocation.settings), invocation.arguments[0])
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
    signum = fast.signal_number(rest[0] if rest else DEFAULT_SIGNAL)
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
    container.pause(root(invocation.settings), invocation.arguments[0])
    return 0


def resume(invocation: Invocation, log: Log) -> int:
    """Thaws a container."""
    container.resume(root(invocation.settings), invocation.arguments[0])
    return 0
