"""What belongs to whom: rlimits above the hard ones, cgroups of a user namespace's root, and of ordinary users.

A user to whom a part of the hierarchy is given (cgroup-v2.rst, "Delegation") makes cgroups there, with limits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import rootless
from support.guestbundle import CGROUP, CORTEN, RUNC, Lab
from support.rootless import UserRuntime
from support.runtimes import Bundle

CGROUPS = Path("/sys/fs/cgroup")
GIVEN = CGROUPS / "given"
DELEGATED = Path("/sys/kernel/cgroup/delegate").read_text().split()
SLEEP = ("sleep", "1000")


@pytest.mark.slow
def test_hard_limits_are_raised_by_who_may(either: Lab) -> None:
    own = int(subprocess.run(["sh", "-c", "ulimit -Hn"], check=True, capture_output=True, text=True).stdout)
    assert own < 1000000
    config = either.configure("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Hl; ulimit -Sc")
    config["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 900000, "hard": 1000000},
        {"type": "RLIMIT_MEMLOCK", "soft": 2**64 - 1, "hard": 2**64 - 1},
        {"type": "RLIMIT_CORE", "soft": 512, "hard": 1024},
    ]
    either.write(config)
    assert either.run("run", "c").split() == ["900000", "1000000", "unlimited", "1"]


def with_users(lab: Lab, config: dict[str, Any], *, writable: bool = True) -> None:
    """A user namespace, a cgroup namespace and the cgroup at its usual place."""
    for kind in ("user", "cgroup"):
        config["linux"]["namespaces"] = [row for row in config["linux"]["namespaces"] if row["type"] != kind]
        config["linux"]["namespaces"].append({"type": kind})
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["mounts"] = [row for row in config["mounts"] if row["destination"] != "/sys/fs/cgroup"]
    options = ["nosuid", "noexec", "nodev"] + ([] if writable else ["ro"])
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options})
    for path in (lab.folder, *lab.folder.parents):
        path.chmod(path.stat().st_mode | 0o711)
    for path in (lab.rootfs, lab.rootfs / "tmp"):
        os.chown(path, 100000, 100000)
    lab.write(config)


@pytest.mark.slow
@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_the_root_of_a_user_namespace_owns_its_cgroup_where_it_may_write(lab: Lab, writable: bool) -> None:
    """config-linux.md, "Cgroup ownership"; runc 1.1 does it by systemd alone (test_scopes.py)."""
    with_users(lab, lab.configure(*SLEEP, pids={"limit": 33}), writable=writable)
    lab.detached("run", "-d", "c")
    owner = 100000 if writable else 0
    found = {path.name: path.stat().st_uid for path in (CGROUP, *CGROUP.iterdir())}
    assert {name: uid for name, uid in found.items() if uid} == (
        dict.fromkeys(("c", *(name for name in DELEGATED if name in found)), owner) if writable else {}
    )
    script = "mkdir /sys/fs/cgroup/below && echo 0 > /sys/fs/cgroup/below/cgroup.procs && cat /proc/self/cgroup"
    said = lab.run("exec", "c", "sh", "-c", script, status=0 if writable else 1)
    assert said.splitlines()[:1] == (["0::/below"] if writable else [f"mkdir: can't create directory '{BELOW}': {WHY}"])
    raised = lab.run("exec", "c", "sh", "-c", "echo max > /sys/fs/cgroup/pids.max; cat /sys/fs/cgroup/pids.max")
    assert raised.splitlines()[0] == "33"


BELOW, WHY = "/sys/fs/cgroup/below", "Read-only file system"


@pytest.mark.slow
def test_owners_are_mapped_where_the_file_system_can_and_this_kernels_tmpfs_cannot(lab: Lab, tmp_path: Path) -> None:
    """tmpfs can since Linux 6.3."""
    shm = Path("/dev/shm/mapped")
    for folder in (shm, tmp_path / "disk"):
        folder.mkdir()
        (folder / "file").touch()
        os.chown(folder / "file", 5, 6)
    config = lab.configure("busybox", "stat", "-c", "%u:%g", "/mnt/file")
    maps = {
        kind: [{"containerID": 0, "hostID": host, "size": 1000}]
        for kind, host in (("uidMappings", 100000), ("gidMappings", 300000))
    }
    bind: dict[str, Any] = {"destination": "/mnt", "type": "bind", "options": ["rbind", "idmap"], **maps}
    config["mounts"].append(bind | {"source": f"{tmp_path}/disk"})
    lab.write(config)
    assert lab.run("run", "c") == "100005:300006\n"
    config["mounts"][-1]["source"] = str(shm)
    lab.write(config)
    said = lab.run("run", "c", status=1)
    reason = "invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
    assert f"mount {shm} on /mnt: failed to set MOUNT_ATTR_IDMAP on {shm}: {reason}" in said
    shutil.rmtree(shm)


class Member(UserRuntime):
    """A runtime run by uid 65534 in a cgroup of his."""

    def __init__(self, program: Path | str, root: Path, cgroup: Path) -> None:
        super().__init__(program, root)
        self.cgroup = cgroup

    def argv(self, *words: str) -> list[str]:
        """The command line of a call."""
        enter = f'echo 0 > {self.cgroup}/cgroup.procs && exec "$@"'
        setpriv, *command = super().argv(*words)
        return ["sh", "-c", enter, "sh", f"/usr/bin/{setpriv}", *command]  # busybox's shell has one of its own


def give(folder: Path) -> None:
    """A cgroup with its delegated files becomes the user's."""
    folder.mkdir(exist_ok=True)
    for path in (folder, *(folder / name for name in DELEGATED)):
        if path.exists():
            os.chown(path, rootless.UID, rootless.GID)


