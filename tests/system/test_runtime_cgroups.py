"""The cgroup of a container, with real processes in it: freezing, killing, counting, removing, controlling devices."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import FailedPrecondition, Internal
from corten.runtime import cgroups, hostfacts
from corten.runtime.cgroup_settings import DEFAULT_DEVICES, Setting
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.spec.resources import parse_resources
from corten.sys import bpf, devicebpf
from support import paths, process

FACTS = hostfacts.gather()
FORKS = """
import os
print("ready", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
hybrid_only = pytest.mark.skipif(FACTS.cgroup_mode != "hybrid", reason="needs v1 controllers and cgroup2 beside them")


def made(path: str, *, plain_v1: bool = False) -> Cgroup:
    """A cgroup of this test process; `plain_v1` leaves out cgroup2, as on a host that has none."""
    found = cgroups.plan_paths(FACTS, f"/{paths.mark()}cgroups/{path}", "unused")
    group = Cgroup(CgroupPaths("v1", found.v1, "") if plain_v1 else found)
    group.create()
    return group


@pytest.fixture(params=[False, True], ids=["hybrid", "plain v1"])
def group(request: pytest.FixtureRequest) -> Iterator[Cgroup]:
    if request.param and FACTS.cgroup_mode == "v2":
        pytest.skip("needs v1 controllers")
    group = made(f"g{os.urandom(3).hex()}", plain_v1=request.param)
    yield group
    group.kill_all()
    group.remove()
    process.remove_cgroups(f"{paths.mark()}cgroups")


def inside(group: Cgroup, script: str) -> subprocess.Popen[str]:
    """A shell that enters every hierarchy of the group by itself, then runs the script."""
    joins = "; ".join(f"echo 0 > {directory}/cgroup.procs" for directory in group.paths.directories())
    return subprocess.Popen(["sh", "-c", f"{joins}; {script}"], stdout=subprocess.PIPE, text=True)


def ready(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"


def test_a_cgroup_is_made_everywhere_and_removed(group: Cgroup) -> None:
    assert all(Path(directory).is_dir() for directory in group.paths.directories())
    group.remove()
    assert not any(Path(directory).exists() for directory in group.paths.directories())
    group.remove()  # a second time is fine
    assert group.pids() == []
    assert (group.counters().oom_kills, group.counters().pids_max_hits) == (0, 0)
    assert not group.is_frozen()


def test_a_cpuset_takes_tasks_from_the_beginning(group: Cgroup) -> None:
    with inside(group, "echo ready; exec sleep 100") as child:
        ready(child)
        assert child.pid in group.pids()
        child.kill()


def test_removal_waits_for_tasks_on_their_way_out(group: Cgroup) -> None:
    with inside(group, "echo ready; sleep 0.3") as child:
        ready(child)
        group.remove()  # which the kernel refuses as long as somebody is in it
        assert child.wait(60) == 0


def test_a_cgroup_that_stays_busy_is_told_with_its_processes(group: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.sys.cgroup.REMOVE_ATTEMPTS", 3)
    with inside(group, "echo ready; exec sleep 100") as child:
        ready(child)
        with pytest.raises(Internal, match=rf"device or resource busy \(processes: \[{child.pid}"):
            group.remove()
        child.kill()


def test_cgroups_that_the_container_made_go_with_it(group: Cgroup) -> None:
    for directory in group.paths.directories():
        (Path(directory) / "a/b").mkdir(parents=True)
        (Path(directory) / "c").mkdir()
    group.remove()
    assert not any(Path(directory).exists() for directory in group.paths.directories())


def test_a_frozen_cgroup_stands_still_and_goes_on(group: Cgroup) -> None:
    with inside(group, "echo ready; while :; do echo x; sleep 0.001; done") as child:
        ready(child)
        group.freeze()
        assert group.is_frozen()
        used = Path(f"/proc/{child.pid}/stat").read_text().split()[13:15]
        time.sleep(0.1)
        assert Path(f"/proc/{child.pid}/stat").read_text().split()[13:15] == used
        group.thaw()
        assert not group.is_frozen()
        assert child.stdout is not None
        assert child.stdout.readline() == "x\n"
        child.kill()


def test_killing_reaches_processes_that_fork_all_the_time(group: Cgroup) -> None:
    group.apply([Setting("pids", "pids.max", "64")])
    with inside(group, f"exec {sys.executable} -ISE -c '{FORKS}'") as child:
        ready(child)
        time.sleep(0.1)
        group.kill_all()
        assert child.wait(60) == -9
    process.wait_for(lambda: group.pids() == [], "an empty cgroup")


def test_killing_reaches_a_frozen_cgroup(group: Cgroup) -> None:
    with inside(group, "echo ready; sleep 1000 & wait") as child:
        ready(child)
        group.freeze()
        group.kill_all()
        assert child.wait(60) == -9


def test_killing_strays_reaches_who_is_in_one_hierarchy_alone(group: Cgroup) -> None:
    """A launcher whose creator was killed while it entered them one by one: `pids` and v2 come last."""
    if not group.paths.v1:
        pytest.skip("needs v1 controllers")
    directory = group.paths.directory("memory")
    with subprocess.Popen(
        ["sh", "-c", f"echo 0 > {directory}/cgroup.procs; echo ready; exec sleep 1000"],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        ready(child)
        group.kill_all()
        assert child.poll() is None
        group.kill_strays()
        assert child.wait(60) == -9


def test_a_signal_goes_to_everybody(group: Cgroup) -> None:
    inner = 'trap "echo inner; exit" TERM; echo ready; while :; do sleep 0.01; done'
    with inside(group, f"trap 'echo term' TERM; sh -c '{inner}'; exit") as child:
        ready(child)
        group.signal_all(15)
        assert child.stdout is not None
        assert sorted(child.stdout.read().split()) == ["inner", "term"]


def test_kills_for_want_of_memory_are_counted(group: Cgroup) -> None:
    group.apply(group.settings(parse_resources({"memory": {"limit": 8 << 20, "swap": 8 << 20}})))
    with inside(group, "head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null; true") as child:
        child.wait(60)
    assert group.counters().oom_kills >= 1
    assert group.counters().pids_max_hits == 0


def test_forks_refused_at_the_limit_are_counted(group: Cgroup) -> None:
    group.apply([Setting("pids", "pids.max", "2")])
    with inside(group, "for i in 1 2 3; do sleep 0.2 & done; wait") as child:
        child.wait(60)
    assert group.counters().pids_max_hits >= 1


def test_a_sample_has_the_same_shape_everywhere(group: Cgroup) -> None:
    with inside(group, "echo ready; exec sleep 100") as child:
        ready(child)
        sample = group.stats()
        child.kill()
    assert set(sample) == {"cpu", "memory", "pids", "blkio", "extra"}
    pids, memory = sample["pids"], sample["memory"]
    assert isinstance(pids, dict)
    assert isinstance(memory, dict)
    assert pids == {"current": 1, "limit": -1}
    assert memory["usage_bytes"] > 0
    assert memory["limit_bytes"] == -1


def test_a_value_that_the_kernel_refuses_is_told_with_its_file(group: Cgroup) -> None:
    with pytest.raises(Internal, match=r'^failed to write "99-100": write /sys/fs/cgroup/\S+/cpuset\.cpus: '):
        group.apply(group.settings(parse_resources({"cpu": {"cpus": "99-100"}})))


def test_a_controller_that_is_not_mounted_is_told(group: Cgroup) -> None:
    with pytest.raises(Internal, match=r"^cannot set nosuch limit: container could not join or create cgroup$"):
        group.apply([Setting("nosuch", "nosuch.limit", 0)])


def test_an_occupied_cgroup_is_not_taken(group: Cgroup) -> None:
    group.check_free()
    with inside(group, "echo ready; exec sleep 100") as child:
        ready(child)
        with pytest.raises(FailedPrecondition, match=r"container's cgroup is not empty: 1 process"):
            group.check_free()
        child.kill()


@hybrid_only
def test_the_kernel_takes_the_device_program_and_obeys_it() -> None:
    group = made("devices")
    rules = [(True, text) for text in DEFAULT_DEVICES if not text.startswith("c 1:5")]
    try:
        bpf.attach_device_program(group.paths.v2, devicebpf.compile_rules(rules, allows_by_default=False))
        script = "head -c 1 /dev/urandom | wc -c; head -c 1 /dev/zero 2>&1 | wc -c; echo > /dev/null && echo ok"
        with inside(group, script) as child:
            assert child.stdout is not None
            shown = child.stdout.read().split()
        assert shown[0] == "1", "a default device"
        assert shown[1] != "1", "/dev/zero, which this test leaves out"
        assert shown[2] == "ok"
    finally:
        group.kill_all()
        group.remove()
        process.remove_cgroups(f"{paths.mark()}cgroups")


@hybrid_only
def test_what_the_verifier_says_is_in_the_error() -> None:
    broken = devicebpf.instruction(devicebpf.JNE_IMM, devicebpf.R2, 0, 40, 1) + devicebpf.instruction(devicebpf.EXIT)
    with pytest.raises(Internal, match=r"load device program: .*\n?.*(out of range|invalid|R2)"):
        bpf.load_device_program(broken)
