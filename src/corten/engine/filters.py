"""`docker ps` filters and the columns that are computed for it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from corten.engine import times
from corten.engine.container import Container
from corten.engine.patterns import Regexps
from corten.engine.record import Record, Status
from corten.errors import Internal, InvalidArgument

Filters = Mapping[str, Sequence[str]]
A = TypeVar("A")
R = TypeVar("R")

KNOWN: Final = frozenset(
    {
        "ancestor", "before", "exited", "id", "isolation", "label", "name", "status", "health", "since", "volume",
        "network", "is-task", "publish", "expose",
    }
)  # fmt: skip
_HEALTH: Final = frozenset({"none", "starting", "healthy", "unhealthy"})
_TRUE: Final = frozenset({"1", "true"})
_FALSE: Final = frozenset({"0", "false"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_PORT_MAX: Final = 65535
_LIGHT_BYTES: Final = 256


def check_keys(filters: Filters, known: Iterable[str]) -> None:
    """Raises InvalidArgument: `invalid filter 'foo'`."""
    accepted = set(known)
    for key in filters:
        if key not in accepted:
            raise InvalidArgument(f"invalid filter '{key}'")


def check(filters: Filters) -> None:
    """Keys and values of a list request, with dockerd's texts."""
    check_keys(filters, KNOWN)
    for value in filters.get("status", ()):
        if value not in set(Status):
            raise InvalidArgument(f"invalid filter 'status={value}'")
    for value in filters.get("health", ()):
        if value not in _HEALTH:
            raise InvalidArgument(f"unrecognized filter value for health: {value}")
    for value in filters.get("exited", ()):
        if not _INTEGER.fullmatch(value):
            text = f'strconv.Atoi: parsing "{value}": invalid syntax'
            raise InvalidArgument(f"invalid filter 'exited={value}': {text}")
    for key in ("publish", "expose"):
        for value in filters.get(key, ()):
            _ports_of(key, value)
    flags("is-task", filters)


def flags(key: str, filters: Filters) -> bool | None:
    """A boolean filter; None when it is not given."""
    values = set(filters.get(key, ()))
    if not values:
        return None
    if values <= _TRUE:
        return True
    if values <= _FALSE:
        return False
    raise InvalidArgument(f"invalid filter '{key}=[{' '.join(sorted(values))}]'")


def labels_match(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    """Every `key` or `key=value` holds."""
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


async def sift(filters: Filters, match: Callable[[A], R], among: A) -> R:
    """Match, in a thread when there is so much to match with that other clients would have to wait."""
    if sum(len(value) for values in filters.values() for value in values) <= _LIGHT_BYTES:
        return match(among)
    return await asyncio.to_thread(match, among)


def _ports_of(key: str, value: str) -> set[str]:
    """`80`, `80/udp`, `8000-8010/tcp` → keys.  dockerd answers 500 for what is none."""
    if ":" in value:
        raise Internal(f"filter for '{key}' should not contain ':': {value}")
    numbers, _, protocol = value.partition("/")
    try:
        first, last = _port_range(numbers)
    except ValueError as error:
        raise Internal(f"error while looking up for {key} {value}: {error}") from error
    return {f"{port}/{protocol or 'tcp'}" for port in range(first, last + 1)}


def _port_range(text: str) -> tuple[int, int]:
    """`80` or `8000-8010`.  Raises ValueError in the words of Go's nat.ParsePortRange."""
    if not text:
        raise ValueError("Empty string specified for ports.")
    first, dash, last = text.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if high < low:
        raise ValueError(f"Invalid range specified for the Port: {text}")
    return low, high


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text) > 18 or int(text) > _PORT_MAX:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


