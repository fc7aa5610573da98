"""The lines of `events` from files of either cgroup version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corten.runtime import event_stats
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.state import State

VERSION_2 = {
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 1\nthrottled_usec 7\n",
    "cpu.pressure": "some avg10=0.50 avg60=0.25 avg300=0.00 total=17\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.stat": "file 4096\nanon 10\n",
    "memory.current": "5000\n",
    "memory.max": "8192\n",
    "memory.peak": "6000\n",
    "memory.swap.current": "100\n",
    "memory.swap.max": "1000\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
    "io.stat": "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.events": "max 3\n",
}


def stats(directory: Path, files: dict[str, str], *, version_2: bool) -> dict[str, Any]:
    for name, text in files.items():
        (directory / name).write_text(text)
    record = State("", "c", "", "")
    names = "cpu,cpuacct,memory,pids,blkio,hugetlb,cpuset"
    record.cgroup = (
        CgroupPaths("v2", {}, str(directory)) if version_2 else CgroupPaths("v1", {names: str(directory)}, "")
    )
    found: dict[str, Any] = json.loads(json.dumps(event_stats.stats(record)))
    return found


def test_a_sample_of_version_2_is_shaped_as_runc_shapes_it(tmp_path: Path) -> None:
    found = stats(tmp_path, VERSION_2, version_2=True)
    assert found["cpu"]["usage"] == {"total": 30_000, "kernel": 10_000, "user": 20_000}
    assert found["cpu"]["throttling"] == {"periods": 4, "throttledPeriods": 1, "throttledTime": 7_000}
    assert found["cpu"]["psi"]["some"] == {"avg10": 0.5, "avg60": 0.25, "avg300": 0.0, "total": 17}
    memory = found["memory"]
    assert memory["cache"] == 4096
    assert memory["usage"] == {"limit": 8192, "usage": 5000, "max": 6000, "failcnt": 0}
    assert memory["swap"] == {"limit": 9192, "usage": 5100, "failcnt": 0}
    assert memory["raw"] == {"anon": 10, "file": 4096}
    assert found["pids"] == {"current": 3}
    assert found["hugetlb"] == {"2MB": {"usage": 2097152, "failcnt": 3}}
    assert found["blkio"]["ioServiceBytesRecursive"][0] == {"major": 8, "op": "Read", "value": 4096}
    assert (found["intel_rdt"], found["network_interfaces"]) == ({}, None)


def test_no_limit_is_the_largest_number_that_runc_prints(tmp_path: Path) -> None:
    found = stats(tmp_path, {**VERSION_2, "memory.max": "max\n"}, version_2=True)["memory"]
    assert found["usage"]["limit"] == found["swap"]["limit"] == (1 << 64) - 1


def test_block_devices_of_version_1_are_those_of_the_first_group_that_counts(tmp_path: Path) -> None:
    rows = "8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n"
    throttle = {"blkio.throttle.io_serviced": "8:0 Read 9\n", "blkio.throttle.io_service_bytes": "8:0 Read 9\n"}
    bfq = {"blkio.bfq.io_serviced_recursive": "8:0 Read 1\n", "blkio.bfq.io_service_bytes_recursive": rows}
    found = stats(tmp_path, {**throttle, **bfq}, version_2=False)["blkio"]
    assert list(found) == ["ioServiceBytesRecursive", "ioServicedRecursive"]
    assert found["ioServiceBytesRecursive"] == [
        {"major": 8, "op": "Read", "value": 4096},
        {"major": 8, "op": "Write"},
        {"major": 8, "op": "Total", "value": 4096},
    ]


def test_a_list_of_cpus_is_told_one_by_one() -> None:
    assert event_stats.members("0-2,5\n") == [0, 1, 2, 5]
    assert event_stats.members("\n") == []
