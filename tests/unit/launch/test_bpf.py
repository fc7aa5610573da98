"""Which of the launcher's own system calls a filter allows."""

from __future__ import annotations

import os
from typing import Any

import pytest

from corten.engine import seccomp as engine_seccomp
from corten.launch import bpf
from corten.launch.context import CALLS
from corten.launch.seccomp_compile import INSTRUCTION, compile_profile

ALL = (1 << len(CALLS)) - 1
ERRNO = {"action": "SCMP_ACT_ERRNO"}
CAPS = ("CAP_CHOWN", "CAP_KILL")

pytestmark = pytest.mark.skipif(os.uname().machine not in bpf.MACHINES, reason="the calls' numbers are not known here")


def refused(*rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW") -> set[str]:
    """What an otherwise open profile with these rules does not let the launcher do."""
    mask = bpf.allowed_calls(compile_profile({"defaultAction": default, "syscalls": list(rules)}))
    return {name for bit, name in enumerate(CALLS) if not mask >> bit & 1}


def argument(index: int, value: int, op: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": index, "value": value, "op": op}


@pytest.mark.parametrize("more", [(), ("CAP_SYS_PTRACE",), ("CAP_SYS_ADMIN",)])
def test_dockers_profile_allows_everything_that_is_needed(more: tuple[str, ...]) -> None:
    host = engine_seccomp.Host(os.uname().machine, (6, 1), frozenset((*CAPS, *more)))
    profile = engine_seccomp.resolve(engine_seccomp.default_profile(), host)
    assert bpf.allowed_calls(compile_profile(profile)) == ALL


def test_every_call_has_numbers_and_arguments() -> None:
    assert set(bpf.ARGUMENTS) == set(CALLS)
    assert all(len(numbers) == len(CALLS) for _, numbers in bpf.MACHINES.values())


def test_logging_is_allowing_and_nothing_else_is() -> None:
    assert refused(default="SCMP_ACT_LOG") == set()
    for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE"):
        assert refused({"names": ["setsid"], "action": action}) == {"setsid"}


def test_profile_that_allows_execve_alone_refuses_the_rest() -> None:
    rule = {"names": ["execve"], "action": "SCMP_ACT_ALLOW"}
    assert refused(rule, default="SCMP_ACT_ERRNO") == {*CALLS} - {"execve"}


def test_known_arguments_are_compared() -> None:
    assert refused({"names": ["prctl"], "args": [argument(0, 1)], **ERRNO}) == {"prctl"}
    assert refused({"names": ["prctl"], "args": [argument(0, 22)], **ERRNO}) == set()
    flags = {"index": 0, "value": 0x7E020000, "valueTwo": 0x10000000, "op": "SCMP_CMP_MASKED_EQ"}
    assert refused({"names": ["clone"], "args": [flags], **ERRNO}) == set()
    assert refused({"names": ["ioctl"], "args": [argument(1, 0x540E)], **ERRNO}) == {"ioctl"}


def test_arguments_that_nobody_knows_count_as_refused() -> None:
    assert refused({"names": ["write"], "args": [argument(0, 999)], **ERRNO}) == {"write"}
    assert refused({"names": ["close"], "args": [argument(0, 7)], **ERRNO}) == {"close"}


@pytest.mark.parametrize(
    "program",
    [
        b"",
        INSTRUCTION.pack(0x20, 0, 0, 0),  # no answer
        INSTRUCTION.pack(0x20, 0, 0, 8) + INSTRUCTION.pack(0x06, 0, 0, bpf.ALLOW),  # the address of the caller
        INSTRUCTION.pack(0x61, 0, 0, 0) + INSTRUCTION.pack(0x06, 0, 0, bpf.ALLOW),  # not libseccomp's
        INSTRUCTION.pack(0x05, 0, 0, 9) + INSTRUCTION.pack(0x06, 0, 0, bpf.ALLOW),  # out of the program
    ],
)
def test_what_is_not_understood_counts_as_refused(program: bytes) -> None:
    assert bpf.allowed_calls(program) == 0


def test_machine_whose_numbers_are_not_known_allows_nothing() -> None:
    assert bpf.allowed_calls(INSTRUCTION.pack(0x06, 0, 0, bpf.ALLOW), "vax") == 0
    assert bpf.allowed_calls(INSTRUCTION.pack(0x06, 0, 0, bpf.ALLOW), "aarch64") == ALL
