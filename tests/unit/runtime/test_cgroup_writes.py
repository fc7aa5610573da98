"""What becomes of a limit that a cgroup does not take: a directory of plain files stands for the kernel's."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from corten.errors import Internal
from corten.runtime import managers
from corten.runtime.cgroup_settings import Setting
from corten.runtime.cgroups import Cgroup, CgroupPaths, SettingRefused
from corten.spec.resources import parse_resources
from corten.sys import cgroup


def version_2(folder: Path, controllers: str, **files: str) -> Cgroup:
    """A v2 cgroup with these files; `_` in a name stands for a dot."""
    (folder / "cgroup.controllers").write_text(controllers + "\n")
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return Cgroup(CgroupPaths("v2", {}, str(folder)))


def apply(group: Cgroup, resources: dict[str, Any]) -> None:
    group.apply(group.settings(parse_resources(resources)))


def refusal(group: Cgroup, resources: dict[str, Any]) -> str:
    with pytest.raises(SettingRefused) as caught:
        apply(group, resources)
    return caught.value.text


def test_a_limit_without_its_controller_is_refused_as_on_v1(tmp_path: Path) -> None:
    group = version_2(tmp_path, "cpu memory", memory_max="max")
    assert refusal(group, {"pids": {"limit": 5}}) == (
        "cannot set pids limit: container could not join or create cgroup"
    )
    apply(group, {"memory": {"limit": 5}})
    assert (tmp_path / "memory.max").read_text().startswith("5")


def test_a_change_that_is_refused_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = version_2(tmp_path, "cpu memory pids", memory_max="max\n", pids_max="7\n")
    written: list[tuple[str, list[str]]] = []
    write_each = cgroup.write_each

    def refusing(directory: str, file: str, values: list[str]) -> None:
        written.append((file, values))
        if values == ["9"]:
            raise cgroup.Refused("no", errno.ERANGE)
        write_each(directory, file, values)

    monkeypatch.setattr(cgroup, "write_each", refusing)
    settings = group.settings(parse_resources({"memory": {"limit": 5}, "pids": {"limit": 9}}))
    with pytest.raises(SettingRefused, match=r"^no$"):
        group.change(settings)
    assert written == [("memory.max", ["5"]), ("pids.max", ["9"]), ("pids.max", ["7"]), ("memory.max", ["max"])]


def test_a_file_that_the_controller_lacks_is_named(tmp_path: Path) -> None:
    group = version_2(tmp_path, "cpu memory")
    assert refusal(group, {"memory": {"limit": 5}}) == f"open {tmp_path}/memory.max: no such file or directory"


def test_a_unified_file_of_a_controller_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    group = version_2(tmp_path, "cpu memory")
    assert refusal(group, {"unified": {"misc.max": "sev 1"}}) == (
        'unified resource "misc.max" can\'t be set: controller "misc" not available'
    )
    for file in ("memory.nosuch", "cgroup.nosuch"):
        assert refusal(group, {"unified": {file: "1"}}) == (
            f'unable to set unified resource "{file}": open {tmp_path}/{file}: no such file or directory'
        )


def test_swap_is_not_limited_where_the_kernel_does_not_count_it(tmp_path: Path) -> None:
    group = version_2(tmp_path, "memory", memory_max="max")
    apply(group, {"memory": {"limit": 100, "swap": 100}})
    apply(group, {"memory": {"limit": 100, "swap": -1}})
    assert "memory.swap.max: no such file" in refusal(group, {"memory": {"limit": 100, "swap": 200}})


def test_reserved_huge_pages_are_limited_where_the_kernel_counts_them(tmp_path: Path) -> None:
    group = version_2(tmp_path, "hugetlb", hugetlb_2MB_max="max")
    limits = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}
    apply(group, limits)
    (tmp_path / "hugetlb.2MB.rsvd.max").write_text("max")
    apply(group, limits)
    assert (tmp_path / "hugetlb.2MB.rsvd.max").read_text() == "4194304"


def test_a_device_has_a_weight_with_and_without_bfq(tmp_path: Path) -> None:
    group = version_2(tmp_path, "io", io_weight="")
    weight = {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 300}]}}
    apply(group, weight)
    assert (tmp_path / "io.weight").read_text() == "8:0 2930"
    (tmp_path / "io.bfq.weight").write_text("")
    apply(group, weight)
    assert (tmp_path / "io.bfq.weight").read_text() == "8:0 300"


def test_a_value_that_must_fit_another_is_tried_again_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = {"cpu.max": 100, "cpu.max.burst": 0}

    def write(directory: str, file: str, values: list[str]) -> None:
        value = int(values[0].split()[0])
        if file == "cpu.max.burst" and value > kernel["cpu.max"]:
            raise cgroup.Refused("too much", errno.EINVAL)
        kernel[file] = value

    monkeypatch.setattr(cgroup, "write_each", write)
    group = version_2(tmp_path, "cpu")
    apply(group, {"cpu": {"quota": 500, "burst": 400}})
    assert kernel == {"cpu.max": 500, "cpu.max.burst": 400}
    assert refusal(group, {"cpu": {"quota": 500, "burst": 600}}) == "too much"


def test_a_limit_below_what_is_used_is_refused_where_that_was_asked_for(tmp_path: Path) -> None:
    group = version_2(tmp_path, "memory", memory_current="5000")

    def check(**memory: Any) -> None:
        group.check_usage(parse_resources({"memory": memory}).memory)

    check(limit=10)
    check(limit=5001, swap=6000, checkBeforeUpdate=True)
    check(limit=-1, swap=-1, checkBeforeUpdate=True)
    with pytest.raises(Internal, match=r"^rejecting memory limit 5000 <= usage 5000$"):
        check(limit=5000, checkBeforeUpdate=True)
    with pytest.raises(Internal, match=r"^rejecting memory\+swap limit 4000 <= usage 5000$"):
        check(limit=3000, swap=4000, checkBeforeUpdate=True)


def test_update_asks_for_what_is_used_before_it_writes(tmp_path: Path) -> None:
    from corten.runtime.state import State

    group = version_2(tmp_path, "memory", memory_current="5000", memory_max="max")
    record = State("", "c", "/", "/")
    record.cgroup = group.paths
    with pytest.raises(Internal, match="rejecting"):
        managers.of(record).update(record, parse_resources({"memory": {"limit": 10, "checkBeforeUpdate": True}}))
    assert (tmp_path / "memory.max").read_text() == "max"
    managers.of(record).update(record, parse_resources({"memory": {"limit": 10}}))
    assert (tmp_path / "memory.max").read_text()[:2] == "10"


@pytest.mark.parametrize(
    ("now", "cpu", "then"),
    [
        ("20000 100000", {"period": 50000}, "20000 50000"),
        ("20000 50000", {"quota": 10000}, "10000 50000"),
        ("20000 50000", {"quota": -1}, "max 50000"),
        ("max 50000", {"period": 80000}, "max 80000"),
        ("20000 50000", {"quota": 5000, "period": 10000}, "5000 10000"),
    ],
)
def test_an_update_of_half_a_quota_keeps_the_other_half(
    tmp_path: Path, now: str, cpu: dict[str, int], then: str
) -> None:
    (tmp_path / "cpu.max").write_text(f"{now}\n")
    group = Cgroup(CgroupPaths("v2", {}, str(tmp_path)))
    assert [one.describe() for one in group.settings(parse_resources({"cpu": cpu}))] == [f"cpu.max {then}"]


def test_values_for_the_same_file_are_a_write_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(cgroup, "write_each", lambda directory, file, values: written.append((file, values)))
    settings = [Setting("io", "io.max", "1"), Setting("io", "io.max", "2"), Setting("cpu", "cpu.idle", 1)]
    version_2(tmp_path, "io cpu").apply(settings)
    assert written == [("io.max", ["1", "2"]), ("cpu.idle", ["1"])]
