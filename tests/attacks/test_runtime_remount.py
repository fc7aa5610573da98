"""`remount` while the mount point is swapped for a link: the file system that changes is the container's, or none.

A runtime that goes by the path again changes what the link leads to, a file system of the host (as CVE-2021-30465 does
with the mount itself).  Ours holds the mount that an earlier entry made.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.launch.mountops import ReconfigureMount
from corten.launch.ops import Op, Open, Plan
from support import races, summary
from support.hostile import swapping
from support.launching import Machine, mount
from support.races import Race, Wanted

ROUNDS = 40
pytestmark = races.TIMEOUT
LENGTHS = pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(2000, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))]
)
SIZE, SMALL = 1 << 20, 64 << 10


@pytest.fixture
def machine() -> Iterator[Machine]:
    """With a tmpfs of the host that no container was given, at `outside`."""
    made = Machine()
    place = outside(made)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "of-the-host", place], check=True)
    yield made
    subprocess.run(["umount", place], check=True)
    made.close()


def outside(machine: Machine) -> Path:
    return machine.bundle / "outside"


def size_of(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_blocks * found.f_frsize


def attack(machine: Machine, rounds: int, wanted: Wanted = "met", *, looks_again: bool = False) -> Race:
    """Starts that met the link, starts in which the host's file system was changed."""
    inside = machine.rootfs / str(outside(machine)).lstrip("/")
    inside.mkdir(parents=True)
    document = machine.config("grep", "-c", " /data ", "/proc/self/mountinfo")
    document["mounts"] += [
        mount("/data", "tmpfs", "of-the-container", f"size={SIZE}"),
        mount("/data", "tmpfs", "of-the-container", "remount", f"size={SMALL}"),
    ]
    (machine.rootfs / "data").mkdir()
    (machine.rootfs / "other").symlink_to(outside(machine))
    plan = machine.plan(document)
    if looks_again:
        plan = by_path(plan, str(machine.rootfs / "data"))
    race = Race()
    with swapping(machine.rootfs / "data", machine.rootfs / "other"):
        for _ in race.until(rounds, wanted):
            done = machine.spawn(plan).finish()
            race.escaped += size_of(outside(machine)) != SIZE
            race.met += done.lines != ["1"]
            subprocess.run(["mount", "-o", f"remount,size={SIZE}", outside(machine)], check=True)
    return race


def by_path(plan: Plan, path: str) -> Plan:
    """The second entry looks its mount up again."""
    assert any(isinstance(op, ReconfigureMount) for op in plan.ops)
    ops: list[Op] = []
    for op in plan.ops:
        if isinstance(op, ReconfigureMount):
            ops += [Open("again", path, os.O_PATH), ReconfigureMount("again", op.options, op.on)]
        else:
            ops.append(op)
    return Plan(tuple(ops), plan.inputs, plan.preserve_fds)


@LENGTHS
def test_the_hosts_file_system_never_changes(machine: Machine, rounds: int) -> None:
    race = attack(machine, rounds)
    seen = f"link met in {race.met} of {race.rounds} starts, {race.escaped} changed"
    summary.add("races", f"swapped target of a remount: {seen}")
    assert race.escaped == 0
    assert race.met > 0, races.NEVER


def test_twin_a_plan_that_goes_by_the_path_changes_it(machine: Machine) -> None:
    race = attack(machine, ROUNDS, "escaped", looks_again=True)
    summary.add("races", f"swapped target of a remount, twin: {race.escaped} of {race.rounds} starts changed it")
    assert race.escaped > 0, races.NEVER