class ListQuery:
    """A checked list request.  `ancestors` and the anchors of before/since are resolved by the caller."""

    def __init__(
        self,
        filters: Filters,
        *,
        all: bool,
        ancestors: frozenset[str] | None,
        before: Record | None,
        since: Record | None,
        network_ids: Mapping[str, str],
    ) -> None:
        self._filters = filters
        self._names, self._ids = (Regexps(key, filters.get(key, ())) for key in ("name", "id"))
        self._network_ids = network_ids
        self._running_only = not (all or "status" in filters)
        self._ancestors = ancestors
        self._before, self._since = before, since
        published = [_ports_of("publish", value) for value in filters.get("publish", ())]
        exposed = [_ports_of("expose", value) for value in filters.get("expose", ())]
        self._published: set[str] | None = set().union(*published) if published else None
        self._exposed: set[str] | None = set().union(*exposed) if exposed else None
        self._tests: list[Callable[[Record], bool]] = [
            self._has_state, self._has_name, self._has_labels, self._has_place, self._exposes, self._has_mount,
        ]  # fmt: skip

    def matches(self, container: Container) -> bool:
        """Whether this container is wanted."""
        return all(test(container.record) for test in self._tests) and self._publishes(container)

    def among(self, containers: Iterable[Container]) -> list[Container]:
        """Those of them that are wanted."""
        return [one for one in containers if self.matches(one)]

    def _has_state(self, record: Record) -> bool:
        state = record.state
        if self._running_only and not state.is_running and state.status is not Status.RESTARTING:
            return False
        wanted = self._filters.get("status", ())
        if wanted and state.status not in wanted:
            return False
        codes = [int(code) for code in self._filters.get("exited", ())]
        if codes and (state.exit_code not in codes or state.status is not Status.EXITED):
            return False
        health = self._filters.get("health", ())
        if health and (state.health.status if state.health is not None else "none") not in health:
            return False
        return flags("is-task", self._filters) is not True

    def _has_name(self, record: Record) -> bool:
        if not self._names.match(f"/{record.name}", record.name):
            return False
        return self._ids.match(record.id) or any(map(record.id.startswith, self._filters["id"]))

    def _has_labels(self, record: Record) -> bool:
        return labels_match(record.labels, self._filters.get("label", ()))

    def _has_place(self, record: Record) -> bool:
        """Age and image."""
        if self._before is not None and record.created_ns >= self._before.created_ns:
            return False
        if self._since is not None and record.created_ns <= self._since.created_ns:
            return False
        return self._ancestors is None or record.image_id in self._ancestors

    def _publishes(self, container: Container) -> bool:
        if self._published is None:
            return True
        ports = {f"{one.host_port}/{one.transport}" for one in container.publications}
        return bool(self._published & ports)

    def _exposes(self, record: Record) -> bool:
        exposed = {key if "/" in key else f"{key}/tcp" for key in record.effective.config.exposed_ports or ()}
        return self._exposed is None or bool(self._exposed & exposed)

    def _is_in(self, record: Record, networks: Sequence[str]) -> bool:
        """By the network's name, or the beginning of its id once the container was started."""
        names = record.effective.asked_networks
        ids = [self._network_ids.get(name, "") for name in names] if record.state.started_ns else []
        return any(value in names or any(one.startswith(value or "-") for one in ids) for value in networks)

    def _has_mount(self, record: Record) -> bool:
        volumes, networks = self._filters.get("volume", ()), self._filters.get("network", ())
        if networks and not self._is_in(record, networks):
            return False
        points = record.effective.mounts
        return not volumes or any(
            value in (point.name or point.source, point.target) for point in points for value in volumes
        )


def status_text(record: Record, now_ns: int) -> str:
    """The STATUS column: `Up 3 minutes (Paused)`, `Exited (0) 2 hours ago`, `Created`."""
    state = record.state
    if state.is_running:
        up = f"Up {times.human(now_ns - state.started_ns)}"
        if state.status is Status.PAUSED:
            return f"{up} (Paused)"
        if state.health is None:
            return up
        return f"{up} ({'health: starting' if state.health.status == 'starting' else state.health.status})"
    ended = times.human(now_ns - state.finished_ns)
    match state.status:
        case Status.RESTARTING:
            return f"Restarting ({state.exit_code}) {ended} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case _:
            return f"Exited ({state.exit_code}) {ended} ago" if state.finished_ns else "Created"
