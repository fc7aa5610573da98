"""The end of a container's init: what verbs of the runtime meet of it, and the record of it that is left."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TypeVar

from corten.errors import CortenError, FailedPrecondition
from corten.runtime import fast
from corten.runtime.cgroups import Counters
from corten.shim.backend import Backend, Steps
from corten.shim.loop import Sleep
from corten.shim.process import Process
from corten.shim.protocol import Message
from corten.sys import files

EXIT_RECORD = "exit"
_PF_EXITING = 0x4
_EXITING_S = 2.0  # a thread of its own may keep what remains of it for ever
_POLL_S = 0.005
_T = TypeVar("_T")


def on_the_living(init: Process, verb: Steps[_T]) -> Steps[_T]:
    """A verb of the runtime's: what it meets of a container that ends under it is told as that end, however it reads.

    Raises FailedPrecondition: `container is stopped`.
    """
    try:
        return (yield from verb)
    except (CortenError, OSError) as error:
        deadline = time.monotonic() + _EXITING_S
        while not init.is_dead and _is_exiting(init.pid) and time.monotonic() < deadline:
            yield Sleep(_POLL_S)
        if not init.is_dead:
            raise
        raise FailedPrecondition("container is stopped") from error


def _is_exiting(pid: int) -> bool:
    """Whether it is on its way out: its namespaces go before it can be waited for (proc_pid_stat(5), flags)."""
    try:
        stat = files.read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return bool(int(stat.rpartition(b")")[2].split()[6]) & _PF_EXITING)


def thaw_the_dead(init: Process, runtime: Backend) -> Steps[None]:
    """After a pause that came too late: on cgroup v1 nobody who is frozen dies of the init's end."""
    if init.is_dead:
        with contextlib.suppress(CortenError, OSError):
            yield from runtime.resume()


def exit_record(init: Process, counters: Counters, kills: tuple[Message, ...] = ()) -> Message:
    """What is written to `exit` and told in the event; `status` is 128+n for signal n, times are RFC 3339."""
    return {
        "status": init.exit_status,
        "signal": init.signal,
        "at": init.exited_at,
        "pid": init.pid,
        "started_at": init.started_at,
        "oom_killed": counters.oom_kills > 0,
        "oom_kill_count": counters.oom_kills,
        "pids_max_hits": counters.pids_max_hits,
        "reason": "",
        "kills": list(kills),
    }


def read_exit_record(directory: str) -> Message | None:
    """The exit record of a task's directory, None when there is none."""
    try:
        record = fast.loads(files.read(os.path.join(directory, EXIT_RECORD)))
    except FileNotFoundError:
        return None
    return record if isinstance(record, dict) else None
