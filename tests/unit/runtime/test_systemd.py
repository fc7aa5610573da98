"""The manager by systemd against a peer that answers as systemd does, where none is the machine's init."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
LIFE = "00" * 16


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


def test_one_life_of_a_unit_is_stopped_and_no_other(fake: FakeSystemd) -> None:
    with session(fake) as talk:
        found = talk.invocation("a.scope")
        talk.stop(found)
    assert found == bytes(range(16)).hex()
    assert fake.calls[1] == ("Get", ["org.freedesktop.systemd1.Unit", "InvocationID"])
    assert fake.calls[2] == ("GetUnitByInvocationID", [list(range(16))])
    assert fake.members()[3:] == ["Stop", "ResetFailed"], "on the path that was answered"


def test_stopping_what_is_gone_is_fine(fake: FakeSystemd) -> None:
    unknown, nowhere = (name for name in systemd.OVER if name != systemd.GONE)
    fake.fails = {"GetUnitByInvocationID": [(unknown, "")], "Stop": [GONE], "ResetFailed": [(nowhere, "")]}
    with session(fake) as talk:
        for _ in range(3):
            talk.stop(LIFE)
    stopped = ["GetUnitByInvocationID", "Stop", "ResetFailed"]
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
    record.invocation = LIFE
    managers.of(record).update(record, parse_resources({"memory": {"limit": 4096}}))
    assert fake.calls == [("SetUnitProperties", ["a.scope", True, [("MemoryMax", ("t", 4096))]])]
    assert (group / "memory.max").read_text() == "4096"
    (group / "memory.max").unlink()
    fake.fails["GetUnit"] = [GONE]
    managers.of(record).remove(record)
    assert fake.members()[1:4] == ["GetUnitByInvocationID", "Stop", "ResetFailed"]
    assert not group.exists(), "systemd says nothing of it"


def test_half_of_a_quota_is_told_with_the_other_half(
    fake: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "Session", lambda: session(fake))
    (tmp_path / "cpu.max").write_text("20000 100000\n")
    record = State("", "a", "/", "/")
    record.manager, record.unit, record.cgroup = "systemd", "a.scope", CgroupPaths("v2", {}, str(tmp_path))
    managers.of(record).update(record, parse_resources({"cpu": {"period": 50000}}))
    told = [("CPUQuotaPeriodUSec", ("t", 50000)), ("CPUQuotaPerSecUSec", ("t", 400000))]
    assert fake.calls == [("SetUnitProperties", ["a.scope", True, told])]
    assert (tmp_path / "cpu.max").read_text().startswith("20000 50000")


def test_a_unit_that_was_never_seen_to_start_is_stopped_where_nobody_is_in_it(
    fake: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "Session", lambda: session(fake))
    monkeypatch.setattr(systemd, "UNSEEN_S", 0.05)
    record = State("", "a", "/", "/")
    record.manager, record.unit, record.cgroup = "systemd", "a.scope", CgroupPaths("v2", {}, str(tmp_path))
    (tmp_path / "cgroup.procs").write_text("5\n")
    managers.of(record).remove(record)
    assert "Stop" not in fake.members(), "it is somebody else's"
    (tmp_path / "cgroup.procs").write_text("")
    fake.calls.clear()
    managers.of(record).remove(record)
    assert fake.members()[:5] == ["ResetFailedUnit", "GetUnit", "Get", "GetUnitByInvocationID", "Stop"]


def test_a_unit_without_an_invocation_is_not_stopped(fake: FakeSystemd) -> None:
    """systemd takes an empty id for the unit of who asks."""
    fake.invocation = b""
    with session(fake) as talk:
        talk.stop_empty("a.scope")
    assert fake.members() == ["ResetFailedUnit", "GetUnit", "Get"]


def test_a_cgroup_of_another_life_is_nobodys(
    fake: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "Session", lambda: session(fake))
    record = State("", "a", "/", "/")
    record.manager, record.unit, record.cgroup = "systemd", "a.scope", CgroupPaths("v2", {}, str(tmp_path))
    found = []
    for life in (fake.invocation.hex(), LIFE, ""):
        record.invocation = life
        found.append(managers.of(record).group(record).paths.directories())
    fake.fails["GetUnit"] = [GONE]
    found.append(managers.of(record).group(record).paths.directories())
    assert found == [[str(tmp_path)], [], [], [str(tmp_path)]], "nobody's but where there is no unit at all"


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
    users: tuple[dict[str, Any], ...] = ({"euid": 1000}, {"in_user_namespace": True})
    for who in users:
        with pytest.raises(FailedPrecondition, match="is for the machine's root: use cgroupfs"):
            manager.paths(HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", **who), "", "id")


def test_without_systemd_it_is_refused_in_the_words_of_runc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "RUNNING", "/nonexistent")
    with pytest.raises(InvalidArgument, match=r"^systemd not running on this host, cannot use systemd"):
        managers.named("systemd").paths(V2, "", "id")
    with pytest.raises(InvalidArgument, match="expected cgroupsPath"):
        managers.named("systemd").paths(V2, "/a", "id")
