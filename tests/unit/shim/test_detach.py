"""Detach keys: their syntax, and finding them in what is typed."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.shim.detach import DEFAULT_KEYS, DetachFilter, parse_keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", DEFAULT_KEYS),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL", b"\x00\x1b\x1c\x1d\x1e\x1f\x7f"),
        ("ctrl-a,a,b", b"\x01ab"),
    ],
)
def test_keys_are_parsed_as_docker_does(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-P", "xx", "a,", "ctrl-p,,"])
def test_wrong_keys_are_refused_in_dockers_words(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_keys(text)
    assert caught.value.text == f"Invalid detach keys ({text}) provided"


def typed(*reads: bytes, keys: bytes = DEFAULT_KEYS) -> tuple[bytes, bool]:
    watcher = DetachFilter(keys)
    passed = b""
    for read in reads:
        data, is_detached = watcher.feed(read)
        passed += data
        if is_detached:
            return passed, True
    return passed, False


def test_the_sequence_detaches_and_is_not_passed_on() -> None:
    assert typed(b"ls\r", b"\x10", b"\x11") == (b"ls\r", True)


def test_the_sequence_is_found_within_one_read() -> None:
    assert typed(b"ls\r\x10\x11rest") == (b"ls\r", True)


def test_a_first_key_alone_is_held_until_the_next_key() -> None:
    assert typed(b"\x10") == (b"", False)
    assert typed(b"\x10", b"x") == (b"\x10x", False)


def test_a_repeated_first_key_still_detaches() -> None:
    assert typed(b"\x10", b"\x10", b"\x11") == (b"\x10", True)


def test_a_sequence_of_one_key_detaches_at_once() -> None:
    assert typed(b"abq", keys=b"q") == (b"ab", True)


def test_an_overlapping_sequence_is_found() -> None:
    assert typed(b"a", b"a", b"a", b"b", keys=b"aab") == (b"a", True)
