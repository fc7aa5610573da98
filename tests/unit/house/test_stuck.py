"""What a test says of a program that does not end."""

from __future__ import annotations

import re

import pytest

from support import process

ENDLESS = "sleep 1000 & wait"


def test_a_program_that_does_not_end_is_told_with_its_children_and_where_they_stand_and_killed_with_them() -> None:
    with pytest.raises(process.Stuck) as caught:
        process.finish(["sh", "-c", ENDLESS], 3)
    first, *told = str(caught.value).splitlines()
    assert first == f"['sh', '-c', '{ENDLESS}'] did not end in 3 s:"
    pids = [
        int(found[1]) for line in told if (found := re.match(r"process (\d+): cmdline: (?:sh -c|sleep 1000)", line))
    ]
    assert len(pids) == 2
    assert not any(process.is_alive(pid) for pid in pids)
    assert sum("stat: " in line for line in told) == 2


def test_input_output_and_status_are_those_of_the_program() -> None:
    done = process.finish(["sh", "-c", "cat; exit 3"], 10, stdin=b"in", stdout=-1, stderr=-1)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"")
