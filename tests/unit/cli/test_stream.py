"""The two small machines on a hijacked stream, and signals on their way to the container."""

from __future__ import annotations

import signal
import struct
from collections.abc import Callable
from typing import Any

import pytest

from corten.cli.stream import Demultiplexer, DetachKeys, forwarded_signals, parse_detach_keys
from corten.errors import InvalidArgument


def test_frames_are_found_wherever_the_bytes_are_cut() -> None:
    data = struct.pack(">BxxxI", 1, 3) + b"out" + struct.pack(">BxxxI", 2, 3) + b"err"
    for cut in range(len(data) + 1):
        machine = Demultiplexer()
        assert [*machine.feed(data[:cut]), *machine.feed(data[cut:])] == [(1, b"out"), (2, b"err")]


@pytest.mark.parametrize(
    ("typed", "sent", "detached"),
    [(b"abc", b"abc", False), (b"a\x10\x11b", b"a", True), (b"\x10x", b"\x10x", False), (b"\x10", b"", False)],
)
def test_detach_keys_are_taken_out(typed: bytes, sent: bytes, detached: bool) -> None:
    assert DetachKeys(b"\x10\x11").feed(typed) == (sent, detached)


def test_detach_keys_may_come_one_by_one() -> None:
    machine = DetachKeys(b"\x10\x11")
    assert machine.feed(b"\x10") == (b"", False)
    assert machine.feed(b"\x11") == (b"", True)


def test_names_of_detach_keys() -> None:
    assert parse_detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-[") == b"a\x1b"
    with pytest.raises(InvalidArgument, match="unknown character"):
        parse_detach_keys("ctrl-p,shift-x")


def test_a_new_size_that_comes_while_the_handlers_are_set_is_followed_and_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    followed: list[int] = []

    def follow(number: int, _: object) -> None:
        followed.append(number)

    def install(number: int, handler: Callable[[int, Any], object]) -> object:
        if number == signal.SIGWINCH and handler is not follow:
            handler(number, None)
        return follow

    monkeypatch.setattr(signal, "signal", install)
    monkeypatch.setattr(signal, "getsignal", lambda number: follow)
    sent: list[str] = []
    with forwarded_signals(sent.append, True):
        assert (followed, sent) == ([signal.SIGWINCH], ["SIGWINCH"])
