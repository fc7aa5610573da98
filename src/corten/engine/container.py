"""A container in memory: its record, the shim that holds it, and who waits for what.

`Roster` finds them by id, name and prefix.  Everything here runs in the engine's event loop.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

from corten.core.shims import ShimClient
from corten.engine.record import Record, Status
from corten.engine.restart import Backoff
from corten.engine.tasks import Task
from corten.engine.times import rfc3339
from corten.errors import Conflict, CortenError, InvalidArgument, NotFound, Unavailable
from corten.network.values import DEFAULT_NETWORK, Endpoint, Publication

ID_LENGTH: Final = 64
CONDITIONS: Final = ("not-running", "next-exit", "removed")
EXIT_CONDITIONS: Final = ("not-running", "next-exit")
_OVER: Final = ("container is stopped", "container is deleted")  # as a shim says it


class Waiter:
    """One registered wait (`engine_api.Waiter`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[dict[str, Any]] = loop.create_future()

    def resolve(self, code: int, error: str = "") -> None:
        """End the wait."""
        if not self._future.done():
            answer: dict[str, Any] = {"StatusCode": code}
            if error:
                answer["Error"] = {"Message": error}
            self._future.set_result(answer)

    async def result(self) -> dict[str, Any]:
        """Docker's answer: the code, and an error when the container could not be removed."""
        return await asyncio.shield(self._future)


class Container:
    """One container.  `lock` is held by whatever changes its state; reading needs none."""

    def __init__(self, record: Record, loop: asyncio.AbstractEventLoop) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.task: Task | None = None
        self.endpoints: dict[str, Endpoint] = {}  # of a running one, by network
        self.held_streams: list[Any] = []
        self.exec_ids: list[str] = []
        self.phases: list[dict[str, Any]] = []
        self.restart_timer: asyncio.TimerHandle | None = None
        self.lifetime_timer: asyncio.TimerHandle | None = None
        self.cleanup: asyncio.Task[None] | None = None
        self.removal: asyncio.Task[None] | None = None
        self.is_stopping = False
        self.is_unresponsive = False  # its shim
        self.keepers = 0  # restarts of a --rm container that are between its end and its start
        self.backoff = Backoff(record.state.restart_delay_s)
        self.kills: list[dict[str, Any]] = []  # of this run, as the shim's exit record has them; for a shim that cannot
        self._loop = loop
        # weak: a wait is over when nobody has it any more, as that of a client that went away
        self._waiters: dict[str, WeakKeyDictionary[Waiter, None]] = {
            condition: WeakKeyDictionary() for condition in CONDITIONS
        }

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.record.id

    @property
    def endpoint(self) -> Endpoint | None:
        """On the default bridge."""
        return self.endpoints.get(DEFAULT_NETWORK)

    @property
    def publications(self) -> list[Publication]:
        """Its published ports."""
        return [port for one in self.endpoints.values() for port in one.publications]

    @property
    def name(self) -> str:
        """Without the slash."""
        return self.record.name

    def note_kill(self, signal: int, by: dict[str, Any]) -> None:
        """A signal is sent to its init: `by` is an asker (`core.asker`)."""
        self.kills = [*self.kills[-7:], {"signal": signal, "at": rfc3339(time.time_ns()), "by": by}]

    @property
    def is_running(self) -> bool:
        """There is a process, perhaps frozen."""
        return self.record.state.is_running

    @property
    def is_active(self) -> bool:
        """It runs, or its policy is about to start it again."""
        return self.is_running or self.record.state.status is Status.RESTARTING

    def wait(self, condition: str) -> Waiter:
        """A wait that misses no exit while the caller keeps it; `not-running` of one that is not ends at once."""
        waiter = Waiter(self._loop)
        if condition == "not-running" and not self.is_active:
            waiter.resolve(self.record.state.exit_code, self.record.state.error)
        else:
            self._waiters[condition][waiter] = None
        return waiter

    def resolve_waiters(self, *conditions: str, error: str = "") -> None:
        """End the waits for these conditions with the last exit code."""
        for condition in conditions:
            waiters, self._waiters[condition] = self._waiters[condition], WeakKeyDictionary()
            for waiter in list(waiters):
                waiter.resolve(self.record.state.exit_code, error)

    def require_running(self) -> ShimClient:
        """Its shim; raises Conflict: `container … is not running`, Unavailable when its shim hung at adoption."""
        if self.record.state.status is Status.RESTARTING:
            raise Conflict(f"Container {self.id} is restarting, wait until the container is running")
        if not self.is_running or self.task is None:
            raise Conflict(f"container {self.id} is not running")
        if self.task.shim is None:
            raise Unavailable(f"shim of container {self.id} does not respond")
        return self.task.shim

    @contextlib.contextmanager
    def asked(self) -> Iterator[ShimClient]:
        """Its shim, for one request; raises as `require_running`, also when it is over before the answer."""
        shim = self.require_running()
        with self.told_of_end(shim):
            yield shim

    @contextlib.contextmanager
    def told_of_end(self, shim: ShimClient) -> Iterator[None]:
        """What a request to `shim` meets of the end of its run is Conflict: `container … is not running`.

        The shim knows of it before it is recorded here; when it is, the shim goes with all requests under way.
        """
        try:
            yield
        except CortenError as error:
            is_gone = self.task is None or self.task.shim is not shim
            if error.text in _OVER or (is_gone and isinstance(error, Unavailable)):
                raise Conflict(f"container {self.id} is not running") from error
            raise


class Roster:
    """All containers, by id, name and unique prefix of the id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}
        self._sorted_ids: list[str] = []

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._by_id

    def get(self, container_id: str) -> Container | None:
        """By full id."""
        return self._by_id.get(container_id)

    def count(self, test: Callable[[Container], bool]) -> int:
        """How many pass."""
        return sum(1 for container in self._by_id.values() if test(container))

    def add(self, container: Container) -> None:
        """A new one; its name was reserved before."""
        self._by_id[container.id] = container
        self._by_name[container.name] = container.id
        bisect.insort(self._sorted_ids, container.id)

    def discard(self, container: Container) -> None:
        """One that is gone."""
        if self._by_id.pop(container.id, None) is not None:
            self._sorted_ids.pop(bisect.bisect_left(self._sorted_ids, container.id))
        self.release_name(container.name, container.id)

    def is_taken(self, name: str) -> bool:
        """Whether a container has, or a request reserved, this name."""
        return name in self._by_name

    def reserve_name(self, name: str, container_id: str) -> None:
        """Raises Conflict in Docker's words."""
        owner = self._by_name.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". You have to remove '
                "(or rename) that container to be able to reuse that name."
            )
        self._by_name[name] = container_id

    def release_name(self, name: str, container_id: str) -> None:
        """Undo `reserve_name`; a name that is another's by now stays."""
        if self._by_name.get(name) == container_id:
            del self._by_name[name]

    def find(self, ref: str) -> Container:
        """By full id, name (with or without slash) or unique prefix.  Raises NotFound, InvalidArgument."""
        if not ref:
            raise InvalidArgument("No container name or ID supplied")
        found = self._by_id.get(ref) or self._by_id.get(self._by_name.get(ref.removeprefix("/"), ""))
        if found is not None:
            return found
        place = bisect.bisect_left(self._sorted_ids, ref)
        matches = [one for one in self._sorted_ids[place : place + 2] if one.startswith(ref)]
        if len(matches) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        if not matches:
            raise NotFound(f"No such container: {ref}")
        return self._by_id[matches[0]]
