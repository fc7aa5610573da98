"""An attached client: the client's own connection, handed over by cortend.

Output goes out raw or in frames of 8 bytes of header (stream number, three zeros, length as big-endian 32 bits: Docker
API ContainerAttach, "Stream format").  What the client sends is standard input; its half-close is the end of it.

A client that does not read fills its queue; above `HIGH_WATER_BYTES` the process's output is paused for everybody, as
dockerd pauses it.  The connection is ended in the order: queue flushed, shutdown, input drained, close.  Closing a
unix socket that has unread input would give its peer ECONNRESET instead of the end (unix_release_sock).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from corten.shim.detach import DetachFilter
from corten.shim.loop import HANGUP, READ, WRITE, Loop

if TYPE_CHECKING:
    from corten.shim.stdio import Stdio

HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
STDOUT = 1
STDERR = 2
_HEADER = struct.Struct(">BxxxI")
_MAX_VECTORS = 64


class AttachOptions:
    """What a client asked for.  `detach_keys` empty: no detaching (not a terminal)."""

    __slots__ = ("detach_keys", "initial_stdin", "multiplexed", "stderr", "stdin", "stdin_once", "stdout")

    def __init__(
        self,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        multiplexed: bool = False,
        stdin_once: bool = False,
        detach_keys: bytes = b"",
        initial_stdin: bytes = b"",
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.multiplexed = multiplexed
        self.stdin_once = stdin_once
        self.detach_keys = detach_keys
        self.initial_stdin = initial_stdin


class Client:
    """One connection, owned: it is closed here.

    `pending` counts the bytes that wait for the client to read.
    """

    __slots__ = (
        "_ending",
        "_fd",
        "_filter",
        "_loop",
        "_queue",
        "_reading",
        "_stdio",
        "_throttled",
        "options",
        "pending",
    )

    def __init__(self, fd: int, loop: Loop, stdio: Stdio, options: AttachOptions) -> None:
        """Takes `fd`; `begin` must follow, once the stdio has the client in its list."""
        os.set_blocking(fd, False)
        self.options = options
        self.pending = 0
        self._fd = fd
        self._loop = loop
        self._stdio = stdio
        self._filter = DetachFilter(options.detach_keys) if options.detach_keys else None
        self._queue: deque[memoryview] = deque()
        self._reading = options.stdin
        self._throttled = False
        self._ending = False

    def begin(self) -> None:
        """Deliver the first input and start watching."""
        self._loop.add(self._fd, READ if self._reading else 0, self._ready)
        first, self.options.initial_stdin = self.options.initial_stdin, b""
        if first and self._reading:
            self._input(first)

    def send(self, stream: int, data: bytes) -> None:
        """Output of `stream` (STDOUT, STDERR), if the client wants that stream."""
        options = self.options
        if self._ending or not (options.stdout if stream == STDOUT else options.stderr):
            return
        parts = [_HEADER.pack(stream, len(data)), data] if options.multiplexed else [data]
        if self._queue:
            self._keep(parts, 0)
            return
        self._keep(parts, self._write(parts))
        if self._queue:
            self._watch()

    def throttle(self, on: bool) -> None:
        """Stop (or go on) reading input, because the process does not take it."""
        if self._throttled != on and self._fd >= 0:
            self._throttled = on
            self._watch()

    def finish(self) -> None:
        """No more output: end the connection once everything is sent."""
        self._ending = True
        self._reading = False
        if self._queue:
            self._watch()
        else:
            self._close()

    def drop(self) -> None:
        """End the connection now."""
        self._queue.clear()
        self.pending = 0
        self._ending = True
        self._close()

    def _watch(self) -> None:
        events = (READ if self._reading and not self._throttled else 0) | (WRITE if self._queue else 0)
        if self._loop.watches(self._fd):
            self._loop.change(self._fd, events)
        else:
            self._loop.add(self._fd, events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE and self._queue:
            self._flush()
        if self._fd >= 0 and events & READ and self._reading and not self._throttled:
            self._read()
        elif self._fd >= 0 and events & HANGUP:
            self._hung_up()

    def _hung_up(self) -> None:
        """The client is gone.  What it sent before still counts, as soon as the process takes it."""
        if self._reading and self._throttled:
            self._loop.remove(self._fd)  # the kernel would report the hang-up for ever; throttle(False) adds it again
        else:
            self._leave()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # reset by the client
            data = b""
        if data:
            self._input(data)
        else:
            self._input_ended()

    def _input(self, data: bytes) -> None:
        detached = False
        if self._filter is not None:
            data, detached = self._filter.feed(data)
        if data:
            self._stdio.feed(data)
        if detached:
            self._stdio.detached(self)

    def _input_ended(self) -> None:
        """Docker's rule: the end of input closes the process's stdin if asked so, and else detaches the client."""
        self._reading = False
        if self.options.stdin_once and not self._stdio.tty:
            self._stdio.close_stdin()
            self._watch()
        else:
            self._leave()

    def _leave(self) -> None:
        """The client goes by itself: as far as the process is concerned its input ends too."""
        if self.options.stdin and self.options.stdin_once and not self._stdio.tty:
            self._stdio.close_stdin()
        self._stdio.remove(self)
        self.drop()

    def _write(self, parts: list[bytes] | list[memoryview]) -> int:
        """Bytes written; a broken connection swallows everything and is noticed as a hang-up."""
        try:
            return os.writev(self._fd, parts)
        except BlockingIOError:
            return 0
        except OSError:
            self._reading = False
            return sum(map(len, parts))

    def _keep(self, parts: list[bytes], sent: int) -> None:
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
                continue
            self._queue.append(memoryview(part)[sent:])
            self.pending += len(part) - sent
            sent = 0

    def _flush(self) -> None:
        sent = self._write(list(itertools.islice(self._queue, _MAX_VECTORS)))
        self.pending -= sent
        while sent:
            first = self._queue[0]
            if len(first) > sent:
                self._queue[0] = first[sent:]
                break
            sent -= len(first)
            self._queue.popleft()
        if not self._queue:
            if self._ending:
                self._close()
                return
            self._watch()
        if self.pending <= LOW_WATER_BYTES:
            self._stdio.client_drained()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove(self._fd)
        fd, self._fd = self._fd, -1
        with socket.socket(fileno=fd) as connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
            while connection.recv(READ_BYTES):
                pass
        self._stdio.closed(self)
