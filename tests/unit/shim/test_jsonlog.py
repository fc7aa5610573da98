"""The bytes of json-file records, against golden lines and a slow model written from the rules."""

from __future__ import annotations

import json
import random

import pytest

from corten.shim.jsonlog import PARTIAL_BYTES, RecordEncoder, encode_attributes, escape, rfc3339_nano

MOMENT = 1_700_000_000_123_450_000
TIME = "2023-11-14T22:13:20.12345Z"

GOLDEN = [
    (b"hello\n", rb'{"log":"hello\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}'),
    (b"\n", rb'{"log":"\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}'),
    (b"a\r\n", rb'{"log":"a\r\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}'),
    (b'"\\\n', rb'{"log":"\"\\\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}'),
    (b"<&>\n", rb'{"log":"\u003c\u0026\u003e\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}'),
    (
        b"\t\x00\x1b\x08\x0c\x7f\n",
        b'{"log":"\\u0009\\u0000\\u001b\\u0008\\u000c\x7f\\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}',
    ),
    ("é€\n".encode(), '{"log":"é€\\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}'.encode()),
    (
        "\u2028\u2029\n".encode(),
        rb'{"log":"\u2028\u2029\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}',
    ),
    (
        b"\xff\xe2\x82\xc3\n",
        rb'{"log":"\ufffd\ufffd\ufffd\ufffd\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}',
    ),
    (
        "\ufffd\n".encode() + b"\xed\xa0\x80\n",
        '{"log":"\ufffd\\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}\n'.encode()
        + rb'{"log":"\ufffd\ufffd\ufffd\n","stream":"stdout","time":"2023-11-14T22:13:20.12345Z"}',
    ),
]


@pytest.mark.parametrize(("output", "record"), GOLDEN)
def test_a_line_becomes_the_record_that_dockerd_writes(output: bytes, record: bytes) -> None:
    assert RecordEncoder("stdout").feed(output, MOMENT) == record + b"\n"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, b"1970-01-01T00:00:00Z"),
        (1, b"1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_000_000_000, b"2023-11-14T22:13:20Z"),
        (1_700_000_000_100_000_000, b"2023-11-14T22:13:20.1Z"),
        (1_700_000_000_000_000_120, b"2023-11-14T22:13:20.00000012Z"),
    ],
)
def test_times_lose_their_trailing_zeros(moment: int, text: bytes) -> None:
    assert rfc3339_nano(moment) == text


def test_an_unfinished_line_waits_for_its_end() -> None:
    encoder = RecordEncoder("stderr")
    assert encoder.feed(b"one\ntw", MOMENT).count(b"\n") == 1
    assert encoder.pending == b"tw"
    assert texts(encoder.feed(b"o\n", MOMENT)) == ["two\n"]


def test_the_end_of_the_stream_gives_the_rest_without_a_newline() -> None:
    encoder = RecordEncoder("stdout")
    encoder.feed(b"rest", MOMENT)
    assert texts(encoder.finish(MOMENT)) == ["rest"]
    assert encoder.finish(MOMENT) == b""


def test_a_long_line_is_cut_and_its_parts_carry_the_first_time() -> None:
    encoder = RecordEncoder("stdout")
    first = encoder.feed(b"x" * (PARTIAL_BYTES + 10), MOMENT)
    assert texts(first) == ["x" * PARTIAL_BYTES]
    last = encoder.feed(b"yz\n", MOMENT + 10**9)
    assert texts(last) == ["x" * 10 + "yz\n"]
    assert json.loads(last)["time"] == TIME
    assert json.loads(encoder.feed(b"next\n", MOMENT + 10**9))["time"] == "2023-11-14T22:13:21.12345Z"


def test_a_line_of_exactly_one_part_ends_with_an_empty_record() -> None:
    assert texts(RecordEncoder("stdout").feed(b"x" * PARTIAL_BYTES + b"\n", MOMENT)) == ["x" * PARTIAL_BYTES, "\n"]
    assert texts(RecordEncoder("stdout").feed(b"x" * (PARTIAL_BYTES - 1) + b"\n", MOMENT)) == [
        "x" * (PARTIAL_BYTES - 1) + "\n"
    ]


