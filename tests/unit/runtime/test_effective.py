"""The node's words beside a bundle's: what is taken, with which origin, and what an exec gets of it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from corten.launch.seccomp_compile import compile_profile
from corten.runtime import effective
from corten.runtime.effective import Node
from corten.spec.process import RLIMITS, parse_process
from corten.spec.runtime import Config, parse_config
from support.seccompfilter import ALLOW, ERRNO, I386, run

CORE, FILES = RLIMITS.index("RLIMIT_CORE"), RLIMITS.index("RLIMIT_NOFILE")
DENIED = {"names": ["io_uring_setup", "bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}
NODE = Node(
    "node.json",
    rlimits=(("RLIMIT_CORE", 0, 0), ("RLIMIT_NOFILE", 5, 6)),
    masked_paths=("/proc/kallsyms", "/proc/keys"),
    seccomp=(DENIED,),
)


def config(**linux: Any) -> Config:
    process = {"args": ["x"], "cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]}
    return parse_config({"ociVersion": "1.0.2", "process": process, "linux": linux})


def limits(process: Any) -> dict[int, tuple[int, int]]:
    return {limit.type: (limit.soft, limit.hard) for limit in process.rlimits}


def test_what_the_bundle_says_goes_first_and_the_rest_is_the_nodes() -> None:
    found = config(maskedPaths=["/proc/keys"])
    origins = effective.apply(found, NODE)
    assert limits(found.process) == {FILES: (1, 2), CORE: (0, 0)}
    assert found.linux.masked_paths == ("/proc/keys", "/proc/kallsyms")
    assert origins["rlimits"] == [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0, "origin": "node.json"}]
    assert origins["maskedPaths"] == [{"path": "/proc/kallsyms", "origin": "node.json"}]
    assert json.loads(json.dumps(origins)) == origins


def test_a_profile_that_names_a_call_keeps_its_rule_for_it() -> None:
    own = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW"}]}
    found = config(seccomp=own)
    origins = effective.apply(found, NODE)
    assert found.linux.seccomp == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [*own["syscalls"], {**DENIED, "names": ["io_uring_setup"]}],
    }
    assert origins["seccomp"] == [{**DENIED, "names": ["io_uring_setup"], "origin": "node.json"}]
    assert len(own["syscalls"]) == 1


def test_a_bundle_without_a_profile_gets_one_that_allows_the_rest() -> None:
    found = config()
    effective.apply(found, NODE)
    assert found.linux.seccomp is not None
    assert found.linux.seccomp["defaultAction"] == "SCMP_ACT_ALLOW"
    assert found.linux.seccomp["syscalls"] == [DENIED]


def test_a_rule_for_sysv_ipc_holds_for_every_version_of_the_number() -> None:
    denied = {**DENIED, "names": ["bpf", "shmget"]}
    found = config()
    effective.apply(found, Node("node.json", seccomp=(denied,)))
    condition = {"index": 0, "value": 0xFFFF, "valueTwo": 23, "op": "SCMP_CMP_MASKED_EQ"}
    assert found.linux.seccomp is not None
    assert found.linux.seccomp["syscalls"] == [denied, {**denied, "names": ["ipc"], "args": [condition]}]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_a_rule_for_a_bundle_without_a_profile_holds_for_32_bit_programs() -> None:
    found = config()
    effective.apply(found, Node("node.json", seccomp=({**DENIED, "names": ["connect", "shmget"]},)))
    assert found.linux.seccomp is not None
    program = compile_profile(found.linux.seccomp)
    answers = [(102, 3, ERRNO | 7), (102, 2, ALLOW), (117, 23, ERRNO | 7), (117, 23 | 1 << 16, ERRNO | 7)]
    for number, argument, answer in [*answers, (117, 2, ALLOW), (117, 2 | 1 << 16, ALLOW)]:
        assert run(program, number, argument, arch=I386) == answer, (number, argument)


def test_a_rule_holds_for_what_32_bit_programs_alone_have_to_the_same_end() -> None:
    denied = {**DENIED, "names": ["bpf", "recvmmsg", "semtimedop", "recvfrom", "sendto", "futex"]}
    node = Node("node.json", seccomp=(denied,))
    found = config()
    origins = effective.apply(found, node)
    assert found.linux.seccomp is not None
    twins = {**denied, "names": ["recv", "recvmmsg_time64", "semtimedop_time64", "send"]}
    condition = {"index": 0, "value": 0xFFFF, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ"}
    versions = {**denied, "names": ["ipc"], "args": [condition]}
    assert found.linux.seccomp["syscalls"] == [denied, twins, versions]
    assert origins["seccomp"] == [{**denied, "origin": "node.json"}], "the file's words"
    if os.uname().machine == "x86_64":
        program = compile_profile(found.linux.seccomp)
        answers = [run(program, number, arch=I386) for number in (417, 420, 422)]
        assert answers == [ERRNO | 7, ERRNO | 7, ALLOW], "futex_time64 is a call of its own"


def test_a_twin_that_the_bundle_or_the_node_names_has_what_is_said_there() -> None:
    logged = {"names": ["recv"], "action": "SCMP_ACT_LOG"}
    denied = {**DENIED, "names": ["recvfrom", "recvmmsg"]}
    twin = {"names": ["recvmmsg_time64"], "action": "SCMP_ACT_ALLOW"}
    found = config(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [logged]})
    effective.apply(found, Node("node.json", seccomp=(denied, twin)))
    assert found.linux.seccomp == {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [logged, denied, twin]}


def test_a_node_that_says_nothing_changes_nothing() -> None:
    found = config()
    assert effective.apply(found, Node("node.json")) == {}
    assert found == config()


def test_an_exec_gets_what_the_container_got_unless_it_says_so_itself() -> None:
    created = config()
    origins = effective.apply(created, NODE)
    process = parse_process({"args": ["y"], "cwd": "/", "rlimits": [{"type": "RLIMIT_CORE", "soft": 3, "hard": 4}]})
    again = config()
    effective.again(again, process, origins)
    assert limits(process) == {CORE: (3, 4)}
    assert again.linux.seccomp == created.linux.seccomp
    plain = parse_process({"args": ["y"], "cwd": "/"})
    effective.again(config(), plain, origins)
    assert limits(plain) == {CORE: (0, 0)}


def test_every_value_has_its_line_in_the_plan() -> None:
    lines = effective.describe(effective.apply(config(), NODE))
    assert lines == [
        "rlimit RLIMIT_CORE 0:0 (node.json)",
        "masked path /proc/kallsyms (node.json)",
        "masked path /proc/keys (node.json)",
        "seccomp io_uring_setup bpf: SCMP_ACT_ERRNO (node.json)",
    ]
