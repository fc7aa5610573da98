"""The log file on disk: append, rotate, mend.

`LogFile.append` takes whole records (`jsonlog.RecordEncoder`) and writes them with one write(2).  A SIGKILL may still
cut a large write between two pages, so that a file can end in a torn record: `mend` completes it, and is called on
every reopening and by the engine when a shim was lost.

Rotation is dockerd's (`max-size`, `max-file`): a file that has reached `max-size` becomes `.1` before the next record
is written, so that a file may be longer than the limit by one record; `max-file` counts the current one.  Rotated files
are compressed in the background (`packer`); only the shim renames, so that a reader who lists, opens and looks again
(`engine/logfiles.py`) finds every record once.

What a record is, the `Framing` says: a line of JSON here, a length and a message in `locallog`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable

from corten.shim.complain import complain
from corten.shim.jsonlog import rfc3339_nano
from corten.shim.loop import Loop
from corten.shim.packer import Packer, numbers

_MODE = 0o640
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_TAIL_BYTES = 1 << 20  # no record is longer: 16 KiB, each byte at most 6 after escaping, and the attributes
_HEAD = b'{"log":"'
_NO_LIMIT = -1
LOCK = ".lock"  # of a file that a courier writes (corten.shim.filekeeper)
NEW = ".new"  # what a file is called until its rotation has made room for it


class Framing:
    """Where records end.

    cut    (records, room) → the end of the first record that ends at `room` bytes or later, else the end of all
    whole  (records, written) → the end of the last record that ends at `written` bytes or before
    mend   (path) → completes a torn last record of a file; how many bytes it had
    """

    __slots__ = ("cut", "mend", "whole")

    def __init__(
        self, cut: Callable[[bytes, int], int], whole: Callable[[bytes, int], int], mend: Callable[[str], int]
    ) -> None:
        self.cut = cut
        self.whole = whole
        self.mend = mend


class LogFile:
    """One container's log, open for appending.

    `size` is in bytes; `dropped` counts records' bytes that the disk did not take.
    """

    __slots__ = ("_fd", "_framing", "_limit", "_packer", "dropped", "max_files", "max_size", "path", "size")

    def __init__(
        self,
        path: str,
        *,
        max_size: int = _NO_LIMIT,
        max_files: int = 1,
        compress: bool = False,
        framing: Framing | None = None,
        loop: Loop | None = None,
    ) -> None:
        """`max_size` in bytes, -1 for no limit; lines of JSON without `framing`.  Raises OSError when it does not open.

        `loop`: where the end of a compression is waited for; without one the next rotation looks.
        """
        self.path = path
        self.max_size = max_size
        self._limit = max_size  # above `max_size` after a rotation that failed
        self.max_files = max_files
        self.dropped = 0
        self._framing = framing or JSON_LINES
        self._framing.mend(path)
        self._fd = os.open(path, _OPEN, _MODE)
        self.size = os.fstat(self._fd).st_size
        self._packer = Packer(path, max_files, loop) if compress and max_files > 1 and max_size > 0 else None

    def append(self, records: bytes) -> None:
        """Write whole records, rotating between them where the limit says so."""
        if self.max_size == _NO_LIMIT:
            self._write(records)
            return
        while records:
            if self.size >= self._limit:
                self._rotate()
            cut = self._framing.cut(records, self._limit - self.size)
            self._write(records[:cut])
            records = records[cut:]

    def close(self) -> None:
        """Close the descriptor; `append` must not be called any more."""
        os.close(self._fd)
        if self._packer is not None:
            self._packer.close()

    def settle(self) -> None:
        """Without a loop: take over what was compressed meanwhile."""
        if self._packer is not None:
            self._packer.settle()

    def _write(self, records: bytes) -> None:
        try:
            written = os.write(self._fd, records)
        except OSError:  # a full disk: the container goes on, as under dockerd
            written = 0
        if written == len(records):
            self.size += written
            return
        whole = self._framing.whole(records, written)
        self.size += whole
        self.dropped += len(records) - whole
        if whole != written:
            os.ftruncate(self._fd, self.size)

    def _rotate(self) -> None:
        """Begin a new file; where that fails (a full disk, no descriptor left) the old one goes on past its limit."""
        try:
            new = self._open_new()
        except OSError as error:
            complain(error)
            self._limit = self.size + self.max_size // 8 + 1  # tried again then, and not with every record
            return
        os.close(self._fd)
        self._fd = new
        self.size = 0
        self._limit = self.max_size
        if self._packer is not None:
            self._packer.settle()
            self._packer.begin()

    def _open_new(self) -> int:
        """The new file's descriptor, the old files shifted; nothing is shifted when there can be no new file."""
        beside = self.path + NEW
        new = os.open(beside, _OPEN | os.O_TRUNC, _MODE)
        try:
            if self.max_files > 1:
                self._shift()
            os.replace(beside, self.path)
        except OSError:
            os.close(new)
            raise
        return new

    def _shift(self) -> None:
        """From the oldest on, plain and packed: a place that nothing moves to is empty afterwards, not what it was."""
        old = numbers(self.path, self.max_files)
        for number in sorted({*old, *(one + 1 for one in old)} - {1, self.max_files}, reverse=True):
            for extension in ("", ".gz"):
                target = f"{self.path}.{number}{extension}"
                try:
                    os.replace(f"{self.path}.{number - 1}{extension}", target)
                except FileNotFoundError:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(target)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}.1.gz")  # the only other place is the first: it was not moved
        with contextlib.suppress(FileNotFoundError):  # somebody removed it
            os.replace(self.path, f"{self.path}.1")


