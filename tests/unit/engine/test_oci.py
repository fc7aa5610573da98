"""config.json as dockerd 26.1 wrote it on the same machine, for the same requests (recorded facts)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corten.engine import defaults
from corten.engine.users import User

Json = dict[str, Any]
Spec = Callable[..., Json]


def mounts(made: Json) -> dict[str, list[str]]:
    return {mount["destination"]: mount["options"] for mount in made["mounts"]}


def namespaces(made: Json) -> dict[str, str]:
    return {one["type"]: one.get("path", "") for one in made["linux"]["namespaces"]}


def test_a_default_container_has_dockers_fourteen_capabilities_in_three_sets(spec: Spec) -> None:
    sets = spec()["process"]["capabilities"]
    assert sets == {name: list(defaults.CAPABILITIES) for name in ("bounding", "effective", "permitted")}


def test_a_default_container_has_dockers_mounts(spec: Spec) -> None:
    assert mounts(spec()) == {
        "/proc": ["nosuid", "noexec", "nodev"],
        "/dev": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        "/dev/pts": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        "/sys": ["nosuid", "noexec", "nodev", "ro"],
        "/sys/fs/cgroup": ["ro", "nosuid", "noexec", "nodev"],
        "/dev/mqueue": ["nosuid", "noexec", "nodev"],
        "/dev/shm": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
    }


def test_environment_begins_with_path_hostname_and_term(spec: Spec) -> None:
    made = spec(Tty=True, Hostname="h", Env=["A=b", "TERM", "PATH=/bin", "C="])
    assert made["process"]["env"] == ["PATH=/bin", "HOSTNAME=h", "A=b", "C="]


def test_limits_are_those_that_were_asked_for(spec: Spec) -> None:
    host = {"Memory": 64 << 20, "NanoCpus": 500_000_000, "CpuShares": 512, "CpusetCpus": "0", "PidsLimit": 20}
    resources = spec(HostConfig=host)["linux"]["resources"]
    assert resources["memory"] == {"limit": 67108864, "swap": 134217728, "disableOOMKiller": False}
    assert resources["cpu"] == {"shares": 512, "period": 100_000, "quota": 50_000, "cpus": "0"}
    assert resources["pids"] == {"limit": 20}


def test_a_read_only_root_leaves_the_users_mounts_and_dev_writable(spec: Spec) -> None:
    made = spec(HostConfig={"ReadonlyRootfs": True, "Tmpfs": {"/run": ""}})
    options = mounts(made)
    assert made["root"]["readonly"] is True
    assert "ro" not in options["/run"]
    assert "ro" not in options["/dev"]
    assert "ro" in options["/sys/fs/cgroup"]


def test_privileged_has_writable_sys_and_all_devices(spec: Spec) -> None:
    made = spec(HostConfig={"Privileged": True}, surroundings={"host_devices": [{"path": "/dev/x"}]})
    assert "ro" not in mounts(made)["/sys"]
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert made["linux"]["devices"] == [{"path": "/dev/x"}]
    assert "seccomp" not in made["linux"]
    assert "maskedPaths" not in made["linux"]


def test_namespaces_of_a_default_container(spec: Spec) -> None:
    assert namespaces(spec()) == {"mount": "", "network": "", "uts": "", "pid": "", "ipc": ""}
    assert "cgroup" in namespaces(spec(HostConfig={"CgroupnsMode": "private"}))


def test_joined_and_host_namespaces(spec: Spec) -> None:
    made = spec(surroundings={"network": None, "uts": None, "pid": "/proc/5/ns/pid", "ipc": None})
    assert namespaces(made) == {"mount": "", "pid": "/proc/5/ns/pid"}
    assert "hostname" not in made


def test_sysctls_of_docker_come_with_a_network_of_its_own(spec: Spec) -> None:
    assert spec(HostConfig={"NetworkMode": "none"})["linux"]["sysctl"] == defaults.SYSCTLS
    assert "sysctl" not in spec(HostConfig={"NetworkMode": "host"})["linux"]


def test_a_domain_name_is_a_sysctl_for_runtimes_that_have_no_field(spec: Spec) -> None:
    assert spec(Domainname="dom")["linux"]["sysctl"]["kernel.domainname"] == "dom"


def test_binds_are_recursive_also_when_read_only(spec: Spec) -> None:
    made = mounts(spec(HostConfig={"Binds": ["/etc:/a", "/etc:/b:ro", "/etc:/c:rslave"]}))
    assert made["/a"] == ["rbind", "rprivate"]
    assert made["/b"] == ["rbind", "rro", "rprivate"]
    assert made["/c"] == ["rbind", "rslave"]


def test_a_slave_bind_needs_a_slave_root(spec: Spec) -> None:
    assert spec(HostConfig={"Binds": ["/etc:/c:rslave"]})["linux"]["rootfsPropagation"] == "rslave"
    assert spec(HostConfig={"Binds": ["/etc:/c:shared"]})["linux"]["rootfsPropagation"] == "shared"


def test_files_of_the_engine_yield_to_a_mount_of_the_user(spec: Spec) -> None:
    files = {"hosts_file": "/data/hosts", "resolv_file": "/data/resolv.conf"}
    made = spec(HostConfig={"Binds": ["/etc/hosts:/etc/hosts"]}, surroundings=files)
    sources = {mount["destination"]: mount["source"] for mount in made["mounts"]}
    assert sources["/etc/hosts"] == "/etc/hosts"
    assert sources["/etc/resolv.conf"] == "/data/resolv.conf"


def test_ipc_none_has_no_shared_memory(spec: Spec) -> None:
    assert "/dev/shm" not in mounts(spec(HostConfig={"IpcMode": "none"}))


def test_init_is_bound_and_runs_the_command(spec: Spec) -> None:
    made = spec(HostConfig={"Init": True}, surroundings={"init_binary": "/x/corten-init"})
    assert made["process"]["args"] == ["/sbin/docker-init", "--", "true"]
    assert made["mounts"][-1]["source"] == "/x/corten-init"


def test_init_is_left_out_of_a_shared_pid_namespace(spec: Spec) -> None:
    assert spec(HostConfig={"Init": True, "PidMode": "host"})["process"]["args"] == ["true"]


def test_the_users_groups_are_all_there(spec: Spec) -> None:
    made = spec(surroundings={"user": User(1000, 29, (29, 5))})
    assert made["process"]["user"] == {"uid": 1000, "gid": 29, "additionalGids": [29, 5]}


def test_ulimits_devices_and_device_rules(spec: Spec) -> None:
    made = spec(
        HostConfig={"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}]},
        surroundings={"device_rules": [{"allow": True, "type": "c", "major": 13, "access": "rwm"}]},
    )
    assert made["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 20, "soft": 10}]
    assert made["linux"]["resources"]["devices"][-1]["major"] == 13


@pytest.mark.parametrize(
    ("parent", "path"), [("", "/own/ID"), ("foo", "/foo/ID"), ("/a/b", "/a/b/ID"), ("../../x", "/x/ID")]
)
def test_nothing_climbs_out_of_the_cgroup_root(parent: str, path: str) -> None:
    from corten.engine.oci import cgroup_path
    from corten.spec.docker import HostConfig

    assert cgroup_path(HostConfig(cgroup_parent=parent), "/own", "ID") == path


def test_external_runtimes_get_a_version_that_crun_takes(spec: Spec) -> None:
    assert spec()["ociVersion"] == "1.2.0"
    assert spec(surroundings={"external_runtime": True})["ociVersion"] == "1.0.2"


def test_a_limit_of_minus_one_is_none_as_with_dockerd(spec: Spec) -> None:
    made = spec(HostConfig={"Ulimits": [{"Name": "core", "Soft": 5, "Hard": -1}]})
    assert made["process"]["rlimits"] == [{"type": "RLIMIT_CORE", "hard": (1 << 64) - 1, "soft": 5}]
