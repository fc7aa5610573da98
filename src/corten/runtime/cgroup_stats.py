"""One sample of a container's cgroup, in one shape for v1 and v2.

    {"cpu":     {"usage_ns", "user_ns", "system_ns", "per_cpu_ns": [..],
                 "periods", "throttled_periods", "throttled_ns"},
     "memory":  {"usage_bytes", "limit_bytes" (-1: none), "max_usage_bytes", "fail_count", "stat": {name: n}},
     "pids":    {"current", "limit" (-1: none)},
     "blkio":   {"service_bytes": [{"major", "minor", "op", "value"}], "serviced": [..]}}

Sources: cgroup-v1/memory.rst, cpuacct.rst, blkio-controller.rst; cgroup-v2.rst.
"""

from __future__ import annotations

import posix

from corten.sys import cgroup, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.cgroups import CgroupPaths

V1_NO_LIMIT = 1 << 62  # v1 shows "no limit" as the largest multiple of the page size
BLKIO_V2 = {
    "rbytes": "Read", "wbytes": "Write", "dbytes": "Discard",
    "rios": "Read", "wios": "Write", "dios": "Discard",
}  # fmt: skip


def sample(paths: CgroupPaths) -> dict[str, object]:
    """The sample; a controller that the host lacks has zeroes."""
    if paths.mode == "v2":
        return {
            "cpu": _cpu_2(paths.v2),
            "memory": _memory_2(paths.v2),
            "pids": _pids(paths.v2),
            "blkio": _block_io_2(paths.v2),
        }
    return {
        "cpu": _cpu_1(paths.directory("cpu"), paths.directory("cpuacct")),
        "memory": _memory_1(paths.directory("memory")),
        "pids": _pids(paths.directory("pids")),
        "blkio": _block_io_1(paths.directory("blkio")),
    }


def _pids(directory: str) -> dict[str, object]:
    return {
        "current": cgroup.read_number(directory, "pids.current"),
        "limit": cgroup.read_number(directory, "pids.max"),
    }


def _cpu_1(cpu: str, accounting: str) -> dict[str, object]:
    throttling = cgroup.read_numbers(cpu, "cpu.stat")
    split = cgroup.read_numbers(accounting, "cpuacct.stat")
    tick_ns = 1_000_000_000 // posix.sysconf("SC_CLK_TCK")
    per_cpu = _words(accounting, "cpuacct.usage_percpu")
    return {
        "usage_ns": cgroup.read_number(accounting, "cpuacct.usage"),
        "user_ns": split.get("user", 0) * tick_ns,
        "system_ns": split.get("system", 0) * tick_ns,
        "per_cpu_ns": [int(word) for word in per_cpu],
        "periods": throttling.get("nr_periods", 0),
        "throttled_periods": throttling.get("nr_throttled", 0),
        "throttled_ns": throttling.get("throttled_time", 0),
    }


def _cpu_2(directory: str) -> dict[str, object]:
    numbers = cgroup.read_numbers(directory, "cpu.stat")
    return {
        "usage_ns": numbers.get("usage_usec", 0) * 1000,
        "user_ns": numbers.get("user_usec", 0) * 1000,
        "system_ns": numbers.get("system_usec", 0) * 1000,
        "per_cpu_ns": [],
        "periods": numbers.get("nr_periods", 0),
        "throttled_periods": numbers.get("nr_throttled", 0),
        "throttled_ns": numbers.get("throttled_usec", 0) * 1000,
    }


def _memory_1(directory: str) -> dict[str, object]:
    limit = cgroup.read_number(directory, "memory.limit_in_bytes")
    return {
        "usage_bytes": cgroup.read_number(directory, "memory.usage_in_bytes"),
        "limit_bytes": -1 if limit >= V1_NO_LIMIT else limit,
        "max_usage_bytes": cgroup.read_number(directory, "memory.max_usage_in_bytes"),
        "fail_count": cgroup.read_number(directory, "memory.failcnt"),
        "stat": cgroup.read_numbers(directory, "memory.stat"),
    }


def _memory_2(directory: str) -> dict[str, object]:
    return {
        "usage_bytes": cgroup.read_number(directory, "memory.current"),
        "limit_bytes": cgroup.read_number(directory, "memory.max"),
        "max_usage_bytes": cgroup.read_number(directory, "memory.peak"),
        "fail_count": cgroup.read_numbers(directory, "memory.events").get("max", 0),
        "stat": cgroup.read_numbers(directory, "memory.stat"),
    }


def _block_io_1(directory: str) -> dict[str, object]:
    return {
        "service_bytes": _block_rows(directory, "blkio.throttle.io_service_bytes_recursive"),
        "serviced": _block_rows(directory, "blkio.throttle.io_serviced_recursive"),
    }


def _block_rows(directory: str, file: str) -> list[dict[str, object]]:
    """`8:0 Read 4096` lines; the totals at the end have no device and are left out."""
    rows: list[dict[str, object]] = []
    words = iter(_words(directory, file))
    for device in words:
        if ":" not in device:
            break
        operation, value = next(words), next(words)
        major, _, minor = device.partition(":")
        rows.append({"major": int(major), "minor": int(minor), "op": operation, "value": int(value)})
    return rows


def _block_io_2(directory: str) -> dict[str, object]:
    service_bytes: list[dict[str, object]] = []
    serviced: list[dict[str, object]] = []
    try:
        lines = files.read_text(f"{directory}/io.stat").splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in BLKIO_V2:
                row = {"major": int(major), "minor": int(minor), "op": BLKIO_V2[key], "value": int(value)}
                (service_bytes if key.endswith("bytes") else serviced).append(row)
    return {"service_bytes": service_bytes, "serviced": serviced}


def _words(directory: str, file: str) -> list[str]:
    try:
        return files.read_text(f"{directory}/{file}").split()
    except FileNotFoundError:
        return []