@pytest.fixture
def given() -> Iterator[Path]:
    """A subtree that is the user's, with controllers, and a cgroup in it where his programs are."""
    (CGROUPS / "cgroup.subtree_control").write_text("+pids +memory +cpu")
    give(GIVEN)
    (GIVEN / "cgroup.subtree_control").write_text("+pids +memory")
    own = GIVEN / "own"
    give(own)
    yield own
    for path in sorted(GIVEN.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    GIVEN.rmdir()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of the user's."""
    for path in tmp_path.parents:
        path.chmod(path.stat().st_mode | 0o711)
    return rootless.own(tmp_path)


@pytest.fixture(params=[CORTEN, RUNC], ids=["corten", "runc"])
def member(request: pytest.FixtureRequest, place: Path, given: Path) -> Iterator[Member]:
    """corten-runtime, then runc, in that cgroup."""
    made = Member(request.param, place / "root", given)
    yield made
    made.close()


def limited(place: Path, **changes: Any) -> Bundle:
    bundle = rootless.bundle(*SLEEP, folder=place / "bundle")
    bundle.config["linux"] |= {"resources": {"pids": {"limit": 17}, "memory": {"limit": 33554432}}, **changes}
    bundle.save()
    rootless.own(place)
    return bundle


@pytest.mark.slow
def test_a_users_container_has_a_cgroup_where_he_may_make_one(member: Member, place: Path) -> None:
    """At the place that the bundle names; `GIVEN` is his."""
    bundle = limited(place, cgroupsPath="/given/box")
    member.detached("run", "-d", "-b", str(bundle.path), "c")
    pid, group = member.state("c")["pid"], GIVEN / "box"
    assert Path(f"/proc/{pid}/cgroup").read_text() == "0::/given/box\n"
    assert [(group / name).read_text() for name in ("pids.max", "memory.max")] == ["17\n", "33554432\n"]
    assert (group / "pids.max").stat().st_uid == rootless.UID
    assert member("exec", "c", "cat", "/proc/self/cgroup", check=True).stdout.strip().endswith("/given/box")
    member("pause", "c", check=True)
    assert member.state("c")["status"] == "paused"
    member("resume", "c", check=True)
    member("update", "--pids-limit", "9", "c", check=True)
    assert (group / "pids.max").read_text() == "9\n"
    member("delete", "--force", "c", check=True)
    assert not group.exists()


@pytest.mark.slow
def test_a_users_container_without_a_path_is_beside_his_programs(place: Path, given: Path) -> None:
    member = Member(CORTEN, place / "root", given)
    bundle = limited(place, resources={})
    member.detached("run", "-d", "-b", str(bundle.path), "c")
    assert Path(f"/proc/{member.state('c')['pid']}/cgroup").read_text() == "0::/given/c\n"
    assert (GIVEN / "c/pids.max").read_text() == "500\n", "the node's default, where it can be set"
    member("delete", "--force", "c", check=True)
    assert not (GIVEN / "c").exists()


@pytest.mark.slow
def test_beyond_what_is_his_a_user_gets_no_cgroup(member: Member, place: Path) -> None:
    bundle = limited(place, cgroupsPath="/elsewhere/box")
    done = member("run", "-d", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert "permission denied" in done.stderr
    assert not (CGROUPS / "elsewhere").exists()
    assert member("list", "-q", check=True).stdout == ""


@pytest.mark.slow
def test_a_container_cannot_raise_the_limits_that_its_user_set(place: Path, given: Path) -> None:
    """The files are his, so that only the mount, which is read-only, stands between (CVE-2023-25809)."""
    member = Member(CORTEN, place / "root", given)
    bundle = limited(place, cgroupsPath="/given/box")
    member.detached("run", "-d", "-b", str(bundle.path), "c")
    try:
        script = "cd /sys/fs/cgroup; for f in $(find . -name pids.max); do echo max > $f; done"
        done = member("exec", "c", "sh", "-c", script)
        assert "Read-only file system" in done.stderr
        assert (GIVEN / "box/pids.max").read_text() == "17\n"
    finally:
        member("delete", "--force", "c", check=True)
