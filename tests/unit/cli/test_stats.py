"""`corten stats`: a row from a sample."""

from __future__ import annotations

from typing import Any

import pytest

from corten.cli.stats import Watched, cpu_percent, row

Json = dict[str, Any]


def cpu(used: int, system: int, periods: int = 0, throttled: int = 0) -> Json:
    throttling = {"periods": periods, "throttled_periods": throttled, "throttled_time": 0}
    return {
        "cpu_usage": {"total_usage": used},
        "system_cpu_usage": system,
        "online_cpus": 2,
        "throttling_data": throttling,
    }


@pytest.fixture
def sample() -> Json:
    return {
        "name": "/box",
        "id": "0123456789abcdef",
        "read": "2026-01-01T00:00:01Z",
        "cpu_stats": cpu(300, 3000, 20, 5),
        "precpu_stats": cpu(100, 2000, 10, 0),
        "memory_stats": {"usage": 3 << 20, "limit": 64 << 20, "stats": {"total_inactive_file": 1 << 20}},
        "pids_stats": {"current": 4},
        "blkio_stats": {
            "io_service_bytes_recursive": [
                {"op": "Read", "value": 1000},
                {"op": "read", "value": 500},
                {"op": "Write", "value": 2000},
                {"op": "Total", "value": 9999},
            ]
        },
        "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
        "corten": {
            "pressure": {"cpu": {"some": {"avg10": 1.5}, "full": {"avg10": 0.0}}},
            "peaks": {"memory_bytes": 4 << 20, "pids": 9},
            "events": {"oom_kills": 1, "pids_limit": 3},
        },
    }


def test_a_row_has_the_figures_that_docker_computes(sample: Json) -> None:
    found = row(Watched("box", sample), no_trunc=False)
    shown = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs", "Container")
    assert [found[name] for name in shown] == [
        *("0123456789ab", "box", "40.00%", "2MiB / 64MiB", "3.12%", "11B / 22B", "1.5kB / 2kB", "4", "box")
    ]


def test_a_row_has_pressure_throttling_peaks_and_hits(sample: Json) -> None:
    found = row(Watched("box", sample), no_trunc=True)
    shown = ("CPUThrottled", "CPUPressure", "MemPressure", "MemPeak", "PIDsPeak", "OOMKills", "PIDsLimitHits", "ID")
    assert [found[name] for name in shown] == [*("50.00%", "1.50%", "--", "4MiB", "9", "1", "3", "0123456789abcdef")]


def test_an_engine_that_tells_nothing_of_ours_gets_dashes(sample: Json) -> None:
    del sample["corten"]
    found = row(Watched("box", sample), no_trunc=True)
    assert {found[name] for name in ("CPUPressure", "MemPeak", "PIDsPeak", "OOMKills")} == {"--"}


def test_a_container_that_is_gone_has_dashes_and_its_name(sample: Json) -> None:
    found = row(Watched("box", sample, is_gone=True), no_trunc=False)
    assert found["Container"] == "box"
    assert (found["Name"], found["MemUsage"], found["CPUPerc"]) == ("--", "-- / --", "--")


def test_a_clock_that_stands_still_uses_nothing(sample: Json) -> None:
    sample["precpu_stats"] = sample["cpu_stats"]
    assert cpu_percent(sample) == 0.0
