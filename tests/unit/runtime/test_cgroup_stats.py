"""What the sample of a cgroup says beyond Docker's fields: pressure, peaks, limits that were hit, bursts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corten.runtime import cgroup_stats
from corten.runtime.cgroups import CgroupPaths

PRESSURE = "some avg10=0.50 avg60=0.25 avg300=0.00 total=17\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"
SHOWN = {
    "some": {"avg10": 0.5, "avg60": 0.25, "avg300": 0.0, "total_us": 17},
    "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total_us": 3},
}
VERSION_1 = {
    "memory.max_usage_in_bytes": "6000\n",
    "memory.memsw.max_usage_in_bytes": "7000\n",
    "memory.failcnt": "4\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "pids.peak": "9\n",
    "pids.events": "max 5\n",
    "cpu.stat": "nr_periods 4\nnr_bursts 3\nburst_time 70\n",
}
VERSION_2 = {
    "memory.peak": "6000\n",
    "memory.swap.peak": "1000\n",
    "memory.events": "low 0\nhigh 6\nmax 4\noom 1\noom_kill 2\noom_group_kill 0\n",
    "pids.peak": "9\n",
    "pids.events": "max 5\n",
    "cpu.stat": "usage_usec 1\nnr_bursts 3\nburst_usec 7\n",
}


def extra(directory: Path, files: dict[str, str], *, version_2: bool) -> dict[str, Any]:
    for name, text in files.items():
        (directory / name).write_text(text)
    at = str(directory)
    names = "cpu,cpuacct,memory,pids,blkio"
    paths = CgroupPaths("v2", {}, at) if version_2 else CgroupPaths("hybrid", {names: at}, at)
    found: Any = cgroup_stats.sample(paths)["extra"]
    return dict(found)


def test_version_1_tells_peaks_and_limits_and_its_v2_cgroup_pressure(tmp_path: Path) -> None:
    found = extra(tmp_path, {**VERSION_1, "cpu.pressure": PRESSURE}, version_2=False)
    assert found == {
        "pressure": {"cpu": SHOWN},
        "peaks": {"memory_bytes": 6000, "swap_bytes": 7000, "pids": 9},
        "events": {"memory_limit": 4, "oom_kills": 2, "pids_limit": 5},
        "bursts": {"count": 3, "time_ns": 70},
    }


def test_version_2_tells_what_it_has(tmp_path: Path) -> None:
    files = {**VERSION_2, "memory.pressure": PRESSURE, "io.pressure": PRESSURE}
    assert extra(tmp_path, files, version_2=True) == {
        "pressure": {"memory": SHOWN, "io": SHOWN},
        "peaks": {"memory_bytes": 6000, "swap_bytes": 1000, "pids": 9},
        "events": {"memory_limit": 4, "memory_high": 6, "oom": 1, "oom_kills": 2, "pids_limit": 5},
        "bursts": {"count": 3, "time_ns": 7000},
    }


@pytest.mark.parametrize("version_2", [False, True])
def test_what_the_kernel_does_not_tell_is_left_out(tmp_path: Path, *, version_2: bool) -> None:
    assert extra(tmp_path, {}, version_2=version_2) == {"pressure": {}, "peaks": {}, "events": {}, "bursts": {}}
