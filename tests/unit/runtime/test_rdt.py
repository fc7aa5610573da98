"""Resource control on a plain directory that stands for the resctrl file system: classes, comparison, removal."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corten.errors import FailedPrecondition, Internal, InvalidArgument
from corten.runtime import rdt, rdt_stats
from corten.runtime.rdt import Group
from corten.runtime.state import State
from corten.spec.rdt import IntelRdt, read_rdt
from corten.spec.reader import Reader


def read(**fields: object) -> IntelRdt:
    return read_rdt(Reader.of(fields, "config.json.linux.intelRdt"))


def test_lines_are_written_in_order_and_each_kind_once() -> None:
    found = read(
        l3CacheSchema="L3:0=7f0;1=1f\nMB:0=5\n", memBwSchema="MB:0=20;1=70", schemata=["L2:0=ff", "MB:0=30\nL3:1=3"]
    )
    assert found.schemata == ("L3:0=7f0;1=1f", "MB:0=20;1=70", "L2:0=ff", "MB:0=30", "L3:1=3")


@pytest.mark.parametrize("field", ["enableMonitoring", "enableCMT", "enableMBM"])
def test_monitoring_is_asked_for_in_the_old_words_too(field: str) -> None:
    assert read(**{field: True}).monitored


@pytest.mark.parametrize("name", ["..", ".", "a/b", "info", "mon_groups"])
def test_a_class_is_a_name_of_its_own(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid intelRdt\.ClosID"):
        read(closID=name)


def kernel(resctrl: Path, name: str, schemata: str = "") -> Path:
    """What the kernel would have made of a directory."""
    folder = resctrl / name
    (folder / "mon_groups").mkdir(parents=True, exist_ok=True)
    (folder / "schemata").write_text(schemata)
    (folder / "tasks").write_text("")
    return folder


def kernel_mkdir(resctrl: Path, path: str) -> None:
    if Path(path).exists():
        raise FileExistsError(path)
    kernel(resctrl, path)


def group(resctrl: Path, **fields: object) -> Group:
    return Group(str(resctrl), read(**fields), "c", mkdir=lambda path, mode: kernel_mkdir(resctrl, path))


def test_a_new_class_has_the_name_of_the_container_and_its_limits(tmp_path: Path) -> None:
    it = group(tmp_path, l3CacheSchema="L3:0=f", memBwSchema="MB:0=20")
    assert it.missing() == [f"{tmp_path}/c"]
    it.make()
    assert (tmp_path / "c/schemata").read_text() == "L3:0=f\nMB:0=20\n"
    it.join(77)
    assert (tmp_path / "c/tasks").read_text() == "77\n"


def test_a_monitoring_group_is_the_containers_own_in_a_shared_class(tmp_path: Path) -> None:
    shared = kernel(tmp_path, "gold", "L3:0=f\n")
    it = group(tmp_path, closID="gold", enableMonitoring=True)
    assert it.missing() == [f"{shared}/mon_groups/c"]
    it.make()
    it.join(5)
    assert (shared / "tasks").read_text() == (shared / "mon_groups/c/tasks").read_text() == "5\n"


def test_a_class_without_limits_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="clos dir not accessible"):
        group(tmp_path, closID="gold").make()
    assert list(tmp_path.iterdir()) == []


def test_limits_of_a_class_that_is_there_are_compared_as_numbers(tmp_path: Path) -> None:
    kernel(tmp_path, "gold", "    L3:0=00f;1=0FF\n    MB:0=100;1=100\n")
    group(tmp_path, closID="gold", l3CacheSchema="L3:1=ff").make()
    assert (tmp_path / "gold/schemata").read_text().startswith("    L3:0=00f")
    for other in ("L3:1=f", "L3:2=ff", "L2:0=f"):
        with pytest.raises(FailedPrecondition, match="is there already"):
            group(tmp_path, closID="gold", schemata=[other]).make()


def test_only_what_was_made_is_removed_and_twice_is_no_failure(tmp_path: Path) -> None:
    kernel(tmp_path, "gold")
    (tmp_path / "gold/mon_groups/c").mkdir()
    made = [f"{tmp_path}/gold/mon_groups/c"]
    rdt.remove(made)
    rdt.remove(made)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["gold", "mon_groups", "schemata", "tasks"]


def test_a_class_with_a_closid_is_left_for_others_and_the_containers_own_group_in_it_is_not(tmp_path: Path) -> None:
    fields = {"closID": "gold", "l3CacheSchema": "L3:0=f", "enableMonitoring": True}
    it = group(tmp_path, **fields)
    made = it.missing()
    it.make()
    assert made == [f"{tmp_path}/gold/mon_groups/c"]
    assert (tmp_path / "gold/schemata").read_text() == "L3:0=f\n"


def test_the_default_class_is_the_root_which_is_neither_made_nor_removed(tmp_path: Path) -> None:
    kernel(tmp_path, ".", "L3:0=ff\n")
    it = group(tmp_path, closID="/", enableMonitoring=True)
    assert it.missing() == [f"{tmp_path}/mon_groups/c"]
    it.make()
    it.join(5)
    assert (tmp_path / "tasks").read_text() == (tmp_path / "mon_groups/c/tasks").read_text() == "5\n"
    assert rdt_stats.stats(str(tmp_path), read(closID="/"), "c") == {}
    with pytest.raises(FailedPrecondition, match="is there already"):
        group(tmp_path, closID="/", schemata=["L3:0=f"]).make()


def test_a_refused_limit_is_told_with_the_kernels_own_sentence(tmp_path: Path) -> None:
    folder = kernel(tmp_path, "c")
    (folder / "schemata").unlink()
    (folder / "schemata").mkdir()
    (tmp_path / "info").mkdir()
    (tmp_path / "info/last_cmd_status").write_text("Mask out of range\n")
    with pytest.raises(Internal, match=r"write 'L3:0=f' to .*: is a directory \(Mask out of range\)"):
        Group(str(tmp_path), read(schemata=["L3:0=f"]), "c", mkdir=lambda path, mode: None).make()


def test_a_class_whose_limits_are_refused_does_not_stay_in_the_way_of_the_next_create(tmp_path: Path) -> None:
    it = Group(str(tmp_path), read(closID="gold", schemata=["L3:0=0"]), "c")  # a plain directory takes no limits
    with pytest.raises(Internal, match="write 'L3:0=0' to "):
        it.make()
    assert list(tmp_path.iterdir()) == []
    group(tmp_path, closID="gold", schemata=["L3:0=f"]).make()
    assert (tmp_path / "gold/schemata").read_text() == "L3:0=f\n"


def machine(resctrl: Path, features: str = "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n") -> None:
    """What the kernel tells of its caches, and two classes with counters of two of them."""
    tree = {
        "info/L3": {"cbm_mask": "fffff\n", "min_cbm_bits": "2\n", "num_closids": "16\n"},
        "info/MB": {"bandwidth_gran": "10\n", "delay_linear": "1\n", "min_bandwidth": "10\n", "num_closids": "8\n"},
        "info/L3_MON": {"mon_features": features},
        ".": {"schemata": "    L3:0=fffff;1=fffff\n    MB:0=100;1=100\n"},
        "gold": {"schemata": "L3:0=f;1=f\nMB:0=20;1=100\n"},
    }
    for place, factor in (("gold", 1), ("gold/mon_groups/c", 10)):
        for node in (0, 1):
            names = ("llc_occupancy", "mbm_total_bytes", "mbm_local_bytes")
            numbers = {name: f"{factor * (at + 3 * node)}\n" for at, name in enumerate(names, start=1)}
            tree[f"{place}/mon_data/mon_L3_0{node}"] = numbers
    for folder, entries in tree.items():
        (resctrl / folder).mkdir(parents=True, exist_ok=True)
        for name, text in entries.items():
            (resctrl / folder / name).write_text(text)


def test_events_tell_limits_and_counters_in_the_shape_of_runc(tmp_path: Path) -> None:
    machine(tmp_path)
    assert rdt_stats.stats(str(tmp_path), read(closID="gold"), "c") == {
        "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 2, "num_closids": 16},
        "l3_cache_schema_root": "L3:0=fffff;1=fffff",
        "l3_cache_schema": "L3:0=f;1=f",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=20;1=100",
        "mbm_stats": [{"mbm_total_bytes": 2, "mbm_local_bytes": 3}, {"mbm_total_bytes": 5, "mbm_local_bytes": 6}],
        "cmt_stats": [{"llc_occupancy": 1}, {"llc_occupancy": 4}],
    }


def test_events_count_the_monitoring_group_where_there_is_one(tmp_path: Path) -> None:
    machine(tmp_path)
    found = rdt_stats.stats(str(tmp_path), read(closID="gold", enableMonitoring=True), "c")
    assert found["cmt_stats"] == [{"llc_occupancy": 10}, {"llc_occupancy": 40}]


def test_events_leave_out_what_the_machine_cannot_do_or_does_not_know_yet(tmp_path: Path) -> None:
    machine(tmp_path, features="llc_occupancy\n")
    shutil.rmtree(tmp_path / "info/MB")
    (tmp_path / "gold/mon_data/mon_L3_00/llc_occupancy").write_text("Unavailable\n")
    found = rdt_stats.stats(str(tmp_path), read(closID="gold"), "c")
    assert set(found) == {"l3_cache_info", "l3_cache_schema_root", "l3_cache_schema", "cmt_stats"}
    assert found["cmt_stats"] == [{"llc_occupancy": 0}, {"llc_occupancy": 4}]
    assert rdt_stats.stats(str(tmp_path / "nowhere"), read(), "c") == {}


class Overtaken(State):
    """A record whose first save is the moment in which another process makes a directory."""

    __slots__ = ("saved", "taken")

    def __init__(self, taken: Path) -> None:
        super().__init__("", "c", "/bundle", "/")
        self.taken = taken
        self.saved: list[list[str]] = []

    def save(self) -> None:
        self.saved.append(list(self.rdt))
        if len(self.saved) == 1:
            self.taken.mkdir()
            for name in ("schemata", "tasks"):
                (self.taken / name).write_text("L3:0=f\n" if name == "schemata" else "")


def making(resctrl: Path, state: State, intel_rdt: IntelRdt) -> Any:
    config = SimpleNamespace(linux=SimpleNamespace(intel_rdt=intel_rdt))
    host = SimpleNamespace(facts=SimpleNamespace(resctrl=str(resctrl)))
    return SimpleNamespace(
        prepared=SimpleNamespace(config=config), host=host, options=SimpleNamespace(id="c"), state=state
    )


def test_a_monitoring_group_that_another_process_made_meanwhile_is_not_ours_to_remove(tmp_path: Path) -> None:
    kernel(tmp_path, "gold", "L3:0=f\n")
    state = Overtaken(tmp_path / "gold/mon_groups/c")
    rdt.run(making(tmp_path, state, read(closID="gold", enableMonitoring=True)), 5)
    assert state.saved == [[str(state.taken)], []]
    assert (state.taken / "tasks").read_text() == "5\n"


def test_a_class_that_another_process_made_meanwhile_is_not_ours_even_where_its_limits_do_not_fit(
    tmp_path: Path,
) -> None:
    state = Overtaken(tmp_path / "c")
    with pytest.raises(FailedPrecondition, match="is there already"):
        rdt.run(making(tmp_path, state, read(l3CacheSchema="L3:0=3")), 5)
    assert state.saved == [[str(state.taken)], []]
