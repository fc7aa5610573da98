"""`linux.memoryPolicy` and `cpuset.mems` where there is more than one node to choose (set_mempolicy(2)).

The machine was booted with two nodes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.guestbundle import Lab

SLEEP = ("sleep", "1000")
NODES = Path("/sys/devices/system/node/online")


# as proc_pid_numa_maps(5) shows it: linux.memoryPolicy
POLICIES: dict[str, dict[str, object]] = {
    "bind:1": {"mode": "MPOL_BIND", "nodes": "1"},
    "interleave:0-1": {"mode": "MPOL_INTERLEAVE", "nodes": "0-1"},
    "prefer:1": {"mode": "MPOL_PREFERRED", "nodes": "1"},
    "prefer (many):0-1": {"mode": "MPOL_PREFERRED_MANY", "nodes": "0,1"},
    "local": {"mode": "MPOL_LOCAL"},
    "bind=static:1": {"mode": "MPOL_BIND", "nodes": "1", "flags": ["MPOL_F_STATIC_NODES"]},
    "interleave=relative:0-1": {"mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_RELATIVE_NODES"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("shown", POLICIES)
def test_a_policy_of_two_nodes_is_that_of_init_and_exec(lab: Lab, shown: str) -> None:
    assert NODES.read_text() == "0-1\n"
    config = lab.configure(*SLEEP)
    config["linux"]["memoryPolicy"] = POLICIES[shown]
    lab.write(config)
    lab.detached("run", "-d", "c")
    lines = Path(f"/proc/{lab.state()['pid']}/numa_maps").read_text()
    assert f" {shown} " in lines
    assert f" {shown} " in lab.run("exec", "c", "cat", "/proc/self/numa_maps")


@pytest.mark.slow
def test_a_policy_that_weighs_nodes_is_refused_by_this_kernel(lab: Lab) -> None:
    config = lab.configure(*SLEEP)
    config["linux"]["memoryPolicy"] = {"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0-1"}
    lab.write(config)
    assert "failed to set memory policy: invalid argument" in lab.run("run", "-d", "c", status=1)


@pytest.mark.slow
def test_a_container_has_the_nodes_of_its_cpuset(either: Lab) -> None:
    either.configure(*SLEEP, cpu={"mems": "1", "cpus": "1"})
    either.detached("run", "-d", "c")
    assert (either.file("cpuset.mems"), either.file("cpuset.mems.effective")) == ("1", "1")
    status = Path(f"/proc/{either.state()['pid']}/status").read_text()
    assert "Mems_allowed_list:\t1\n" in status
    assert "Cpus_allowed_list:\t1\n" in status
