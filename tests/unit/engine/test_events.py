"""Docker's events: shape, filters, replay, following."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from corten.core.eventlog import EventLog
from corten.core.events import Event, EventBus
from corten.engine import events
from corten.engine.record import Record, State, Status
from corten.engine.verdict import Verdict
from corten.errors import Internal, InvalidArgument

from .conftest import Decide

ID = "a" * 64
START = Event(type="container", action="start", id=ID, attributes={"image": "busybox:1", "name": "web", "k": "v"})
EXEC = Event(type="container", action="exec_start: sh ", id=ID, attributes={"image": "busybox:1", "name": "web"})
CONNECT = Event(type="network", action="connect", id="n" * 64, attributes={"container": ID, "name": "bridge"})
PUSH = Event(type="image", action="push", id="x", attributes={"name": "registry.example:5000/a:1"})
TAG = Event(type="image", action="tag", id="sha256:" + "b" * 64, attributes={"name": "busybox:1"})


def test_containers_and_images_have_the_old_fields_too() -> None:
    shown = events.to_json(Event(**{**_fields(START), "time_ns": 5_000_000_001}))
    assert shown["status"] == "start"
    assert shown["from"] == "busybox:1"
    assert (shown["time"], shown["timeNano"]) == (5, 5_000_000_001)
    assert "status" not in events.to_json(CONNECT)
    assert "from" not in events.to_json(TAG)


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


@pytest.mark.parametrize(
    ("event", "filters", "wanted"),
    [
        (START, {}, True),
        (START, {"type": ["container"]}, True),
        (START, {"type": ["image"]}, False),
        (START, {"event": ["start", "die"]}, True),
        (EXEC, {"event": ["exec_start"]}, True),
        (START, {"container": ["web"]}, True),
        (START, {"container": [ID[:12]]}, True),
        (START, {"container": ["db"]}, False),
        (START, {"container": ["we"]}, True),
        (CONNECT, {"container": [ID]}, False),
        (CONNECT, {"container": ["bridge"]}, True),
        (CONNECT, {"network": ["n" * 12]}, True),
        (START, {"network": ["bridge"]}, False),
        (EXEC, {"event": ["exec_die"]}, False),
        (EXEC, {"event": ["exec_start: sh "]}, True),
        (EXEC, {"event": ["exec_start: s"]}, False),
        (START, {"event": ["sta", "exec_start"]}, True),
        (PUSH, {"image": ["registry.example:5000/a"]}, True),
        (PUSH, {"image": ["registry.example"]}, False),
        (START, {"image": ["nginx"]}, False),
        (CONNECT, {"image": ["busybox"]}, False),
        (CONNECT, {"network": ["bridge"]}, True),
        (START, {"image": ["busybox:1"]}, True),
        (START, {"image": ["busybox"]}, True),
        (TAG, {"image": ["busybox:1"]}, True),
        (START, {"label": ["k=v"]}, True),
        (START, {"label": ["k=w"]}, False),
        (START, {"scope": ["swarm"]}, False),
        (START, {"unknown": ["x"]}, True),
    ],
)
def test_filters(event: Event, filters: dict[str, list[str]], wanted: bool) -> None:
    assert events.matches(event, filters) is wanted


async def test_the_past_comes_first_and_until_ends_it() -> None:
    bus = EventBus()
    bus.publish(START)
    seen = [item["Action"] async for item in events.follow(bus, {}, "0.000000001", f"{time.time():.9f}")]
    assert seen == ["start"]


async def test_until_alone_tells_the_whole_past() -> None:
    bus = EventBus()
    bus.publish(START)
    seen = [item["Action"] async for item in events.follow(bus, {}, "", f"{time.time():.9f}")]
    assert seen == ["start"]


async def test_what_comes_is_told_at_once() -> None:
    bus = EventBus()
    stream = events.follow(bus, {"type": ["container"]}, "", "")
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    bus.publish(TAG)
    bus.publish(START)
    assert (await asyncio.wait_for(first, 60))["Action"] == "start"
    await stream.aclose()  # type: ignore[attr-defined]
    assert bus.listener_count == 0


async def test_wrong_times_are_refused_as_dockerd_does() -> None:
    with pytest.raises(Internal, match=r'^strconv.ParseInt: parsing "x": invalid syntax$'):
        await anext(events.follow(EventBus(), {}, "x", ""))
    with pytest.raises(InvalidArgument, match="cannot be after"):
        await anext(events.follow(EventBus(), {}, "5", "4"))


def test_an_end_that_was_recorded_and_not_told_is_told_later(decide: Decide, tmp_path: Path) -> None:
    def record(letter: str) -> Record:
        death = Verdict(cause="exited", sentence="exited with code 3")
        state = State(status=Status.EXITED, exit_code=3, started_ns=10**9, finished_ns=4 * 10**9, death=death)
        given = {"id": letter * 64, "name": letter, "image_id": "i", "image_ref": "r", "created_ns": 1}
        return Record(**given, effective=decide(), state=state)  # type: ignore[arg-type]

    log = EventLog(str(tmp_path))
    told, untold, again, unknown = (record(letter) for letter in "abcd")
    for one, action in (
        *((told, "start"), (told, "die"), (untold, "die"), (untold, "start"), (again, "start")),
        *((again, "die"), (again, "start"), (again, "exec_start: die"), (told, "destroy")),
    ):
        log.append(events.container_event(one, action))
    found = events.untold_deaths(log, [told, untold, again, unknown])
    assert sorted(event.id for event in found) == [untold.id, again.id]
    assert {event.time_ns for event in found} == {4 * 10**9}
    expected = {"exitCode": "3", "execDuration": "3", "verdict": "exited with code 3", "image": "r"}
    assert all(event.attributes.items() >= expected.items() for event in found)
    assert events.untold_deaths(log, []) == []
