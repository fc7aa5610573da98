"""Which cgroups an ordinary user's container gets, and which of its limits are then written."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.launch.facts import HostFacts
from corten.runtime import own_cgroups, rootless
from corten.runtime.cgroup_settings import Setting
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.rootless import Rootless

IN_FRONT = "config.json"


def facts(folder: Path, mode: str = "v2") -> HostFacts:
    v1 = {"pids": f"{folder}/pids", "memory": f"{folder}/memory"} if mode != "v2" else {}
    return HostFacts((6, 1), mode, v1, f"{folder}/unified" if mode != "v1" else "", euid=1000, egid=1000)


def own(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    for module in (rootless, own_cgroups):
        monkeypatch.setattr(module, "own_directories", lambda facts: dict(found))


def test_a_path_of_the_bundle_is_taken_as_it_is(tmp_path: Path) -> None:
    paths = Rootless().paths(facts(tmp_path), "/made/up", "c")
    assert paths.v2 == f"{tmp_path}/unified/made/up"


def test_without_a_path_version_2_is_made_beside_the_runtimes_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unified/app.slice/shell.scope").mkdir(parents=True)
    own(monkeypatch, {"": f"{tmp_path}/unified/app.slice/shell.scope"})
    assert Rootless().paths(facts(tmp_path), "", "c").v2 == f"{tmp_path}/unified/app.slice/c"


def test_without_a_path_version_1_is_made_below_the_runtimes_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pids/user", "memory"):
        (tmp_path / name).mkdir(parents=True)
    own(monkeypatch, {"pids": f"{tmp_path}/pids/user", "memory": f"{tmp_path}/memory"})
    found = Rootless().paths(facts(tmp_path, "v1"), "", "c")
    assert found.v1 == {"pids": f"{tmp_path}/pids/user/c", "memory": f"{tmp_path}/memory/c"}


def test_what_the_user_cannot_make_is_left_out_and_the_runtimes_own_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pids", "memory"):
        (tmp_path / name).mkdir(parents=True)
    own(monkeypatch, {"pids": f"{tmp_path}/pids", "memory": f"{tmp_path}/memory/user"})
    monkeypatch.setattr(rootless, "can_make", lambda directory: "/pids/" in directory)
    known = facts(tmp_path, "v1")
    found = Rootless().paths(known, "", "c")
    assert found.v1 == {"pids": f"{tmp_path}/pids/c"}
    assert rootless.views(known, found) == {"memory": f"{tmp_path}/memory/user"}


WRITES = [Setting("memory", "m", 1), Setting("pids", "pids.max", 9), Setting("devices", "devices.deny", "a")]


def test_device_rules_are_never_written() -> None:
    paths = CgroupPaths("v1", {"pids": "/p"}, "")
    limit, writes = Rootless().admit(paths, (9, "built-in default"), WRITES)
    assert limit == (9, "built-in default")
    assert [row.controller for row in writes] == ["memory", "pids"]


def test_a_default_needs_a_cgroup_and_a_limit_of_the_bundle_is_never_passed_over() -> None:
    nothing = CgroupPaths("v1", {}, "")
    limit, writes = Rootless().admit(nothing, (500, "built-in default"), WRITES)
    assert limit == (-1, "rootless, without a cgroup of its own")
    assert [row.controller for row in writes] == ["memory"]
    limit, writes = Rootless().admit(nothing, (9, IN_FRONT), WRITES)
    assert limit == (9, IN_FRONT)
    assert [row.controller for row in writes] == ["memory", "pids"]
