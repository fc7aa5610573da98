"""What a shim asks of a runtime, built in or external.

Every verb is a generator for the loop (`corten.shim.loop`): it yields what it waits for and returns its result, so that
a slow runtime does not stop the streams.  Verbs raise corten.errors with the text that the user sees.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from typing import Any, Protocol, TypeVar

from corten.runtime.cgroups import Cgroup
from corten.shim.loop import Loop, Readable, Sleep

_T = TypeVar("_T")
Steps = Generator[Readable | Sleep, bool, _T]


class Launched:
    """A process that exists: an init that waits for `start`, or a running exec.  Owns `pidfd` until it is taken."""

    __slots__ = ("pid", "pidfd")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd


class Streams:
    """What a process is spawned with: its stdio; with a terminal, the socket to which its master is sent."""

    __slots__ = ("console_fd", "stdio")

    def __init__(self, stdio: tuple[int, int, int], console_fd: int = -1) -> None:
        self.stdio = stdio
        self.console_fd = console_fd


class Phases:
    """Where the milliseconds of a start went: (name, start, duration) in CLOCK_MONOTONIC nanoseconds."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds a row for the block, also when it fails."""
        start = time.monotonic_ns()
        try:
            yield
        finally:
            self.rows.append((name, start, time.monotonic_ns() - start))

    def to_obj(self) -> list[dict[str, object]]:
        """The JSON value: [{"name", "start_ns", "duration_ns"}]."""
        return [{"name": name, "start_ns": start, "duration_ns": length} for name, start, length in self.rows]


class Backend(Protocol):
    """One container's runtime.

    Life: `create` → `start` → any number of `exec`, `pause`, `resume`, `update`, `kill` → (init exits) → `delete`.
    `rootfs_fd` is the detached mount of the root filesystem, owned, -1 before `create` and without one.
    `execs_beside`: other verbs may run while an `exec` is under way.
    """

    rootfs_fd: int
    execs_beside: bool

    def create(self, streams: Streams, phases: Phases) -> Steps[Launched]:
        """Make the container; its init waits."""

    def start(self) -> Steps[None]:
        """Let the init execute the container's program."""

    def exec(self, exec_id: str, process: dict[str, Any], streams: Streams) -> Steps[Launched]:
        """One more process in the running container; `process` is an OCI process object."""

    def signal_all(self, signum: int) -> Steps[None]:
        """A signal to every process of the container."""

    def pause(self) -> Steps[None]:
        """Freeze."""

    def resume(self) -> Steps[None]:
        """Thaw."""

    def update(self, resources: dict[str, Any]) -> Steps[None]:
        """New limits; an OCI resources object."""

    def stand_by(self, loop: Loop) -> None:
        """There will be execs also when cortend is away; until `give_up` or `delete`."""

    def delete(self, *, force: bool) -> Steps[None]:
        """Remove what `create` made, the cgroup last; a second call does nothing."""

    def give_up(self) -> None:
        """Nobody wants what is under way any more: verbs that can be ended end with an error."""

    def cgroup(self) -> Cgroup | None:
        """The container's cgroup, None before `create` and where it is not known."""

    def wait_trace(self) -> None:
        """Block, a moment at most, until a trace that is being written is there."""

    def write_trace(self, path: str, phases: Phases) -> Steps[None]:
        """Write {"phases", "steps": [{"index", "op", "start_ns", "duration_ns"}]}; no steps of an external runtime."""
