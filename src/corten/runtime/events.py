"""`events`: samples of a container's counters, and the news that it ran out of memory, a JSON line each.

The lines are runc's (types/events.go of runc): `{"type":"stats","id":…,"data":{…}}` at every interval, and
`{"type":"oom","id":…}`.  The command ends with the container, and at once with `--stats`.

    OOM on v1   an eventfd registered in cgroup.event_control (cgroup-v1/memory.rst, "OOM Control"), as in runc
    OOM on v2   POLLPRI of memory.events, whose counter `oom_kill` grew (cgroup-v2.rst)
"""

from __future__ import annotations

import posix
import select
import time

from corten.errors import FailedPrecondition, Internal, InvalidArgument
from corten.runtime import container, event_stats, fast
from corten.runtime.commands import STDOUT_FD, encode
from corten.runtime.settings import root
from corten.spec.units import parse_duration_ns
from corten.sys import cgroup, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation
    from corten.runtime.cgroups import CgroupPaths
    from corten.runtime.log import Log

DEFAULT_INTERVAL = "5s"
OOM_FILE_1, OOM_FILE_2 = "memory.oom_control", "memory.events"


def run(invocation: Invocation, log: Log) -> int:
    """Prints one sample, or one at every interval and each OOM until the container has ended."""
    flags, id = invocation.options, invocation.arguments[0]
    record = container.state(root(invocation.settings), id)
    interval_ns = parse_duration_ns(flags.text("interval", DEFAULT_INTERVAL))
    if interval_ns <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    pidfd = record.open_pidfd()
    if pidfd < 0:
        raise FailedPrecondition(f"container with id {id} is not running")
    if flags.is_set("stats"):
        tell({"type": "stats", "id": id, "data": event_stats.stats(record)})
        return 0
    watch = OomWatch(record.cgroup)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    watch.register(poll)
    due = time.monotonic() + interval_ns / 1e9
    while True:
        ready = {fd for fd, _ in poll.poll(fast.poll_ms(due))}
        for _ in range(watch.news()):
            tell({"type": "oom", "id": id})
        if pidfd in ready:
            return 0
        if time.monotonic() >= due:
            due += interval_ns / 1e9
            tell({"type": "stats", "id": id, "data": event_stats.stats(record)})


def tell(event: dict[str, object]) -> None:
    """One line."""
    files.write_all(STDOUT_FD, encode(fast.dumps(event) + "\n"))


class OomWatch:
    """The kernel's news that a cgroup is out of memory; one that has no memory controller never has any.

    `file_2` and `counter` are where v2 counts.
    """

    __slots__ = ("_counted", "_counter", "_directory", "_fd", "_file_2", "_flags")

    def __init__(self, paths: CgroupPaths, *, file_2: str = OOM_FILE_2, counter: str = "oom_kill") -> None:
        self._directory = paths.directory("memory")
        self._file_2 = file_2
        self._counter = counter
        self._fd = -1
        self._counted = -1  # v2: kills so far
        if not self._directory:
            return
        if paths.mode == "v2":
            self._flags = select.POLLPRI
            self._fd = posix.open(f"{self._directory}/{file_2}", posix.O_RDONLY | posix.O_CLOEXEC)
            self._counted = self._kills()
            return
        self._flags = select.POLLIN
        self._fd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        control = posix.open(f"{self._directory}/{OOM_FILE_1}", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            files.write(f"{self._directory}/cgroup.event_control", f"{self._fd} {control}")
        except OSError as error:
            raise Internal(f"watch {self._directory}/{OOM_FILE_1}: {files.why(error)}") from error
        finally:
            posix.close(control)

    def register(self, poll: select.poll) -> None:
        """Lets `poll` wake up for news."""
        if self._fd >= 0:
            poll.register(self._fd, self._flags)

    def news(self) -> int:
        """How often memory ran out since the last call; as runc counts it on v1, where several at once are one."""
        if self._fd < 0:
            return 0
        if self._counted >= 0:
            before, self._counted = self._counted, max(self._counted, self._kills())
            return self._counted - before
        try:
            posix.eventfd_read(self._fd)
        except BlockingIOError:
            return 0
        return 1 if files.exists(f"{self._directory}/{OOM_FILE_1}") else 0  # a removed cgroup tells once more

    def _kills(self) -> int:
        """The counter, read through the watched descriptor: a new look re-arms it (kernfs)."""
        try:
            posix.lseek(self._fd, 0, 0)
            posix.read(self._fd, 4096)
        except OSError:
            return self._counted  # the cgroup was removed
        return cgroup.read_numbers(self._directory, self._file_2).get(self._counter, 0)
