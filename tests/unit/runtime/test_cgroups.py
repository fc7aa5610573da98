"""Signals to a cgroup's processes reach nobody who took a number over meanwhile."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.runtime.cgroups import Cgroup, CgroupPaths


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
    assert sleeper.wait(10) == -signal.SIGTERM


def test_killing_reads_the_processes_again_once_they_are_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    plain_v1(monkeypatch, tmp_path, [sleeper.pid], [], []).kill_all()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.2)
