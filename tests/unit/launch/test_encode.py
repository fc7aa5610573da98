"""The encoding, read back field by field as the launcher does."""

from __future__ import annotations

import struct

import pytest

from corten.errors import Internal
from corten.launch.encode import HEADER, NO_SLOT, encode
from corten.launch.execops import Exec
from corten.launch.mountops import FsMount
from corten.launch.ops import Close, Op, Plan, Setns, Write
from corten.launch.userops import SetIds


def body(op: Op, fds: dict[str, int] | None = None, inputs: tuple[str, ...] = ()) -> bytes:
    data = encode(Plan((op,), inputs), fds or {}, 7)
    _, count, slots, trace, preserve, size, zero = HEADER.unpack_from(data)
    assert (count, trace, preserve, size, zero) == (1, 7, 0, len(data), 0)
    start = (HEADER.size + 4 * slots + 7) // 8 * 8
    code, nothing, op_size = struct.unpack_from("=HHI", data, start)
    assert (code, nothing, op_size) == (op.code, 0, len(data) - start)
    return data[start + 8 :]


def test_numbers_and_slots_are_eight_bytes() -> None:
    assert body(Setns("ns", 5)) == struct.pack("=QQ", 0, 5)


@pytest.mark.parametrize("length", range(10))
def test_texts_end_with_nul_on_a_multiple_of_eight(length: int) -> None:
    data = body(Write("a", b"x" * length))[8:]
    assert len(data) % 8 == 0
    assert struct.unpack_from("=I", data)[0] == length
    assert data[4:].rstrip(b"\0") == b"x" * length
    assert data[4 + length] == 0


def test_lists_begin_with_their_count() -> None:
    data = body(FsMount("a", "b", ("c", "d"), 3, magic=4))
    assert data == struct.pack("=QI4sQI4sI4sQQQ", 0, 1, b"b", 2, 1, b"c", 1, b"d", 3, 4, NO_SLOT)


def test_numbers_of_groups_follow_their_count() -> None:
    assert body(SetIds(1, 2, (3, 4))) == struct.pack("=6Q", 1, 2, 1, 2, 3, 4)
    assert body(SetIds(1, 2, None)) == struct.pack("=4Q", 1, 2, 0, 0)


def test_inputs_have_their_descriptor_and_others_none() -> None:
    plan = Plan((Close(("made", "start")),), ("start",))
    data = encode(plan, {"start": 12, "stranger": 4}, 7)
    assert struct.unpack_from("=2i", data, HEADER.size) == (-1, 12)


def test_missing_input_is_named() -> None:
    with pytest.raises(Internal, match="no descriptor for start"):
        encode(Plan((Close(("start",)),), ("start",)), {}, 7)


def test_texts_that_are_no_utf8_pass_unchanged() -> None:
    data = body(Exec(("\udcff",), (), (), ()))
    assert struct.pack("=QI4s", 1, 1, b"\xff") in data
