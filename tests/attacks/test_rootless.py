"""A container of an ordinary user against that user's own cgroups on the host (CVE-2023-25809).

Its root is the user, and `rbind,ro` of /sys makes the mounts below it no less writable: a process inside may move
processes, or make cgroups, in what the machine handed to the user.  The twin takes the step out that prevents it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, process, rootless, runtimes, weakened_corten
from support.rootless import UserRuntime
from support.weakened import Edit

NO_RECURSION = (("launch/filesystem.py", "options.all_set |= MOUNT_ATTR_RDONLY", "pass"),)
NO_VIEW = (
    (
        "launch/cgroupmounts.py",
        "(0 if controllers in context.cgroup_paths else MOUNT_ATTR_RDONLY)",
        "0",
    ),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    rootless.skip_unless_reached(paths.COMMANDS / "corten-runtime")
    with runtimes.folder_of_containers("rootless") as made:
        yield rootless.own(made)


@pytest.fixture
def handed() -> Path:
    """A cgroup whose list of processes is the user's."""
    directory = process.CGROUPS / "pids" / f"{paths.mark()}runtime"
    directory.mkdir(parents=True)
    os.chown(directory / "tasks", rootless.UID, rootless.GID)
    return directory


class Attack:
    """A container opens the list of processes for writing: by /sys, or by its own view of the cgroup it is in."""

    def __init__(self, folder: Path, handed: Path, *, by_view: bool) -> None:
        place = Path("/sys/fs/cgroup/pids") if by_view else handed
        script = f"exec 3>{place}/tasks && echo open"
        bundle = rootless.bundle("sh", "-c", script, folder=folder / "bundle")
        if by_view:
            bundle.config["mounts"][-1]["options"].remove("ro")
        else:
            del bundle.config["mounts"][-1]
        bundle.save()
        self.handed = handed
        self.folder = folder
        self.bundle = bundle.path

    def works(self, program: Path) -> bool:
        """Whether it could write."""
        argv = UserRuntime(program, self.folder / "root").argv("run", "-b", str(self.bundle), "c")
        argv = ["sh", "-c", f'echo 0 > {self.handed}/tasks && exec "$@"', "sh", *argv]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
        assert done.stdout == "open\n" or "Read-only file system" in done.stderr, done
        return done.stdout == "open\n"


@pytest.mark.parametrize("by_view", [False, True])
def test_cgroups_of_the_user_cannot_be_written(folder: Path, handed: Path, by_view: bool) -> None:
    assert not Attack(folder, handed, by_view=by_view).works(paths.COMMANDS / "corten-runtime")


@pytest.mark.parametrize(("by_view", "edits"), [(False, NO_RECURSION), (True, NO_VIEW)])
def test_without_the_step_they_are_written(folder: Path, handed: Path, by_view: bool, edits: tuple[Edit, ...]) -> None:
    with weakened_corten.build(*edits) as weak:
        assert Attack(folder, handed, by_view=by_view).works(weak.commands / "corten-runtime")
