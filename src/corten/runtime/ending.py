"""The end of a container: everybody in it dead, everything of it removed.  Works from state.json alone."""

from __future__ import annotations

import posix
import select

from corten.errors import CortenError, Internal
from corten.runtime import fast, managers
from corten.runtime.state import START_FIFO, is_read
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from corten.runtime.cgroups import Cgroup
    from corten.runtime.state import State

SIGKILL = 9
DEATH_TIMEOUT_MS = 10_000


class Unfinished(Internal):
    """A failure that had complaints before it; the text tells it and them all."""

    def __init__(self, failure: str, complaints: list[str]) -> None:
        super().__init__(f"{failure}; before that: {'; '.join(complaints)}")
        self.failure = failure
        self.complaints = complaints


class Complaints(list[str]):
    """What had to stay as it was, a sentence for each thing.  In a `with` whose block fails they go into the error:
    it is raised as it is without any, else as Unfinished."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Unfinished):
            raise Unfinished(error.failure, [*self, *error.complaints]) from error
        if self and isinstance(error, (CortenError, OSError)):
            raise Unfinished(sentence(error), [*self]) from error


def sentence(error: CortenError | OSError) -> str:
    """An error of either kind for the user."""
    return files.sentence(error) if isinstance(error, OSError) else error.text


def end(record: State) -> list[str]:
    """Kills every process of a container and waits until its init is dead; raises Internal after ten seconds.

    One that was not started yet gives back the network devices that were moved to it: complaints are returned, or told
    by what is raised.
    """
    if not record.devices or not is_read(record.path(START_FIFO)):
        _kill(record)
        return []
    from corten.runtime import netdevices

    with Complaints() as complaints:
        moved = None
        try:
            moved = netdevices.recorded(record)
        except (CortenError, OSError) as error:  # of whatever kind: the processes have to go
            complaints.append(sentence(error))
        try:
            _kill(record)
        finally:
            if moved is not None:
                complaints.extend(moved.undo())
    return complaints


def take_back(record: State, warn: Callable[[str], None], *, keep: bool = False) -> None:
    """Ends a container that was made and cannot go on, and unless `keep` removes it, in the course of a failure.

    What cannot be is told: what is raised is the failure that led here.  Its record stays for a `delete`.
    """
    complaints: list[str] = []
    try:
        complaints += end(record)
        if not keep:
            complaints += destroy(record)
    except (CortenError, OSError) as error:
        complaints.append(f"container {record.id} could not be taken back: {sentence(error)}")
    for complaint in complaints:
        warn(complaint)


def _kill(record: State) -> None:
    pidfd = record.open_pidfd()
    try:
        group = managers.of(record).group(record)
        group.kill_all()
        group.kill_strays()
        if pidfd >= 0:
            _kill_init(record, group, pidfd)
    finally:
        if pidfd >= 0:
            posix.close(pidfd)


def _kill_init(record: State, group: Cgroup, pidfd: int) -> None:
    try:
        fast.pidfd_send_signal(pidfd, SIGKILL)
        if not record.cgroup.v2 and group.is_frozen():
            group.thaw()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(DEATH_TIMEOUT_MS):
            raise Internal("container init still running")
    except ProcessLookupError:
        pass  # it died by itself meanwhile, which is what was wanted


def destroy(state: State, *, run_hooks: bool = True) -> list[str]:
    """Removes everything of a container whose init is dead; what the poststop hooks had to complain of.

    Works from state.json alone, and again after a crash in the middle: the record goes last.
    """
    manager = managers.of(state)
    manager.group(state).kill_all()  # of one without a pid namespace of its own, or with processes put in by others
    manager.remove(state)
    if state.rdt:
        from corten.runtime import rdt

        rdt.leave(state)
    with Complaints() as complaints:
        if run_hooks and state.poststop:
            from corten.runtime import hooks

            bundle = state.bundle if files.is_directory(state.bundle) else "/"
            for hook in state.poststop:
                try:
                    hooks.run(hook, fast.dump_bytes(state.oci("stopped")), bundle)
                except CortenError as error:
                    complaints.append(f"poststop hook {hook['path']}: {error}")
        files.remove_tree(state.directory)
    return complaints
