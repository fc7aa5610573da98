"""The few kinds of Protocol Buffers fields that CRIU's messages have."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.runtime.protobuf import Message, data, number, text


@pytest.mark.parametrize(
    ("field", "value", "encoded"),
    [
        (1, 0, "0800"),
        (1, 1, "0801"),
        (1, 150, "089601"),
        (51, 0x40000000, "98038080808004"),
        (2, -1, "10ffffffffffffffffff01"),
    ],
)
def test_a_number_is_written_as_the_format_says_and_read_back(field: int, value: int, encoded: str) -> None:
    assert number(field, value).hex() == encoded
    assert Message(number(field, value)).number(field) == value


def test_text_and_messages_are_bytes_with_a_length() -> None:
    assert text(2, "testing").hex() == "120774657374696e67"
    inner = number(1, 5) + text(2, "a\udcff")
    outer = Message(number(3, 1) + data(4, inner))
    assert (outer.number(3), outer.message(4).number(1), outer.message(4).data(2)) == (1, 5, b"a\xff")


def test_fields_that_are_not_there_are_empty_and_the_last_of_two_counts() -> None:
    message = Message(number(1, 5) + number(1, 6))
    assert (message.number(1), message.number(2), message.data(3)) == (6, 0, b"")


def test_fields_of_four_and_eight_bytes_are_passed_over() -> None:
    assert Message(bytes.fromhex("0d01020304") + bytes.fromhex("110102030405060708") + number(3, 7)).number(3) == 7


@pytest.mark.parametrize(
    "encoded", ["08", "1205aa", "0880", "08ffffffffffffffffffff01", "0b", "0d0102", "12ffffffff0f"]
)
def test_a_damaged_message_is_refused(encoded: str) -> None:
    with pytest.raises(InvalidArgument, match="protocol buffer"):
        Message(bytes.fromhex(encoded))


def test_a_field_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        Message(number(1, 1)).data(1)
    with pytest.raises(InvalidArgument):
        Message(text(1, "x")).number(1)
