"""The event bus: order, replay, bounds."""

from __future__ import annotations

import threading

import pytest

from corten.core.events import HISTORY, QUEUE, Event, EventBus
from corten.errors import Unavailable


def event(action: str, **fields: object) -> Event:
    return Event(type="container", action=action, id="c", **fields)  # type: ignore[arg-type]


def test_a_listener_gets_what_it_wants_from_now_on() -> None:
    bus = EventBus()
    bus.publish(event("before"))
    with bus.subscribe(lambda e: e.action != "skipped") as listener:
        bus.publish(event("one"))
        bus.publish(event("skipped"))
        bus.publish(event("two"))
        assert [found.action for found in listener.drain()] == ["one", "two"]
        assert listener.get(0.01) is None
    bus.publish(event("after"))
    assert listener.drain() == []


def test_the_past_comes_first_and_nothing_twice() -> None:
    bus = EventBus()
    bus.publish(event("old", time_ns=5))
    bus.publish(event("new", time_ns=10))
    with bus.subscribe(since_ns=10) as listener:
        bus.publish(event("now"))
        found = listener.drain()
    assert [e.action for e in found] == ["new", "now"]
    assert found[1].time_ns > 10


def test_the_past_is_bounded() -> None:
    bus = EventBus()
    for number in range(HISTORY + 10):
        bus.publish(event(str(number)))
    with bus.subscribe(since_ns=0) as listener:
        found = listener.drain()
    assert (len(found), found[0].action) == (HISTORY, "10")


def test_a_listener_that_lags_gets_what_was_queued_and_then_an_error() -> None:
    bus = EventBus()
    with bus.subscribe() as listener:
        for _ in range(QUEUE + 1):
            bus.publish(event("x"))
        assert len(listener.drain()) == QUEUE
        with pytest.raises(Unavailable, match="events behind"):
            listener.drain()
        with pytest.raises(Unavailable):
            listener.get()


def test_who_waits_is_woken_by_an_event_and_by_the_end() -> None:
    bus = EventBus()
    listener = bus.subscribe()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(e.action for e in listener))
    thread.start()
    bus.publish(event("one"))
    bus.publish(event("two"))
    listener.close()
    thread.join()
    assert found in (["one", "two"], ["one"], [])


def test_wake_is_called_for_every_event() -> None:
    bus = EventBus()
    woken: list[int] = []
    with bus.subscribe(wake=lambda: woken.append(1)):
        bus.publish(event("one"))
    assert woken == [1]
