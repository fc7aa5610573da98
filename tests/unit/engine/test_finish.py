"""An exit is recorded whatever fails beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from corten.core.events import Event
from corten.engine import times
from corten.engine.container import Container, Roster
from corten.engine.effective import Effective
from corten.engine.finish import Exit, Finisher
from corten.engine.record import Place, Record, State, Status
from corten.engine.retry import Retries
from corten.engine.senders import Senders
from corten.engine.tasks import Task
from corten.errors import Conflict, Internal, Unavailable

from .conftest import ID

BRIDGE = Place(networks={"bridge": "e"}, sandbox_id="s", sandbox_key="k")


class Parts:
    """Saves the second time only; its bridge never lets go."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.told: list[str] = []
        self.saves = 0
        self.bus = SimpleNamespace(publish=lambda event: self.told.append(f"{event.type} {event.action}"))
        self.bridge = SimpleNamespace(disconnect=self._fail)
        self.retries = Retries(lambda: None, first_delay_s=0.001)
        self.senders = Senders()
        self.paths = lambda ident: SimpleNamespace(directory="/")
        known = SimpleNamespace(name="bridge", driver="bridge", network_id="b")
        self.networks = SimpleNamespace(driver_of=lambda name: name, named=lambda name: known)

    def _fail(self, container_id: str) -> None:
        raise Internal("netlink: no")

    def save(self, container: Container, record: Record) -> None:
        self.saves += 1
        if self.saves == 1:
            raise Unavailable("disk is full")
        container.record = record

    def publish_after_waiters(self, event: Event) -> None:
        self.loop.call_soon(self.bus.publish, event)

    def run_later(self, work: Any) -> None:
        work.close()


async def test_a_network_that_fails_and_a_full_disk_cost_no_exit(
    decide: Callable[..., Effective],
) -> None:
    loop = asyncio.get_running_loop()
    state = State(status=Status.RUNNING, pid=1)
    record = Record(
        id=ID, name="n", image_id="i", image_ref="r", created_ns=1, effective=decide(), state=state, place=BRIDGE
    )
    container, parts = Container(record, loop), Parts(loop)
    container.task = task = Task(ID, "/nowhere", "/c", 1)
    finisher = Finisher(parts, SimpleNamespace())  # type: ignore[arg-type]
    finisher.container_ended = lambda one: None
    waiter = container.wait("next-exit")
    await finisher.finish(container, task, Exit(5, 2))
    assert (await waiter.result())["StatusCode"] == 5
    await asyncio.sleep(0.01)
    assert (container.record.state.status, parts.saves) == (Status.EXITED, 2)
    assert parts.told == ["network disconnect", "container die"]


@pytest.mark.parametrize("restarts_wait", [False, True])
async def test_nothing_is_started_again_while_the_engine_recovers(
    decide: Callable[..., Effective], monkeypatch: pytest.MonkeyPatch, restarts_wait: bool
) -> None:
    """Recovery removes cgroups and links of whom it does not know to run: a start beside it would lose its own."""
    monkeypatch.setattr(Parts, "save", lambda self, container, record: setattr(container, "record", record))
    loop = asyncio.get_running_loop()
    effective = decide(HostConfig={"RestartPolicy": {"Name": "always"}})
    state = State(status=Status.RUNNING, pid=1)
    record = Record(id=ID, name="n", image_id="i", image_ref="r", created_ns=1, effective=effective, state=state)
    container = Container(record, loop)
    container.task = task = Task(ID, "/nowhere", "/c", 1)
    finisher = Finisher(Parts(loop), SimpleNamespace())  # type: ignore[arg-type]
    finisher.container_ended = lambda one: None
    finisher.restarts_wait = restarts_wait
    await finisher.finish(container, task, Exit(0, 2))
    assert container.record.state.status is Status.RESTARTING
    assert (container.restart_timer is None) is restarts_wait
    if container.restart_timer is not None:
        container.restart_timer.cancel()


@pytest.mark.parametrize(
    ("owner_status", "mode", "is_tried_again"),
    [
        (Status.RESTARTING, "NetworkMode", True),
        (Status.RESTARTING, "PidMode", True),
        (Status.RESTARTING, "IpcMode", True),
        (Status.EXITED, "NetworkMode", False),  # nobody will start it
        (Status.RUNNING, "NetworkMode", False),  # something else is wrong
    ],
)
async def test_what_joins_a_container_that_waits_for_its_next_start_waits_too(
    decide: Callable[..., Effective], owner_status: Status, mode: str, is_tried_again: bool
) -> None:
    loop = asyncio.get_running_loop()
    parts, roster = Parts(loop), Roster()
    parts.roster = roster  # type: ignore[attr-defined]
    parts.note = lambda container, record: setattr(container, "record", record)  # type: ignore[attr-defined]
    always = {"RestartPolicy": {"Name": "always"}}
    found = []
    for number, (name, host, status) in enumerate(
        (("owner", always, owner_status), ("guest", always | {mode: "container:owner"}, Status.EXITED))
    ):
        effective = decide(HostConfig=host)
        state = State(status=status)
        record = Record(
            id=f"{number}" * 64, name=name, image_id="i", image_ref="r", created_ns=1, effective=effective, state=state
        )
        roster.reserve_name(name, record.id)
        roster.add(Container(record, loop))
        found.append(roster.find(name))
    guest = found[1]
    finisher = Finisher(parts, SimpleNamespace())  # type: ignore[arg-type]
    finisher.not_started(guest, Conflict("cannot join network of a non running container: owner"))
    assert guest.record.state.status is (Status.RESTARTING if is_tried_again else Status.EXITED)
    assert (guest.restart_timer is not None) is is_tried_again
    if guest.restart_timer is not None:
        guest.restart_timer.cancel()


async def test_the_rest_of_a_delay_is_waited_for_whoever_began_it(decide: Callable[..., Effective]) -> None:
    loop = asyncio.get_running_loop()
    now_ns = times.now_ns()
    finisher = Finisher(Parts(loop), SimpleNamespace())  # type: ignore[arg-type]

    def container(ended_s_ago: float, delay_s: float) -> Container:
        ended_ns = now_ns - int(ended_s_ago * times.SECOND_NS)
        state = State(status=Status.RESTARTING, finished_ns=ended_ns, restart_delay_s=delay_s)
        record = Record(
            id=ID, name="n", image_id="i", image_ref="r", created_ns=1, effective=decide(), state=state, place=BRIDGE
        )
        return Container(record, loop)

    waiting = container(1, 60)
    assert finisher.wait_out(waiting)
    assert waiting.restart_timer is not None
    assert 50 < waiting.restart_timer.when() - loop.time() <= 59
    waiting.restart_timer.cancel()
    assert waiting.backoff.next_delay(0.0) == 60.0, "and the next one is no shorter"
    for ended_s_ago, delay_s in ((2, 1.0), (-100, 1.0), (0, 0.0)):
        assert not finisher.wait_out(container(ended_s_ago, delay_s))
