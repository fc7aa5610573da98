"""What a container is after `docker update`."""

from __future__ import annotations

from typing import Any

import pytest

from corten.engine import oci
from corten.engine.host import Host
from corten.engine.update import left_alone, updated
from corten.errors import Conflict, CortenError, InvalidArgument
from corten.spec.docker import ContainerUpdateRequest, DeviceRequest, RestartPolicy

from .conftest import Decide

MIB = 1 << 20


def test_a_zero_value_changes_nothing(decide: Decide, machine: Host) -> None:
    before = decide(HostConfig={"Memory": 64 * MIB, "CpuShares": 7, "PidsLimit": 5})
    after = updated(before, ContainerUpdateRequest(), machine)
    assert (after.host, after.pids_limit) == (before.host, 5)


def test_what_is_given_replaces_and_says_so(decide: Decide, machine: Host) -> None:
    before = decide(HostConfig={"Memory": 64 * MIB})
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    after = updated(before, ContainerUpdateRequest(memory=100 * MIB, restart_policy=policy), machine)
    assert (after.host.memory, after.host.memory_swap, after.host.restart_policy) == (100 * MIB, 128 * MIB, policy)
    assert after.origins["HostConfig.Memory"] == after.origins["HostConfig.RestartPolicy.Name"] == "update"


@pytest.mark.parametrize(("given", "shown", "limit"), [(0, 0, -1), (-1, 0, -1), (7, 7, 7)])
def test_a_limit_of_processes_that_is_none_ends_the_nodes_too(
    decide: Decide, machine: Host, given: int, shown: int, limit: int
) -> None:
    after = updated(decide(), ContainerUpdateRequest(pids_limit=given), machine)
    assert (after.host.pids_limit, after.pids_limit) == (shown, limit)


@pytest.mark.parametrize(
    ("host", "body", "kind", "text"),
    [
        ({"Memory": 64 * MIB}, {"memory": 200 * MIB}, Conflict, "Memory limit should be smaller than already set"),
        ({}, {"memory": 200 * MIB}, Conflict, "Memory limit should be smaller than already set"),
        ({"CpuPeriod": 10**5}, {"nano_cpus": 10**9}, Conflict, "Nano CPUs cannot be updated as CPU Period has"),
        ({"CpuQuota": 10**5}, {"nano_cpus": 10**9}, Conflict, "Nano CPUs cannot be updated as CPU Quota has"),
        ({"NanoCpus": 10**9}, {"cpu_period": 10**5}, Conflict, "CPU Period cannot be updated as NanoCPUs has"),
        ({"NanoCpus": 10**9}, {"cpu_quota": 10**5}, Conflict, "CPU Quota cannot be updated as NanoCPUs has"),
        ({"AutoRemove": True}, {"restart_policy": RestartPolicy(name="always")}, Conflict, "AutoRemove is enabled"),
        ({"Memory": 64 * MIB}, {"memory_swap": 10 * MIB}, InvalidArgument, "larger than memory limit"),
        ({}, {"memory": 1}, InvalidArgument, "Minimum memory limit allowed is 6MB"),
        ({}, {"restart_policy": RestartPolicy(name="what")}, InvalidArgument, "unknown policy 'what'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    decide: Decide, machine: Host, host: dict[str, Any], body: dict[str, Any], kind: type[CortenError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        updated(decide(HostConfig=host), ContainerUpdateRequest(**body), machine)
    assert text in caught.value.text


def test_a_limit_of_swap_that_is_none_lets_memory_grow(decide: Decide, machine: Host) -> None:
    before = decide(HostConfig={"Memory": 64 * MIB, "MemorySwap": -1})
    assert updated(before, ContainerUpdateRequest(memory=200 * MIB), machine).host.memory == 200 * MIB


@pytest.mark.parametrize(
    ("host", "body", "warnings"),
    [
        ({}, {"cpu_count": 5}, ["CpuCount has no effect: it is of Windows alone."]),
        ({}, {"cpu_percent": 5}, ["linux does not support CPU percent. Percent discarded."]),
        ({}, {"device_requests": [DeviceRequest()]}, ["DeviceRequests stays as it was: no update changes it."]),
        ({}, {"memory_swappiness": 5}, ["MemorySwappiness stays as it was: no update changes it."]),
        ({"MemorySwappiness": 5}, {"memory_swappiness": 5, "memory": 1 << 26}, []),
        ({}, {"pids_limit": 5, "restart_policy": RestartPolicy(name="always")}, []),
    ],
)
def test_what_no_update_changes_is_told(
    decide: Decide, host: dict[str, Any], body: dict[str, Any], warnings: list[str]
) -> None:
    assert left_alone(decide(HostConfig=host), ContainerUpdateRequest(**body)) == warnings


@pytest.mark.parametrize(
    ("host", "body", "memory"),
    [
        ({"Memory": 64 * MIB}, {"memory_swap": -1}, {"limit": 64 * MIB, "swap": -1, "disableOOMKiller": False}),
        ({}, {"memory_swap": -1}, {"swap": -1, "disableOOMKiller": False}),
        ({}, {"cpu_shares": 5}, {"disableOOMKiller": False}),
        (
            {"Memory": 64 * MIB, "MemorySwap": -1},
            {"memory_swap": 96 * MIB},
            {"limit": 64 * MIB, "swap": 96 * MIB, "disableOOMKiller": False},
        ),
    ],
)
def test_the_end_of_a_limit_of_swap_is_told_to_the_runtime(
    decide: Decide, machine: Host, host: dict[str, Any], body: dict[str, Any], memory: dict[str, Any]
) -> None:
    after = updated(decide(HostConfig=host), ContainerUpdateRequest(**body), machine)
    assert oci.update_resources(after)["memory"] == memory
