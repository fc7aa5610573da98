"""The manager by systemd against a peer that answers as systemd does, where none is the machine's init."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import FailedPrecondition, Internal, InvalidArgument, Unavailable
from corten.launch.facts import HostFacts
from corten.runtime import managers, systemd
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.state import State
from corten.runtime.systemd import Session
from corten.spec.resources import parse_resources
from support.fakesystemd import FakeSystemd

V2 = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup")
HYBRID = HostFacts((6, 1), "hybrid", {"pids": "/sys/fs/cgroup/pids"}, "/sys/fs/cgroup/unified")
EXISTS = (systemd.EXISTS, "Unit a.scope already exists.")
GONE = (systemd.GONE, "Unit a.scope not loaded.")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSystemd]:
    made = FakeSystemd(tmp_path / "private")
    yield made
    made.close()


def session(fake: FakeSystemd) -> Session:
    return Session(str(fake.path), "/nonexistent")


def test_a_unit_is_started_and_waited_for(fake: FakeSystemd) -> None:
    with session(fake) as talk:
        talk.start("a.scope", [("PIDs", ("au", [5]))])
        talk.start("b.scope", [])  # the answers come in the other order
    assert fake.calls == [
        ("StartTransientUnit", ["a.scope", "replace", [("PIDs", ("au", [5]))], []]),
        ("StartTransientUnit", ["b.scope", "replace", [], []]),
    ]


def test_a_unit_that_failed_before_is_taken_away_first(fake: FakeSystemd) -> None:
    fake.fails["StartTransientUnit"] = [EXISTS]
    with session(fake) as talk:
        talk.start("a.scope", [])
    assert fake.members() == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_a_unit_that_is_somebody_elses_is_an_error(fake: FakeSystemd) -> None:
    fake.fails["StartTransientUnit"] = [EXISTS, EXISTS]
    with session(fake) as talk, pytest.raises(Internal, match="already exists"):
        talk.start("a.scope", [])


def test_a_job_that_fails_is_told_with_the_properties(fake: FakeSystemd) -> None:
    fake.results = ["failed"]
    with (
        session(fake) as talk,
        pytest.raises(Internal, match=r"unable to start unit a\.scope .*TasksMax.*: result failed"),
    ):
        talk.start("a.scope", [("TasksMax", ("t", 5))])
    assert fake.members()[-1] == "ResetFailedUnit"


def test_stopping_what_is_gone_is_fine(fake: FakeSystemd) -> None:
    fake.fails = {"GetUnit": [GONE], "StopUnit": [GONE], "ResetFailedUnit": [GONE]}
    with session(fake) as talk:
        for _ in range(3):
            talk.stop("a.scope")
    stopped = ["GetUnit", "StopUnit", "ResetFailedUnit"]
    assert fake.members() == [*stopped[:1], *stopped[:2], *stopped], "at once, meanwhile, and before it is forgotten"


def test_on_the_bus_signals_are_asked_for(tmp_path: Path) -> None:
    fake = FakeSystemd(tmp_path / "bus")
    with Session(str(tmp_path / "private"), str(fake.path)) as talk:
        talk.start("a.scope", [])
    assert fake.members() == ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]
    fake.close()


def test_without_a_socket_the_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=rf"{tmp_path}/bus: no such file or directory"):
        Session(str(tmp_path / "private"), str(tmp_path / "bus"))


def test_update_and_removal_tell_the_unit(fake: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "Session", lambda: session(fake))
    group = tmp_path / "a.scope"
    group.mkdir()
    (group / "memory.max").write_text("max")
    record = State("", "a", "/", "/")
    record.manager, record.unit, record.cgroup = "systemd", "a.scope", CgroupPaths("v2", {}, str(group))
    managers.of(record).update(record, parse_resources({"memory": {"limit": 4096}}))
    assert fake.calls == [("SetUnitProperties", ["a.scope", True, [("MemoryMax", ("t", 4096))]])]
    assert (group / "memory.max").read_text() == "4096"
    (group / "memory.max").unlink()
    managers.of(record).remove(record)
    assert fake.members()[1:] == ["GetUnit", "StopUnit", "ResetFailedUnit"]
    assert not group.exists()


def test_a_record_whose_unit_is_not_ours_leaves_it_alone(fake: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "Session", lambda: session(fake))
    record = State("", "a", "/", "/")
    record.manager, record.cgroup = "systemd", CgroupPaths("v2", {}, "")
    managers.of(record).remove(record)
    assert fake.calls == []


def test_the_cgroup_is_where_systemd_will_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "RUNNING", str(tmp_path))
    manager = managers.named("systemd")
    assert manager.paths(V2, "a-b.slice:p:n", "id").v2 == "/sys/fs/cgroup/a.slice/a-b.slice/p-n.scope"
    assert manager.unit("a-b.slice:p:n", "id") == "p-n.scope"
    with pytest.raises(FailedPrecondition, match="needs cgroup v2"):
        manager.paths(HYBRID, "", "id")


def test_without_systemd_it_is_refused_in_the_words_of_runc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "RUNNING", "/nonexistent")
    with pytest.raises(InvalidArgument, match=r"^systemd not running on this host, cannot use systemd"):
        managers.named("systemd").paths(V2, "", "id")
    with pytest.raises(InvalidArgument, match="expected cgroupsPath"):
        managers.named("systemd").paths(V2, "/a", "id")
