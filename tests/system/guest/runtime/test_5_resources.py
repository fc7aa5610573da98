"""Limits of controllers that this machine has and its neighbour has not, and what an update may do to a v2 cgroup.

The machine was booted with eight huge pages, and its block layer can schedule by BFQ.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.guestbpf import device_programs
from support.guestbundle import CGROUP, Lab
from support.process import wait_for

SCHEDULER = Path("/sys/block/vda/queue/scheduler")
MIB = 1 << 20
SLEEP = ("sleep", "1000")


@pytest.fixture
def disk() -> str:
    """The number of a disk."""
    number = os.stat("/dev/vda").st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


@pytest.fixture
def bfq() -> Iterator[None]:
    """That disk is scheduled by BFQ."""
    subprocess.run(["modprobe", "bfq"], check=True)
    found = re.search(r"\[(\S+)\]", SCHEDULER.read_text())
    assert found is not None
    SCHEDULER.write_text("bfq")
    yield
    SCHEDULER.write_text(found[1])
    subprocess.run(["rmmod", "bfq"], check=True)  # whose files are in every cgroup


def block_io(disk: str, **weights: Any) -> dict[str, Any]:
    """`linux.resources.blockIO` with a throttle for the disk, and weights."""
    major, minor = map(int, disk.split(":"))
    row = {"major": major, "minor": minor}
    devices = [row | {"weight": weights.pop("device")}] if "device" in weights else []
    return {"throttleReadBpsDevice": [row | {"rate": MIB}], "weightDevice": devices, **weights}


@pytest.mark.slow
def test_huge_pages_are_limited_as_used_and_as_reserved(lab: Lab) -> None:
    assert Path("/proc/sys/vm/nr_hugepages").read_text() == "8\n"
    lab.configure(*SLEEP, hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}])
    lab.detached("run", "-d", "c")
    assert (lab.file("hugetlb.2MB.max"), lab.file("hugetlb.2MB.rsvd.max")) == (str(4 * MIB), str(4 * MIB))
    data = json.loads(lab.run("events", "--stats", "c"))["data"]
    assert data["hugetlb"]["2MB"] == {"failcnt": 0}


@pytest.mark.slow
def test_huge_pages_of_a_size_that_there_is_not_are_refused(either: Lab) -> None:
    either.configure(*SLEEP, hugepageLimits=[{"pageSize": "3MB", "limit": 4 * MIB}])
    said = either.run("run", "-d", "c", status=1)
    assert "hugetlb.3MB.max" in said
    assert not CGROUP.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"unified": {"misc.max": "sev 5"}}, "misc.max: invalid argument"),
        ({"unified": {"misc.nothing": "5"}}, "misc.nothing"),
        ({"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 10000}}}, "rdma.max: no such device"),
        ({"unified": {"none.max": "5"}}, 'unified resource "none.max" can\'t be set: controller "none" not available'),
    ],
    ids=["misc", "a file that is not there", "rdma", "a controller that is not there"],
)
def test_what_no_device_can_be_limited_by_is_refused_with_its_file(
    either: Lab, resources: dict[str, Any], said: str
) -> None:
    """There is no encrypted memory and no RDMA device here: the controllers' files are, and say so."""
    either.configure(*SLEEP, **resources)
    assert said in either.run("run", "-d", "c", status=1).replace('\\"', '"')
    assert not CGROUP.exists()


@pytest.mark.slow
def test_weights_of_bfq_are_in_its_file(either: Lab, disk: str, bfq: None) -> None:
    either.configure(*SLEEP, blockIO=block_io(disk, weight=300, device=500))
    either.detached("run", "-d", "c")
    assert either.file("io.bfq.weight") == f"default 300\n{disk} 500"
    assert either.file("io.max") == f"{disk} rbps={MIB} wbps=max riops=max wiops=max"


