"""Rows of HostConfig: limits, devices, ulimits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clients.fields import MIB, Json, cgroup, either, has, refused, seen
from support import paths

seen(
    "HostConfig.CpuShares",
    512,
    config=("linux/resources/cpu/shares", 512),
    script=cgroup("cpu/cpu.shares", "cpu.weight"),
    expect=either("512", "20"),
)
seen(
    "HostConfig.Memory",
    64 * MIB,
    config=("linux/resources/memory/limit", 64 * MIB),
    script=cgroup("memory/memory.limit_in_bytes", "memory.max"),
    expect=str(64 * MIB),
)
seen(
    "HostConfig.MemorySwap",
    96 * MIB,
    config=("linux/resources/memory/swap", 96 * MIB),
    script=cgroup("memory/memory.memsw.limit_in_bytes", "memory.swap.max"),
    expect=either(str(96 * MIB), str(32 * MIB)),
    also={"HostConfig.Memory": 64 * MIB},
)
seen(
    "HostConfig.MemoryReservation",
    32 * MIB,
    config=("linux/resources/memory/reservation", 32 * MIB),
    script=cgroup("memory/memory.soft_limit_in_bytes", "memory.low"),
    expect=str(32 * MIB),
)
seen(
    "HostConfig.MemorySwappiness",
    7,
    config=("linux/resources/memory/swappiness", 7),
    script="cat /sys/fs/cgroup/memory/memory.swappiness",
    expect="7",
)
seen(
    "HostConfig.OomKillDisable",
    True,
    config=("linux/resources/memory/disableOOMKiller", True),
    script="grep oom_kill_disable /sys/fs/cgroup/memory/memory.oom_control",
    expect="oom_kill_disable 1",
    also={"HostConfig.Memory": 64 * MIB},
)
seen(
    "HostConfig.NanoCpus",
    500_000_000,
    config=("linux/resources/cpu/quota", 50_000),
    script=cgroup("cpu/cpu.cfs_quota_us", "cpu.max"),
    expect=either("50000", "50000 100000"),
)
seen(
    "HostConfig.CpuPeriod",
    50_000,
    config=("linux/resources/cpu/period", 50_000),
    script=cgroup("cpu/cpu.cfs_period_us", "cpu.max"),
    expect=either("50000", "max 50000"),
)
seen(
    "HostConfig.CpuQuota",
    25_000,
    config=("linux/resources/cpu/quota", 25_000),
    script=cgroup("cpu/cpu.cfs_quota_us", "cpu.max"),
    expect=either("25000", "25000 100000"),
)
seen(
    "HostConfig.CpusetCpus",
    "0",
    config=("linux/resources/cpu/cpus", "0"),
    script="grep Cpus_allowed_list /proc/self/status | tr -d '\\t'",
    expect="Cpus_allowed_list:0",
)
seen(
    "HostConfig.CpusetMems",
    "0",
    config=("linux/resources/cpu/mems", "0"),
    script=cgroup("cpuset/cpuset.mems", "cpuset.mems"),
    expect="0",
    same_kernel=True,
    why="probed: config.json, which has it only with the field, and cpuset.mems, which is 0 without it, too, where "
    "there is one memory node",
)
seen(
    "HostConfig.PidsLimit",
    33,
    config=("linux/resources/pids/limit", 33),
    script=cgroup("pids/pids.max", "pids.max"),
    expect="33",
)
seen(
    "HostConfig.CgroupParent",
    f"/{paths.mark()}fields",
    config=("linux/cgroupsPath", has(f"/{paths.mark()}fields/")),
    look=lambda container: Path(f"/proc/{container.pid}/cgroup").read_text(),
    expect=has(f"/{paths.mark()}fields/"),
)
NOTHING = "dockerd does nothing with it on Linux, and Corten says so in a warning"
seen("HostConfig.KernelMemoryTCP", 100, why=NOTHING)
seen(
    "HostConfig.CpuRealtimePeriod",
    900_000,
    config=("linux/resources/cpu/realtimePeriod", 900_000),
    script=cgroup("cpu/cpu.rt_period_us", "cgroup.nonesuch"),
    expect=either("900000", ""),
    same_kernel=True,
    why="cgroup v2 has no such file",
)
# the engine's cgroup has no realtime budget to give away, so the kernel refuses
refused("HostConfig.CpuRealtimeRuntime", 100, words="cpu.rt_runtime_us")
NO_WEIGHT = "kernels without bfq's weights discard it with a warning; tests/unit/engine/test_blockio.py has the others"
seen("HostConfig.BlkioWeight", 100, inspect=("HostConfig/BlkioWeight", lambda got: got in (0, 100)), why=NO_WEIGHT)
seen(
    "HostConfig.BlkioWeightDevice",
    [{"Path": "/dev/null", "Weight": 100}],
    inspect=("HostConfig/BlkioWeightDevice", lambda got: got in ([], [{"Path": "/dev/null", "Weight": 100}])),
    why=NO_WEIGHT,
)
DISK = next(f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{name}"))
for name, key, v1 in (
    ("ReadBps", "throttleReadBpsDevice", "read_bps"),
    ("WriteBps", "throttleWriteBpsDevice", "write_bps"),
    ("ReadIOps", "throttleReadIOPSDevice", "read_iops"),
    ("WriteIOps", "throttleWriteIOPSDevice", "write_iops"),
):
    seen(
        f"HostConfig.BlkioDevice{name}",
        [{"Path": DISK, "Rate": 1234567}],
        config=(f"linux/resources/blockIO/{key}/0/rate", 1234567),
        script=cgroup(f"blkio/blkio.throttle.{v1}_device", "io.max"),
        expect=has("1234567"),
    )
seen("HostConfig.CpuCount", 1, why=NOTHING)
seen("HostConfig.CpuPercent", 1, inspect=("HostConfig/CpuPercent", 0), why="discarded with a warning, as by dockerd")
for name in ("IOMaximumIOps", "IOMaximumBandwidth"):
    refused(f"HostConfig.{name}", 1, words="linux does not support configuration of maximum")

HOLE = {"PathOnHost": "/dev/loop-control", "PathInContainer": "/dev/hole", "CgroupPermissions": "rwm"}
OPEN_HOLE = "test -c /dev/hole && exec 3<>/dev/hole && echo open"


def device(config: Json) -> Any:
    found = [item for item in config["linux"].get("devices", []) if item["path"] == "/dev/hole"]
    return found[0]["minor"] if found else None


def device_access(config: Json) -> list[str]:
    rules = config["linux"]["resources"]["devices"]
    return [rule["access"] for rule in rules if rule.get("major") == 10 and rule.get("minor") == 237]


seen("HostConfig.Devices[].PathOnHost", [HOLE], config=(device, 237), script=OPEN_HOLE, expect="open")
seen("HostConfig.Devices[].PathInContainer", [HOLE], config=(device, 237), script=OPEN_HOLE, expect="open")
seen(
    "HostConfig.Devices[].CgroupPermissions",
    [{**HOLE, "CgroupPermissions": "r"}],
    config=(device_access, ["r"]),
    script="exec 3</dev/hole && echo read; sh -c 'exec 3>/dev/hole' 2>&1 | tail -c 24",
    expect="read\nOperation not permitted",
)
seen(
    "HostConfig.DeviceCgroupRules",
    ["c 10:237 rwm"],
    config=(device_access, ["rwm"]),
    script="mknod /f c 10 237; exec 3<>/f && echo open",
    expect="open",
)
refused(
    "HostConfig.DeviceRequests",
    [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}],
    words='could not select device driver "nvidia" with capabilities: [[gpu]]',
)

LIMIT = {"Name": "nofile", "Soft": 100, "Hard": 200}
for part in ("Name", "Hard"):
    seen(
        f"HostConfig.Ulimits[].{part}",
        [LIMIT],
        config=("process/rlimits", [{"type": "RLIMIT_NOFILE", "hard": 200, "soft": 100}]),
        script="ulimit -Sn; ulimit -Hn",
        expect="100\n200",
    )
seen(
    "HostConfig.Ulimits[].Soft",
    [LIMIT],
    config=("process/rlimits/0/soft", 100),
    script="ulimit -Sn; ulimit -Hn",
    expect="100\n200",
)
