"""Docker's events: made here, kept and handed out by `core.events`.

`docker events` filters and prints them; attributes of a container event are its labels, image and name, and what
the action adds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from corten.engine.filters import Filters, labels_match
from corten.engine.record import Record
from corten.errors import InvalidArgument

Json = dict[str, Any]

TYPES: Final = frozenset(
    {"builder", "config", "container", "daemon", "image", "network", "node", "plugin", "secret", "service", "volume"}
)
FILTER_KEYS: Final = TYPES | {"event", "label", "scope", "type"}
# Actions of before 1.44 that carry a colon and more: matched by what stands before it.
_NAMED: Final = ("container", "image", "volume", "network", "daemon", "plugin", "builder", "config", "node", "secret",
                 "service")  # fmt: skip


def container_event(record: Record, action: str, **attributes: str) -> Json:
    """An event of a container."""
    given = {**record.labels, "image": record.image_ref, "name": record.name, **attributes}
    return event("container", action, record.id, given, status=True, image=record.image_ref)


def network_event(network_id: str, action: str, *, name: str, kind: str, container_id: str) -> Json:
    """A container joins or leaves a network."""
    return event("network", action, network_id, {"container": container_id, "name": name, "type": kind})


def image_event(image_id: str, action: str, name: str, labels: Mapping[str, str] | None = None) -> Json:
    """An event of an image."""
    return event("image", action, image_id, {**(labels or {}), "name": name}, status=True)


def event(
    kind: str, action: str, actor: str, attributes: Mapping[str, str], *, status: bool = False, image: str = ""
) -> Json:
    """Docker's shape; containers and images have the fields of before 1.22 as well."""
    now = time.time_ns()
    out: Json = {}
    if status:
        out |= {"status": action, "id": actor}
        if image:
            out["from"] = image
    return out | {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": actor, "Attributes": dict(attributes)},
        "scope": "local",
        "time": now // 10**9,
        "timeNano": now,
    }


def check_filters(filters: Filters) -> None:
    """dockerd ignores filters that it does not know; a scope that is none is refused."""
    for value in filters.get("scope", ()):
        if value not in ("local", "swarm"):
            raise InvalidArgument(f"invalid filter 'scope={value}'")


def matches(item: Json, filters: Filters) -> bool:
    """Whether a client asked for this event (daemon/events/filter.go)."""
    actor = item["Actor"]
    return (
        _action_matches(item, filters.get("event", ()))
        and _listed(item["Type"], filters.get("type", ()))
        and _listed(item["scope"], filters.get("scope", ()))
        and labels_match(actor["Attributes"], filters.get("label", ()))
        and all(_object_matches(item, kind, filters[kind]) for kind in _NAMED if kind in filters)
    )


def _listed(value: str, wanted: Sequence[str]) -> bool:
    return not wanted or value in wanted


def _action_matches(item: Json, wanted: Sequence[str]) -> bool:
    action: str = item["Action"]
    return not wanted or action in wanted or action.partition(":")[0] in wanted


def _object_matches(item: Json, kind: str, wanted: Sequence[str]) -> bool:
    """`container=x` matches events of that container by id, prefix or name; of others, those that name it."""
    if not wanted:
        return True
    actor = item["Actor"]
    attributes = actor["Attributes"]
    names = [actor["ID"], attributes.get("name", "")] if item["Type"] == kind else [attributes.get(kind, "")]
    if kind == "image":
        names.append(attributes.get("image", ""))
    return any(_same(name, value) for name in names for value in wanted if name)


def _same(name: str, value: str) -> bool:
    is_id = len(name) >= 64 and name.rpartition(":")[2].startswith(value.rpartition(":")[2])
    return name == value or is_id or name.partition(":")[0] == value
