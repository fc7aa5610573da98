"""engine.blockio: what the kernel can do goes into config.json, what it cannot is discarded with dockerd's warning."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from corten.engine.blockio import adapt, block_io, devices, number
from corten.engine.host import Host
from corten.errors import Internal, InvalidArgument
from corten.spec.docker import HostConfig, ThrottleDevice, WeightDevice

RATE = [ThrottleDevice(path="/dev/vda", rate=7)]
ALL = HostConfig(
    blkio_weight=300,
    blkio_weight_device=[WeightDevice(path="/dev/vdb", weight=400)],
    blkio_device_read_bps=RATE,
    blkio_device_write_bps=RATE,
    blkio_device_read_iops=RATE,
    blkio_device_write_iops=RATE,
)


@pytest.fixture
def able(machine: Host) -> Host:
    """One that can do everything."""
    return replace(machine, has_blkio_weight=True, has_blkio_weight_device=True, has_blkio_throttle=True)


def test_what_the_kernel_can_do_stays(able: Host) -> None:
    assert adapt(ALL, able) == ({}, [])
    assert devices(ALL) == {"/dev/vda", "/dev/vdb"}
    rate: dict[str, Any] = {"major": 254, "minor": 0, "rate": 7}
    assert block_io(ALL, {"/dev/vda": (254, 0), "/dev/vdb": (254, 16)}) == {
        "weight": 300,
        "weightDevice": [{"major": 254, "minor": 16, "weight": 400}],
        "throttleReadBpsDevice": [rate],
        "throttleWriteBpsDevice": [rate],
        "throttleReadIOPSDevice": [rate],
        "throttleWriteIOPSDevice": [rate],
    }


def test_what_the_kernel_cannot_do_is_discarded_and_told(able: Host) -> None:
    change, warnings = adapt(
        ALL, replace(able, has_blkio_weight=False, has_blkio_weight_device=False, has_blkio_throttle=False)
    )
    assert block_io(replace(ALL, **change), {}) == {}
    unable = "Your kernel does not support"
    assert warnings == [
        f"{unable} Block I/O weight or the cgroup is not mounted. Weight discarded.",
        f"{unable} Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
        f"{unable} BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
        f"{unable} BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
        f"{unable} IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
        f"{unable} IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
    ]


@pytest.mark.parametrize("weight", [9, 1001])
def test_a_weight_out_of_range_is_refused(able: Host, weight: int) -> None:
    with pytest.raises(InvalidArgument, match="Range of blkio weight is from 10 to 1000"):
        adapt(HostConfig(blkio_weight=weight), able)


def test_a_device_that_is_not_there_is_named() -> None:
    assert number("/dev/null") == (1, 3)
    with pytest.raises(Internal, match="stat /dev/nonesuch: no such file or directory"):
        number("/dev/nonesuch")
