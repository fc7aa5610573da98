"""`exec --cgroup`: one path for all controllers, or one for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.errors import CortenError
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.executing import sub_cgroup
from corten.runtime.foreground import sub_cgroups


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], {}),
        (["a/b"], {"": "a/b"}),
        (["cpu,memory:a", "pids:b"], {"cpu": "a", "memory": "a", "pids": "b"}),
        (["cpu:"], {"cpu": ""}),
    ],
)
def test_every_form_is_read_as_runc_reads_it(given: list[str], found: dict[str, str]) -> None:
    assert sub_cgroups(given) == found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["cpu:a:b"], "invalid --cgroup argument: cpu:a:b"),
        (["cpu:a", "b"], "invalid --cgroup argument: b (missing <controller>: prefix)"),
    ],
)
def test_what_is_no_form_is_refused(given: list[str], text: str) -> None:
    with pytest.raises(CortenError) as caught:
        sub_cgroups(given)
    assert str(caught.value) == text


def layout(tmp_path: Path, mode: str) -> CgroupPaths:
    for name in ("cpu", "memory", "unified"):
        (tmp_path / name / "sub").mkdir(parents=True)
    v1 = {"cpu,cpuacct": str(tmp_path / "cpu"), "memory": str(tmp_path / "memory")}
    return CgroupPaths(mode, {} if mode == "v2" else v1, str(tmp_path / "unified"))


def test_a_path_for_one_controller_leaves_the_others(tmp_path: Path) -> None:
    found = sub_cgroup(layout(tmp_path, "hybrid"), {"cpuacct": "sub"})
    assert found.v1 == {"cpu,cpuacct": f"{tmp_path}/cpu/sub", "memory": f"{tmp_path}/memory"}
    assert found.v2 == f"{tmp_path}/unified"


def test_a_path_for_all_is_followed_in_each(tmp_path: Path) -> None:
    hybrid = layout(tmp_path, "hybrid")
    assert sub_cgroup(hybrid, {"": "sub"}).directories() == [
        f"{tmp_path}/{n}/sub" for n in ("cpu", "memory", "unified")
    ]
    (tmp_path / "unified/sub").rmdir()
    assert sub_cgroup(hybrid, {"": "sub"}).v2 == f"{tmp_path}/unified"


@pytest.mark.parametrize(
    ("mode", "below", "text"),
    [
        ("hybrid", {"nope": "sub"}, "unknown controller nope in SubCgroupPaths"),
        ("hybrid", {"cpu": "../memory"}, "../memory is not a sub cgroup path"),
        ("hybrid", {"": "../../x"}, "../../x is not a sub cgroup path"),
        ("hybrid", {"memory": "gone"}, "does not exist"),
        ("v2", {"memory": "sub"}, "unknown controller memory in SubCgroupPaths"),
        ("v2", {"": "gone"}, "does not exist"),
    ],
)
def test_what_is_not_there_or_not_below_is_refused(tmp_path: Path, mode: str, below: dict[str, str], text: str) -> None:
    with pytest.raises(CortenError, match=text):
        sub_cgroup(layout(tmp_path, mode), below)
