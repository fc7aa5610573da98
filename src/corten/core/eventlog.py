"""The events of an engine on disk, so that those of before are known after any end of cortend, and bounded.

    <data-root>/events.1   the older ones
    <data-root>/events     the newer ones, one JSON object a line, oldest first; it becomes `events.1` at LIMIT_BYTES

An event costs one write(2) and no fsync: it outlives a SIGKILL; after a crash of the machine the last ones may be
missing.  What cannot be kept (a full disk, an event longer than a file may be) is told to listeners all the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Final

import msgspec

from corten.core.events import Event

log = logging.getLogger("corten.core")

NAME: Final = "events"
LIMIT_BYTES: Final = 2 << 20
_OPEN: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_MODE: Final = 0o600  # the arguments of execs are in them


class EventLog:
    """The two files.  Any thread may use it."""

    def __init__(self, directory: str, limit_bytes: int = LIMIT_BYTES) -> None:
        """Files that cannot be made (a full disk) are no reason to fail: nothing is kept then."""
        self._path = os.path.join(directory, NAME)
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._has_failed = False
        self._fd = -1
        self._size = 0
        self._is_torn = False
        try:
            os.close(os.open(f"{self._path}.1", _OPEN, _MODE))
            self._open()
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        """Nothing is kept any more."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def append(self, event: Event) -> None:
        """Keeps an event, whose time is set; never raises for the disk."""
        line = self._encoder.encode(event) + b"\n"
        with self._lock:
            if self._fd < 0 or len(line) > self._limit:
                return
            try:
                if self._size + len(line) > self._limit:
                    self._rotate()
                self._write(line)
            except OSError as error:
                self._complain(error)

    def last(self, count: int) -> list[Event]:
        """The last `count` at most, oldest first."""
        found: list[Event] = []
        for line in self.lines():
            if (event := decode(line)) is not None:
                found.append(event)
                if len(found) == count:
                    break
        return found[::-1]

    def lines(self) -> Iterator[bytes]:
        """What is kept, newest first, undecoded."""
        for data in self._contents():
            yield from reversed(data.splitlines())

    def _contents(self) -> list[bytes]:
        """The newer file, then the older one, both of one moment."""
        with contextlib.ExitStack() as files:
            opened = []
            with self._lock:  # not for reading: a line that is being written is none
                for path in (self._path, f"{self._path}.1"):
                    with contextlib.suppress(FileNotFoundError):
                        opened.append(files.enter_context(open(path, "rb")))
            return [file.read(2 * self._limit) for file in opened]

    def _complain(self, error: OSError) -> None:
        if not self._has_failed:
            log.warning("events are not kept: %s", error)
        self._has_failed = True

    def _open(self) -> None:
        self._fd = os.open(self._path, _OPEN, _MODE)
        self._size = os.fstat(self._fd).st_size
        self._is_torn = self._size > 0  # whether the last line is whole is not known

    def _rotate(self) -> None:
        old = self._fd
        with contextlib.suppress(FileNotFoundError):  # moved before, and there was no new one to be had
            os.replace(self._path, f"{self._path}.1")
        self._open()
        os.close(old)

    def _write(self, line: bytes) -> None:
        """A line that was cut is ended before the next one begins."""
        data = b"\n" + line if self._is_torn else line
        self._is_torn = True
        written = os.write(self._fd, data)
        self._size += written
        self._is_torn = written != len(data)


def decode(line: bytes) -> Event | None:
    """The event of a line; None for one that is torn, or of another release."""
    try:
        return msgspec.json.decode(line, type=Event)
    except (msgspec.DecodeError, ValueError):
        return None
