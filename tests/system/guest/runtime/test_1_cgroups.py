"""The runtime on a host with cgroup v2 alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from corten.runtime import container
from corten.runtime.cgroups import Cgroup, Counters
from support.guestbundle import CGROUP, Lab


def test_a_process_runs_in_its_cgroup_and_leaves_nothing(lab: Lab) -> None:
    lab.configure("sh", "-c", "cat /proc/self/cgroup; exit 7")
    assert lab.run("run", "c", status=7) == "0::/\n"
    assert not CGROUP.exists()


def test_every_limit_is_in_its_file(lab: Lab) -> None:
    lab.configure(
        "sleep",
        "1000",
        memory={"limit": 67108864, "swap": 100663296, "reservation": 33554432},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        pids={"limit": 33},
        blockIO={"weight": 300},
        unified={"memory.high": "50003968"},
    )
    lab.detached("run", "-d", "c")
    expected = {
        "memory.max": "67108864",
        "memory.swap.max": "33554432",
        "memory.low": "33554432",
        "memory.high": "50003968",
        "cpu.weight": "20",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0",
        "pids.max": "33",
        "io.weight": "default 2930",
        "cgroup.procs": str(lab.state()["pid"]),
    }
    found = {name: lab.file(name) for name in expected}
    assert found == expected
    lab.run("update", "--memory", "104857600", "--memory-swap", "209715200", "--pids-limit", "20", "c")
    assert (lab.file("memory.max"), lab.file("memory.swap.max"), lab.file("pids.max")) == (
        "104857600",
        "104857600",
        "20",
    )
    lab.run("delete", "--force", "c")
    assert not CGROUP.exists()


def test_a_container_without_a_limit_gets_the_default(lab: Lab) -> None:
    lab.configure("sleep", "1000")
    lab.detached("run", "-d", "c")
    assert lab.file("pids.max") == "500"


def test_pause_resume_and_exec(lab: Lab) -> None:
    lab.configure("sleep", "1000")
    lab.detached("run", "-d", "c")
    lab.run("pause", "c")
    assert "frozen 1" in lab.file("cgroup.events")
    assert "cannot exec in a paused container" in lab.run("exec", "c", "true", status=255)
    lab.run("resume", "c")
    assert lab.run("exec", "c", "sh", "-c", "echo in; exit 5", status=5) == "in\n"
    lab.detached("exec", "--detach", "c", "sleep", "999")
    assert len(lab.file("cgroup.procs").split()) == 2
    lab.run("kill", "--all", "c", "KILL")
    deadline = time.monotonic() + 30
    while lab.state()["status"] != "stopped" and time.monotonic() < deadline:
        time.sleep(0.1)
    lab.run("delete", "c")


def test_a_frozen_container_is_deleted(lab: Lab) -> None:
    lab.configure("sleep", "1000")
    lab.detached("run", "-d", "c")
    lab.run("pause", "c")
    lab.run("delete", "--force", "c")
    assert not CGROUP.exists()


def test_exec_at_the_pids_limit(lab: Lab) -> None:
    lab.configure("sleep", "1000", pids={"limit": 1})
    lab.detached("run", "-d", "c")
    assert lab.run("exec", "c", "echo", "in") == "in\n"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2])  # with 2 the launcher finds room in the cgroup, and its child none
def test_exec_with_a_terminal_near_the_pids_limit(lab: Lab, limit: int) -> None:
    lab.configure("sleep", "1000", pids={"limit": limit})
    lab.detached("run", "-d", "c")
    assert lab.run("exec", "-t", "c", "echo", "in") == "in\n"


def test_devices_are_controlled_by_a_program(lab: Lab) -> None:
    number = os.stat("/dev/vda").st_rdev
    major, minor = os.major(number), os.minor(number)
    script = (
        "head -c 1 /dev/zero > /dev/null && echo zero; mknod /tmp/mem c 1 1 && echo made; "
        f"head -c 1 /tmp/mem 2>&1; mknod /tmp/disk b {major} {minor}; head -c 1 /tmp/disk > /dev/null && echo disk; "
        "true 2>&1 >> /tmp/disk; true"
    )
    disk = {"allow": True, "type": "b", "major": major, "minor": minor, "access": "r"}
    lab.configure("sh", "-c", script, capabilities=("CAP_MKNOD",), devices=[{"allow": False, "access": "rwm"}, disk])
    shown = lab.run("run", "c")
    assert "zero\nmade\n" in shown
    assert "/tmp/mem: Operation not permitted" in shown
    assert "disk\n" in shown
    assert "can't create /tmp/disk: Operation not permitted" in shown


@pytest.mark.slow
def test_kills_for_want_of_memory_are_counted(lab: Lab) -> None:
    lab.configure(
        "sh", "-c", "head -c 100m /dev/zero | tail > /dev/null; true", memory={"limit": 8 << 20, "swap": 8 << 20}
    )
    lab.run("run", "--keep", "c")
    assert _counters(lab.folder).oom_kills >= 1


@pytest.mark.slow
def test_refused_forks_are_counted(lab: Lab) -> None:
    lab.configure("sh", "-c", "for i in 1 2 3; do sleep 1 & done; wait", pids={"limit": 2})
    lab.run("run", "--keep", "c", status=2)
    assert _counters(lab.folder).pids_max_hits >= 1


def _counters(folder: Path) -> Counters:
    return Cgroup(container.state(f"{folder}/state", "c").cgroup).counters()