def test_a_part_that_ends_the_stream_is_not_repeated() -> None:
    encoder = RecordEncoder("stdout")
    assert len(texts(encoder.feed(b"x" * PARTIAL_BYTES, MOMENT))) == 1
    assert encoder.finish(MOMENT) == b""


def test_attributes_stand_between_stream_and_time() -> None:
    encoder = RecordEncoder("stdout", encode_attributes({"b": "2", "a": "<\t\n>"}))
    assert encoder.feed(b"x\n", MOMENT) == (
        rb'{"log":"x\n","stream":"stdout","attrs":{"a":"\u003c\t\n\u003e","b":"2"},"time":"2023-11-14T22:13:20.12345Z"}'
        b"\n"
    )


def test_attributes_with_a_written_escape_stay_as_they_are() -> None:
    assert encode_attributes({"a": "\\u0009\b\f"}) == rb'{"a":"\\u0009\b\f"}'


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_in_any_pieces_give_what_the_slow_model_gives(seed: int) -> None:
    choice = random.Random(seed)
    output = b"".join(piece(choice) for _ in range(choice.randrange(1, 60)))
    encoder = RecordEncoder("stdout")
    records = b""
    position = 0
    while position < len(output):
        size = choice.choice((1, 7, 100, 5000, 65536))
        records += encoder.feed(output[position : position + size], MOMENT)
        position += size
    records += encoder.finish(MOMENT)
    assert records == model(output)


def piece(choice: random.Random) -> bytes:
    """Plain text, specials, bad UTF-8, long runs, newlines."""
    kind = choice.randrange(8)
    if kind == 0:
        return bytes(choice.randrange(256) for _ in range(choice.randrange(40)))
    if kind == 1:
        return "zażółć \u2028 \u2029 € 𝄞".encode()
    if kind == 2:
        return b"\n" * choice.randrange(1, 4)
    if kind == 3:
        return b"x" * choice.choice((PARTIAL_BYTES - 1, PARTIAL_BYTES, PARTIAL_BYTES + 1, 40000))
    if kind == 4:
        return b'<"\\&>\t\r'
    if kind == 5:
        return "€".encode()[: choice.randrange(1, 3)]
    return b"plain words here" + b"\n" * choice.randrange(2)


def model(output: bytes) -> bytes:
    """One record after the other, one byte after the other."""
    records = []
    for line in output.splitlines(keepends=True) if b"\r" not in output else lines(output):
        body, newline = (line[:-1], True) if line.endswith(b"\n") else (line, False)
        while len(body) >= PARTIAL_BYTES:
            records.append(record(body[:PARTIAL_BYTES], False))
            body = body[PARTIAL_BYTES:]
        if newline or body:
            records.append(record(body, newline))
    return b"".join(records)


def lines(output: bytes) -> list[bytes]:
    *whole, rest = output.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def record(body: bytes, newline: bool) -> bytes:
    text = slow_escape(body) + ("\\n" if newline else "")
    return f'{{"log":"{text}","stream":"stdout","time":"{TIME}"}}\n'.encode()


def slow_escape(body: bytes) -> str:
    text = ""
    while body:
        size = next((n for n in (1, 2, 3, 4) if is_character(body[:n])), 0)
        if not size:
            text, body = text + "\\ufffd", body[1:]
            continue
        character, body = body[:size].decode(), body[size:]
        text += special(character)
    return text


def is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def special(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character == "\r":
        return "\\r"
    if character < " " or character in "<>&\u2028\u2029":
        return f"\\u{ord(character):04x}"
    return character


def test_escaping_leaves_plain_text_as_it_is() -> None:
    text = b"plain text\n" * 10
    assert escape(text) is text


def texts(records: bytes) -> list[str]:
    return [json.loads(line)["log"] for line in records.splitlines()]
