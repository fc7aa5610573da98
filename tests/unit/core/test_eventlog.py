"""Events on disk: what outlives cortend, and how much of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from corten.core.eventlog import EventLog, decode
from corten.core.events import HISTORY, Event, EventBus


def event(action: str, **fields: object) -> Event:
    return Event(type="container", action=action, id="c", **fields)  # type: ignore[arg-type]


def actions(log: EventLog, count: int = 100) -> list[str]:
    return [one.action for one in log.last(count)]


def test_the_past_of_a_bus_is_that_of_the_one_before(tmp_path: Path) -> None:
    bus = EventBus(keeper=EventLog(str(tmp_path)))
    told = bus.publish(event("die", attributes={"name": 'a"\n'}, detail={"kept": 1}))
    for number in range(HISTORY):
        bus.publish(event(str(number)))
    with EventBus(keeper=EventLog(str(tmp_path))).subscribe(since_ns=1) as listener:
        found = listener.drain()
    assert [one.action for one in found] == [str(number) for number in range(HISTORY)]
    assert EventLog(str(tmp_path)).last(HISTORY + 1)[0] == told


def test_two_files_hold_it_all_and_no_more(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path), limit_bytes=1000)
    for number in range(100):
        log.append(event(str(number)))
    kept = actions(log)
    assert kept == [str(number) for number in range(100 - len(kept), 100)]
    assert len(kept) > 10
    assert sorted(os.listdir(tmp_path)) == ["events", "events.1"]
    assert all((tmp_path / name).stat().st_size <= 1000 for name in os.listdir(tmp_path))
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in os.listdir(tmp_path))


def test_an_event_longer_than_a_file_is_told_and_not_kept(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path), limit_bytes=1000)
    bus = EventBus(keeper=log)
    with bus.subscribe() as listener:
        bus.publish(event("long", attributes={"label": "x" * 1000}))
        bus.publish(event("short"))
        assert [one.action for one in listener.drain()] == ["long", "short"]
    assert actions(log) == ["short"]


def test_a_torn_last_line_costs_itself_alone(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.append(event("one"))
    log.close()
    with (tmp_path / "events").open("ab") as file:
        file.write(b'{"type":"container","acti')
    log = EventLog(str(tmp_path))
    log.append(event("two"))
    log.append(event("three"))
    assert actions(log) == ["one", "two", "three"]
    assert decode(b"[]") is None
    assert decode(b"\xff") is None


def test_a_full_disk_is_told_once_and_costs_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(str(tmp_path))
    log.append(event("before"))

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.append(event("lost"))
        log.append(event("lost"))
    log.append(event("after"))
    assert actions(log) == ["before", "after"]
    assert caplog.text.count("events are not kept") == 1


def test_a_place_where_nothing_can_be_kept_is_no_reason_to_fail(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "missing"))
    log.append(event("told"))
    assert list(log.lines()) == []
    log.close()
