"""A creation that failed is taken back as far as it can be, and its own failure is the one that is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest

from corten.errors import Unavailable
from corten.runtime import ending
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.launching import Creation
from corten.runtime.options import CreateOptions
from corten.runtime.parentsteps import Change
from corten.runtime.restoring import Restoration
from corten.runtime.state import State, make_directory

Making = TypeVar("Making", bound=Creation)


class Stays(Change):
    """Something that the machine does not give back."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def undo(self) -> list[str]:
        self.told.append("change")
        raise Unavailable("D-Bus: no answer in time")


class Device(Change):
    """Something that has lost its place meanwhile."""

    def undo(self) -> list[str]:
        return ["take back network device eth7: file exists"]


class Abandoned:
    """A launch that is given up, in vain."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def abandon(self) -> None:
        self.told.append("running")
        raise OSError(5, "Input/output error", "/proc/7/stat")


def failed(kind: type[Making], tmp_path: Path, told: list[str], cgroups: dict[str, str]) -> Making:
    """A creation of which nothing but a record is there."""
    making = object.__new__(kind)
    making.options = CreateOptions("c", str(tmp_path), "/bundle", warn=told.append)
    making.state = State(make_directory(str(tmp_path), "c"), "c", "/bundle", "")
    making.state.cgroup = CgroupPaths("v1", cgroups, "")
    making.undoing, making.running = [], None
    making.start_fd, making.hooks_ran = -1, False
    return making


def test_a_step_that_cannot_be_taken_back_is_told_and_the_others_are_taken_back(tmp_path: Path) -> None:
    told: list[str] = []
    making = failed(Creation, tmp_path, told, {"pids": str(tmp_path / "cgroup")})
    making.undoing = [Stays(told), Stays(told)]
    making.running = Abandoned(told)  # type: ignore[assignment]
    making.undo()
    text = "container c could not be taken back: "
    change = ["change", f"{text}D-Bus: no answer in time"]
    assert told == [*change, *change, "running", f"{text}/proc/7/stat: input/output error"]
    assert list(tmp_path.iterdir()) == []
    assert making.undoing == []


def test_without_a_cgroup_the_record_of_a_process_that_could_not_be_ended_stays(tmp_path: Path) -> None:
    told: list[str] = []
    making = failed(Creation, tmp_path, told, {})
    making.running = Abandoned(told)  # type: ignore[assignment]
    making.undo()
    assert told == ["running", "container c could not be taken back: /proc/7/stat: input/output error"]
    assert Path(making.state.directory).is_dir(), "for a delete: nothing else tells of the process"


def test_a_restored_init_that_cannot_be_killed_is_told_and_the_rest_is_taken_back(tmp_path: Path) -> None:
    told: list[str] = []
    making = failed(Restoration, tmp_path, told, {"pids": str(tmp_path / "cgroup")})
    making.pidfd = os.open("/dev/null", os.O_RDONLY)  # none of a process: the kernel refuses
    making.undo()
    assert told == ["container c could not be taken back: bad file descriptor"]
    assert list(tmp_path.iterdir()) == []
    assert making.pidfd == -1


def test_a_restored_init_is_killed_and_collected_by_the_undoing_be_it_dead_or_alive(tmp_path: Path) -> None:
    told: list[str] = []
    for is_alive in (True, False):
        making = failed(Restoration, tmp_path, told, {})
        with subprocess.Popen(["sleep", "1000"]) as init:
            making.pidfd = os.pidfd_open(init.pid)
            if not is_alive:
                init.kill()
                init.wait()
            making.undo()
            with pytest.raises(ChildProcessError):
                os.waitpid(init.pid, os.WNOHANG)
        assert (told, list(tmp_path.iterdir())) == ([], [])


def test_what_a_device_or_a_hook_complains_of_while_all_is_taken_back_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    making = failed(Creation, tmp_path, told, {})
    making.undoing, making.hooks_ran = [Device()], True
    making.state.poststop = [{"path": "/nowhere/hook", "args": None, "env": None, "timeout": None}]
    making.undo()
    assert [text.partition(":")[0] for text in told] == ["take back network device eth7", "poststop hook /nowhere/hook"]
    assert list(tmp_path.iterdir()) == []


def started(tmp_path: Path) -> State:
    """The record of a container whose init has ended."""
    record = State(make_directory(str(tmp_path), "c"), "c", "/bundle", "")
    record.cgroup = CgroupPaths("v1", {}, "")
    record.poststop = [{"path": "/nowhere/hook", "args": None, "env": None, "timeout": None}]
    return record


def test_a_started_container_that_cannot_go_on_is_removed_and_complaints_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    record = started(tmp_path)
    ending.take_back(record, told.append, keep=True)
    assert (Path(record.directory).is_dir(), told) == (True, [])
    ending.take_back(record, told.append)
    assert list(tmp_path.iterdir()) == []
    assert [text.partition(":")[0] for text in told] == ["poststop hook /nowhere/hook"]


def test_a_started_container_that_stays_does_not_hide_what_failed_before(tmp_path: Path) -> None:
    told: list[str] = []
    record = started(tmp_path)
    record.rdt = [str(tmp_path)]  # a folder that is not empty stands for a class that the kernel keeps
    ending.take_back(record, told.append)  # raises nothing, so that its caller raises what failed first
    (text,) = told
    assert text.startswith("container c could not be taken back: ")
    assert Path(record.directory).is_dir(), "for a delete"


def test_what_the_end_complained_of_is_told_where_the_removal_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    record = started(tmp_path)
    record.rdt = [str(tmp_path)]
    monkeypatch.setattr(ending, "end", lambda record: ["take back network device eth7: file exists"])
    ending.take_back(record, told.append)
    assert told[0] == "take back network device eth7: file exists"
    assert told[1].startswith("container c could not be taken back: ")
