"""The end of a terminal: what is left in it is passed on, and no more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corten.runtime.terminal import Terminal


@contextmanager
def stdout_in(path: Path) -> Iterator[None]:
    """Our stdout is a file."""
    before = os.dup(1)
    out = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(out)


@pytest.mark.timeout(40)
def test_who_goes_on_writing_after_the_process_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    master = os.open("/dev/zero", os.O_RDONLY)  # as a terminal that somebody fills faster than it is read
    with stdout_in(tmp_path / "out"):
        Terminal(master).close()
    assert 0 < (tmp_path / "out").stat().st_size < 1 << 20


def test_what_the_process_wrote_last_is_passed_on(tmp_path: Path) -> None:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    os.write(slave, b"last words")
    os.close(slave)
    with stdout_in(tmp_path / "out"):
        Terminal(master).close()
    assert (tmp_path / "out").read_bytes() == b"last words"
