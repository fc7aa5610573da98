"""CVE-2019-16884, 2019-19921, 2023-27561, 2023-28642, 2025-52881: what a runtime writes to /proc lands in a fake one.

The image brings a /proc of its own, and nothing is mounted on it: sysctls and self/oom_score_adj are ordinary files
there.  (What a configuration mounts on /proc must be a procfs: system/test_runtime_texts.py, PROC_MOUNTS.)  The same
writes carry the labels of AppArmor (launch plan, `WriteFile`), which this kernel does not have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.launch.mountops import FsMount
from corten.launch.ops import Op, Open, Plan
from support.launching import Machine

FILES = ("sys/net/ipv4/ip_forward", "self/oom_score_adj")


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    for name in FILES:
        (fake(made) / name).parent.mkdir(parents=True)
        (fake(made) / name).write_text("untouched")
    yield made
    made.close()


def fake(machine: Machine) -> Path:
    return machine.rootfs / "proc"


def document(machine: Machine) -> dict[str, Any]:
    found = machine.config("true", oomScoreAdj=77)
    found["mounts"] = [entry for entry in found["mounts"] if entry["destination"] != "/proc"]
    found["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    found["linux"]["maskedPaths"] = found["linux"]["readonlyPaths"] = []
    return found


def written(machine: Machine) -> list[str]:
    return [(fake(machine) / name).read_text() for name in FILES]


def test_writes_to_proc_never_land_in_what_the_container_brings(machine: Machine) -> None:
    done = machine.run(document(machine))
    assert (done.failure, done.status) == ("", 0)
    assert written(machine) == ["untouched", "untouched"]


def test_twin_a_proc_taken_by_its_path_is_the_fake_one(machine: Machine) -> None:
    def by_path(plan: Plan) -> Plan:
        def taken(op: Op) -> Op:
            is_own = isinstance(op, FsMount) and op.slot == "proc"
            return Open("proc", str(fake(machine)), os.O_PATH | os.O_DIRECTORY) if is_own else op

        return Plan(tuple(taken(op) for op in plan.ops), plan.inputs, plan.preserve_fds)

    machine.spawn(machine.plan(document(machine)), transform=by_path).finish()
    assert written(machine) != ["untouched", "untouched"]
