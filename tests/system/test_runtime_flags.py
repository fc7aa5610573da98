"""Flags of single verbs beside runc: what each changes, seen in the container or in its cgroup."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runtimes
from support.runtimes import Bundle, Runtime

PROGRAMS = {"ours": paths.COMMANDS / "corten-runtime", "theirs": peers.binary("runc")}


class Side:
    """A runtime with a bundle of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.runtime = Runtime(PROGRAMS[name], self.folder / "root")

    def bundle(self, *args: str) -> Bundle:
        made = runtimes.bundle(*args, folder=self.folder / "bundle")
        for applet in ("grep", "mountpoint"):
            link = made.path / "rootfs/bin" / applet
            if not link.is_symlink():
                link.symlink_to("busybox")
        made.config["linux"]["cgroupsPath"] += self.name
        return made.save()


@pytest.fixture
def sides(folder: Path) -> Iterator[list[Side]]:
    made = [Side(name, folder) for name in PROGRAMS]
    yield made
    for side in made:
        side.runtime.close()


def shown(sides: list[Side], *args: str, flags: tuple[str, ...] = ()) -> str:
    """What a program prints, the same with both."""
    found = []
    for side in sides:
        done = side.runtime("run", *flags, "-b", str(side.bundle(*args).path), "C")
        assert (done.returncode, done.stderr) == (0, "")
        found.append(done.stdout)
    assert found[0] == found[1]
    return found[0]


def test_a_container_has_a_keyring_of_its_own_unless_told_otherwise(sides: list[Side]) -> None:
    for flags, expected in (((), "1\n"), (("--no-new-keyring",), "0\n")):
        for side in sides:
            name = f"keys{os.urandom(4).hex()}"  # of nobody else, nor of a keyring that is just going
            bundle = side.bundle("sh", "-c", f"grep -c _ses.{name} /proc/keys; true")
            assert side.runtime("run", *flags, "-b", str(bundle.path), name).stdout == expected, side.name


def test_without_pivot_root_the_root_is_moved(sides: list[Side]) -> None:
    look = ("sh", "-c", "ls /; cat /proc/self/mountinfo | head -1 | sed 's/.* - //'; ls /.. /../..")
    assert shown(sides, *look) == shown(sides, *look, flags=("--no-pivot",))
    side = sides[0]
    plain, moved = (
        side.runtime("plan", *words, str(side.bundle("true").path)).stdout for words in ((), ("--no-pivot",))
    )
    assert "pivot_root" in plain
    assert "pivot_root" not in moved
    assert "chroot" in moved


@pytest.mark.parametrize("flags", [(), ("--no-new-privs",)], ids=str)
def test_an_exec_may_be_denied_new_privileges(sides: list[Side], flags: tuple[str, ...]) -> None:
    found = []
    for side in sides:
        bundle = side.bundle("sleep", "1000")
        bundle.config["process"]["noNewPrivileges"] = False
        side.runtime.detached("run", "-d", "-b", str(bundle.save().path), "C")
        found.append(side.runtime("exec", *flags, "C", "grep", "NoNewPrivs", "/proc/self/status", check=True).stdout)
    assert found == [f"NoNewPrivs:\t{int(bool(flags))}\n"] * 2


# flag of `update`: (value, controller, file, what is in it then, whether runc 1.1.5 has the flag)
UPDATES: dict[str, tuple[str, str, str, str, bool]] = {
    "--cpu-burst": ("5000", "cpu", "cpu.cfs_burst_us", "5000", False),
    "--cpu-period": ("50000", "cpu", "cpu.cfs_period_us", "50000", True),
    "--cpu-quota": ("20000", "cpu", "cpu.cfs_quota_us", "20000", True),
    "--cpu-share": ("77", "cpu", "cpu.shares", "77", True),
    "--cpu-rt-period": ("500000", "cpu", "cpu.rt_period_us", "500000", True),
    "--cpu-rt-runtime": ("0", "cpu", "cpu.rt_runtime_us", "0", True),
    "--cpuset-cpus": ("0", "cpuset", "cpuset.cpus", "0", True),
    "--cpuset-mems": ("0", "cpuset", "cpuset.mems", "0", True),
    "--memory": ("64m", "memory", "memory.limit_in_bytes", str(64 << 20), True),
    "--memory-reservation": ("32m", "memory", "memory.soft_limit_in_bytes", str(32 << 20), True),
    "--memory-swap": ("128m", "memory", "memory.memsw.limit_in_bytes", str(128 << 20), True),
    "--pids-limit": ("77", "pids", "pids.max", "77", True),
    "--cpu-idle": ("1", "cpu", "cpu.idle", "1", False),  # from then on it takes no shares
}


@pytest.fixture(scope="module")
def living() -> Iterator[list[tuple[Side, Bundle]]]:
    """Both with a running container, with a burst's quota and a limit below which swap can be limited."""
    folder = paths.scratch("flags")
    made = [Side(name, folder) for name in PROGRAMS]
    rows = []
    for side in made:
        bundle = side.bundle("sleep", "1000")
        bundle.config["linux"]["resources"] |= {
            "cpu": {"quota": 50000, "period": 100000},
            "memory": {"limit": 100 << 20, "swap": 200 << 20},
        }
        side.runtime.detached("run", "-d", "-b", str(bundle.save().path), "C")
        rows.append((side, bundle))
    yield rows
    for side in made:
        side.runtime.close()
    runtimes.remove_cgroups()
    shutil.rmtree(folder)


@pytest.mark.parametrize("flag", UPDATES)
def test_a_flag_of_update_is_in_its_file(living: list[tuple[Side, Bundle]], flag: str) -> None:
    value, controller, file, wanted, known = UPDATES[flag]
    for side, bundle in living:
        done = side.runtime("update", flag, value, "C")
        if side.name == "theirs" and not known:
            assert "flag provided but not defined" in done.stderr
            continue
        assert (done.returncode, done.stderr) == (0, "")
        assert bundle.cgroup(controller, file) == wanted


@pytest.mark.parametrize("flags", [(), ("--rootless",)], ids=str)
def test_the_spec_that_is_written_is_that_of_runc(sides: list[Side], flags: tuple[str, ...]) -> None:
    written: list[dict[str, Any]] = []
    for side in sides:
        side.folder.mkdir(exist_ok=True)
        side.runtime("spec", *flags, "-b", str(side.folder), check=True)
        written.append(json.loads((side.folder / "config.json").read_text()))
    ours, theirs = written
    assert (ours.pop("ociVersion"), ours.pop("hostname")) == ("1.0.2", "corten")
    del theirs["ociVersion"], theirs["hostname"]  # 1.0.2-dev, runc
    assert ours == theirs
