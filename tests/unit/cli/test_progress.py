"""What a stream of progress looks like on a terminal and off it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from corten.cli.command import Failure
from corten.cli.progress import Display, show
from corten.spec import progress


def _shown(messages: list[dict[str, Any]], *, is_terminal: bool) -> str:
    out = io.StringIO()
    display = Display(out, is_terminal=is_terminal)
    for message in messages:
        display.show(message)
    return out.getvalue()


MESSAGES = [
    progress.status("The push refers to repository [r/a]"),
    progress.status("Preparing", "one"),
    progress.status("Preparing", "two"),
    progress.moved("Pushing", "one", current=1, total=2),
    progress.status("Pushed", "one"),
    progress.status("1: digest: d size: 3"),
]


def test_bars_are_left_out_of_plain_output() -> None:
    assert _shown(MESSAGES, is_terminal=False) == (
        "The push refers to repository [r/a]\none: Preparing\ntwo: Preparing\none: Pushed\n1: digest: d size: 3\n"
    )


def test_row_of_a_layer_is_written_over_in_place() -> None:
    shown = _shown(MESSAGES[:4], is_terminal=True)
    assert shown.startswith("The push refers to repository [r/a]\n\n\x1b[1A\x1b[2K\rone: Preparing \r\x1b[1B")
    assert shown.endswith("\x1b[2A\x1b[2K\rone: Pushing " + progress.bar(1, 2) + "\r\x1b[2B")


def test_terminal_obeys_nothing_that_comes_in_a_message() -> None:
    assert "\x1b]" not in _shown([{"status": "\x1b]0;title\x07"}], is_terminal=True)


def test_error_in_the_stream_ends_it_with_its_text() -> None:
    with pytest.raises(Failure, match=r"^denied$"):
        show([{"errorDetail": {"message": "denied"}, "error": "denied"}], out=io.StringIO())


def test_quiet_shows_nothing_and_hands_aux_on() -> None:
    out = io.StringIO()
    got: list[Any] = []
    show([*MESSAGES, progress.aux({"Tag": "1"})], out=out, quiet=True, aux=got.append)
    assert (out.getvalue(), got) == ("", [{"Tag": "1"}])
