"""Facts of the host from the texts of kernel files, and the paths of cgroups that follow."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.launch.facts import HostFacts
from corten.runtime import cgroups, hostfacts
from corten.sys import cgroup

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
25 1 0:20 / / rw - ext4 /dev/vda rw
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 25 0:29 / /elsewhere/pids rw - cgroup cgroup rw,pids
"""
HYBRID = V1 + "35 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(("text", "mode"), [(V1, "v1"), (HYBRID, "hybrid"), (V2, "v2")])
def test_the_layout_follows_from_the_mounts(text: str, mode: str) -> None:
    assert hostfacts.cgroup_mode(*cgroup.mounts(text)) == mode


def test_controllers_that_share_a_mount_are_one_hierarchy() -> None:
    mounts, version_2 = cgroup.mounts(HYBRID)
    assert hostfacts.hierarchies(mounts) == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "pids": "/sys/fs/cgroup/pids",
    }
    assert version_2 == "/sys/fs/cgroup/unified"


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-18-amd64", (6, 1)), ("6.18.44-fc", (6, 18)), ("5.15-rc1", (5, 15)), ("6", (6, 0))]
)
def test_the_kernel_version_is_two_numbers(release: str, version: tuple[int, int]) -> None:
    assert hostfacts.kernel_version(release) == version


def facts(text: str) -> HostFacts:
    mounts, version_2 = cgroup.mounts(text)
    return HostFacts((6, 1), hostfacts.cgroup_mode(mounts, version_2), hostfacts.hierarchies(mounts), version_2)


@pytest.mark.parametrize("path", ["/a/b", "//a/./b/", "/x/../a/b"])
def test_a_cgroups_path_with_a_slash_counts_from_every_root(path: str) -> None:
    paths = cgroups.plan_paths(facts(HYBRID), path, "id")
    assert paths.directory("cpuacct") == "/sys/fs/cgroup/cpu,cpuacct/a/b"
    assert paths.directory("memory") == ""
    assert paths.v2 == "/sys/fs/cgroup/unified/a/b"
    assert len(paths.directories()) == 4


@pytest.mark.parametrize("path", ["/", "..", "/a/../.."])
def test_the_root_cgroup_is_nobodys(path: str) -> None:
    with pytest.raises(InvalidArgument, match="root cgroup"):
        cgroups.plan_paths(facts(V1), path, "id")


def test_paths_survive_the_record() -> None:
    paths = cgroups.plan_paths(facts(HYBRID), "/a", "id")
    assert cgroups.CgroupPaths.from_obj(paths.to_obj()).to_obj() == paths.to_obj()


def test_this_machine_has_facts() -> None:
    found = hostfacts.gather()
    assert found.kernel >= (5, 0)
    assert found.cap_last >= 37
