"""The node's words beside a bundle's: what is taken, with which origin, and what an exec gets of it."""

from __future__ import annotations

import json
from typing import Any

from corten.runtime import effective
from corten.runtime.effective import Node
from corten.spec.process import RLIMITS, parse_process
from corten.spec.runtime import Config, parse_config

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