@pytest.mark.slow
def test_a_weight_without_bfq_is_a_share_of_ten_thousand_and_one_of_a_disk_is_refused(lab: Lab, disk: str) -> None:
    lab.configure(*SLEEP, blockIO=block_io(disk, weight=10))
    lab.detached("run", "-d", "c")
    assert lab.file("io.weight") == "default 1"
    assert lab.file("io.max").startswith(f"{disk} rbps={MIB} ")
    lab.run("delete", "--force", "c")
    lab.configure(*SLEEP, blockIO=block_io(disk, weight=10, device=500))
    said = lab.run("run", "-d", "c", status=1).replace('\\"', '"')
    assert f'failed to write "{disk} 4950": write {CGROUP}/io.weight: operation not supported' in said
    assert not CGROUP.exists()


@pytest.mark.slow
def test_a_limit_below_what_is_used_is_refused_when_asked_to_look(lab: Lab) -> None:
    lab.configure("sh", "-c", "head -c 20m /dev/zero > /dev/shm/x; exec sleep 1000", memory={"limit": 100 * MIB})
    lab.detached("run", "-d", "c")
    wait_for(lambda: int(lab.file("memory.current")) > 20 * MIB, "use of memory", 60)
    limits = {"memory": {"limit": MIB, "checkBeforeUpdate": True}}
    (lab.folder / "limits").write_text(json.dumps(limits))
    said = lab.run("update", "-r", "limits", "c", status=1)
    assert re.search(rf"rejecting memory limit {MIB} <= usage 2\d{{7}}", said)
    assert (lab.file("memory.max"), lab.state()["status"]) == (str(100 * MIB), "running")
    limits["memory"]["limit"] = 50 * MIB
    (lab.folder / "limits").write_text(json.dumps(limits))
    lab.run("update", "-r", "limits", "c")
    assert lab.file("memory.max") == str(50 * MIB)


@pytest.mark.slow
def test_half_of_a_quota_keeps_the_other_half_when_it_is_updated(either: Lab) -> None:
    either.configure(*SLEEP, cpu={"quota": 20000, "period": 100000})
    either.detached("run", "-d", "c")
    found = [either.file("cpu.max")]
    for words in (("--cpu-period", "50000"), ("--cpu-quota", "10000"), ("--cpu-quota", "-1")):
        either.run("update", *words, "c")
        found.append(either.file("cpu.max"))
    assert found == ["20000 100000", "20000 50000", "10000 50000", "max 50000"]


@pytest.mark.slow
def test_swap_is_limited_where_memory_is_not(lab: Lab) -> None:
    lab.configure(*SLEEP, memory={"limit": -1, "swap": 32 * MIB})
    lab.detached("run", "-d", "c")
    assert (lab.file("memory.max"), lab.file("memory.swap.max")) == ("max", str(32 * MIB))
    lab.run("update", "--memory", "-1", "--memory-swap", "-1", "c")
    assert (lab.file("memory.max"), lab.file("memory.swap.max")) == ("max", "max")


@pytest.mark.slow
def test_an_update_leaves_the_program_that_controls_devices(either: Lab) -> None:
    """As by runc, whatever the rules of the update say; the program is attached once."""
    look = "head -c 1 /dev/zero | wc -c; mknod /tmp/mem c 1 1; head -c 1 /tmp/mem; true"
    either.configure(*SLEEP, capabilities=("CAP_MKNOD",))
    (either.rootfs / "bin/wc").symlink_to("busybox")
    either.detached("run", "-d", "c")
    before = device_programs(CGROUP)
    for limits in ({"pids": {"limit": 30}}, {"pids": {"limit": 31}, "devices": [{"allow": True, "access": "rwm"}]}):
        (either.folder / "limits").write_text(json.dumps(limits))
        either.run("update", "-r", "limits", "c")
        shown = either.run("exec", "--cap", "CAP_MKNOD", "c", "sh", "-c", look)
        assert shown == "1\nhead: /tmp/mem: Operation not permitted\n", limits
        (either.rootfs / "tmp/mem").unlink()
    assert (either.file("pids.max"), device_programs(CGROUP)) == ("31", before)
    assert len(before) == 1
