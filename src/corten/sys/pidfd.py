"""Processes by descriptor: `pidfd_open(2)`, waiting and signalling without a race on the number."""

from __future__ import annotations

import os
import select
import signal

_WALL = 0x40000000  # also wait for a child whose exit signal is not SIGCHLD (waitpid(2), "Linux notes")


def open_process(pid: int) -> int:
    """A close-on-exec descriptor that becomes readable when the process is dead."""
    return os.pidfd_open(pid, 0)


def send_signal(pidfd: int, signum: int) -> None:
    """`pidfd_send_signal(2)`.  Raises ProcessLookupError when the process is dead."""
    signal.pidfd_send_signal(pidfd, signum)


def is_dead(pidfd: int, timeout_ms: int = 0) -> bool:
    """Whether the process has exited, waiting up to `timeout_ms` for it (a zombie counts as dead)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def reap(pidfd: int) -> tuple[int, int]:
    """Wait for a dead child: (exit status as a shell counts it, 128+n for signal n; n or 0)."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | _WALL)
    if result is None or result.si_code == os.CLD_EXITED:
        return (result.si_status if result else 0), 0
    return 128 + result.si_status, result.si_status
