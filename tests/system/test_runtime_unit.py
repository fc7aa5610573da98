"""A launcher that waits for its cgroup, as for systemd's: here a manager of the test makes it by files, late."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.runtime import container, managers
from corten.runtime.launching import Creation
from corten.runtime.options import CreateOptions
from corten.runtime.prepare import Prepared
from support import paths, process, runtimes
from support.runtimes import Bundle

DIES = """
import os, sys
sys.path.insert(0, {source!r})
from corten.runtime import container, managers
class Dying(managers.Manager):
    starts_unit = True
    def make(self, prepared): pass
    def start_unit(self, making, launcher_pid):
        print(launcher_pid, flush=True)
        os.kill(os.getpid(), 9)
managers.MANAGERS["cgroupfs"] = Dying()
container.create(container.CreateOptions("c", {root!r}, {bundle!r}))
"""


class Late(managers.Manager):
    """Makes the cgroup when the launcher waits, and remembers what there was then."""

    starts_unit = True

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.launcher = 0
        self.child = -1
        self.was_there = True
        self.settled = 0

    def make(self, prepared: Prepared) -> None:
        """Not yet."""

    def start_unit(self, making: Creation, launcher_pid: int) -> None:
        assert making.running is not None
        self.launcher, self.child = launcher_pid, making.running.pid
        self.was_there = any(Path(place).exists() for place in making.prepared.paths.directories())
        assert Path(f"/proc/{launcher_pid}/comm").exists()
        if self.error:
            raise Internal(self.error)
        super().make(making.prepared)

    def settle(self, making: Creation) -> None:
        assert making.running is not None
        self.settled = making.running.pid


def options(bundle: Bundle, folder: Path) -> CreateOptions:
    return CreateOptions("c", str(folder / "root"), str(bundle.path))


def test_the_launcher_waits_until_its_cgroup_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Late()
    monkeypatch.setitem(managers.MANAGERS, "cgroupfs", manager)
    bundle = runtimes.sleeper(folder)
    bundle.config["linux"]["resources"]["pids"] = {"limit": 1}
    bundle.save()
    made = container.create(options(bundle, folder))
    assert (manager.child, manager.was_there) == (0, False), "there was neither a child nor a cgroup"
    assert bundle.cgroup("pids", "cgroup.procs") == str(made.pid)
    assert bundle.cgroup("pids", "pids.max") == "1"
    assert manager.settled == made.pid, "the limit of one process can wait until the launcher is gone"
    container.delete(str(folder / "root"), "c", force=True)
    assert not bundle.has_cgroup()


def test_a_unit_that_cannot_be_made_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Late("no unit today")
    monkeypatch.setitem(managers.MANAGERS, "cgroupfs", manager)
    bundle = runtimes.sleeper(folder)
    with pytest.raises(Internal, match=r"^no unit today$"):
        container.create(options(bundle, folder))
    assert not Path(f"/proc/{manager.launcher}").exists()
    assert not bundle.has_cgroup()
    assert not list((folder / "root").iterdir())


def test_a_launcher_whose_creator_is_killed_ends(folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    script = DIES.format(source=str(paths.REPOSITORY / "src"), root=str(folder / "root"), bundle=str(bundle.path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    launcher = Path(f"/proc/{int(done.stdout)}/cmdline")
    process.wait_for(lambda: not launcher.exists() or not launcher.read_bytes(), "the launcher's end")
    container.delete(str(folder / "root"), "c", force=True)
    assert not bundle.has_cgroup()
