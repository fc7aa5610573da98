"""JSON, times and signals without the packages of the standard library."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from pathlib import Path

import pytest

from corten.errors import InvalidArgument
from corten.runtime import fast

DOCUMENT = {
    "a": [1, -2, 2.5, True, False, None, "x"],
    "empty": {"list": [], "object": {}},
    "text": 'quote " slash \\ newline \n tab \t é 𝄞 \u2028',
    "big": 18446744073709551615,
}


def test_what_is_written_is_read_again_and_agrees_with_json() -> None:
    assert fast.loads(fast.dumps(DOCUMENT)) == DOCUMENT
    assert json.loads(fast.dumps(DOCUMENT)) == DOCUMENT
    assert fast.loads(json.dumps(DOCUMENT, indent=3).encode()) == DOCUMENT


def test_indented_output_is_that_of_json() -> None:
    assert fast.dumps_indented(DOCUMENT) == json.dumps(DOCUMENT, indent=2, ensure_ascii=False)


def test_bytes_that_are_not_utf8_survive() -> None:
    raw = b'{"env":["A=\xff\xfe"]}'
    assert fast.dump_bytes(fast.loads(raw)) == raw


def test_white_space_around_a_document_is_fine() -> None:
    assert fast.loads(b"\n\t {} \r\n") == {}


@pytest.mark.parametrize("text", ["", "{", '{"a":', "[1,]", "{} x", "nul", "NaN", '"\\q"', '{"a" 1}'])
def test_a_broken_document_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        fast.loads(text)


def test_a_document_that_is_broken_where_it_is_almost_too_deep_is_refused_in_one_line() -> None:
    for depth in range(600, 1100):  # whatever lies on the stack already: one of them is at the limit
        with pytest.raises(InvalidArgument, match=r"^invalid JSON: "):
            fast.loads("[" * depth + "1 1")


def test_a_document_that_is_too_deep_is_refused_in_one_line() -> None:
    with pytest.raises(InvalidArgument) as caught:
        fast.loads("[" * 50_000 + "]" * 50_000)
    assert caught.value.text == "invalid JSON: exceeded max depth"


def test_a_document_that_is_deep_and_wrong_is_refused_wherever_the_parser_gives_up() -> None:
    """What explains a failure stands deeper itself than what found it (found by the fuzzer)."""
    refused = 0
    for depth in range(900, 1010):
        with pytest.raises(InvalidArgument):
            fast.loads("[" * depth + r'"\q"')
        refused += 1
    assert refused == 110


@pytest.mark.parametrize(
    ("stamp_ns", "text"),
    [
        (1_795_334_454_353_631_074, "2026-11-22T08:00:54.353631074Z"),
        (1_795_334_454_353_631_000, "2026-11-22T08:00:54.353631Z"),
        (1_795_334_454_000_000_000, "2026-11-22T08:00:54Z"),
    ],
)
def test_times_look_as_go_prints_them(stamp_ns: int, text: str) -> None:
    assert fast.rfc3339(stamp_ns) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("9", 9), ("0", 0), ("37", 37), ("+15", 15), ("-1", -1)],
)
def test_signals_are_known_by_name_and_number(text: str, number: int) -> None:
    assert fast.signal_number(text) == number


def test_every_signal_of_the_kernel_has_its_number() -> None:
    names = """
        HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG
        XCPU XFSZ VTALRM PROF WINCH IO PWR SYS
    """
    for number, name in enumerate(names.split(), start=1):  # signal(7), x86-64 and arm64
        assert {fast.signal_number(text) for text in (name, f"SIG{name}", name.lower(), str(number))} == {number}


@pytest.mark.parametrize("text", ["NOSIG", "", "SIG", "RTMIN", "²", "1_5", "0x9", " 9", "-", 23 * "9"])
def test_an_unknown_signal_is_refused_in_the_words_of_runc(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f'^unknown signal "{text}"$'):
        fast.signal_number(text)


@pytest.mark.parametrize("number", [65, -1, 99999999999, 1 << 31])
def test_a_number_that_no_signal_has_is_refused_by_the_kernel(number: int) -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            fast.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def test_a_time_far_away_is_no_more_than_poll_takes() -> None:
    assert fast.poll_ms(None) is None
    assert fast.poll_ms(0.0) == 0
    assert fast.poll_ms(time.monotonic() + 10) in range(9_000, 10_002)
    assert select.poll().poll(fast.poll_ms(time.monotonic() - 1)) == []
    assert fast.poll_ms(time.monotonic() + 1e9) == (1 << 31) - 1


def test_a_socket_whose_queue_is_full_is_an_error_in_time_and_one_that_has_room_blocks(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        first = fast.connect_in_time(str(tmp_path / "s"))
        assert os.get_blocking(first)
        with pytest.raises(BlockingIOError):
            fast.connect_in_time(str(tmp_path / "s"), 0.1)
        os.close(first)
