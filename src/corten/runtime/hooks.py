"""Host-side hooks of a container's life cycle: prestart, createRuntime, poststart, poststop.

They run in the runtime's own namespaces, with the bundle as directory and the state on stdin.  createContainer and
startContainer are ops of the launch plan.  Sources: runtime-spec config.md, "POSIX-platform Hooks"; the texts are
runc's.
"""

from __future__ import annotations

import _thread
import posix
import select
import time

from corten.errors import FailedPrecondition
from corten.launch.execops import how_it_ended
from corten.runtime import fast
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from corten.spec.runtime import Hook

OUTPUT_LIMIT_BYTES = 4096
SIGKILL = 9
# Python ignores SIGPIPE and SIGXFSZ, a shell's background job SIGINT and SIGQUIT: a hook must inherit none of it;
# without SIGKILL and SIGSTOP, and what glibc keeps for itself
DEFAULT_SIGNALS = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33))


_directory_lock = _thread.allocate_lock()  # a process has one working directory, and a helper several threads


def to_objs(hooks: Iterable[Hook]) -> list[dict[str, Any]]:
    """Hooks as state.json keeps them."""
    return [
        {"path": h.path, "args": list(h.args), "env": None if h.env is None else list(h.env), "timeout": h.timeout_s}
        for h in hooks
    ]


def run_all(hooks: Sequence[dict[str, Any]], state: dict[str, Any], directory: str, abort_fd: int = -1) -> None:
    """Runs hooks (as `to_objs` gives them) in order; raises FailedPrecondition for the first that fails.

    When `abort_fd` becomes readable the hook that runs is killed, and has failed.
    """
    for index, hook in enumerate(hooks):
        try:
            run(hook, fast.dump_bytes(state), directory, abort_fd)
        except FailedPrecondition as error:
            raise FailedPrecondition(f"error running hook #{index}: {error}") from error


def run(hook: dict[str, Any], state: bytes, directory: str, abort_fd: int = -1) -> None:
    """Runs one hook and waits for it, at most its timeout in seconds; then it is killed."""
    stdin = posix.memfd_create("state", posix.MFD_CLOEXEC)  # a pipe might fill up before anybody reads
    files.write_all(stdin, state)
    posix.lseek(stdin, 0, 0)
    out_read, out_write = posix.pipe()
    err_read, err_write = posix.pipe()
    try:
        pid = _spawn(hook, directory, (stdin, out_write, err_write))
    except OSError as error:
        posix.close(out_read)
        posix.close(err_read)
        raise FailedPrecondition(f"fork/exec {hook['path']}: {files.why(error)}") from error
    finally:
        for fd in (stdin, out_write, err_write):
            posix.close(fd)
    _follow(pid, hook["timeout"], (out_read, err_read), abort_fd)


def _spawn(hook: dict[str, Any], directory: str, stdio: tuple[int, int, int]) -> int:
    """Starts the program; every descriptor but stdio is closed in it."""
    actions: list[tuple[Any, ...]] = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
    for entry in posix.listdir("/proc/self/fd"):
        if int(entry) > 2 and _is_inheritable(int(entry)):
            actions.append((posix.POSIX_SPAWN_CLOSE, int(entry)))
    # a row that begins with the equals sign has no name, which posix_spawn does not take
    env: dict[Any, Any] = dict(item.split("=", 1) for item in hook["env"] or () if "=" in item and item[:1] != "=")
    if hook["env"] is None:
        # the runtime's own, as runc and crun have it; in `environ` the interpreter has set LC_CTYPE (PEP 538)
        rows = files.read("/proc/self/environ").split(b"\0")
        env = dict(row.split(b"=", 1) for row in rows if b"=" in row and row[:1] != b"=")
    argv = hook["args"] or [hook["path"]]
    with _directory_lock:
        before = posix.open(".", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        try:
            posix.chdir(directory)
            return posix.posix_spawn(
                hook["path"], argv, env, file_actions=actions, setsigmask=(), setsigdef=DEFAULT_SIGNALS
            )
        finally:
            posix.fchdir(before)
            posix.close(before)


def _is_inheritable(fd: int) -> bool:
    try:
        return posix.get_inheritable(fd)
    except OSError:
        return False  # the descriptor of the listing itself


def _follow(pid: int, timeout_s: int, outputs: tuple[int, int], abort_fd: int) -> None:
    """Gathers output and waits for the exit; kills at the timeout; raises when either went wrong."""
    gathered = dict.fromkeys(outputs, b"")
    deadline = time.monotonic() + timeout_s if timeout_s else None
    timed_out = given_up = False
    pidfd = posix.pidfd_open(pid)
    poll = select.poll()
    for fd in (pidfd, *outputs, *([abort_fd] if abort_fd >= 0 else [])):
        poll.register(fd, select.POLLIN)
    ready: set[int] = set()
    while pidfd not in ready:
        ready = {fd for fd, _ in poll.poll(fast.poll_ms(deadline))}
        if deadline is not None and time.monotonic() >= deadline:  # whether or not it has something to say
            timed_out, deadline = pidfd not in ready, None
            posix.kill(pid, SIGKILL)
        if abort_fd in ready:
            given_up = True
            poll.unregister(abort_fd)
            posix.kill(pid, SIGKILL)
        # in the last round one read of a pipe takes all that the hook wrote; a grandchild's output is not waited for
        for fd in ready.intersection(outputs):
            data = posix.read(fd, files.CHUNK_BYTES)
            gathered[fd] = (gathered[fd] + data)[-OUTPUT_LIMIT_BYTES:]
            if not data:
                poll.unregister(fd)
    status = fast.wait_status(pidfd)
    for fd in (pidfd, *outputs):
        posix.close(fd)
    if given_up:
        raise FailedPrecondition("hook was killed: nobody waits for it any more")
    if timed_out:
        raise FailedPrecondition(f"hook ran past specified timeout of {timeout_s:.1f}s")
    if status:
        out, err = (gathered[fd].decode("utf-8", "replace") for fd in outputs)
        reason = how_it_ended(status, status - 128 if status >= 128 else 0)
        raise FailedPrecondition(f"error running hook: {reason}, stdout: {out}, stderr: {err}")
