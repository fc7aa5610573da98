"""OCI resources as cgroup files, for both versions, without a cgroup."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.runtime import cgroup_settings as settings
from corten.spec.resources import parse_resources

# resources: (v1 files, v2 files)
TABLE: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, [], []),
    (
        {"memory": {"limit": 67108864, "swap": 134217728}},
        ["memory.limit_in_bytes 67108864", "memory.memsw.limit_in_bytes 134217728"],
        ["memory.max 67108864", "memory.swap.max 67108864"],
    ),
    (
        {"memory": {"limit": -1}},
        ["memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes -1"],
        ["memory.max max", "memory.swap.max max"],
    ),
    (
        {"memory": {"limit": 1048576, "swap": -1, "reservation": 524288, "swappiness": 0, "disableOOMKiller": True}},
        [
            "memory.limit_in_bytes 1048576",
            "memory.memsw.limit_in_bytes -1",
            "memory.soft_limit_in_bytes 524288",
            "memory.swappiness 0",
            "memory.oom_control 1",
        ],
        ["memory.max 1048576", "memory.swap.max max", "memory.low 524288"],
    ),
    (
        {"cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"}},
        ["cpu.shares 512", "cpu.cfs_period_us 100000", "cpu.cfs_quota_us 50000", "cpuset.cpus 0-1", "cpuset.mems 0"],
        ["cpu.weight 20", "cpu.max 50000 100000", "cpuset.cpus 0-1", "cpuset.mems 0"],
    ),
    ({"cpu": {"quota": -1}}, ["cpu.cfs_quota_us -1"], ["cpu.max max 100000"]),
    ({"pids": {"limit": 100}}, ["pids.max 100"], ["pids.max 100"]),
    ({"pids": {"limit": -1}}, ["pids.max max"], ["pids.max max"]),
    ({"pids": {"limit": 0}}, [], []),
    (
        {"blockIO": {"weight": 500}},
        ["blkio.weight 500 or blkio.bfq.weight 500"],
        ["io.bfq.weight 500 or io.weight default 4950"],
    ),
    (
        {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}]}},
        ["blkio.throttle.read_bps_device 8:0 1024"],
        ["io.max 8:0 rbps=1024"],
    ),
    (
        {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 10}]}},
        ["blkio.throttle.write_iops_device 8:16 10"],
        ["io.max 8:16 wiops=10"],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]},
        ["hugetlb.2MB.limit_in_bytes 4194304", "hugetlb.2MB.rsvd.limit_in_bytes 4194304"],
        ["hugetlb.2MB.max 4194304", "hugetlb.2MB.rsvd.max 4194304"],
    ),
    ({"cpu": {"idle": 0, "burst": 0}}, ["cpu.cfs_burst_us 0", "cpu.idle 0"], ["cpu.idle 0", "cpu.max.burst 0"]),
    (
        {"cpu": {"quota": 50000, "burst": 1000}},
        ["cpu.cfs_burst_us 1000", "cpu.cfs_quota_us 50000"],
        ["cpu.max.burst 1000", "cpu.max 50000 100000"],
    ),
    (
        {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 300}]}},
        ["blkio.weight_device 8:0 300 or blkio.bfq.weight_device 8:0 300"],
        ["io.bfq.weight 8:0 300 or io.weight 8:0 2930"],
    ),
    (
        {"blockIO": {"leafWeight": 10, "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}]}},
        ["blkio.leaf_weight 10", "blkio.leaf_weight_device 8:0 20"],
        [],
    ),
    ({"rdma": {"mlx": {"hcaHandles": 3}}}, ["rdma.max mlx hca_handle=3"], ["rdma.max mlx hca_handle=3"]),
    ({"memory": {"kernel": 1000, "kernelTCP": 1000}}, [], []),
    (
        {"memory": {"limit": -1, "swap": 100}},
        ["memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes 100"],
        ["memory.max max", "memory.swap.max 100"],
    ),
]


@pytest.mark.parametrize(("resources", "first", "second"), TABLE, ids=[str(row[0]) for row in TABLE])
def test_resources_become_files(resources: dict[str, Any], first: list[str], second: list[str]) -> None:
    parsed = parse_resources(resources)
    assert [item.describe() for item in settings.version_1(parsed)] == first
    assert [item.describe() for item in settings.version_2(parsed)] == second


def test_a_limit_of_memory_and_swap_that_grows_goes_first() -> None:
    grows = parse_resources({"memory": {"limit": 300, "swap": 600}})
    names = [item.choices[0][0] for item in settings.version_1(grows, memsw_now=200)]
    assert names == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]
    names = [item.choices[0][0] for item in settings.version_1(grows, memsw_now=1000)]
    assert names == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]


@pytest.mark.parametrize(
    ("memory", "swap", "text"),
    [
        (None, 100, "unable to set swap limit without memory limit"),
        (200, 100, "memory+swap limit should be >= memory limit"),
    ],
)
def test_a_swap_limit_that_v2_cannot_express_is_refused(memory: int | None, swap: int, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings.swap_alone(memory, swap)
    assert caught.value.text == text


def test_unified_becomes_a_file_of_v2_and_is_refused_on_v1() -> None:
    resources = parse_resources({"unified": {"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 rbps=2"}})
    written = [item.describe() for item in settings.version_2(resources)]
    assert written == ["memory.high 1000", "io.max 8:0 rbps=1", "io.max 8:16 rbps=2"]
    with pytest.raises(InvalidArgument, match=r"^invalid configuration: cannot use unified on cgroup v1$"):
        settings.version_1(resources)


@pytest.mark.parametrize(
    ("file", "text"), [("../x", "must be a file name"), ("memory/max", "(no slashes)"), ("memory", "CONTROLLER.PAR")]
)
def test_a_unified_key_that_is_no_file_of_the_cgroup_is_refused(file: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings.version_2(parse_resources({"unified": {file: "1"}}))
    assert caught.value.text.startswith(f'unified resource "{file}" ')
    assert text in caught.value.text


@pytest.mark.parametrize(
    "resources",
    [
        {"network": {"classID": 5}},
        {"network": {"priorities": [{"name": "lo", "priority": 1}]}},
        {"cpu": {"realtimeRuntime": 5000}},
        {"cpu": {"realtimePeriod": 5000}},
    ],
    ids=str,
)
def test_what_v2_has_no_controller_for_is_refused_there(resources: dict[str, Any]) -> None:
    assert settings.version_1(parse_resources(resources))
    with pytest.raises(InvalidArgument, match="cgroup v2 has n"):
        settings.version_2(parse_resources(resources))


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"memory": {"swappiness": 101}}, "invalid memory swappiness value: 101 (valid range is 0-100)"),
        ({"cpu": {"shares": 1}}, "the minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 262145}}, "the maximum allowed cpu-shares is 262144"),
    ],
)
def test_a_value_that_v1_would_change_or_pass_over_is_refused(resources: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings.version_1(parse_resources(resources))
    assert caught.value.text == text


def test_the_swappiness_of_docker_that_means_none_is_none() -> None:
    assert settings.version_1(parse_resources({"memory": {"swappiness": (1 << 64) - 1}})) == []


# resources: (words of the warnings on v1, on v2)
WARNINGS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, [], []),
    ({"memory": {"kernel": 0}}, ["Kernel memory"], ["Kernel memory"]),
    ({"memory": {"kernelTCP": 5}}, ["Kernel memory"], ["Kernel memory"]),
    ({"memory": {"useHierarchy": False}}, ["useHierarchy"], ["useHierarchy"]),
    ({"memory": {"useHierarchy": True, "swappiness": (1 << 64) - 1, "disableOOMKiller": False}}, [], []),
    ({"memory": {"swappiness": 10, "disableOOMKiller": True}}, [], ["swappiness", "disableOOMKiller"]),
    ({"blockIO": {"leafWeight": 10}}, [], ["leafWeight"]),
]


@pytest.mark.parametrize(("resources", "first", "second"), WARNINGS, ids=[str(row[0]) for row in WARNINGS])
def test_what_nobody_can_do_is_told(resources: dict[str, Any], first: list[str], second: list[str]) -> None:
    for mode, words in (("v1", first), ("hybrid", first), ("v2", second)):
        texts = settings.warnings(parse_resources(resources), mode)
        assert len(texts) == len(words), texts
        assert all(word in text for word, text in zip(words, texts, strict=True)), texts


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (1, 1), (999999, 10000)])
def test_shares_become_a_weight(shares: int, weight: int) -> None:
    assert settings.weight_of_shares(shares) == weight


def devices(*rules: dict[str, Any]) -> settings.DevicePolicy:
    return settings.device_policy(parse_resources({"devices": list(rules)}).devices)


def test_without_rules_the_default_devices_alone_are_allowed() -> None:
    written = [item.describe() for item in settings.devices_1(devices())]
    assert written[0] == "devices.deny a"
    assert written[1:] == [f"devices.allow {text}" for text in settings.DEFAULT_DEVICES]


def test_a_privileged_container_may_use_everything() -> None:
    written = settings.devices_1(devices({"allow": False, "access": "rwm"}, {"allow": True, "access": "rwm"}))
    assert [item.describe() for item in written] == ["devices.allow a"]


def test_rules_keep_their_order() -> None:
    policy = devices(
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
        {"allow": False, "type": "b", "major": 8, "minor": 1, "access": "r"},
    )
    assert policy.exceptions[:3] == [(True, "c 10:200 rw"), (True, "b 8:* r"), (False, "b 8:1 r")]
