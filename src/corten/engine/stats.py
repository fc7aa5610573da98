"""`docker stats`: a sample of a container's cgroup and interface in Docker's shape.

What Docker has no field for (pressure, peaks, limits that were hit, bursts) is under `corten`, the key of ours:

    {"pressure": {"cpu": {"some": {"avg10", "avg60", "avg300" (percent), "total_us"}, "full": ..}, "memory", "io"},
     "peaks": {"memory_bytes", "swap_bytes" (cgroup v1: memory and swap together), "pids"},
     "events": {"memory_limit", "memory_high", "oom", "oom_kills", "pids_limit"},
     "bursts": {"count", "time_ns"}}
"""

from __future__ import annotations

import os
from typing import Any, Final

from corten.engine import times
from corten.engine.container import Container
from corten.engine.host import Host

Json = dict[str, Any]

_NET_FIELDS: Final = (
    "rx_bytes", "rx_packets", "rx_errors", "rx_dropped", None, None, None, None, "tx_bytes", "tx_packets", "tx_errors",
    "tx_dropped",
)  # fmt: skip
_NO_CPU: Final[Json] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_BLKIO_NAMES: Final = (
    "io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive",
    "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive",
)  # fmt: skip


def sample(container: Container, raw: Json | None, machine: Host, *, has_network: bool) -> Json:
    """One sample; `raw` is the shim's (runtime.cgroup_stats), None for a container that does not run.

    has_network: its network namespace is no other than a container's, so that the interfaces are shown.
    """
    head: Json = {"name": f"/{container.name}", "id": container.id}
    if raw is None:
        empty = {"blkio_stats": dict.fromkeys(_BLKIO_NAMES), "pids_stats": {}, "memory_stats": {}}
        cpu = {"cpu_stats": _NO_CPU, "precpu_stats": _NO_CPU}
        return head | {"read": times.ZERO, "num_procs": 0, "storage_stats": {}} | empty | cpu
    out: Json = {
        "read": times.rfc3339(times.now_ns()),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": _pids(raw["pids"]),
        "blkio_stats": _blkio(raw["blkio"], machine),
        "memory_stats": _memory(raw, machine),
        "cpu_stats": _cpu(raw["cpu"], machine),
        "precpu_stats": _NO_CPU,
    }
    networks = _networks(container.record.state.pid) if has_network else {}
    if networks:
        out["networks"] = networks
    if "extra" in raw:  # a shim of an earlier release has none
        out["corten"] = raw["extra"]
    return head | out


def _pids(raw: Json) -> Json:
    limit = raw["limit"]
    return {"current": raw["current"], **({"limit": limit} if limit >= 0 else {})}


def _cpu(raw: Json, machine: Host) -> Json:
    usage: Json = {
        "total_usage": raw["usage_ns"],
        "usage_in_kernelmode": raw["system_ns"],
        "usage_in_usermode": raw["user_ns"],
    }
    if raw["per_cpu_ns"]:
        usage["percpu_usage"] = raw["per_cpu_ns"]
    return {
        "cpu_usage": usage,
        "system_cpu_usage": _system_ns(),
        "online_cpus": machine.cpu_count,
        "throttling_data": {
            "periods": raw["periods"],
            "throttled_periods": raw["throttled_periods"],
            "throttled_time": raw["throttled_ns"],
        },
    }


def _system_ns() -> int:
    """All CPU time of the machine since boot: user to softirq of /proc/stat, steal and idle included."""
    with open("/proc/stat", encoding="ascii") as file:
        words = file.readline().split()[1:9]
    return sum(map(int, words)) * (times.SECOND_NS // os.sysconf("SC_CLK_TCK"))


def _memory(sample: Json, machine: Host) -> Json:
    """`failcnt` counts, on v2, how often memory ran out, as dockerd has it."""
    raw, limit = sample["memory"], sample["memory"]["limit_bytes"]
    out: Json = {
        "usage": raw["usage_bytes"],
        "stats": raw["stat"],
        "limit": limit if 0 <= limit < machine.memory_bytes else machine.memory_bytes,
    }
    if machine.cgroup_mode == "v2":
        out["failcnt"] = sample.get("extra", {}).get("events", {}).get("oom", 0)
    else:
        out |= {"max_usage": raw["max_usage_bytes"], "failcnt": raw["fail_count"]}
    return {name: value for name, value in out.items() if value != 0}


def _blkio(raw: Json, machine: Host) -> Json:
    """What the kernel does not count is an empty list on cgroup v1, null on v2."""
    out: Json = dict.fromkeys(_BLKIO_NAMES) if machine.cgroup_mode == "v2" else {name: [] for name in _BLKIO_NAMES}
    out["io_service_bytes_recursive"] = raw["service_bytes"]
    out["io_serviced_recursive"] = raw["serviced"]
    return out


def _networks(pid: int) -> Json:
    """The interfaces in the container's namespace, from /proc/PID/net/dev; lo is left out."""
    out: Json = {}
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii", errors="backslashreplace", newline="\n") as file:
            lines = file.read().split("\n")[2:-1]
    except OSError:
        return out
    for line in lines:  # a name is what a container says: any bytes but a slash, a colon and the kernel's white space
        name, _, numbers = line.lstrip(" ").partition(":")
        if name != "lo":
            values = zip(_NET_FIELDS, map(int, numbers.split()), strict=False)
            out[name] = {field: value for field, value in values if field is not None}
    return out
