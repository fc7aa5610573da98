"""Which directories are this process's own cgroups, and what a path counts from."""

from __future__ import annotations

import pytest

from corten.launch.facts import HostFacts
from corten.runtime import cgroups, own_cgroups

MOUNTINFO = """\
30 28 0:29 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu
31 28 0:30 /box /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
32 28 0:31 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


def test_a_mount_of_a_part_of_a_hierarchy_is_where_it_begins() -> None:
    mounts = {name: f"/sys/fs/cgroup/{name}" for name in ("cpu", "pids", "memory")}
    found = own_cgroups.directories(mounts, "3:cpu:/\n2:pids:/box/deep\n1:memory:/boxes\n", MOUNTINFO)
    assert found == {
        "cpu": "/sys/fs/cgroup/cpu",
        "pids": "/sys/fs/cgroup/pids/deep",
        "memory": "/sys/fs/cgroup/memory",
    }


def test_what_lies_above_the_root_of_a_cgroup_namespace_is_not_followed() -> None:
    found = own_cgroups.directories({"": "/sys/fs/cgroup"}, "0::/../neighbour\n", "")
    assert found == {"": "/sys/fs/cgroup"}


OWN = {"cpu,cpuacct": "/sys/fs/cgroup/cpu/user", "pids": "/sys/fs/cgroup/pids", "": "/sys/fs/cgroup/unified/a/b"}


def hybrid() -> HostFacts:
    v1 = {"cpu,cpuacct": "/sys/fs/cgroup/cpu", "pids": "/sys/fs/cgroup/pids"}
    return HostFacts((6, 1), "hybrid", v1, "/sys/fs/cgroup/unified")


@pytest.mark.parametrize(("path", "end"), [("", "/id"), ("x/y", "/x/y"), ("./x/../y", "/y"), ("../y", "/y")])
def test_a_path_without_a_slash_counts_from_the_runtimes_own_cgroup(
    monkeypatch: pytest.MonkeyPatch, path: str, end: str
) -> None:
    monkeypatch.setattr(own_cgroups, "own_directories", lambda facts: dict(OWN))
    found = cgroups.plan_paths(hybrid(), path, "id")
    assert found.v1 == {"cpu,cpuacct": f"/sys/fs/cgroup/cpu/user{end}", "pids": f"/sys/fs/cgroup/pids{end}"}
    assert found.v2 == f"/sys/fs/cgroup/unified/a{end}"


def test_on_version_2_the_root_cgroup_has_its_children_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cgroups, "own_directories", lambda facts: {"": "/sys/fs/cgroup"})
    facts = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup")
    assert cgroups.plan_paths(facts, "", "id").v2 == "/sys/fs/cgroup/id"
