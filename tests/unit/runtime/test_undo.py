"""A creation that failed is taken back as far as it can be, and its own failure is the one that is told."""

from __future__ import annotations

from pathlib import Path

from corten.errors import Unavailable
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.launching import Creation
from corten.runtime.options import CreateOptions
from corten.runtime.parentsteps import Change
from corten.runtime.state import State, make_directory


class Stays(Change):
    """Something that the machine does not give back."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def undo(self) -> None:
        self.told.append("change")
        raise Unavailable("D-Bus: no answer in time")


class Abandoned:
    """A launch that is given up."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def abandon(self) -> None:
        self.told.append("running")
        raise OSError(5, "Input/output error", "/proc/7/stat")


def test_a_step_that_cannot_be_taken_back_is_told_and_the_others_are_taken_back(tmp_path: Path) -> None:
    told: list[str] = []
    making = object.__new__(Creation)
    making.options = CreateOptions("c", str(tmp_path), "/bundle", warn=told.append)
    making.state = State(make_directory(str(tmp_path), "c"), "c", "/bundle", "")
    making.state.cgroup = CgroupPaths("v1", {}, "")
    making.undoing = [Stays(told), Stays(told)]
    making.running = Abandoned(told)  # type: ignore[assignment]
    making.start_fd, making.hooks_ran = -1, False
    making.undo()
    text = "container c could not be taken back: "
    change = ["change", f"{text}D-Bus: no answer in time"]
    assert told == [*change, *change, "running", f"{text}/proc/7/stat: input/output error"]
    assert list(tmp_path.iterdir()) == []
    assert making.undoing == []
