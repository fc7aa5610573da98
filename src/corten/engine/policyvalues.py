"""What a policy is shown of a container, and what it may set (docs/policies.md, "Values").  Pure.

A value of a policy takes the place of the client's in the request, and everything is decided again: it is checked as if
a client had sent it, and what follows from it (a swap limit from a memory limit) follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from corten.core.asker import Asker, printable
from corten.engine import effective as decided
from corten.engine.effective import Asked, Effective, Lifetime
from corten.engine.explaining import origins as all_origins
from corten.engine.host import Host
from corten.engine.policies import Function
from corten.errors import Internal, InvalidArgument
from corten.spec.docker import ContainerConfig, ContainerCreateRequest, ContainerUpdateRequest, HostConfig
from corten.spec.docker_json import nonzero_fields
from corten.spec.docker_parse import parse_body

Json = dict[str, Any]
T = TypeVar("T", bound=msgspec.Struct)

# Of an update as well: what the operation itself can change.
UPDATABLE: Final = frozenset(
    {
        "BlkioWeight", "CpuPeriod", "CpuQuota", "CpuShares", "CpusetCpus", "CpusetMems", "Memory", "MemoryReservation",
        "MemorySwap", "NanoCpus", "PidsLimit", "RestartPolicy",
    }
)  # fmt: skip
HOST: Final = UPDATABLE | {
    "CapAdd", "CapDrop", "Init", "LogConfig", "MemorySwappiness", "OomScoreAdj", "ReadonlyRootfs", "SecurityOpt",
    "ShmSize", "Ulimits",
}  # fmt: skip
CONFIG: Final = frozenset({"Env", "Labels"})  # added to what is there; the others take its place
LIFETIME, REASON = "Lifetime", "LifetimeReason"
SETTABLE: Final = HOST | CONFIG | {LIFETIME, REASON}
_MAX_LIFETIME_S: Final = 10**9

_HOST_ATTRIBUTES: Final = {field.encode_name: field.name for field in msgspec.structs.fields(HostConfig)}


def view(effective: Effective, *, verb: str, name: str, image_id: str, machine: Host, client: Asker) -> Json:
    """The fields of corten.policy.Container.  The limit of processes is the one that counts, whoever said it."""
    host = msgspec.to_builtins(effective.host)
    host["PidsLimit"] = effective.pids_limit
    return {
        "verb": verb,
        "name": name,
        "image": effective.config.image,
        "image_id": image_id,
        "config": msgspec.to_builtins(effective.config),
        "host": host,
        "origins": all_origins(effective),
        "client": msgspec.to_builtins(client),
        "memory": machine.memory_bytes,
        "cpus": machine.cpu_count,
    }


def checked(values: Json, function: Function) -> Json:
    """What a policy has returned.  Raises Internal naming it for what no policy can set."""
    for key, value in values.items():
        if key not in SETTABLE:
            raise _nonsense(function, f"{printable(key)} is nothing that a policy can set")
        if value is None:
            raise _nonsense(function, f"{key} has no value")
    _host_of(values, function)
    _config_of(values, function)
    _lifetime_of(values, function)
    return values


def in_create(request: ContainerCreateRequest, values: Json, function: Function) -> ContainerCreateRequest:
    """The request as if the client had sent the policy's values."""
    host, config = _host_of(values, function), _config_of(values, function)
    change: Json = {}
    if "Labels" in values:
        change["labels"] = {**(request.config.labels or {}), **(config.labels or {})}
    if "Env" in values:
        names = {item.partition("=")[0] for item in config.env or ()}
        kept = [item for item in request.config.env or () if item.partition("=")[0] not in names]
        change["env"] = [*kept, *(config.env or ())]
    attributes = {_HOST_ATTRIBUTES[key]: getattr(host, _HOST_ATTRIBUTES[key]) for key in values if key in HOST}
    return replace(
        request, config=replace(request.config, **change), host_config=replace(request.host_config, **attributes)
    )


