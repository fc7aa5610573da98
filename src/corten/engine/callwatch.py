"""Follows the kernel's log for what the seccomp filters of containers have logged, while one that logs runs.

A record names a process of the machine by pid.  Whose it is says the process's own cgroup, read at once; of the init it
is known from the record of the container.  A process that has ended before its record was read is nobody's, and is not
told.  Processes of the host and of other containers have other cgroups: nothing is inferred.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from corten.engine import kernellog
from corten.engine.container import Container
from corten.engine.loggedcalls import ACTION, MARK, Logged, added, is_logging, parse
from corten.engine.parts import Parts
from corten.sys.syscallname import call_name

log = logging.getLogger("corten.engine")

_FIRST_PID_NS: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO: the log's numbers are those of the machine's first pid namespace
_TURN: Final = 64  # records of one turn of the loop
_DRAIN: Final = 20_000
_SAVE_S: Final = 1.0
_SLACK_US: Final = 10_000_000  # the log's clock is not adjusted


class CallWatch:
    """One reader of /dev/kmsg, open while a container with a profile that logs runs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._watched: dict[str, Container] = {}
        self._fd = -1
        self._unsaved: dict[str, Container] = {}
        self._saving: asyncio.TimerHandle | None = None

    def begun(self, container: Container) -> None:
        """A run has begun, or was found; its records from before are still there."""
        effective = container.record.effective
        if not container.is_running:
            return
        if not is_logging(effective.security.seccomp) and ACTION not in str(effective.node):
            return
        self._watched[container.id] = container
        if self._fd >= 0:
            self._close()  # read again from the oldest: what it has counted is passed over by its number
        self._open()

    def ended(self, container: Container) -> None:
        """The run is over and judged."""
        self._watched.pop(container.id, None)
        self._unsaved.pop(container.id, None)
        if not self._watched:
            self._close()

    def drain(self, container: Container) -> None:
        """Read what is there, before a container's end is judged."""
        if container.id in self._watched and self._fd >= 0:
            self._read(_DRAIN)

    def _open(self) -> None:
        if not _is_first_pid_namespace():
            return
        try:
            self._fd = os.open(kernellog.PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.info("the kernel log cannot be read: %s", error)
            return
        self._parts.loop.add_reader(self._fd, self._read, _TURN)

    def _close(self) -> None:
        if self._fd >= 0:
            self._parts.loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self, limit: int) -> None:
        try:
            for sequence, moment_us, text in kernellog.of_descriptor(self._fd, limit, mark=MARK):
                if (one := parse(text)) is not None:
                    self._take(sequence, moment_us, one)
        except OSError as error:
            log.warning("the kernel log cannot be read any more: %s", error)
            self._close()

    def _take(self, sequence: int, moment_us: int, one: Logged) -> None:
        container = self._owner(one, moment_us)
        if container is None or sequence <= container.record.state.calls_sequence:
            return
        started_ns = container.record.state.started_ns
        if one.at_ns + _SLACK_US * 1000 < started_ns:  # of a run before
            return
        rows = added(container.record.state.calls, one, call_name(one.arch, one.number))
        container.record = container.record.with_state(calls=rows, calls_sequence=sequence)
        self._unsaved[container.id] = container
        if self._saving is None:
            self._saving = self._parts.loop.call_later(_SAVE_S, self._save)

    def _save(self) -> None:
        """A flood of records is no flood of writes; what a cortend that is killed had not saved it reads again."""
        self._saving = None
        unsaved, self._unsaved = self._unsaved, {}
        for container in unsaved.values():
            if container.is_running:
                self._parts.note(container, container.record)

    def _owner(self, one: Logged, moment_us: int) -> Container | None:
        paths = _cgroups(one.pid, moment_us)
        for container in self._watched.values():
            cgroup = container.record.cgroup
            if any(path == cgroup or path.startswith(f"{cgroup}/") for path in paths):
                return container
            if not paths and one.pid == container.record.state.pid:  # the init: dead, and known by its number
                return container
        return None


def _cgroups(pid: int, moment_us: int) -> list[str]:
    """Of a process that was there at that moment of the log's clock; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            began = int(file.read().rpartition(b")")[2].split()[19])
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except (OSError, IndexError):
        return []
    if began * 1_000_000 // os.sysconf("SC_CLK_TCK") > moment_us + _SLACK_US:
        return []  # the number is another's by now
    return [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]


def _is_first_pid_namespace() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NS
    except OSError:
        return False
