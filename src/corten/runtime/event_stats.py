"""One sample of a container in the shape of runc's `events --stats` (types/events.go), for v1 and v2.

What Go leaves out when it is empty (omitempty) is left out here; a limit that is none is the kernel's largest number on
v1, and 2^64-1 on v2, as runc prints them.
"""

from __future__ import annotations

import posix

from corten.runtime import cgroup_stats, rdt_stats
from corten.runtime.cgroups import Cgroup
from corten.sys import cgroup, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.runtime.cgroups import CgroupPaths
    from corten.runtime.state import State

    Table = dict[str, Any]

U64_MAX = (1 << 64) - 1
# our key of `cpuset`: file of a v1 cpuset
CPUSET_NUMBERS = {
    "cpu_exclusive": "cpu_exclusive",
    "mem_hardwall": "mem_hardwall",
    "mem_exclusive": "mem_exclusive",
    "memory_migrate": "memory_migrate",
    "memory_spread_page": "memory_spread_page",
    "memory_spread_slab": "memory_spread_slab",
    "memory_pressure": "memory_pressure",
    "sched_load_balance": "sched_load_balance",
    "sched_relax_domain_level": "sched_relax_domain_level",
}
# v1: the first group whose first file has rows is the one that is shown (runc, fs/blkio.go)
BLKIO_GROUPS = (
    {
        "blkio.bfq.sectors_recursive": "sectorsRecursive",
        "blkio.bfq.io_service_time_recursive": "ioServiceTimeRecursive",
        "blkio.bfq.io_wait_time_recursive": "ioWaitTimeRecursive",
        "blkio.bfq.io_merged_recursive": "ioMergedRecursive",
        "blkio.bfq.io_queued_recursive": "ioQueueRecursive",
        "blkio.bfq.time_recursive": "ioTimeRecursive",
        "blkio.bfq.io_serviced_recursive": "ioServicedRecursive",
        "blkio.bfq.io_service_bytes_recursive": "ioServiceBytesRecursive",
    },
    {
        "blkio.bfq.io_serviced_recursive": "ioServicedRecursive",
        "blkio.bfq.io_service_bytes_recursive": "ioServiceBytesRecursive",
    },
    {
        "blkio.throttle.io_serviced_recursive": "ioServicedRecursive",
        "blkio.throttle.io_service_bytes_recursive": "ioServiceBytesRecursive",
    },
    {
        "blkio.throttle.io_serviced": "ioServicedRecursive",
        "blkio.throttle.io_service_bytes": "ioServiceBytesRecursive",
    },
)
BLKIO_ORDER = (
    *("ioServiceBytesRecursive", "ioServicedRecursive", "ioQueueRecursive", "ioServiceTimeRecursive"),
    *("ioWaitTimeRecursive", "ioMergedRecursive", "ioTimeRecursive", "sectorsRecursive"),
)


def stats(record: State) -> Table:
    """The object `data` of one line."""
    paths = record.cgroup
    sample: Table = Cgroup(paths).stats()
    version_2 = paths.mode == "v2"
    return {
        "cpu": _cpu(sample, paths),
        "cpuset": _cpuset(paths.directory("cpuset"), version_2=version_2),
        "memory": _memory_2(paths.v2) if version_2 else _memory_1(paths.directory("memory")),
        "pids": _pids(sample["pids"]),
        "blkio": _block_io_2(sample["blkio"], paths.v2) if version_2 else _block_io_1(paths.directory("blkio")),
        "hugetlb": _hugetlb(paths.directory("hugetlb"), version_2=version_2),
        "intel_rdt": rdt_stats.of(record) if record.directory else {},
        "network_interfaces": None,
    }


def filled(table: Table) -> Table:
    """Without what Go's omitempty leaves out."""
    return {key: value for key, value in table.items() if value not in (0, "", [], None)}


def _cpu(sample: Table, paths: CgroupPaths) -> Table:
    cpu = sample["cpu"]
    kernel, user = _per_cpu(paths.directory("cpuacct")) if paths.mode != "v2" else ([], [])
    usage = filled(
        {
            "total": cpu["usage_ns"],
            "percpu": cpu["per_cpu_ns"],
            "percpu_kernel": kernel,
            "percpu_user": user,
        }
    )
    throttling = {
        "periods": cpu["periods"],
        "throttledPeriods": cpu["throttled_periods"],
        "throttledTime": cpu["throttled_ns"],
    }
    shown: Table = {
        "usage": {**usage, "kernel": cpu["system_ns"], "user": cpu["user_ns"]},
        "throttling": filled(throttling),
    }
    return _with_pressure(shown, paths.v2 if paths.mode == "v2" else "", "cpu")


def _per_cpu(directory: str) -> tuple[list[int], list[int]]:
    """cpuacct.usage_all: a line for each CPU, `cpu user system` (runc, fs/cpuacct.go)."""
    try:
        rows = [line.split() for line in files.read_text(f"{directory}/cpuacct.usage_all").splitlines()[1:]]
    except FileNotFoundError:
        return [], []
    return [int(row[2]) for row in rows], [int(row[1]) for row in rows]


