"""Docker's events: made and filtered here, kept and handed out by `core.events`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import msgspec

from corten.core.eventlog import EventLog, decode
from corten.core.events import Event, EventBus
from corten.engine import times
from corten.engine.filters import Filters, labels_match
from corten.engine.record import Record
from corten.errors import Internal, InvalidArgument
from corten.spec.reference import parse

Json = dict[str, Any]

# Filters that name an object, of whatever type.
_OBJECTS: Final = ("container", "volume", "network", "daemon", "plugin", "config", "node", "secret", "service")
_WITH_MORE: Final = frozenset({"health_status", "exec_create", "exec_start"})
_FROM: Final = "image"  # the attribute that containers' events repeat as `from`


def container_event(record: Record, action: str, **attributes: str) -> Event:
    """An event of a container; its labels are attributes as well."""
    given = {**record.labels, "image": record.image_ref, "name": record.name, **attributes}
    return Event(type="container", action=action, id=record.id, attributes=given)


def die_event(record: Record, code: int, at_ns: int, verdict: str) -> Event:
    """The end of a run; its time is for the caller to set."""
    seconds = max(0, at_ns - record.state.started_ns) // times.SECOND_NS
    return container_event(record, "die", exitCode=str(code), execDuration=str(seconds), verdict=verdict)


def untold_deaths(log: EventLog, ended: Iterable[Record]) -> list[Event]:
    """The `die` of each that has ended and whose last event of a run is its start: cortend was killed in between.

    Reads what is kept, a few MB.
    """
    wanted = {record.id: record for record in ended}
    found: list[Event] = []
    for line in log.lines() if wanted else ():
        if b'"start"' not in line and b'"die"' not in line:
            continue
        event = decode(line)
        if event is None or event.type != "container" or event.action not in ("start", "die"):
            continue
        record = wanted.pop(event.id, None)
        if record is not None and event.action == "start":
            state, death = record.state, record.state.death
            told = die_event(record, state.exit_code, state.finished_ns, death.sentence if death is not None else "")
            found.append(msgspec.structs.replace(told, time_ns=state.finished_ns))
        if not wanted:
            break
    return sorted(found, key=lambda event: event.time_ns)


def network_event(network_id: str, action: str, *, name: str, kind: str, container_id: str) -> Event:
    """A container joins or leaves a network."""
    attributes = {"container": container_id, "name": name, "type": kind}
    return Event(type="network", action=action, id=network_id, attributes=attributes)


def volume_event(name: str, action: str, **attributes: str) -> Event:
    """A volume comes, goes, or a container begins or ends to use it."""
    return Event(type="volume", action=action, id=name, attributes=attributes)


def to_json(event: Event) -> Json:
    """Docker's shape; containers and images have the fields of before 1.22 as well."""
    out: Json = {}
    if event.id and event.type in ("container", "image"):
        out |= {"status": event.action, "id": event.id}
        if event.type == "container":
            out["from"] = event.attributes.get(_FROM, "")
    return out | {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // times.SECOND_NS,
        "timeNano": event.time_ns,
    }


async def follow(bus: EventBus, filters: Filters, since: str, until: str) -> AsyncIterator[Json]:
    """`docker events`: what was kept since `since` (all of it with `until` alone), then what comes, until `until`.

    Raises before the first value: Internal for a time that is none (dockerd answers 500), InvalidArgument.  A filter
    that nobody knows is no mistake.
    """
    since_ns, until_ns = _moment(since), _moment(until)
    if since_ns and until_ns and since_ns > until_ns:
        raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(told.set)

    def wanted(event: Event) -> bool:
        return matches(event, filters)

    with bus.subscribe(wanted, since_ns=since_ns if since or until else None, wake=wake) as subscription:
        while True:
            told.clear()
            for event in subscription.drain():
                if not until_ns or event.time_ns <= until_ns:
                    yield to_json(event)
            if not await _until(told, until_ns):
                return


async def _until(told: asyncio.Event, until_ns: int) -> bool:
    """Wait for news; False when the time is over."""
    left_s = (until_ns - times.now_ns()) / times.SECOND_NS if until_ns else None
    if left_s is not None and left_s <= 0:
        return False
    try:
        async with asyncio.timeout(left_s):
            await told.wait()
    except TimeoutError:
        return False
    return True


def _moment(text: str) -> int:
    try:
        return times.parse_timestamp(text)
    except InvalidArgument as error:
        raise Internal(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def matches(event: Event, filters: Filters) -> bool:
    """Whether a client asked for this event (daemon/events/filter.go)."""
    names = (event.id, event.attributes.get("name", ""))
    return (
        _action_matches(event.action, filters.get("event", ()))
        and _listed(event.type, filters.get("type", ()))
        and _listed("local", filters.get("scope", ()))
        and labels_match(event.attributes, filters.get("label", ()))
        and _image_matches(event, filters.get("image", ()))
        and all(_begins(names, filters[kind]) for kind in _OBJECTS if filters.get(kind))
    )


def _listed(value: str, wanted: Sequence[str]) -> bool:
    return not wanted or value in wanted


def _action_matches(action: str, wanted: Sequence[str]) -> bool:
    """The whole of it, or its beginning once one is wanted that has more behind a colon (`exec_start: …`)."""
    if any(one in _WITH_MORE for one in wanted):
        return _begins((action,), wanted)
    return _listed(action, wanted)


def _begins(names: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whatever the event is about: an id or a name that is wanted, or begins so."""
    return any(name.startswith(value) for name in names for value in wanted)


def _image_matches(event: Event, wanted: Sequence[str]) -> bool:
    """An image, or the image of a container: the id or the name, with or without its tag."""
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return not wanted or any(one in wanted for one in (event.id, name, _without_tag(event.id), _without_tag(name)))


def _without_tag(text: str) -> str:
    try:
        return parse(text).familiar_name
    except InvalidArgument:
        return text