def is_written(path: str) -> bool:
    """Whether a courier has this file (mode=non-blocking): it may outlive its shim for a while, and ends it whole."""
    try:
        fd = os.open(path + LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def mend(path: str) -> int:
    """Complete a torn last record, keeping every byte of output in it.  Returns how many bytes the record had.

    A missing file and a whole one are left alone (0).  A record cut inside its text is closed there; its stream is
    read from what is left of it and else taken for stdout; its time is that of the file's last change.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        status = os.fstat(fd)
        start = max(0, status.st_size - _TAIL_BYTES)
        tail = os.pread(fd, _TAIL_BYTES, start)
        if not tail or tail.endswith(b"\n"):
            return 0
        torn = tail[tail.rfind(b"\n") + 1 :]
        os.ftruncate(fd, status.st_size - len(torn))
        os.pwrite(fd, complete(torn, status.st_mtime_ns), status.st_size - len(torn))
        return len(torn)
    finally:
        os.close(fd)


_STRING = re.compile(rb'(?:[^"\\]|\\u[0-9a-f]{4}|\\[^u])*')


def complete(torn: bytes, moment_ns: int) -> bytes:
    """A whole record from the beginning of one; empty when no output was in it."""
    if not torn.startswith(_HEAD) or len(torn) == len(_HEAD):
        return b""
    match = _STRING.match(torn, len(_HEAD))
    text = match.group() if match else b""
    rest = torn[len(_HEAD) + len(text) :]
    stream = b"stderr" if rest.startswith(b'","stream":"stde') else b"stdout"
    text = text.decode("utf-8", "ignore").encode()  # a sequence cut in its middle
    moment = time.time_ns() if moment_ns <= 0 else moment_ns
    return b'%s%s","stream":"%s","time":"%s"}\n' % (_HEAD, text, stream, rfc3339_nano(moment)) if text else b""


def _cut(records: bytes, room: int) -> int:
    return records.find(b"\n", max(0, room - 1)) + 1 or len(records)


def _whole(records: bytes, written: int) -> int:
    return records.rfind(b"\n", 0, written) + 1


JSON_LINES = Framing(_cut, _whole, mend)
