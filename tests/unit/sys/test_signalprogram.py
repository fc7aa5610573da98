"""The program at the tracepoint: where it looks, and that every jump lands on an instruction."""

from __future__ import annotations

import struct

import pytest

from corten.sys import signalprogram as code

FORMAT = """name: signal_generate
ID: 261
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:int sig;	offset:8;	size:4;	signed:1;
	field:int errno;	offset:12;	size:4;	signed:1;
	field:int code;	offset:16;	size:4;	signed:1;
	field:char comm[16];	offset:20;	size:16;	signed:0;
	field:pid_t pid;	offset:36;	size:4;	signed:1;
	field:int group;	offset:40;	size:4;	signed:1;
	field:int result;	offset:44;	size:4;	signed:1;

print fmt: "sig=%d errno=%d", REC->sig, REC->errno
"""


def test_the_fields_are_where_the_kernel_says() -> None:
    assert code.offsets(FORMAT) == {"sig": 8, "code": 16, "pid": 36, "result": 44}
    assert code.offsets(FORMAT.replace("offset:36", "offset:40"))["pid"] == 40


@pytest.mark.parametrize("wrong", [("int result", "int outcome"), ("offset:8;\tsize:4", "offset:8;\tsize:8")])
def test_an_event_of_another_form_is_refused(wrong: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"has no field (result|sig) of 4 bytes"):
        code.offsets(FORMAT.replace(*wrong))


def test_every_jump_lands_on_an_instruction_of_the_program() -> None:
    made = code.program(code.offsets(FORMAT), watched_fd=3, seen_fd=4)
    instructions = [struct.unpack_from("<BBhi", made, place) for place in range(0, len(made), 8)]
    wide = {number + 1 for number, one in enumerate(instructions) if one[0] == 0x18}
    for number, (opcode, _, offset, _) in enumerate(instructions):
        if opcode & 7 == 5 and opcode not in (0x85, 0x95):
            target = number + 1 + offset
            assert number < target < len(instructions)
            assert target not in wide
    assert instructions[-1][0] == 0x95


def test_the_program_reads_and_writes_its_own_stack_alone() -> None:
    made = code.program(code.offsets(FORMAT), watched_fd=3, seen_fd=4)
    for place in range(0, len(made), 8):
        opcode, registers, offset, _ = struct.unpack_from("<BBhi", made, place)
        if opcode in (0x63, 0x7B):
            size = 8 if opcode == 0x7B else 4
            assert registers & 15 == 10
            assert -512 <= offset <= -size
            assert offset % size == 0


def test_what_ends_no_process_by_default_is_left_out() -> None:
    assert {9, 15, 6, 11, 31} <= set(code.ENDING)
    assert not {17, 18, 19, 23, 28, 34} & set(code.ENDING)
    assert len(code.ENDING) == 23


def test_a_jump_counts_from_the_instruction_behind_it() -> None:
    made = code.assembled([(0x15, 1, 7, "end"), bytes(16), "end", bytes(8)])
    assert struct.unpack_from("<BBhi", made) == (0x15, 1, 2, 7)
