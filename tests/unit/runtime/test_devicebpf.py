"""The device program, run in an interpreter of its dozen instructions."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.runtime.cgroup_settings import DEFAULT_DEVICES
from corten.sys import devicebpf as bpf


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel would do with an access; every jump must stay inside."""
    asked = sum(bpf.ACCESS[letter] for letter in access)
    context = {0: asked << 16 | bpf.TYPES[kind], 4: major, 8: minor}
    registers = {bpf.R1: 0}
    place = 0
    while True:
        row = program[place * 8 : place * 8 + 8]
        assert len(row) == 8, "the program ends without an answer"
        opcode, dst, src = row[0], row[1] & 15, row[1] >> 4
        offset = int.from_bytes(row[2:4], "little", signed=True)
        value = int.from_bytes(row[4:8], "little")
        place += 1
        match opcode:
            case bpf.LDX_MEM_W:
                assert src == bpf.R1
                registers[dst] = context[offset]
            case bpf.AND32_IMM:
                registers[dst] &= value
            case bpf.RSH32_IMM:
                registers[dst] >>= value
            case bpf.MOV32_REG:
                registers[dst] = registers[src]
            case bpf.MOV64_IMM:
                registers[dst] = value
            case bpf.JNE_IMM:
                place += offset if registers[dst] != value else 0
            case bpf.JEQ_IMM:
                place += offset if registers[dst] == value else 0
            case bpf.JNE_REG:
                place += offset if registers[dst] != registers[src] else 0
            case bpf.EXIT:
                return bool(registers[bpf.R0])
            case _:
                raise AssertionError(f"unknown opcode {opcode:#x}")


def test_the_default_devices_work_and_nothing_else() -> None:
    program = bpf.compile_rules([(True, text) for text in DEFAULT_DEVICES], allows_by_default=False)
    assert run(program, "c", 1, 3, "rw")
    assert run(program, "c", 136, 77, "rwm")
    assert run(program, "c", 10, 200, "rwm"), "tun"
    assert run(program, "c", 5, 1, "m"), "mknod of anything"
    assert run(program, "b", 8, 0, "m")
    assert not run(program, "c", 5, 1, "r"), "the machine's console"
    assert not run(program, "b", 8, 0, "r")
    assert not run(program, "c", 1, 1, "rw"), "/dev/mem"


def test_the_last_rule_that_matches_decides() -> None:
    program = bpf.compile_rules([(True, "b 8:* rwm"), (False, "b 8:1 rwm")], allows_by_default=False)
    assert run(program, "b", 8, 0, "rw")
    assert not run(program, "b", 8, 1, "r")
    program = bpf.compile_rules([(False, "b 8:1 rwm"), (True, "b 8:* rwm")], allows_by_default=False)
    assert run(program, "b", 8, 1, "r")


def test_an_allowing_rule_covers_all_that_is_asked() -> None:
    program = bpf.compile_rules([(True, "c 10:200 r")], allows_by_default=False)
    assert run(program, "c", 10, 200, "r")
    assert not run(program, "c", 10, 200, "rw")


def test_a_denying_rule_needs_one_of_what_is_asked() -> None:
    program = bpf.compile_rules([(False, "c 10:200 w")], allows_by_default=True)
    assert run(program, "c", 10, 200, "r")
    assert not run(program, "c", 10, 200, "rw")
    assert run(program, "c", 10, 201, "rw")


def test_read_and_write_in_two_lines_are_both() -> None:
    program = bpf.compile_rules([(True, "c 5:9 r"), (True, "c 5:9 w")], allows_by_default=False)
    assert run(program, "c", 5, 9, "rw")


@pytest.mark.parametrize("default", [True, False])
def test_without_rules_the_default_answers(default: bool) -> None:
    program = bpf.compile_rules([], allows_by_default=default)
    assert run(program, "b", 1, 1, "rwm") is default


@pytest.mark.parametrize("text", ["", "c", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 q"])
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="device rule"):
        bpf.compile_rules([(True, text)], allows_by_default=False)
