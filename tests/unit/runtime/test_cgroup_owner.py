"""Who owns a container's v2 cgroup: runtime-spec config-linux.md, "Cgroup ownership"."""

from __future__ import annotations

import posix
from pathlib import Path
from typing import Any

import pytest

from corten.runtime import cgroups, managers
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.spec.runtime import parse_config

WRITABLE = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]}
MAP = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 5000, "size": 1}]


def owner(
    *, uid: int = 0, mounts: tuple[dict[str, Any], ...] = (WRITABLE,), namespaces: tuple[str, ...] = ("cgroup", "user")
) -> int | None:
    return managers.owner_of(
        parse_config(
            {
                "ociVersion": "1.2.0",
                "process": {"args": ["x"], "cwd": "/", "user": {"uid": uid, "gid": 0}},
                "mounts": list(mounts),
                "linux": {
                    "namespaces": [{"type": name} for name in namespaces],
                    "uidMappings": MAP,
                    "gidMappings": MAP,
                },
            }
        )
    )


def test_the_user_of_the_process_owns_it_as_the_host_knows_him() -> None:
    assert owner() == 100000
    assert owner(uid=999) == 100999
    assert owner(uid=1000) == 5000
    assert owner(uid=7, namespaces=("cgroup",)) == 7
    assert owner(mounts=({**WRITABLE, "destination": "/sys/fs/cgroup/", "type": "cgroup2"},)) == 100000


def test_without_a_writable_view_of_its_own_nobody_is_given_it() -> None:
    assert owner(mounts=()) is None
    assert owner(mounts=({**WRITABLE, "options": ["ro"]},)) is None
    assert owner(mounts=({**WRITABLE, "type": "tmpfs"},)) is None
    assert owner(mounts=({**WRITABLE, "destination": "/cgroup"},)) is None
    assert owner(namespaces=("user",)) is None
    assert owner(uid=1001) is None, "a user that is not mapped"


def test_only_what_the_kernel_lists_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "delegate"
    listing.write_text("cgroup.procs\ncgroup.threads\nnosuch\n")
    done: list[tuple[str, int, int]] = []

    def chown(path: str, uid: int, gid: int) -> None:
        posix.stat(path)
        done.append((Path(path).name, uid, gid))

    monkeypatch.setattr(cgroups, "DELEGATE", str(listing))
    monkeypatch.setattr(posix, "chown", chown)
    group = tmp_path / "group"
    group.mkdir()
    for name in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "pids.max"):
        (group / name).touch()
    made = Cgroup(CgroupPaths("v2", {}, str(group)))
    made.delegate(5)
    assert done == [("group", 5, -1), ("cgroup.procs", 5, -1), ("cgroup.threads", 5, -1)]
    listing.unlink()
    made.delegate(6)
    assert [name for name, uid, _ in done if uid == 6] == [
        "group", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads",
    ]  # fmt: skip
