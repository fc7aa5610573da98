"""Limits beside runc: the same files with the same values, the same warnings, the same words for what is refused.

What runc 1.1 does not know (`cpu.idle`, `cpu.burst`), or does without telling, is tested alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, process, runtimes
from support.runtimes import Bundle, Runtime

CGROUPS = Path("/sys/fs/cgroup")
pytestmark = pytest.mark.skipif(not (CGROUPS / "memory").is_dir(), reason="the controllers are compared in cgroup v1")

NO_ACCESS = {"allow": False, "access": "rwm"}
# a limit, and the files that it is in
HONOURED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"devices": [NO_ACCESS]}, ("devices/devices.list",)),
    (
        {"devices": [NO_ACCESS, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]},
        ("devices/devices.list",),
    ),
    ({"devices": [{"allow": True, "access": "rwm"}]}, ("devices/devices.list",)),
    ({"cpu": {"shares": 2}}, ("cpu/cpu.shares",)),
    ({"cpu": {"shares": 262144, "quota": -1}}, ("cpu/cpu.shares", "cpu/cpu.cfs_quota_us")),
    ({"memory": {"swappiness": 100}}, ("memory/memory.swappiness",)),
    ({"memory": {"swappiness": (1 << 64) - 1}}, ("memory/memory.swappiness",)),
    ({"memory": {"disableOOMKiller": True}}, ("memory/memory.oom_control",)),
    ({"memory": {"disableOOMKiller": False}}, ("memory/memory.oom_control",)),
    ({"memory": {"kernel": 50000000, "kernelTCP": 50000000}}, ("memory/memory.limit_in_bytes",)),
    ({"memory": {"kernelTCP": 0}}, ("memory/memory.kmem.tcp.limit_in_bytes",)),
    ({"unified": {}}, ()),
]
REFUSED: list[dict[str, Any]] = [
    {"unified": {"memory.high": "1000"}},
    {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]},
    {"network": {"classID": 5}},
    {"network": {"priorities": [{"name": "lo", "priority": 5}]}},
    {"rdma": {"mlx5": {"hcaHandles": 3}}},
    {"memory": {"limit": 67108864, "swap": 1000}},
    {"memory": {"limit": -1, "swap": 67108864}},
    {"memory": {"swap": 67108864}},
    {"memory": {"swappiness": 200}},
    {"cpu": {"shares": 1}},
    {"cpu": {"shares": 300000}},
    {"blockIO": {"leafWeight": 100}},
    {"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 250, "rate": 1000}]}},
    {"blockIO": {"weightDevice": [{"major": 1, "minor": 0, "weight": 300}]}},
]
NORMAL = (
    (re.compile(r'time="[^"]*" '), ""),
    (re.compile(r"\bcorten-runtime\b"), "runc"),
    (re.compile(r"\bopenat2 /"), "open /"),
    (re.compile(r"side-(ours|theirs)"), "side"),
)


class Side:
    """One runtime with a bundle of its own, whose cgroup is below the root of every hierarchy."""

    def __init__(self, name: str, program: Path, folder: Path) -> None:
        (folder / name).mkdir()
        self.runtime = Runtime(program, folder / name / "root")
        self.bundle: Bundle = runtimes.sleeper(folder / name)
        self.bundle.config["linux"]["cgroupsPath"] = f"/{paths.mark()}resources-side-{name}"

    def run(self, resources: dict[str, Any]) -> tuple[int, str]:
        """Exit code and what was said."""
        self.bundle.config["linux"]["resources"] = {"devices": [NO_ACCESS], **resources}
        self.bundle.save()
        done = self.runtime.detached("run", "-d", "-b", str(self.bundle.path), "c", check=False)
        said = done.stderr
        for pattern, replacement in NORMAL:
            said = pattern.sub(replacement, said)
        return done.returncode, said

    def file(self, path: str) -> list[str]:
        """The lines of a file of the cgroup, sorted."""
        controller, _, name = path.partition("/")
        return sorted(self.bundle.cgroup(controller, name).splitlines())

    def close(self) -> None:
        self.runtime.close()
        process.remove_cgroups(self.bundle.config["linux"]["cgroupsPath"].lstrip("/"))


@pytest.fixture
def sides(folder: Path) -> Any:
    pair = (
        Side("ours", paths.COMMANDS / "corten-runtime", folder),
        Side("theirs", peers.binary("runc"), folder),
    )
    yield pair
    for side in pair:
        side.close()


@pytest.mark.parametrize(("resources", "files"), HONOURED, ids=[json.dumps(row[0])[:70] for row in HONOURED])
def test_a_limit_is_in_the_files_in_which_runc_has_it(
    sides: tuple[Side, Side], resources: dict[str, Any], files: tuple[str, ...]
) -> None:
    ours, theirs = (side.run(resources) for side in sides)
    assert ours == theirs
    assert ours[0] == 0
    for file in files:
        assert sides[0].file(file) == sides[1].file(file), file


def test_realtime_budgets_are_in_the_files_in_which_runc_has_them(sides: tuple[Side, Side]) -> None:
    if int((CGROUPS / "cpu/cpu.rt_runtime_us").read_text()) <= 0:
        pytest.skip("the root that this machine sees has no realtime budget to give away")
    ours, theirs = (side.run({"cpu": {"realtimePeriod": 900000, "realtimeRuntime": 5000}}) for side in sides)
    assert ours == theirs == (0, "")
    for file in ("cpu/cpu.rt_period_us", "cpu/cpu.rt_runtime_us"):
        assert sides[0].file(file) == sides[1].file(file), file


@pytest.mark.parametrize("resources", REFUSED, ids=[json.dumps(row)[:70] for row in REFUSED])
def test_what_the_machine_cannot_do_is_refused_in_the_words_of_runc(
    sides: tuple[Side, Side], resources: dict[str, Any]
) -> None:
    ours, theirs = (side.run(resources) for side in sides)
    assert ours == theirs
    assert ours[0] == 1
    assert not sides[0].bundle.has_cgroup()


def test_a_processor_that_is_not_there_is_refused_in_the_words_of_runc(sides: tuple[Side, Side]) -> None:
    ours, theirs = (side.run({"cpu": {"cpus": "77"}}) for side in sides)
    assert (ours[0], ours[1].splitlines()[-1]) == (theirs[0], theirs[1].splitlines()[-1])  # runc warns before


def test_idle_and_burst_are_set_and_taken_back(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"]["cpu"] = {"quota": 50000, "burst": 10000, "idle": 1}
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    assert (bundle.cgroup("cpu", "cpu.cfs_burst_us"), bundle.cgroup("cpu", "cpu.idle")) == ("10000", "1")

    def update(**cpu: int) -> tuple[str, ...]:
        corten("update", "-r", "-", "c", stdin=json.dumps({"cpu": cpu}).encode(), check=True)
        return tuple(bundle.cgroup("cpu", f"cpu.{name}") for name in ("cfs_quota_us", "cfs_burst_us", "idle"))

    assert update(quota=90000, burst=80000, idle=0) == ("90000", "80000", "0"), "the burst must fit the quota, so later"
    assert update(quota=20000, burst=10000) == ("20000", "10000", "0"), "the quota must fit the burst, so later"
    assert update(burst=0) == ("20000", "0", "0")


def test_update_lets_the_oom_killer_work_again(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"]["memory"] = {"disableOOMKiller": True}
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    corten("update", "-r", "-", "c", stdin=b'{"memory": {"disableOOMKiller": false}}', check=True)
    assert "oom_kill_disable 0" in bundle.cgroup("memory", "memory.oom_control").splitlines()


# a document of `update`: (file, what is in it then, what is in it with runc 1.1, which reads a few fields alone)
DOCUMENTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"memory": {"limit": 1 << 27, "swap": 1 << 28}}, "memory/memory.memsw.limit_in_bytes", str(1 << 28), str(1 << 28)),
    ({"cpu": {"quota": 20000}}, "cpu/cpu.cfs_quota_us", "20000", "20000"),
    ({"cpu": {"burst": 100}}, "cpu/cpu.cfs_burst_us", "100", "0"),
    ({"memory": {"swappiness": 30}}, "memory/memory.swappiness", "30", "60"),
]


@pytest.mark.parametrize(("document", "file", "ours", "theirs"), DOCUMENTS)
def test_update_takes_what_its_document_says(
    sides: tuple[Side, Side], document: dict[str, Any], file: str, ours: str, theirs: str
) -> None:
    for side, wanted in zip(sides, (ours, theirs), strict=True):
        limits = {
            "cpu": {"quota": 10000, "period": 100000},
            "memory": {"limit": 1 << 26, "swap": 1 << 27, "swappiness": 60},
        }
        assert side.run(limits)[0] == 0
        side.runtime("update", "-r", "-", "c", stdin=json.dumps(document).encode(), check=True)
        assert side.file(file) == [wanted]


def test_update_tells_that_it_ignores_rules_of_devices(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    before = bundle.cgroup("devices", "devices.list")
    rule = {"allow": True, "type": "c", "major": 4, "minor": 7, "access": "r"}
    done = corten("update", "-r", "-", "c", stdin=json.dumps({"devices": [rule]}).encode(), check=True)
    assert "resources.devices is ignored" in done.stderr
    assert bundle.cgroup("devices", "devices.list") == before


def test_update_tells_what_it_ignores_and_refuses_unified(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    said = corten("update", "-r", "-", "c", stdin=b'{"memory": {"kernel": 50000000}}', check=True).stderr
    assert "Kernel memory settings are ignored and will be removed" in said
    done = corten("update", "-r", "-", "c", stdin=b'{"unified": {"memory.high": "1"}}')
    assert done.returncode == 1
    assert "invalid configuration: cannot use unified on cgroup v1" in done.stderr


def test_a_limit_below_what_is_used_names_both(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "head -c 20000000 /dev/zero > /dev/shm/x; sleep 1000", folder=folder / "b")
    bundle.config["linux"]["resources"]["memory"] = {"swappiness": 0}  # else the kernel makes room in the swap space
    bundle.save()
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    file = "memory.usage_in_bytes"
    process.wait_for(lambda: int(bundle.cgroup("memory", file)) > 18_000_000, "memory in use")
    done = corten("update", "--memory", "1000000", "c")
    assert re.search(r"unable to set memory limit to 1000000 \(current usage: \d+, peak usage: \d+\)", done.stderr)


def test_a_start_that_the_memory_limit_does_not_allow_says_so(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"]["memory"] = {"limit": 10000}
    bundle.save()
    done = corten.detached("run", "-d", "-b", str(bundle.path), "c", check=False)
    expected = "unable to start container process: container init was OOM-killed (memory limit too low?)"
    assert (done.returncode, expected in done.stderr) == (1, True), done.stderr
    assert not bundle.has_cgroup()
