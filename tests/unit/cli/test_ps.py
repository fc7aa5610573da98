"""Rows of `corten ps`."""

from __future__ import annotations

import pytest

from corten.cli.ps import container_row


@pytest.mark.parametrize(
    ("command", "shown", "whole"),
    [
        ("sleep 10", '"sleep 10"', '"sleep 10"'),
        ('echo "a"', r'"echo \"a\""', r'"echo \"a\""'),
        ("echo one\ntwo\tthree\\four", r'"echo one\ntwo\tthree\\…"', r'"echo one\ntwo\tthree\\four"'),
        ("\x1b[31mred", r'"\x1b[31mred"', r'"\x1b[31mred"'),
    ],
)
def test_a_command_is_quoted_as_go_does_and_stays_on_its_line(command: str, shown: str, whole: str) -> None:
    item = {
        "Id": "c" * 64,
        "Image": "i",
        "Command": command,
        "Created": 1,
        "Status": "Up",
        "State": "running",
        "Names": ["/n"],
    }
    assert container_row(item, no_trunc=False)["Command"] == shown
    assert container_row(item, no_trunc=True)["Command"] == whole
