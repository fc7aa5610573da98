"""The engine's start: restart policies."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from corten.engine.container import Container, Roster
from corten.engine.record import Record, State, Status
from corten.engine.recovery import Recovery

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
