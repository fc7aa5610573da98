"""Scheduling fields of a configuration: numbers of the kernel, refusals in runc's words."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch.procops import ALL_CPUS, SetAffinity, SetMempolicy, SetScheduler, numbers
from corten.spec.process import Process, parse_process
from corten.spec.runtime import Config, parse_config
from corten.spec.scheduling import ExecAffinity, MemoryPolicy, Scheduler, mask_of


def process(**fields: Any) -> Process:
    return parse_process({"args": ["a"], "cwd": "/", **fields})


def config(**linux: Any) -> Config:
    return parse_config({"ociVersion": "1.2.0", "linux": linux})


def test_nothing_is_said_by_default() -> None:
    found = process()
    assert (found.scheduler, found.io_priority, found.exec_affinity) == (None, None, None)
    assert (config().linux.memory_policy, config().linux.personality) == (None, None)


def test_every_field_becomes_the_kernels_numbers() -> None:
    found = process(
        scheduler={
            "policy": "SCHED_DEADLINE",
            "runtime": 1,
            "deadline": 2,
            "period": 1 << 63,
            "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"],
        },
        ioPriority={"class": "IOPRIO_CLASS_RT", "priority": 4},
        execCPUAffinity={"initial": "0-3, 7", "final": "64"},
    )
    assert found.scheduler == Scheduler(6, flags=6, runtime_ns=1, deadline_ns=2, period_ns=1 << 63)
    assert found.io_priority == 1 << 13 | 4
    assert found.exec_affinity == ExecAffinity(b"\x8f" + bytes(7), bytes(8) + b"\x01" + bytes(7))
    policy = {"mode": "MPOL_BIND", "nodes": "1", "flags": ["MPOL_F_RELATIVE_NODES"]}
    linux = config(memoryPolicy=policy, personality={"domain": "LINUX32"}).linux
    assert linux.memory_policy == MemoryPolicy(2 | 1 << 14, b"\x02" + bytes(7))
    assert linux.personality == 8


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"scheduler": {}}, "scheduler policy is required"),
        ({"scheduler": {"policy": "SCHED_X"}}, "invalid scheduler policy: SCHED_X"),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}, r"invalid scheduler\.nice: 20"),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": -21}}, r"invalid scheduler\.nice: -21"),
        (
            {"scheduler": {"policy": "SCHED_BATCH", "priority": 1}},
            r"scheduler\.priority can only be specified for SchedFIFO or SchedRR policy",
        ),
        (
            {"scheduler": {"policy": "SCHED_FIFO", "period": 1}},
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ),
        ({"scheduler": {"policy": "SCHED_FIFO", "flags": ["X"]}}, r"process\.scheduler\.flags: unknown flag 'X'"),
        ({"ioPriority": {"priority": 1}}, r'invalid ioPriority\.Class: ""'),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, r"invalid ioPriority\.Priority: 8"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": -1}}, r"invalid ioPriority\.Priority: -1"),
        ({"execCPUAffinity": {"initial": "x"}}, r"execCPUAffinity\.initial: 'x' is not a list"),
        ({"execCPUAffinity": {"final": 3}}, r"execCPUAffinity\.final: expected a string"),
    ],
)
def test_refusals_of_a_process(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        process(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"memoryPolicy": {"mode": "MPOL_X"}}, 'invalid memory policy mode "MPOL_X"'),
        ({"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}, "MPOL_LOCAL requires 0 nodes but got 1"),
        ({"memoryPolicy": {"mode": "MPOL_BIND"}}, "MPOL_BIND requires at least one node but got 0"),
        ({"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "1024"}}, "not a list of numbers up to 1023"),
        (
            {
                "memoryPolicy": {
                    "mode": "MPOL_PREFERRED",
                    "flags": ["MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
                }
            },
            "exclude each other",
        ),
        ({"personality": {"domain": "BSD"}}, "invalid personality domain BSD"),
        ({"personality": {"domain": "LINUX", "flags": ["X"]}}, r"personality\.flags: no flag is supported"),
    ],
)
def test_refusals_of_a_container(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        config(**fields)


@pytest.mark.parametrize("text", ["1-", "-1", "-", "2-1", "0-3-4", "0x1", "\u0661", "99999999", "8192", "1 2"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a list of numbers up to 8191"):
        process(execCPUAffinity={"final": text})


@pytest.mark.parametrize("text", ["0", "0-3,7", "63-64", "8191", "1,3,5", ""])
def test_a_mask_reads_as_the_list_that_it_was(text: str) -> None:
    mask = mask_of(text, 8191)
    assert numbers(mask) == text
    assert len(mask) % 8 == 0


def test_descriptions_say_what_is_asked() -> None:
    assert SetAffinity(ALL_CPUS).describe() == "sched_setaffinity all"
    assert SetAffinity(b"\x05" + bytes(7)).describe() == "sched_setaffinity 0,2"
    assert SetMempolicy(4, b"").describe() == "set_mempolicy MPOL_LOCAL"
    assert SetScheduler(0, 1, -3, 0, 0, 0, 0).describe() == (
        "sched_setattr SCHED_OTHER nice -3 SCHED_FLAG_RESET_ON_FORK"
    )
    assert SetScheduler(0, 0, -1, 0, 0, 0, 0).fields()[2] == (1 << 64) - 1
