"""What can be seen of a container's end while its cgroup is still there: counters, limits, the kernel's log, the disk.

Read by cortend, before the cleanup of the run removes the cgroup, so it is the same whoever the runtime is, and also
when the shim is lost or cortend was dead at the end.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from corten.core.asker import printable
from corten.engine import kernellog, times
from corten.engine.kernellog import Denied, Log
from corten.engine.record import HealthEntry
from corten.engine.threads import in_own_thread
from corten.engine.verdict import Disk, Memory, Processes, Verdict, victims_among
from corten.runtime.cgroups import Cgroup
from corten.sys import cgroup as kernel

log = logging.getLogger("corten.engine")

_FULL_BYTES: Final = 1 << 20  # a file system may keep some blocks to itself, which nobody can have
_NO_LIMIT: Final = 1 << 62  # v1 has LONG_MAX, rounded to a page
_CLOCK_SLACK_US: Final = 10_000_000  # the log's clock is not adjusted, CLOCK_MONOTONIC is


def memory(cgroup: Cgroup, kills: int) -> Memory:
    """Limit and peak; -1 where there is none or the kernel does not tell."""
    directory = cgroup.paths.directory("memory")
    if not directory:
        return Memory(oom_kills=kills)
    if cgroup.paths.mode == "v2":
        limit, peak = _number(directory, "memory.max"), _number(directory, "memory.peak")
    else:
        limit, peak = _number(directory, "memory.limit_in_bytes"), _number(directory, "memory.max_usage_in_bytes")
    return Memory(oom_kills=kills, limit=limit if limit < _NO_LIMIT else -1, peak=peak)


def processes(cgroup: Cgroup, refused: int) -> Processes:
    """The limit of processes and their largest number (6.1)."""
    directory = cgroup.paths.directory("pids")
    limit, peak = (_number(directory, "pids.max"), _number(directory, "pids.peak")) if directory else (-1, -1)
    return Processes(refused=refused, limit=limit, peak=peak)


def _number(directory: str, file: str) -> int:
    if not os.path.exists(f"{directory}/{file}"):
        return -1
    return kernel.read_number(directory, file)


async def kernel_log(cgroup: str, started_ns: int) -> Log:
    """What it says of a run's processes; nothing where it cannot be read."""
    age_us = max(0, times.now_ns() - started_ns) // 1000
    since_us = time.monotonic_ns() // 1000 - age_us - _CLOCK_SLACK_US
    try:
        return await in_own_thread("kernel log", functools.partial(kernellog.read, cgroup, since_us=since_us))
    except OSError as error:
        log.info("the kernel log cannot be read: %s", error)
        return Log()


def full_disk(path: str) -> Disk | None:
    """The file system of `path` when it has no room; None while it has, or is not there."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    free = found.f_bavail * found.f_frsize
    has_inodes = not found.f_files or found.f_favail
    if free >= _FULL_BYTES and has_inodes:
        return None
    return Disk(path=path, free_bytes=free, free_inodes=found.f_favail)


def with_victims(seen: Memory, found: Log, before: Verdict | None) -> Memory:
    """With the names of this run's victims."""
    after = max((one.sequence for one in before.memory.victims), default=-1) if before and before.memory else -1
    victims = victims_among(found.kills, seen.oom_kills, after=after)
    return Memory(oom_kills=seen.oom_kills, limit=seen.limit, peak=seen.peak, victims=victims)


def denied_call(found: Log, pid: int) -> Denied | None:
    """The call for which seccomp killed this process."""
    return next((one for one in reversed(found.denied) if one.pid == pid), None)


def last_probe(log: Sequence[HealthEntry]) -> str:
    """Status and first words of the last probe that failed."""
    failed = next((one for one in reversed(log) if one.exit_code), None)
    if failed is None:
        return ""
    return f"exit code {failed.exit_code}: {printable(failed.output.strip())}".rstrip(": ")


def counters(message: dict[str, Any]) -> tuple[int, int]:
    """(kills for want of memory, processes refused) of a shim's exit record."""
    return int(message.get("oom_kill_count", 0)), int(message.get("pids_max_hits", 0))
