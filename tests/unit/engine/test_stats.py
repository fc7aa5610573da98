"""Samples of `docker stats` in Docker's shape."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corten.engine import stats
from corten.engine.host import Host

Json = dict[str, Any]
EXTRA = {"pressure": {}, "peaks": {"pids": 3}, "events": {"oom": 2}, "bursts": {}}


def raw(**change: Any) -> Json:
    return {
        "cpu": {
            **{"usage_ns": 30, "user_ns": 20, "system_ns": 10, "per_cpu_ns": []},
            **{"periods": 1, "throttled_periods": 0, "throttled_ns": 0},
        },
        "memory": {"usage_bytes": 5, "limit_bytes": -1, "max_usage_bytes": 7, "fail_count": 4, "stat": {"cache": 1}},
        "pids": {"current": 1, "limit": -1},
        "blkio": {"service_bytes": [], "serviced": []},
        "extra": EXTRA,
        **change,
    }


def sample(machine: Host, given: Json | None, *, pid: int = 0, has_network: bool = False) -> Json:
    container: Any = SimpleNamespace(
        name="box", id="1" * 64, record=SimpleNamespace(state=SimpleNamespace(pid=pid or 2**30))
    )
    return stats.sample(container, given, machine, has_network=has_network)


def test_version_1_has_the_peak_and_the_count_of_failures(machine: Host) -> None:
    found = sample(machine, raw())["memory_stats"]
    assert found == {"usage": 5, "stats": {"cache": 1}, "limit": machine.memory_bytes, "max_usage": 7, "failcnt": 4}


def test_version_2_counts_how_often_memory_ran_out(machine: Host) -> None:
    found = sample(replace(machine, cgroup_mode="v2"), raw())["memory_stats"]
    assert found == {"usage": 5, "stats": {"cache": 1}, "limit": machine.memory_bytes, "failcnt": 2}


def test_what_docker_has_no_field_for_is_under_a_key_of_ours(machine: Host) -> None:
    assert sample(machine, raw())["corten"] == EXTRA


def test_a_shim_of_an_earlier_release_tells_less(machine: Host) -> None:
    given = raw()
    del given["extra"]
    assert "corten" not in sample(machine, given)
    assert "failcnt" not in sample(replace(machine, cgroup_mode="v2"), given)["memory_stats"]


def test_without_an_interface_there_are_no_networks(machine: Host) -> None:
    assert "networks" not in sample(machine, raw(), has_network=True)


def test_a_container_that_does_not_run_has_zeroes(machine: Host) -> None:
    found = sample(machine, None)
    assert found["read"] == "0001-01-01T00:00:00Z"
    assert (found["memory_stats"], found["pids_stats"]) == ({}, {})
    assert "networks" not in found


def test_an_interface_may_have_any_name(machine: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "dev"
    numbers = b" ".join(b"%d" % number for number in range(16))
    names = (b"lo", b"\xff\xc3\xa9", b"a\x1cb", b"\x1ce\x85", b"eth0")
    path.write_bytes(b"Inter-|\n face |\n" + b"".join(b"%6s: %s\n" % (name, numbers) for name in names))
    monkeypatch.setattr(stats, "open", lambda _, **more: path.open(**more), raising=False)
    monkeypatch.setattr(stats, "_system_ns", lambda: 1)
    networks = sample(machine, raw(), pid=1, has_network=True)["networks"]
    assert list(networks) == ["\\xff\\xc3\\xa9", "a\x1cb", "\x1ce\\x85", "eth0"]
    assert all(one["rx_bytes"] == 0 and one["tx_bytes"] == 8 for one in networks.values())
