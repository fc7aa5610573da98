"""seccomp profiles: flags, cache, and what the compiled program decides, by running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch import seccomp
from corten.launch.seccomp_compile import INSTRUCTION, compile_profile, newer_calls_prologue
from support.seccompfilter import ALLOW, ERRNO, I386, X86_64, run

X32, KILL = 0x4000003E, 0
EPERM, ENOSYS = 1, 38
ONLY_X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": ["read", "execve", "statx", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (0, 8)],
        },
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    ],
}


@ONLY_X86
@pytest.mark.parametrize(
    ("number", "args", "answer"),
    [
        (0, (), ALLOW),  # read
        (59, (), ALLOW),  # execve
        (1, (), ERRNO | EPERM),  # write: known, not allowed
        (135, (0,), ALLOW),  # personality: one alternative
        (135, (8,), ALLOW),  # the other
        (135, (1,), ERRNO | EPERM),
        (56, (0x11,), ALLOW),  # clone without namespaces
        (56, (0x20000000,), ERRNO | EPERM),
        (435, (), ERRNO | ENOSYS),  # clone3
        (434, (), ERRNO | EPERM),  # below the newest that the profile names
        (436, (), ERRNO | ENOSYS),  # above it
        (1000, (), ERRNO | ENOSYS),
    ],
)
def test_program_decides_as_the_profile_says(number: int, args: tuple[int, ...], answer: int) -> None:
    assert run(compile_profile(PROFILE), number, *args) == answer


@ONLY_X86
def test_other_abis_have_their_own_numbers() -> None:
    program = compile_profile(PROFILE)
    assert run(program, 3, arch=I386) == ALLOW  # read
    assert run(program, 4, arch=I386) == ERRNO | EPERM
    assert run(program, 900, arch=I386) == ERRNO | ENOSYS
    assert run(program, 0x40000000) == ALLOW
    assert run(program, 0x40000000 | 999) == ERRNO | ENOSYS
    assert run(program, 0, arch=0xC00000B7) == KILL


@ONLY_X86
def test_permissive_profile_is_left_as_it_is() -> None:
    rule = {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"}
    profile: dict[str, object] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    program = compile_profile(profile)
    assert run(program, 5000) == ALLOW
    assert run(program, 169) == 0x80000000


def test_prologue_without_x32_leaves_its_numbers_to_the_filter() -> None:
    program = newer_calls_prologue({X86_64: 10}) + INSTRUCTION.pack(6, 0, 0, ALLOW)
    assert run(program, 0x40000000 | 999) == ALLOW
    assert run(program, 11) == ERRNO | ENOSYS
    assert run(program, 10) == ALLOW


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"defaultAction": "SCMP_ACT_ASK"}, "defaultAction"),
        ({"defaultAction": ""}, "defaultAction"),
        ({"architectures": ["SCMP_ARCH_VAX"]}, "architectures"),
        ({"syscalls": [{"names": ["read"], "action": "X"}]}, r"syscalls\[0\].action"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}]}, "errnoRet"),
    ],
)
def test_bad_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        compile_profile({**PROFILE, **change})


def test_flags() -> None:
    names = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]
    assert seccomp.filter_flags({"flags": names}) == 6
    with pytest.raises(InvalidArgument, match="flags"):
        seccomp.filter_flags({"flags": ["NO"]})


NOTIFY: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
}


def test_a_profile_that_asks_an_agent_wants_a_listener() -> None:
    assert seccomp.filter_flags({**NOTIFY, "listenerPath": "/x"}) == 8 | 32
    with pytest.raises(InvalidArgument, match="listenerPath is not set"):
        seccomp.filter_flags(NOTIFY)


def test_listener_of_a_profile_that_asks_nobody_is_passed_over() -> None:
    assert seccomp.filter_flags({**NOTIFY, "listenerPath": "/x", "listenerMetadata": "y", "syscalls": []}) == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            {"syscalls": [{"names": ["mkdir", "write"], "action": "SCMP_ACT_NOTIFY"}]},
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        ({"listenerMetadata": 3}, r"listenerMetadata: expected a string"),
    ],
)
def test_what_no_agent_can_answer_is_refused_in_the_words_of_runc(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        seccomp.filter_flags({**NOTIFY, "listenerPath": "/x", **change})


@ONLY_X86
def test_a_call_that_asks_an_agent_answers_so() -> None:
    program = compile_profile(NOTIFY)
    assert (run(program, 83), run(program, 0)) == (0x7FC00000, ALLOW)


def test_second_call_answers_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = seccomp.program(PROFILE, str(cache))
    (file,) = cache.iterdir()
    assert file.read_bytes() == first[0] + first[2].to_bytes(8, "little")
    assert cache.stat().st_mode & 0o777 == 0o700
    file.write_bytes(b"12345678" + (5).to_bytes(8, "little"))
    assert seccomp.program(PROFILE, str(cache)) == (b"12345678", 0, 5)


def test_cache_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    (cache / seccomp.cache_key(PROFILE)).write_bytes(b"12345678")
    assert seccomp.program(PROFILE, str(cache))[0] != b"12345678"


def test_torn_file_of_the_cache_is_compiled_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(0o700)
    (cache / seccomp.cache_key(PROFILE)).write_bytes(b"123")
    assert len(seccomp.program(PROFILE, str(cache))[0]) % 8 == 0
    assert (cache / seccomp.cache_key(PROFILE)).stat().st_size > 3


def test_key_depends_on_the_profile() -> None:
    assert seccomp.cache_key(PROFILE) == seccomp.cache_key(dict(PROFILE))
    assert seccomp.cache_key(PROFILE) != seccomp.cache_key({**PROFILE, "defaultErrnoRet": 2})
