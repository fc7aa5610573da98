"""What happened, to whoever listens; the last events are kept for who comes late.

Bounded both ways (field.md D12): the past to HISTORY events, as dockerd's, though it outlives cortend (`eventlog`); a
listener's queue to QUEUE, after which it is closed as lagging, for a stream with a gap in the middle would be a lie.

    bus.publish(Event(…))                          any thread
    with bus.subscribe(wanted, since_ns) as sub:   replay first, then as they come, without gap or double
        for event in sub: …                        blocks; or sub.drain() after sub's `wake` was called
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec

from corten.errors import Unavailable

HISTORY = 256
QUEUE = 4096


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to one object, in Docker's words (Docker API SystemEvents)."""

    type: str
    """container, image, network, volume, daemon."""
    action: str
    """create, start, die, tag, …; an exec's as `exec_create: sh`."""
    id: str
    """The object's."""
    attributes: dict[str, str] = {}
    tenant: str = "moby"
    time_ns: int = 0
    """Set by the bus when it is 0."""
    detail: dict[str, Any] = {}
    """Kept with the event, and told to nobody who listens."""


class Keeper(Protocol):
    """Where events outlive the engine (core.eventlog)."""

    def append(self, event: Event) -> None:
        """Keeps one."""

    def last(self, count: int) -> Iterable[Event]:
        """The last ones, oldest first."""


class Subscription:
    """One listener's queue.  A context manager; leaving it ends the listening."""

    def __init__(self, bus: EventBus, wanted: Callable[[Event], bool], wake: Callable[[], None] | None) -> None:
        self._bus = bus
        self._wanted = wanted
        self._wake = wake
        self._queue: deque[Event] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._lagged = False

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """Events as they come, until `close`; raises Unavailable when the listener lagged behind."""
        while (event := self.get()) is not None:
            yield event

    def get(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None after `close` or when none came in time.  Raises Unavailable after lagging."""
        with self._ready:
            self._ready.wait_for(lambda: self._queue or self._closed, timeout_s)
            if self._queue:
                return self._queue.popleft()
            self._require_kept_up()
            return None

    def drain(self) -> list[Event]:
        """What is there now, without waiting.  Raises Unavailable after lagging, once all was taken."""
        with self._ready:
            found = list(self._queue)
            self._queue.clear()
            if not found:
                self._require_kept_up()
            return found

    def close(self) -> None:
        """Ends it; who waits is woken."""
        self._bus.forget(self)
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def offer(self, event: Event) -> bool:
        """Puts an event that is wanted into the queue (the bus calls this); False when it was full."""
        if not self._wanted(event):
            return True
        with self._ready:
            if len(self._queue) >= QUEUE:
                self._closed = self._lagged = True
            else:
                self._queue.append(event)
            self._ready.notify_all()
        if self._wake is not None:
            self._wake()
        return not self._lagged

    def _require_kept_up(self) -> None:
        if self._lagged:
            raise Unavailable(f"listener of events is more than {QUEUE} events behind")


class EventBus:
    """The events of one engine."""

    def __init__(self, history: int = HISTORY, *, keeper: Keeper | None = None) -> None:
        """The past is what `keeper` has of it."""
        self._keeper = keeper
        self._past: deque[Event] = deque(keeper.last(history) if keeper is not None else (), maxlen=history)
        self._subscriptions: list[Subscription] = []
        self._lock = threading.RLock()
        self._published = 0

    def publish(self, event: Event) -> Event:
        """Tells every listener, and keeps the event; returns it with its time."""
        with self._lock:
            stamped = event if event.time_ns else msgspec.structs.replace(event, time_ns=time.time_ns())
            self._past.append(stamped)
            if self._keeper is not None:
                self._keeper.append(stamped)
            self._published += 1
            self._subscriptions = [sub for sub in self._subscriptions if sub.offer(stamped)]
        return stamped

    def subscribe(
        self,
        wanted: Callable[[Event], bool] = lambda _: True,
        *,
        since_ns: int | None = None,
        wake: Callable[[], None] | None = None,
    ) -> Subscription:
        """Listens from now on; kept events since `since_ns` come first.

        `wake` is called, from the publishing thread, whenever there is something to `drain`.
        """
        subscription = Subscription(self, wanted, wake)
        with self._lock:
            if since_ns is not None:
                for event in self._past:
                    if event.time_ns >= since_ns:
                        subscription.offer(event)
            self._subscriptions.append(subscription)
        return subscription

    @property
    def published(self) -> int:
        """How many events there were."""
        return self._published

    @property
    def listener_count(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    def forget(self, subscription: Subscription) -> None:
        """Stops telling a listener; unknown ones are fine."""
        with self._lock:
            self._subscriptions = [sub for sub in self._subscriptions if sub is not subscription]
