"""Signals to a cgroup's processes reach nobody who took a number over meanwhile; a freeze is whole, or none."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.runtime import cgroups
from corten.runtime.cgroups import Cgroup, CgroupPaths
from corten.sys import files


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def plain_v1(monkeypatch: pytest.MonkeyPatch, folder: Path, *lists: list[int]) -> Cgroup:
    """A v1 cgroup without a freezer whose processes are `lists`, one after the other."""
    left = iter(lists)
    monkeypatch.setattr(Cgroup, "pids", lambda self: next(left))
    return Cgroup(CgroupPaths("v1", {"pids": str(folder)}, ""))


def test_a_signal_passes_over_a_process_that_left_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    plain_v1(monkeypatch, tmp_path, [sleeper.pid], []).signal_all(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)


def test_a_signal_reaches_a_process_that_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    plain_v1(monkeypatch, tmp_path, [sleeper.pid], [sleeper.pid]).signal_all(signal.SIGTERM)
    assert sleeper.wait(60) == -signal.SIGTERM


def test_killing_reads_the_processes_again_once_they_are_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    plain_v1(monkeypatch, tmp_path, [sleeper.pid], [], []).kill_all()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)


def test_a_process_that_this_pid_namespace_does_not_see_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    both = [0, sleeper.pid]
    plain_v1(monkeypatch, tmp_path, both, both).signal_all(signal.SIGTERM)
    assert sleeper.wait(60) == -signal.SIGTERM


def test_a_freeze_that_does_not_come_about_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "FREEZE_TIMEOUT_S", 0.05)
    file = tmp_path / "cgroup.freeze"
    file.write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")  # and so it stays
    it = Cgroup(CgroupPaths("v2", {}, str(tmp_path)))
    with pytest.raises(Internal, match=rf"^{tmp_path}: not frozen after"):
        it.freeze()
    assert file.read_text() == "0"
    assert not it.is_frozen()


def test_a_freeze_that_is_refused_is_told_and_not_that_it_could_not_be_taken_back(tmp_path: Path) -> None:
    (tmp_path / "cgroup.freeze").symlink_to("/dev/full")  # refuses every write
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(Internal, match=r'^failed to write "1"'):
        Cgroup(CgroupPaths("v2", {}, str(tmp_path))).freeze()


def test_what_cannot_be_frozen_is_killed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    def refuse(self: Cgroup) -> None:
        raise Internal("not frozen after 10 s")

    monkeypatch.setattr(Cgroup, "freeze", refuse)
    left = iter([[sleeper.pid]] * 3)
    monkeypatch.setattr(Cgroup, "pids", lambda self: next(left, []))
    Cgroup(CgroupPaths("v1", {"pids,freezer": str(tmp_path)}, "")).kill_all()
    assert sleeper.wait(60) == -signal.SIGKILL


def test_what_cannot_be_frozen_is_signalled_until_nobody_is_left_though_the_freeze_took_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    """A process that the first one has forked meanwhile stands in the list only when that is dead."""
    freezes = []

    def in_vain(self: Cgroup, directory: str, file: str, value: str) -> bool:
        freezes.append(value)
        return value == "THAWED"

    monkeypatch.setattr(cgroups, "FREEZE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(cgroups, "KILL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(cgroups, "POLL_S", 0.02)
    monkeypatch.setattr(Cgroup, "_freeze_settled", in_vain)
    (tmp_path / "freezer.state").write_text("THAWED")
    with subprocess.Popen(["sleep", "1000"]) as forked:
        try:
            both = (sleeper, forked)
            monkeypatch.setattr(Cgroup, "pids", lambda self: [one.pid for one in both if one.poll() is None][:1])
            Cgroup(CgroupPaths("v1", {"pids,freezer": str(tmp_path)}, "")).kill_all()
            assert sleeper.wait(60) == forked.wait(60) == -signal.SIGKILL
        finally:
            forked.kill()
    assert len(freezes) < 10, "one freeze in vain is enough"
    assert (tmp_path / "freezer.state").read_text() == "THAWED"


def test_a_cgroup_that_is_removed_while_it_is_read_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was opened, and then its cgroup went: the kernel says ENODEV."""

    def gone(fd: int) -> bytes:
        raise OSError(errno.ENODEV, "no such device")

    for name in ("memory.events", "pids.events", "cgroup.freeze"):
        (tmp_path / name).write_text("1\n")
    monkeypatch.setattr(files, "read_fd", gone)
    it = Cgroup(CgroupPaths("v2", {}, str(tmp_path)))
    assert it.counters().oom_kills == 0
    assert not it.is_frozen()
