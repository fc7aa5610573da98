"""A courier that keeps the log itself: json-file and local with mode=non-blocking.

A write(2) to a file may wait for the disk, and the shim with it, and the container with that.  So these files are
written by a courier, and what it does not take in time is dropped by the shim (`corten.shim.courier`).  What was
dropped is told in its place, as a line of stderr; dockerd says nothing.

Who writes holds the lock `PATH.lock`, so that a courier that outlives its shim, or hangs in the disk, is not joined by
the next one, nor by an engine that mends the end of the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from corten.shim.client import STDERR
from corten.shim.courier import DROPPED, READY
from corten.shim.log import open_file
from corten.shim.logfile import LOCK
from corten.shim.packer import be_killable
from corten.shim.protocol import Message
from corten.shim.request import Request


def run(order: Message, inlet: int, say: int, frames: Callable[[int], Iterator[tuple[int, int, bytes]]]) -> None:
    """The life of such a courier; `frames` are those of corten.shim.delivery."""
    be_killable()
    try:
        log = Request(order, []).object("log")
        fd = _locked(str(log.get("path")))
        keeper = Keeper(log)
    except OSError as error:
        with contextlib.suppress(BrokenPipeError):  # one that follows: nobody waits for it
            os.write(say, f"{error.filename}: {error.strerror}".encode()[:4096])
        return
    with contextlib.suppress(BrokenPipeError):
        os.write(say, READY)
    os.close(say)
    keeper.keep(frames(inlet))
    os.close(fd)


def _locked(path: str) -> int:
    """Waits for who writes it now: to its end, when it goes on after its shim."""
    fd = os.open(path + LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


class Keeper:
    """The open log."""

    def __init__(self, order: Message) -> None:
        """`order` has the fields of a create's `log`.  Raises OSError when the file does not open."""
        log = open_file(Request(order, []))
        assert log is not None
        assert log.file is not None
        self._log = log
        self._file = log.file

    def keep(self, source: Iterator[tuple[int, int, bytes]]) -> None:
        """Write everything, to the end of what comes."""
        encoders = self._log.encoders
        for stream, moment_ns, data in source:
            if stream == DROPPED:
                self._tell(int(data), moment_ns)
            elif stream in encoders:
                encoder = encoders[stream]
                self._append(encoder.feed(data, moment_ns) if data else encoder.finish(moment_ns))
        self._file.settle()
        self._log.close()

    def _append(self, records: bytes) -> None:
        if records:
            self._file.append(records)

    def _tell(self, dropped: int, moment_ns: int) -> None:
        """A line of its own; lines that had begun are over where they were cut."""
        cut = b"".join(encoder.finish(moment_ns) for encoder in self._log.encoders.values())
        self._append(cut)
        text = b"corten: %d bytes of output were dropped here (mode=non-blocking)\n" % dropped
        self._append(self._log.encoders[STDERR].feed(b"\n" + text if cut else text, moment_ns))
