"""One running container with a shim that fails when told, and an engine's verbs around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from corten.engine.container import EXIT_CONDITIONS, Container, Roster
from corten.engine.execs import Execs
from corten.engine.finish import Finisher
from corten.engine.lifecycle import Lifecycle
from corten.engine.policies import Policies
from corten.engine.record import Move, Record, Status, advance
from corten.engine.removal import Removal
from corten.engine.tasks import Task
from corten.errors import (
    CortenError,
    NotFound,
)

from .conftest import ID, Decide


class Shim:
    """Does what `fails` and `meanwhile` say, by op; `sent` has the signals."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.is_open = True
        self.directory = str(stage.directory)
        self.fails: dict[str, CortenError] = {}
        self.meanwhile: dict[str, Callable[[], Awaitable[None]]] = {}
        self.ops: list[str] = []
        self.sent: list[int] = []

    async def _op(self, name: str) -> None:
        self.ops.append(name)
        if name in self.meanwhile:
            await self.meanwhile[name]()
        if name in self.fails:
            raise self.fails[name]

    async def kill(self, signum: int, *, by: Any) -> None:
        self.sent.append(signum)
        await self._op("kill")
        if signum in self.stage.deadly and self.is_open:
            self.is_open = False
            self.stage.ends.append(asyncio.ensure_future(self.stage.end_in_turn()))

    async def pause(self) -> None:
        await self._op("pause")

    async def resume(self) -> None:
        await self._op("resume")

    async def update(self, resources: Any) -> None:
        await self._op("update")

    async def resize(self, rows: int, cols: int, exec_id: str = "") -> None:
        await self._op("resize")

    async def pids(self) -> list[int]:
        await self._op("pids")
        return []

    async def exec_start(self, exec_id: str, process: Any, **more: Any) -> dict[str, Any]:
        await self._op("exec_start")
        return {"pid": 7}


class Stage:
    """One running container, and an engine's verbs around it."""

    def __init__(self, decide: Decide, machine: Any, directory: Any, **host: Any) -> None:
        loop = asyncio.get_running_loop()
        self.directory = directory
        self.roster = Roster()
        self.told: list[str] = []
        self.starts = 0
        self.deadly: tuple[int, ...] = ()  # signals that end the run, in the turn of the lock
        self.ends: list[asyncio.Future[None]] = []
        self.parts: Any = SimpleNamespace(
            roster=self.roster,
            machine=machine,
            policies=Policies(),
            loop=loop,
            save=self._save,
            note=self._save,
            bus=SimpleNamespace(publish=lambda event: self.told.append(event.action)),
            tasks=SimpleNamespace(kill=self._kill_cgroup, kill_shim=lambda task: None),
            run_later=loop.create_task,
        )
        finisher = Finisher(self.parts, SimpleNamespace())  # type: ignore[arg-type]
        self.removal = Removal(self.parts, SimpleNamespace())  # type: ignore[arg-type]
        self.removal.remove_now = self._remove_now  # type: ignore[method-assign]
        finisher.remove = self.removal.remove_soon
        starter: Any = SimpleNamespace(start=self._start)
        watch: Any = SimpleNamespace(unresponsive=lambda container: None)
        self.life = Lifecycle(self.parts, starter, finisher, self.removal, watch)  # type: ignore[arg-type]
        self.removal.kill_to_end = self.life.kill_to_end
        self.execs: Any = Execs(self.parts)  # type: ignore[arg-type]
        record = Record(
            id=ID, name="n", image_id="i", image_ref="i", created_ns=1, effective=decide(HostConfig=host or {})
        )
        self.container = Container(record, loop)
        self.roster.reserve_name("n", ID)
        self.roster.add(self.container)
        self._begin()

    @property
    def shim(self) -> Any:
        """Of the run that is."""
        assert self.container.task is not None
        return self.container.task.shim

    @property
    def status(self) -> Status:
        return self.container.record.state.status

    def _begin(self) -> None:
        container = self.container
        status = advance(container.record.state.status, Move.START)
        container.record = container.record.with_state(status=status, pid=2**22 + 1)
        container.task = Task(ID, str(self.directory), "/c", 1)
        shim: Any = Shim(self)
        container.task.shim = shim
        self.starts += 1

    async def _start(self, container: Container) -> None:
        self._begin()

    def _save(self, container: Container, record: Record) -> None:
        if container.id not in self.roster:
            raise NotFound(f"No such container: {container.id}")
        container.record = record

    async def _kill_cgroup(self, task: Task) -> None:
        self.told.append("cgroup killed")

    def _remove_now(self, container: Container, *, volumes: bool = False) -> None:
        if container.id in self.roster:
            status = advance(container.record.state.status, Move.REMOVE)
            container.record = container.record.with_state(status=status)
            self.roster.discard(container)

    def end(self, to: Status = Status.EXITED) -> None:
        """The exit is recorded; whoever has the lock lets it be."""
        container = self.container
        container.task = None
        container.record = container.record.with_state(status=to)
        container.resolve_waiters(*EXIT_CONDITIONS)
        if container.record.effective.host.auto_remove:
            self.removal.remove_soon(container)

    async def end_in_turn(self, to: Status = Status.EXITED) -> None:
        """The same, in the turn of the lock."""
        async with self.container.lock:
            self.end(to)

    async def queued(self, *verbs: Awaitable[Any]) -> list[Any]:
        """All of them wait for the lock, which they get in this order; what each returns or raises."""
        async with self.container.lock:
            tasks = []
            for verb in verbs:
                tasks.append(asyncio.ensure_future(verb))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
