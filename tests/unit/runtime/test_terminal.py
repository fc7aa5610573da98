"""The end of a terminal: what is left in it is passed on, and no more."""

from __future__ import annotations

import fcntl
import os
import select
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from corten.runtime.terminal import LEFT_BYTES, Terminal
from corten.sys import files

PAGE_BYTES = 4096


def stdout_on(out: int) -> AbstractContextManager[None]:
    """Our stdout is a descriptor, which is closed here."""
    return replaced(1, out)


def stdin_on(source: int) -> AbstractContextManager[None]:
    """Our stdin is a descriptor, which is closed here."""
    return replaced(0, source)


@contextmanager
def replaced(number: int, fd: int) -> Iterator[None]:
    """A descriptor of ours is another, which is closed here."""
    before = os.dup(number)
    os.dup2(fd, number)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(before, number)
        os.close(before)


def stdout_in(path: Path) -> AbstractContextManager[None]:
    """Our stdout is a file."""
    return stdout_on(os.open(path, os.O_WRONLY | os.O_CREAT))


def terminal_with(path: Path, size: int) -> int:
    """A file that stands for the master of a terminal that holds so much."""
    path.write_bytes(b"x" * size)
    return os.open(path, os.O_RDONLY)


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


def test_of_who_goes_on_writing_no_more_is_read_where_stdout_is_gone(tmp_path: Path) -> None:
    master = terminal_with(tmp_path / "master", 1 << 22)
    place = os.dup(master)
    reader, out = os.pipe()
    os.close(reader)
    with stdout_on(out):
        Terminal(master).close()
    assert 0 < os.lseek(place, 0, os.SEEK_CUR) <= LEFT_BYTES + files.CHUNK_BYTES
    os.close(place)


@pytest.mark.timeout(40)
def test_all_that_is_left_is_passed_on_to_a_stdout_that_takes_little_at_a_time(tmp_path: Path) -> None:
    size = LEFT_BYTES - 1
    reader, out = os.pipe()
    fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
    os.set_blocking(out, False)
    taken: list[int] = []

    def take() -> None:
        while data := os.read(reader, PAGE_BYTES):
            taken.append(len(data))
        os.close(reader)

    thread = threading.Thread(target=take)
    thread.start()
    with stdout_on(out):
        Terminal(terminal_with(tmp_path / "master", size)).close()
    thread.join()
    assert sum(taken) == size


def test_what_a_file_gives_waits_until_its_echo_has_been_taken() -> None:
    """The kernel drops echo that nobody fetches: 4096 bytes wait in N_TTY, 8192 in the pty."""
    master, slave = os.openpty()
    reader, out = os.pipe()
    source, end = os.pipe()
    fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
    lines = b"".join(b"line %06d\n" % number for number in range(3000))
    with os.fdopen(reader, "rb") as shown, os.fdopen(end, "wb") as file, stdin_on(source), stdout_on(out):
        feeder = threading.Thread(target=give, args=(file, lines))
        feeder.start()
        program = threading.Thread(target=swallow, args=(slave, len(lines)))
        program.start()
        poll, terminal, taken = select.poll(), Terminal(master), b""
        terminal.open(poll)
        for turn in range(10_000):
            terminal.copy(dict(poll.poll(1)), poll)
            if turn % 50 == 49 and select.select([shown], [], [], 0)[0]:  # who takes it is slow
                taken += os.read(shown.fileno(), 1 << 16)
            if taken.count(b"\n") == 3000:
                break
        feeder.join(60)
        program.join(60)
        terminal.close()
    assert taken.replace(b"\r\n", b"\n") == lines


def give(file: BinaryIO, lines: bytes) -> None:
    """Writes all, and closes it."""
    file.write(lines)
    file.close()


def swallow(slave: int, size: int) -> None:
    """Reads so many bytes from a terminal, and closes it."""
    while size > 0:
        size -= len(os.read(slave, 1 << 16))
    os.close(slave)