def _cpuset(directory: str, *, version_2: bool) -> Table:
    """The v1 files; v2 has none of them, and runc shows zeroes."""
    numbers = dict.fromkeys(CPUSET_NUMBERS, 0)
    if version_2 or not directory:
        return dict(numbers)
    for key, file in CPUSET_NUMBERS.items():
        numbers[key] = cgroup.read_number(directory, f"cpuset.{file}")
    lists = {name: members(_text(directory, f"cpuset.{name}")) for name in ("cpus", "mems")}
    order = ("cpus", "cpu_exclusive", "mems", *list(CPUSET_NUMBERS)[1:])
    both: Table = {**lists, **numbers}
    return {key: both[key] for key in order if both[key] != []}


def members(text: str) -> list[int]:
    """`0-2,5` as numbers (cpuset(7), "List format")."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _memory_1(directory: str) -> Table:
    stat = cgroup.read_numbers(directory, "memory.stat")
    shown: Table = {"cache": stat.get("cache", 0)} if stat.get("cache") else {}
    for key, infix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        shown[key] = _entry_1(directory, infix)
    return {**shown, **({"raw": dict(sorted(stat.items()))} if stat else {})}


def _entry_1(directory: str, infix: str) -> Table:
    def number(name: str) -> int:
        return cgroup.read_number(directory, f"memory.{infix}{name}")

    usage = filled({"usage": number("usage_in_bytes"), "max": number("max_usage_in_bytes")})
    return {"limit": number("limit_in_bytes"), **usage, "failcnt": number("failcnt")}


def _memory_2(directory: str) -> Table:
    """Swap is shown together with memory, as v1 counts it (runc, fs2/memory.go)."""
    stat = cgroup.read_numbers(directory, "memory.stat")
    usage, limit = cgroup.read_number(directory, "memory.current"), _limit_2(directory, "memory.max")
    swap, swap_limit = cgroup.read_number(directory, "memory.swap.current"), _limit_2(directory, "memory.swap.max")
    both = U64_MAX if U64_MAX in (limit, swap_limit) else limit + swap_limit
    nothing = {"limit": 0, "failcnt": 0}
    shown: Table = {"cache": stat.get("file", 0)} if stat.get("file") else {}
    shown["usage"] = {
        "limit": limit,
        **filled({"usage": usage, "max": cgroup.read_number(directory, "memory.peak")}),
        "failcnt": 0,
    }
    shown["swap"] = {"limit": both, **filled({"usage": usage + swap}), "failcnt": 0}
    shown["kernel"], shown["kernelTCP"] = dict(nothing), dict(nothing)
    if stat:
        shown["raw"] = dict(sorted(stat.items()))
    return _with_pressure(shown, directory, "memory")


def _limit_2(directory: str, file: str) -> int:
    value = cgroup.read_number(directory, file)
    return U64_MAX if value < 0 else value


def _pids(sample: Table) -> Table:
    return filled({"current": sample["current"], "limit": max(0, sample["limit"])})


def _block_io_1(directory: str) -> Table:
    for group in BLKIO_GROUPS:
        found = {key: _block_rows(_text(directory, file)) for file, key in group.items()}
        if next(iter(found.values())):
            return {key: found[key] for key in BLKIO_ORDER if found.get(key)}
    return {}


def _block_rows(text: str) -> list[Table]:
    """`8:0 Read 4096` lines, and `8:0 4096` ones; the total at the end has no device."""
    rows = []
    for words in (line.split() for line in text.splitlines()):
        major, colon, minor = words[0].partition(":")
        if colon:
            operation = words[1] if len(words) > 2 else ""
            rows.append(filled({"major": int(major), "minor": int(minor), "op": operation, "value": int(words[-1])}))
    return rows


def _block_io_2(sample: Table, directory: str) -> Table:
    shown: Table = {}
    for key, ours in (("ioServiceBytesRecursive", "service_bytes"), ("ioServicedRecursive", "serviced")):
        if sample[ours]:
            shown[key] = [filled(row) for row in sample[ours]]
    return _with_pressure(shown, directory, "io")


def _hugetlb(directory: str, *, version_2: bool) -> Table:
    """An entry for every page size that the cgroup counts."""
    if not directory:
        return {}
    usage_file, shown = ("current" if version_2 else "usage_in_bytes"), {}
    for name in sorted(posix.listdir(directory)):
        words = name.split(".")
        if len(words) != 3 or words[0] != "hugetlb" or words[2] != usage_file:
            continue
        page = f"hugetlb.{words[1]}"
        if version_2:
            peak, failures = 0, cgroup.read_numbers(directory, f"{page}.events").get("max", 0)
        else:
            peak = cgroup.read_number(directory, f"{page}.max_usage_in_bytes")
            failures = cgroup.read_number(directory, f"{page}.failcnt")
        shown[words[1]] = {**filled({"usage": cgroup.read_number(directory, name), "max": peak}), "failcnt": failures}
    return shown


def _with_pressure(table: Table, directory: str, controller: str) -> Table:
    """`table` with the pressure stall information of a v2 cgroup, where the kernel counts it (runc 1.2)."""
    rows: Table = dict(cgroup_stats.pressure(directory, controller))
    for row in rows.values():
        row["total"] = row.pop("total_us")
    if rows:
        table["psi"] = rows
    return table


def _text(directory: str, file: str) -> str:
    """A file's text, '' where the kernel has no such file or does not count."""
    try:
        return files.read_text(f"{directory}/{file}")
    except OSError:
        return ""