def in_update(
    request: ContainerUpdateRequest, values: Json, function: Function, now: Effective
) -> tuple[ContainerUpdateRequest, Json]:
    """The same of an update, and what of the values counts: what an update can change, and is not so already."""
    host = _host_of(values, function)
    change = {}
    for key in values:
        attribute = _HOST_ATTRIBUTES.get(key, "")
        is_so = key == "PidsLimit" and host.pids_limit == now.pids_limit
        if key in UPDATABLE and not is_so and getattr(host, attribute) != getattr(now.host, attribute):
            change[attribute] = getattr(host, attribute)
    counts = {key: value for key, value in values.items() if _HOST_ATTRIBUTES.get(key) in change}
    return replace(request, **change), counts


def told(after: Effective, before: Effective, values: Json, function: Function) -> Effective:
    """`after` with the origin of what the policy set, and what was there `before`."""
    origins, asked = dict(after.origins), dict(before.asked)
    shown = dict(nonzero_fields(after.config, "Config")) | dict(nonzero_fields(after.host, "HostConfig"))
    for key in values:
        if key not in HOST | CONFIG:
            continue
        path = f"Config.{key}" if key in CONFIG else f"HostConfig.{key}"
        asked.setdefault(path, _asked(before, path, key))
        origin = function.text
        if key in CONFIG and path in before.origins:
            origin = f"{before.origins[path]}, {origin}"
        origins |= {one: origin for one in (path, *shown) if one == path or one.startswith(f"{path}.")}
    lifetime = _shorter(before.lifetime, _lifetime_of(values, function))
    return replace(after, origins=origins, asked=asked, lifetime=lifetime)


def carried(after: Effective, before: Effective) -> Effective:
    """What earlier policies have said, in a configuration that was decided anew with their values in it."""
    paths = {
        path: origin
        for path, origin in before.origins.items()
        if any(path == one or path.startswith(f"{one}.") for one in before.asked)
    }
    return replace(after, origins=after.origins | paths, asked=before.asked, lifetime=before.lifetime)


def _asked(before: Effective, path: str, key: str) -> Asked:
    if key == "PidsLimit":
        value: Any = before.pids_limit
    else:
        value = msgspec.to_builtins(before.config if key in CONFIG else before.host)[key]
    nested = next((origin for one, origin in before.origins.items() if one.startswith(f"{path}.")), decided.BUILT_IN)
    return Asked(value=value, origin=before.origins.get(path, nested))


def _shorter(one: Lifetime | None, other: Lifetime | None) -> Lifetime | None:
    both = [lifetime for lifetime in (one, other) if lifetime is not None]
    return min(both, key=lambda lifetime: lifetime.seconds) if both else None


def _host_of(values: Mapping[str, Any], function: Function) -> HostConfig:
    return _parsed(values, HOST, HostConfig, function)


def _config_of(values: Mapping[str, Any], function: Function) -> ContainerConfig:
    config = _parsed(values, CONFIG, ContainerConfig, function)
    if any(not item.partition("=")[1] or item.startswith("=") for item in config.env or ()):
        raise _nonsense(function, "Env: not a list of NAME=VALUE")
    return config


def _parsed(values: Mapping[str, Any], keys: frozenset[str], cls: type[T], function: Function) -> T:
    body = msgspec.json.encode({key: value for key, value in values.items() if key in keys})
    try:
        found, unknown = parse_body(body, cls)
    except InvalidArgument as error:
        raise _nonsense(function, error.text) from error
    if unknown:
        raise _nonsense(function, f"{printable(unknown[0])} is nothing that a policy can set")
    return found


def _lifetime_of(values: Mapping[str, Any], function: Function) -> Lifetime | None:
    if LIFETIME not in values:
        return None
    seconds, reason = values[LIFETIME], values.get(REASON, "its lifetime is over")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MAX_LIFETIME_S:
        raise _nonsense(function, f"{LIFETIME}: not a number of seconds above 0")
    if not isinstance(reason, str):
        raise _nonsense(function, f"{REASON}: not a string")
    return Lifetime(seconds=float(seconds), policy=function.text, reason=printable(reason))


def _nonsense(function: Function, text: str) -> Internal:
    return Internal(f"{function.text} failed at line {function.line}: {text}")
