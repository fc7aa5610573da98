"""Conditions of seccomp rules, as Docker's profiles have them."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from corten.engine import defaults, seccomp
from corten.engine.seccomp import Host
from corten.errors import InvalidArgument
from corten.launch.seccomp_compile import Library, compile_profile
from corten.runtime.effective import IPC_CALLS, SOCKET_CALLS, TWINS
from support.seccompfilter import ALLOW, ERRNO, I386, run

ONLY_X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
SOCKETCALL, IPC = 102, 117  # of i386
TIME64 = {"recvmmsg_time64": 417, "semtimedop_time64": 420}  # of all that have them
TIOCSTI = 0x5412
DEFAULT = Host("x86_64", (6, 18), frozenset(defaults.CAPABILITIES))


def resolved(rules: list[dict[str, Any]], host: Host = DEFAULT, **profile: Any) -> dict[str, Any]:
    text = msgspec.json.encode({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules, **profile}).decode()
    return seccomp.resolve(seccomp.parse_profile(text), host)


def names(rules: list[dict[str, Any]], host: Host = DEFAULT) -> list[str]:
    return [name for rule in resolved(rules, host)["syscalls"] for name in rule["names"]]


def rule(name: str, **conditions: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", **conditions}


def test_a_rule_with_a_capability_needs_it() -> None:
    rules = [rule("mount", includes={"caps": ["CAP_SYS_ADMIN"]}), rule("chroot", includes={"caps": ["CAP_SYS_CHROOT"]})]
    assert names(rules) == ["chroot"]
    assert names(rules, Host("x86_64", (6, 18), frozenset({"CAP_SYS_ADMIN"}))) == ["mount"]


def test_a_rule_can_exclude_a_capability() -> None:
    rules = [rule("clone3", excludes={"caps": ["CAP_SYS_ADMIN"]})]
    assert names(rules) == ["clone3"]
    assert names(rules, Host("x86_64", (6, 18), frozenset({"CAP_SYS_ADMIN"}))) == []


def test_a_rule_can_be_of_an_architecture() -> None:
    rules = [rule("arch_prctl", includes={"arches": ["amd64", "x32"]}), rule("riscv", includes={"arches": ["riscv64"]})]
    assert names(rules) == ["arch_prctl"]


def test_a_rule_can_need_a_kernel() -> None:
    rules = [rule("ptrace", includes={"minKernel": "4.8"})]
    assert names(rules, Host("x86_64", (4, 8), frozenset())) == ["ptrace"]
    assert names(rules, Host("x86_64", (4, 7), frozenset())) == []


def test_architectures_come_from_the_machine_or_the_map() -> None:
    assert resolved([])["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    arch_map = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]
    assert resolved([], archMap=arch_map)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_arguments_and_errno_are_kept() -> None:
    made = resolved([rule("personality", args=[{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}], errnoRet=38)])
    assert made["syscalls"][0]["args"] == [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]
    assert made["syscalls"][0]["errnoRet"] == 38


def test_the_form_of_before_1_12_has_one_name() -> None:
    assert names([{"name": "read", "action": "SCMP_ACT_ALLOW"}]) == ["read"]
    with pytest.raises(InvalidArgument, match="both 'name' and 'names'"):
        names([{"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"}])


def test_what_is_no_profile_is_refused_in_dockers_words() -> None:
    with pytest.raises(InvalidArgument, match=r"^Decoding seccomp profile failed: "):
        seccomp.parse_profile("/path/of/a/file")


def test_the_built_in_profile_refuses_mount_and_answers_clone3_with_enosys() -> None:
    made = msgspec.json.decode(seccomp.resolved_default(DEFAULT))
    allowed = {name for one in made["syscalls"] if one["action"] == "SCMP_ACT_ALLOW" for name in one["names"]}
    assert {"read", "execve", "clone", "chroot"} <= allowed
    assert not {"mount", "reboot", "init_module", "bpf", "io_uring_setup", "keyctl"} & allowed
    assert {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38} in made["syscalls"]


def test_a_profile_of_any_depth_is_an_error_and_no_crash() -> None:
    with pytest.raises(InvalidArgument, match="Decoding seccomp profile failed"):
        seccomp.parse_profile('{"defaultAction": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}")


def override(*names: str, **words: Any) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", **words}


def condition(op: str, index: int = 1) -> list[dict[str, Any]]:
    return [{"index": index, "value": 10, "op": f"SCMP_CMP_{op}"}]


def test_a_rule_of_the_node_takes_the_place_of_the_profiles_own() -> None:
    profile = resolved([rule("mkdir") | {"names": ["mkdir", "rmdir"]}, rule("socket", args=condition("EQ"))])
    made = seccomp.overridden(profile, [override("mkdir", "bpf", errnoRet=38), override("socket")])
    assert made["syscalls"] == [
        rule("rmdir"),
        override("mkdir", "bpf", errnoRet=38),
        override("socket"),
    ]
    assert made["architectures"] == profile["architectures"]


@pytest.mark.parametrize(("op", "rest"), [("EQ", "NE"), ("NE", "EQ"), ("LT", "GE"), ("GE", "LT"), ("LE", "GT")])
def test_a_rule_with_a_condition_leaves_the_rest_of_the_call_as_it_was(op: str, rest: str) -> None:
    mine = override("kill", "bpf", args=condition(op))
    made = seccomp.overridden(resolved([rule("kill")]), [mine])
    assert made["syscalls"] == [rule("kill", args=condition(rest)), mine]


def test_socketcall_and_ipc_go_with_a_call_of_theirs() -> None:
    profile = resolved([rule("ipc") | {"names": ["bind", "connect", "ipc", "shmget", "socketcall"]}])
    assert seccomp.overridden(profile, [override("connect")])["syscalls"][0]["names"] == ["bind", "ipc", "shmget"]
    left = ["bind", "connect", "socketcall"]
    assert seccomp.overridden(profile, [override("shmget")])["syscalls"][0]["names"] == left


def test_versions_of_ipc_are_those_that_the_profile_allows() -> None:
    """As ipc stands there: without it they were refused before, and one of the node's own takes its place."""
    of_others = {"index": 0, "value": 0xFFFF, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}
    with_ipc = resolved([rule("ipc") | {"names": ["ipc", "semop", "shmget"]}])
    without = resolved([rule("semop") | {"names": ["semop", "shmget"]}])
    mine = override("shmget")
    versions = {**mine, "names": ["ipc"], "args": [of_others | {"valueTwo": IPC_CALLS["shmget"]}]}
    allowed = rule("ipc", args=[of_others])
    assert seccomp.overridden(with_ipc, [mine])["syscalls"] == [rule("semop"), allowed, mine, versions]
    assert seccomp.overridden(without, [mine])["syscalls"] == [rule("semop"), mine, versions]
    both = override("ipc", "shmget")
    assert seccomp.overridden(with_ipc, [both])["syscalls"] == [rule("semop"), both, versions]


