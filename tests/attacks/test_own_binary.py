"""CVE-2019-5736: a process of the container overwrites the runtime's program through /proc/PID/exe.

The twin runs the launcher from an ordinary file, which is then overwritten in the same way.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import races, summary, weakened
from support.launching import Machine, Running
from support.races import Race

EXECS = 300
SECONDS = 8
ATTACKS = 10  # of so many seconds each, at most
pytestmark = races.TIMEOUT


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    made.add_program(Path(__file__).with_name("overwrite.c"))
    victim = made.rootfs / "bin" / "victim"
    victim.write_text("#!/proc/self/exe\n")
    victim.chmod(0o755)
    yield made
    made.close()


def attack(machine: Machine) -> tuple[int, str]:
    """Execs of a script whose interpreter is /proc/self/exe beside the attacker: (launchers caught, the outcome)."""
    document = machine.config("overwrite", str(SECONDS))
    running = machine.spawn(machine.plan(document))
    try:
        running.executed()
        end = time.monotonic() + SECONDS
        for _ in range(EXECS):
            if time.monotonic() > end or has_ended(running):
                break
            process: dict[str, Any] = {
                "args": ["/bin/victim"],
                "cwd": "/",
                "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
            }
            process["capabilities"] = document["process"]["capabilities"]
            if not execute(machine, running, document, process):
                break
        lines = running.finish().lines
    finally:
        running.stop()
    return int(lines[1].removeprefix("caught ")), lines[2]


def has_ended(running: Running) -> bool:
    return os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def execute(machine: Machine, running: Running, document: dict[str, Any], process: dict[str, Any]) -> bool:
    """One exec, however it ends: the attacker may stop and kill it.  False when the launcher is no program any more."""
    try:
        started = machine.exec(running, document, process)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            return False
        raise
    try:
        started.finish()
    except AssertionError:
        started.stop()
    return True


def test_sealed_launcher_cannot_be_overwritten(machine: Machine) -> None:
    race = Race()
    for _ in race.until(1, most=ATTACKS):
        caught, outcome = attack(machine)
        race.met += caught
        assert outcome != "written"
    summary.add("races", f"/proc/PID/exe of the launcher: caught {race.met} times in {race.rounds}, {outcome}")
    assert race.met > 0, races.NEVER
    assert machine.sh("echo still works").out == "still works\n"


def test_twin_a_launcher_in_an_ordinary_file_is_overwritten(machine: Machine) -> None:
    with weakened.unsealed(machine.bundle) as (launcher, copy):
        own, machine.launcher = machine.launcher, launcher
        try:
            race = Race()
            for _ in race.until(1, "escaped", most=ATTACKS):
                caught, outcome = attack(machine)
                race.met += caught
                race.escaped += outcome == "written"
            start = copy.read_bytes()[:4]
        finally:
            machine.launcher = own
    summary.add("races", f"/proc/PID/exe, twin: caught {race.met} times in {race.rounds}, {outcome}")
    assert (outcome, start) == ("written", b"EVIL")
