"""What a test says of a program that does not end."""

from __future__ import annotations

import pytest

from support import process


def test_a_program_that_does_not_end_is_told_with_its_children_and_where_they_stand() -> None:
    with pytest.raises(process.Stuck) as caught:
        process.finish(["sh", "-c", "sleep 1000 & wait"], 0.5)
    text = str(caught.value)
    assert "did not end in 0 s" in text
    assert "cmdline: sh -c" in text
    assert "cmdline: sleep 1000" in text
    child = int(text.rpartition("process ")[2].partition(":")[0])
    process.kill([child])


def test_input_output_and_status_are_those_of_the_program() -> None:
    done = process.finish(["sh", "-c", "cat; exit 3"], 10, stdin=b"in", stdout=-1, stderr=-1)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"")
