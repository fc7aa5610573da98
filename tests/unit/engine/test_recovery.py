"""The engine's start: restart policies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corten.engine.container import Container, Roster
from corten.engine.record import Record, State, Status
from corten.engine.recovery import Recovery
from corten.engine.tasks import Task
from corten.errors import CortenError, NotFound, Unavailable

from .conftest import Decide


class Finisher:
    """Starts what it is told; one of them waits for its file system."""

    def __init__(self, slow: str) -> None:
        self.restarts_wait = True
        self.began: list[str] = []
        self.running: list[str] = []
        self.slow = slow
        self.answer = asyncio.Event()

    async def start_again(self, container: Container) -> None:
        self.began.append(container.name)
        if container.name == self.slow:
            await self.answer.wait()
        self.running.append(container.name)

    def wait_out(self, container: Container) -> bool:
        return container.record.state.restart_delay_s > 0


def recovery(roster: Roster, finisher: Finisher) -> Recovery:
    parts: Any = SimpleNamespace(
        roster=roster, loop=asyncio.get_running_loop(), journal=SimpleNamespace(entries=lambda kind: ())
    )
    unused: Any = SimpleNamespace()
    return Recovery(parts, finisher, unused, unused, unused, database=unused, content=unused)  # type: ignore[arg-type]


def add(roster: Roster, decide: Decide, name: str, policy: str = "always", joins: str = "bridge") -> Container:
    effective = decide(HostConfig={"RestartPolicy": {"Name": policy}, "NetworkMode": joins})
    state = State(status=Status.EXITED, started_ns=1)
    record = Record(
        id=name * 64, name=name, image_id="i", image_ref="r", created_ns=1, effective=effective, state=state
    )
    container = Container(record, asyncio.get_running_loop())
    roster.add(container)
    return container


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_start_that_waits_holds_up_only_those_that_join_it(decide: Decide) -> None:
    roster, finisher = Roster(), Finisher(slow="a")
    add(roster, decide, "a")
    add(roster, decide, "b", joins="container:" + "a" * 64)
    add(roster, decide, "c", joins="container:b")
    add(roster, decide, "d", policy="no")
    add(roster, decide, "e")
    work = asyncio.create_task(recovery(roster, finisher).start_policies())
    await turns()
    assert (finisher.began, finisher.running) == (["a", "e"], ["e"])
    finisher.answer.set()
    await asyncio.wait_for(work, 60)
    assert finisher.running == ["e", "a", "b", "c"]


async def test_what_a_client_does_before_its_turn_counts(decide: Decide) -> None:
    roster, finisher = Roster(), Finisher(slow="")
    container = add(roster, decide, "a")
    async with container.lock:
        work = asyncio.create_task(recovery(roster, finisher).start_policies())
        await turns()
        container.record = container.record.with_state(status=Status.RUNNING)
    await asyncio.wait_for(work, 60)
    assert finisher.began == []


async def test_a_delay_that_is_not_over_is_waited_out(decide: Decide) -> None:
    roster, finisher = Roster(), Finisher(slow="")
    for name, delay_s in (("a", 0.0), ("b", 50.0)):
        container = add(roster, decide, name)
        container.record = container.record.with_state(status=Status.RESTARTING, restart_delay_s=delay_s)
    await asyncio.wait_for(recovery(roster, finisher).start_policies(), 60)
    assert finisher.began == ["a"]


async def test_retries_that_are_used_up_stay_so_and_a_stop_of_always_counts_no_more(decide: Decide) -> None:
    roster, finisher = Roster(), Finisher(slow="")
    tried = add(roster, decide, "a", policy="on-failure")
    policy = replace(tried.record.effective.host.restart_policy, maximum_retry_count=2)
    effective = tried.record.effective
    host = replace(effective.host, restart_policy=policy)
    tried.record = replace(tried.record, effective=replace(effective, host=host))
    tried.record = tried.record.with_state(exit_code=1, restart_count=2)
    stopped = add(roster, decide, "b")
    stopped.record = stopped.record.with_state(stopped_by_user=True)
    await asyncio.wait_for(recovery(roster, finisher).start_policies(), 60)
    assert finisher.began == ["b"]
    assert not stopped.record.state.stopped_by_user


class Adoption:
    """The engine's start finds the task of one container, which runs by its record; `tell` is what its shim is asked.

    told: what the finisher heard, and whether the run was the container's by then.
    """

    def __init__(self, decide: Decide, tmp_path: Any) -> None:
        self.told: list[tuple[str, bool]] = []
        self.killed: list[Task] = []
        self.closed: list[str] = []
        self.tell: Callable[..., None] = lambda events, lost: None
        self.meanwhile: Callable[[], None] = lambda: None
        self.error: CortenError | None = None
        self.container = add(Roster(), decide, "a")
        self.container.record = self.container.record.with_state(status=Status.RUNNING)
        parts: Any = SimpleNamespace(
            loop=asyncio.get_running_loop(),
            journal=SimpleNamespace(entries=lambda kind: ()),
            tasks=SimpleNamespace(directory=lambda _: str(tmp_path), adopt=self._adopt, kill=self._kill),
            bridge=SimpleNamespace(networks=lambda: (), endpoints_of=lambda _: ()),
            networks=SimpleNamespace(ids={}),
            save=lambda container, record: setattr(container, "record", record),
        )
        finisher: Any = SimpleNamespace(
            told=lambda container, task, message: self._hear(message["event"], task),
            lost=lambda container, task: self._hear("lost", task),
            finish=self._finish,
            verdict=lambda container, task: None,
            tell_oom=lambda container, kills: None,
        )
        adopts, unused = SimpleNamespace(adopt=lambda container, found: None), SimpleNamespace()
        self.recovery = Recovery(
            parts,
            finisher,
            execs=adopts,  # type: ignore[arg-type]
            healths=adopts,  # type: ignore[arg-type]
            watch=unused,  # type: ignore[arg-type]
            database=unused,  # type: ignore[arg-type]
            content=unused,  # type: ignore[arg-type]
        )
        self.recovery.adopted = lambda container: None

    @property
    def run(self) -> Task | None:
        """Of the container."""
        return self.container.task

    async def _adopt(self, task: Task, *, events: Any, lost: Any) -> dict[str, Any]:
        self.meanwhile()
        if self.error is not None:
            raise self.error
        self.tell(events, lost)
        await turns()  # who hears of it acts before this is known
        task.shim = SimpleNamespace(pid=8, close=lambda: self.closed.append(task.id))  # type: ignore[assignment]
        return {"state": "running", "init_pid": 7, "started_at": ""}

    async def _kill(self, task: Task) -> None:
        self.killed.append(task)

    async def _finish(self, container: Container, task: Task, how: None) -> None:
        self._hear("finished", task)

    def _hear(self, what: str, task: Task) -> None:
        self.told.append((what, self.container.task is task))

    def end(self) -> None:
        """Somebody else records the end."""
        self.container.task = None
        self.container.record = self.container.record.with_state(status=Status.EXITED)


async def test_an_end_that_is_told_while_its_container_is_adopted_is_not_lost(decide: Decide, tmp_path: Any) -> None:
    adoption = Adoption(decide, tmp_path)

    def tell(events: Callable[[Any], None], lost: Callable[[], None]) -> None:
        events({"event": "exec-exit"})
        events({"event": "exit"})
        lost()

    adoption.tell = tell
    await adoption.recovery._adopt(adoption.container)
    assert adoption.told == [("exec-exit", True), ("exit", True), ("lost", True)]


async def test_what_a_shim_tells_after_its_adoption_is_heard_at_once(decide: Decide, tmp_path: Any) -> None:
    adoption, tellers = Adoption(decide, tmp_path), []
    adoption.tell = lambda events, lost: tellers.append(events)
    await adoption.recovery._adopt(adoption.container)
    assert adoption.told == []
    tellers[0]({"event": "exit"})
    assert adoption.told == [("exit", True)]


@pytest.mark.parametrize("error", [None, NotFound("no shim"), Unavailable("it hangs")])
async def test_a_run_that_another_has_ended_during_a_second_adoption_stays_ended(
    decide: Decide, tmp_path: Any, error: CortenError | None
) -> None:
    adoption = Adoption(decide, tmp_path)
    adoption.container.task = Task("a" * 64, str(tmp_path), "/c", 1)  # whose shim hung
    adoption.error, adoption.meanwhile = error, adoption.end
    await adoption.recovery._adopt(adoption.container)
    assert adoption.run is None
    assert adoption.container.record.state.status is Status.EXITED
    assert (adoption.killed, adoption.told) == ([], [])
    assert adoption.closed == ([] if error is not None else ["a" * 64])


async def test_a_run_whose_shim_is_gone_is_ended_once(decide: Decide, tmp_path: Any) -> None:
    adoption = Adoption(decide, tmp_path)
    adoption.error = NotFound("no shim")
    await adoption.recovery._adopt(adoption.container)
    assert adoption.told == [("finished", True)]
    assert len(adoption.killed) == 1
