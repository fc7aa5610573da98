"""`create` killed at every call that changes something: `delete --force` leaves nothing, whatever was reached.

The kill points are enumerated by strace: the n-th call of a kind, for every n until create gets through.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from support import process, runtimes, summary
from support.runtimes import Bundle, Runtime

# kind of call: how many kill points at least there must be, so that a point that was lost is seen
CALLS = {"mkdir": 10, "rename": 3, "mknod,mknodat": 1, "clone,clone3,vfork": 1, "write": 20, "wait4,waitid": 1}


def create_killed_at(corten: Runtime, bundle: Bundle, call: str, number: int) -> bool:
    """Runs `create`, killed at a call; whether it was killed there (else it got through)."""
    inject = f"inject={call}:signal=KILL:when={number}"
    argv = [
        "strace",
        "-o",
        os.devnull,
        "-e",
        f"trace={call}",
        "-e",
        inject,
        *corten.argv("create", "-b", str(bundle.path), "c"),
    ]
    errors = corten.root.parent / "stderr"
    with open(os.devnull, "r+b") as null, errors.open("wb") as stderr:
        done = subprocess.run(argv, stdin=null, stdout=null, stderr=stderr, check=False, timeout=30)
    assert done.returncode in (0, 137, -9), errors.read_text()
    return done.returncode != 0


def left_behind(bundle: Bundle, root: Path, mark: str) -> list[str]:
    """What a killed create must not leave after delete: state, cgroups, processes."""
    found = [str(path) for path in root.glob("*")] if root.exists() else []
    controllers = [path.name for path in process.CGROUPS.iterdir() if bundle.has_cgroup(path.name)]
    return found + controllers + [f"process {pid}" for pid in process.processes(mark)]


@pytest.mark.parametrize("call", CALLS)
def test_a_create_that_is_killed_is_cleaned_up_by_its_record(corten: Runtime, folder: Path, call: str) -> None:
    mark = f"31337.{os.getpid()}"
    bundle = runtimes.bundle("sleep", mark, folder=folder / "bundle")
    number = 1
    while create_killed_at(corten, bundle, call, number):
        corten("delete", "--force", "c", check=True)
        deadline = time.monotonic() + 30
        while (left := left_behind(bundle, folder / "root", mark)) and time.monotonic() < deadline:
            time.sleep(0.02)  # the launcher may be on its way out
        assert not left, f"after the kill at {call} number {number}"
        number += 1
    corten("delete", "--force", "c", check=True)
    assert not left_behind(bundle, folder / "root", mark)
    summary.add("create killed at", f"{call}: {number - 1} points, each hit")
    assert number - 1 >= CALLS[call]