def socketcall(name: str) -> int:
    """The number behind socketcall or ipc, as libseccomp has it: -103 is socketcall(3), -223 ipc(23)."""
    return -int(Library().lib.seccomp_syscall_resolve_name_arch(I386, name.encode())) % 100


@ONLY_X86
@pytest.mark.parametrize(
    "denied", ["connect", "shmget", "semop", "bind", "recv", "sendmmsg", "recvmmsg", "sendto", "semtimedop"]
)
def test_a_rule_for_a_call_holds_for_32_bit_programs_and_leaves_the_others(denied: str) -> None:
    rules = msgspec.json.encode([override(denied, errnoRet=13)])
    program = compile_profile(msgspec.json.decode(seccomp.resolved_default(DEFAULT, rules)))
    for door, calls in ((SOCKETCALL, SOCKET_CALLS), (IPC, IPC_CALLS)):
        for name in calls:
            expected = ERRNO | 13 if name in (denied, TWINS.get(denied)) else ALLOW
            for version in (0, 1 << 16, 0xFFFF << 16) if door == IPC else (0,):
                assert run(program, door, socketcall(name) | version, arch=I386) == expected, (name, version)
    for name, number in TIME64.items():
        assert run(program, number, arch=I386) == (ERRNO | 13 if name == TWINS.get(denied) else ALLOW), name


def test_the_numbers_of_ipc_are_those_of_libseccomp() -> None:
    assert {name: socketcall(name) for name in IPC_CALLS} == IPC_CALLS
    assert sorted(socketcall(name) for name in SOCKET_CALLS) == list(range(1, 21))


def test_the_default_profile_is_kept_for_each_set_of_rules() -> None:
    rules = msgspec.json.encode([override("mkdir")])
    assert seccomp.resolved_default(DEFAULT, rules) is seccomp.resolved_default(DEFAULT, rules)
    assert b'"io_uring' not in seccomp.resolved_default(DEFAULT)
    assert seccomp.resolved_default(DEFAULT, rules) != seccomp.resolved_default(DEFAULT)


@ONLY_X86
@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0xFF0F, 0x2, 0])
def test_a_masked_condition_refuses_whatever_the_upper_half_is_and_nothing_else(mask: int) -> None:
    """ioctl(2), of whose request the kernel reads 32 bits; TIOCSTI."""
    wanted = TIOCSTI & mask
    mine = {"index": 1, "value": mask, "valueTwo": wanted, "op": "SCMP_CMP_MASKED_EQ"}
    rules = msgspec.json.encode([override("ioctl", errnoRet=13, args=[mine])])
    program = compile_profile(msgspec.json.decode(seccomp.resolved_default(DEFAULT, rules)))
    requests = [TIOCSTI, *(TIOCSTI ^ 1 << bit for bit in range(32)), 0, 0xFFFFFFFF]
    for request in requests:
        answer = ERRNO | 13 if request & mask == wanted else ALLOW
        for upper in (0, 1, 1 << 31, 0xFFFFFFFF):
            assert run(program, 16, 0, request | upper << 32) == answer, hex(request)
        assert run(program, 54, 0, request, arch=I386) == answer, hex(request)


def test_rules_that_hold_are_taken() -> None:
    seccomp.check_overrides([], "f")
    rules = [override("mkdir", "clone"), override("kill", args=condition("MASKED_EQ"))]
    more = override("io_uring_setup", args=[*condition("MASKED_EQ"), *condition("EQ", 2)])  # the profile has no word
    seccomp.check_overrides([*rules, more], "f")


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([override("mkdir", action="SCMP_ACT_NO")], "f[0].action: 'SCMP_ACT_NO' is not supported"),
        ([override("kill", args=[{"index": 0, "value": 1, "op": "EQ"}])], "f[0].args[0].op: 'EQ' is not supported"),
        ([override("mkdir", action="SCMP_ACT_NOTIFY")], "f: listenerPath is not set"),
        (
            [override("mkdir"), override("clone", args=condition("EQ"))],
            "f[1].args: the built-in profile has conditions for clone already",
        ),
        ([override("kill", args=[*condition("EQ"), *condition("EQ", 0)])], "f[0].args: kill takes one condition"),
        ([override("kill", args=condition("EQ")), override("kill")], "f[0].args: kill is in another rule as well"),
    ],
)
def test_a_rule_of_the_node_that_would_not_hold_is_refused(rules: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        seccomp.check_overrides(rules, "f")
    assert caught.value.text == text
