"""One sample of a container's cgroup, in one shape for v1 and v2.

    {"cpu":     {"usage_ns", "user_ns", "system_ns", "per_cpu_ns": [..],
                 "periods", "throttled_periods", "throttled_ns"},
     "memory":  {"usage_bytes", "limit_bytes" (-1: none), "max_usage_bytes", "fail_count", "stat": {name: n}},
     "pids":    {"current", "limit" (-1: none)},
     "blkio":   {"service_bytes": [{"major", "minor", "op", "value"}], "serviced": [..]},
     "extra":   {"pressure": {"cpu": {"some": {"avg10", "avg60", "avg300" (percent), "total_us"}, "full": ..}, ..},
                 "peaks": {"memory_bytes", "swap_bytes" (v1: memory and swap together), "pids"},
                 "events": {"memory_limit", "memory_high", "oom", "oom_kills", "pids_limit"},
                 "bursts": {"count", "time_ns"}}}

What the kernel does not tell is not in `extra`.  Shims of releases before it have no `extra`.
Sources: cgroup-v1/memory.rst, cpuacct.rst, blkio-controller.rst; cgroup-v2.rst; accounting/psi.rst.
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
            "extra": _extra(paths, "v2"),
        }
    return {
        "cpu": _cpu_1(paths.directory("cpu"), paths.directory("cpuacct")),
        "memory": _memory_1(paths.directory("memory")),
        "pids": _pids(paths.directory("pids")),
        "blkio": _block_io_1(paths.directory("blkio")),
        "extra": _extra(paths, "v1"),
    }


# group of `extra` → key → for v1 and v2 (controller, file, keyed value in it)
EXTRA = {
    "peaks": {
        "memory_bytes": {"v1": ("memory", "memory.max_usage_in_bytes", ""), "v2": ("memory", "memory.peak", "")},
        "swap_bytes": {
            "v1": ("memory", "memory.memsw.max_usage_in_bytes", ""),
            "v2": ("memory", "memory.swap.peak", ""),
        },
        "pids": {"v1": ("pids", "pids.peak", ""), "v2": ("pids", "pids.peak", "")},
    },
    "events": {
        "memory_limit": {"v1": ("memory", "memory.failcnt", ""), "v2": ("memory", "memory.events", "max")},
        "memory_high": {"v2": ("memory", "memory.events", "high")},
        "oom": {"v2": ("memory", "memory.events", "oom")},
        "oom_kills": {
            "v1": ("memory", "memory.oom_control", "oom_kill"),
            "v2": ("memory", "memory.events", "oom_kill"),
        },
        "pids_limit": {"v1": ("pids", "pids.events", "max"), "v2": ("pids", "pids.events", "max")},
    },
    "bursts": {
        "count": {"v1": ("cpu", "cpu.stat", "nr_bursts"), "v2": ("cpu", "cpu.stat", "nr_bursts")},
        "time_ns": {"v1": ("cpu", "cpu.stat", "burst_time"), "v2": ("cpu", "cpu.stat", "burst_usec")},
    },
}


def _extra(paths: CgroupPaths, version: str) -> dict[str, dict[str, object]]:
    """What Docker's API has no field for."""
    texts: dict[str, str] = {}
    found: dict[str, dict[str, object]] = {"pressure": {}}
    for controller in ("cpu", "memory", "io"):
        rows = pressure(paths.v2, controller)
        if rows:
            found["pressure"][controller] = rows
    for group, keys in EXTRA.items():
        found[group] = {}
        for key, places in keys.items():
            if version not in places:
                continue
            controller, file, word = places[version]
            path = f"{paths.directory(controller)}/{file}"
            if path not in texts:
                texts[path] = _text(path)
            value = _number(texts[path], word)
            if value is not None:
                found[group][key] = value * 1000 if word == "burst_usec" else value
    return found


def _number(text: str, word: str) -> int | None:
    """A file of one number, or the number behind `word` in a flat keyed file; None when it is not there."""
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name == word:
            return int(value) if value.isdigit() else None
    return None


def pressure(directory: str, controller: str) -> dict[str, dict[str, float]]:
    """The rows `some` and `full` of a v2 cgroup's pressure stall information; {} where the kernel does not count it."""
    rows = {}
    for line in _text(f"{directory}/{controller}.pressure").splitlines() if directory else ():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        rows[kind] = {name: float(values[name]) for name in ("avg10", "avg60", "avg300")}
        rows[kind]["total_us"] = int(values["total"])
    return rows


def _text(path: str) -> str:
    """A file's text, '' where the kernel has no such file or does not count (PSI is off: EOPNOTSUPP)."""
    try:
        return files.read_text(path)
    except OSError:
        return ""


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
