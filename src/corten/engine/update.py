"""`docker update`: which limits and policies a container has afterwards.  Pure.

What the client gives is checked as dockerd checks it, by itself, then against what the container has, then as a whole
(moby daemon/update.go, container/container_unix.go UpdateContainer).  A zero value changes nothing.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from corten.engine import checks
from corten.engine.effective import UPDATE, Effective
from corten.engine.host import Host
from corten.errors import Conflict
from corten.spec.docker import ContainerUpdateRequest, HostConfig

_FIELDS: Final = {
    "blkio_weight": "BlkioWeight",
    "cpu_shares": "CpuShares",
    "nano_cpus": "NanoCpus",
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems",
    "memory": "Memory",
    "memory_swap": "MemorySwap",
    "memory_reservation": "MemoryReservation",
    "cpu_realtime_period": "CpuRealtimePeriod",
    "cpu_realtime_runtime": "CpuRealtimeRuntime",
}
_UPDATED: Final = frozenset({"pids_limit", "restart_policy", "cpu_percent"})  # each in its own way


def updated(before: Effective, request: ContainerUpdateRequest, machine: Host) -> Effective:
    """The effective configuration after an update.

    Raises InvalidArgument for values that cannot be, Conflict for those that do not go with what the container has.
    """
    checks.check_resources(request, machine, is_update=True)
    checks.check_restart_policy(request.restart_policy, auto_remove=False)
    _check_conflicts(before.host, request)
    changed = {name: getattr(request, name) for name in _FIELDS if getattr(request, name)}
    fields = [_FIELDS[name] for name in changed]
    limit = before.pids_limit
    if request.pids_limit is not None:
        limit = request.pids_limit if request.pids_limit > 0 else -1
        changed["pids_limit"] = max(0, request.pids_limit)  # dockerd keeps 0 for all that mean no limit
        fields.append("PidsLimit")
    if request.restart_policy.name:
        changed["restart_policy"] = request.restart_policy
        fields += ["RestartPolicy.Name", "RestartPolicy.MaximumRetryCount"]
    host = replace(before.host, **changed)
    checks.check_resources(host, machine, is_update=True)
    origins = before.origins | {f"HostConfig.{field}": UPDATE for field in fields}
    return replace(before, host=host, pids_limit=limit, origins=origins)


def left_alone(before: Effective, request: ContainerUpdateRequest) -> list[str]:
    """A warning for each limit that is another than the container's, and that no update changes (dockerd's neither)."""
    out = [checks.NO_PERCENT] if request.cpu_percent > 0 else []
    out += checks.without_effect(request)
    for attribute, name in zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True):
        wanted = getattr(request, attribute)
        if attribute in _FIELDS or attribute in _UPDATED or name in checks.WITHOUT_EFFECT or not wanted:
            continue
        if wanted != getattr(before.host, attribute):
            out.append(f"{name} stays as it was: no update changes it.")
    return out


def _check_conflicts(host: HostConfig, request: ContainerUpdateRequest) -> None:
    def refuse(what: str, other: str) -> Conflict:
        return Conflict(f"Conflicting options: {what} cannot be updated as {other} has already been set")

    rules: tuple[tuple[Any, Any, str, str], ...] = (
        (request.nano_cpus, host.cpu_period, "Nano CPUs", "CPU Period"),
        (request.nano_cpus, host.cpu_quota, "Nano CPUs", "CPU Quota"),
        (request.cpu_period, host.nano_cpus, "CPU Period", "NanoCPUs"),
        (request.cpu_quota, host.nano_cpus, "CPU Quota", "NanoCPUs"),
    )
    for wanted, present, what, other in rules:
        if wanted > 0 and present > 0:
            raise refuse(what, other)
    if not request.memory_swap and request.memory > host.memory_swap >= 0:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if host.auto_remove and request.restart_policy.name not in ("", "no"):
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
