"""The values of `spec.docker` as JSON-able objects, the way dockerd prints them in inspect.

Go prints a nil slice or map as null, and leaves a field out when its tag says `omitempty` and it is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from corten.spec import docker as d

# Fields that are left out at their zero value (api/types of moby 28, the `omitempty` tags); ALL: every field.
ALL = frozenset({"*"})
OMIT_EMPTY: dict[type, frozenset[str]] = {
    d.HealthConfig: ALL,
    d.ContainerConfig: frozenset(
        {
            "ExposedPorts",
            "Healthcheck",
            "ArgsEscaped",
            "NetworkDisabled",
            "MacAddress",
            "StopSignal",
            "StopTimeout",
            "Shell",
        }
    ),
    d.HostConfig: frozenset(
        {
            "Annotations",
            "StorageOpt",
            "Tmpfs",
            "Sysctls",
            "Runtime",
            "Mounts",
            "Init",
            "KernelMemory",
            "KernelMemoryTCP",
        }
    ),
    d.ContainerUpdateRequest: frozenset({"KernelMemory", "KernelMemoryTCP"}),
    d.Mount: ALL,
    d.BindOptions: ALL,
    d.VolumeOptions: ALL,
    d.DriverConfig: ALL,
    d.ImageOptions: ALL,
    d.TmpfsOptions: ALL,
    d.EndpointIPAMConfig: ALL,
    d.ExecConfig: frozenset({"ConsoleSize"}),
    d.ExecStartConfig: frozenset({"ConsoleSize"}),
}
# Printed although false or zero: pointers, of which only nil is empty.
_POINTERS = frozenset({"Init", "StopTimeout", "Healthcheck", "ConsoleSize"})


def to_json(value: msgspec.Struct) -> dict[str, Any]:
    """The object that dockerd prints for this value, keys in Go's order of fields."""
    omitted = OMIT_EMPTY.get(type(value), frozenset())
    out: dict[str, Any] = {}
    for attribute, name in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
        item = getattr(value, attribute)
        if (omitted is ALL or name in omitted) and _is_empty(item, name):
            continue
        out[name] = _plain(item)
    return out


def nonzero_fields(value: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path in Docker's spelling, value) of every field that is not at its zero value.

    Nested values are walked, lists and maps are not: `HostConfig.RestartPolicy.Name`, `HostConfig.Mounts`.
    """
    for attribute, name in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
        item = getattr(value, attribute)
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(item, msgspec.Struct):
            yield from nonzero_fields(item, path)
        elif item not in (None, "", 0, False, (0, 0)) and not (isinstance(item, list | dict) and not item):
            yield path, item


def _is_empty(item: object, name: str) -> bool:
    if item is None:
        return True
    return name not in _POINTERS and not item


def _plain(item: Any) -> Any:
    if isinstance(item, msgspec.Struct):
        return to_json(item)
    if isinstance(item, list | tuple):
        return [_plain(element) for element in item]
    if isinstance(item, dict):
        return {key: _plain(element) for key, element in item.items()}
    return item
