"""Standard streams of one process: pipes or a terminal on one side; log and attached clients on the other.

    client ──► feed ──► Sink ──► process ──► Source ──► log, then every client
                 ▲ throttled while the          ▲ paused while a client's queue is
                   process does not read          above its high water mark

All descriptors of the engine's side are non-blocking and owned here.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from typing import Protocol

from corten.errors import Unavailable
from corten.shim.client import HIGH_WATER_BYTES, READ_BYTES, STDERR, STDOUT, AttachOptions, Client
from corten.shim.loop import READ, WRITE, Loop, Timer
from corten.shim.protocol import close_all, receive_fds

_SINK_BYTES = 64 * 1024
_TERMINAL_RETRY_S = 0.2
_DRAIN_BYTES = 4 * 1024 * 1024  # per stream, at exit: a pipe holds 64 KiB, at most 1 MiB when the process enlarged it


class Output(Protocol):
    """Where a process's output is kept."""

    @property
    def is_full(self) -> bool:
        """Whether the process has to wait."""

    def when_there_is_room(self, call: Callable[[], None]) -> None:
        """`call` whenever it is full no more."""

    def write(self, stream: int, data: bytes) -> None:
        """What one read(2) gave."""

    def end(self, stream: int) -> None:
        """The stream is over."""


class Source:
    """The end from which a process's output is read."""

    __slots__ = ("_is_left", "_loop", "_on_data", "_on_end", "_paused", "_retry", "fd", "is_terminal", "stream")

    def __init__(
        self,
        fd: int,
        stream: int,
        loop: Loop,
        *,
        is_terminal: bool,
        on_data: Callable[[int, bytes], None],
        on_end: Callable[[Source], None],
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.stream = stream
        self.is_terminal = is_terminal
        self._loop = loop
        self._on_data = on_data
        self._on_end = on_end
        self._is_left = False
        self._paused = False
        self._retry: Timer | None = None
        loop.add(fd, READ, lambda events: self._read())

    def pause(self, on: bool) -> None:
        """Let the process wait: nothing is read, and a hang-up is not looked at."""
        if self._paused == on or self.fd < 0:
            return
        self._paused = on
        if on:
            self._loop.remove(self.fd)
        elif self._retry is None:
            self._loop.add(self.fd, READ, lambda events: self._read())

    def drain(self) -> None:
        """Read what is there, paused or not; afterwards the stream is at its end or has a living writer."""
        left = _DRAIN_BYTES
        while left > 0 and self.fd >= 0:
            count = self._read()
            if count == 0:
                return
            left -= count

    def close(self) -> None:
        """Stop reading for good, without `on_end`."""
        if self.fd >= 0:
            if self._retry is not None:
                self._retry.cancel()
            self._loop.remove(self.fd)
            if not self.is_terminal:  # the terminal's master belongs to the stdio
                os.close(self.fd)
            self.fd = -1

    def _read(self) -> int:
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: nobody has the terminal open
            self._terminal_is_quiet()
            return 0
        if data:
            self._on_data(self.stream, data)
        else:
            self.end()
        return len(data)

    def end(self) -> None:
        """The stream is over."""
        self.close()
        self._on_end(self)

    def leave(self) -> None:
        """The process is dead: its terminal is over as soon as nobody has it open."""
        self._is_left = True
        if self._retry is not None:
            self.end()

    def _terminal_is_quiet(self) -> None:
        """A living process may open its terminal again (an init system does): look later; exit ends the stream."""
        if self._is_left:
            self.end()
        elif self._retry is None:
            self._loop.remove(self.fd)
            self._retry = self._loop.call_later(_TERMINAL_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self.fd >= 0 and not self._paused:
            self._loop.add(self.fd, READ, lambda events: self._read())


class Sink:
    """The end into which a process's input is written."""

    __slots__ = ("_closing", "_loop", "_on_room", "_queue", "fd", "pending")

    def __init__(self, fd: int, loop: Loop, *, on_room: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.pending = 0
        self._loop = loop
        self._on_room = on_room
        self._queue: list[memoryview] = []
        self._closing = False

    @property
    def is_full(self) -> bool:
        return self.pending >= _SINK_BYTES

    def write(self, data: bytes) -> None:
        """Input for the process, kept when it does not read; dropped when it closed its end."""
        if self.fd < 0 or self._closing:
            return
        view = memoryview(data)
        if not self._queue:
            view = view[self._push(view) :]
        if view:
            if not self._queue:
                self._loop.add(self.fd, WRITE, lambda events: self._flush())
            self._queue.append(view)
            self.pending += len(view)

    def close(self) -> None:
        """End of input, after what is queued."""
        self._closing = True
        if not self._queue:
            self.abandon()

    def abandon(self) -> None:
        """Close at once and forget what is queued."""
        if self.fd < 0:
            return
        self._loop.remove(self.fd)
        self._queue.clear()
        self.pending = 0
        os.close(self.fd)
        self.fd = -1
        self._on_room()

    def _flush(self) -> None:
        while self._queue:
            count = self._push(self._queue[0])
            if count == 0 or self.fd < 0:
                return
            self.pending -= count
            if count < len(self._queue[0]):
                self._queue[0] = self._queue[0][count:]
            else:
                self._queue.pop(0)
        self._loop.remove(self.fd)
        self._on_room()
        if self._closing:
            self.abandon()

    def _push(self, view: memoryview) -> int:
        """Bytes taken.  A process that closed its end takes everything."""
        try:
            return os.write(self.fd, view)
        except BlockingIOError:
            return 0
        except OSError:
            self.abandon()
            return len(view)


class Stdio:
    """Streams of one process (a container's init, or an exec).

    Life: `open_pipes` or `console_pair` → the process is spawned with those → `begin` (or `abandon`) →
    `attach` at any time before or after → `drain` when the process is dead → `finish`.
    """

    __slots__ = (
        "_begun", "_child_fds", "_clients", "_connections", "_early_input", "_finish_when_over", "_input_ended_early",
        "_log", "_loop", "_master", "_on_detach", "_over", "_own_fds", "_paused", "_sink", "_sources", "_stdin_open",
        "tty",
    )  # fmt: skip

    def __init__(
        self, loop: Loop, *, tty: bool, log: Output | None, on_detach: Callable[[], None], connections: set[object]
    ) -> None:
        """`connections` holds every open client of the shim, also those that only wait to be flushed."""
        if log is not None:
            log.when_there_is_room(self.client_drained)
        self.tty = tty
        self._connections = connections
        self._loop = loop
        self._log = log
        self._on_detach = on_detach
        self._clients: list[Client] = []
        self._sources: list[Source] = []
        self._sink: Sink | None = None
        self._master = -1
        self._child_fds: list[int] = []
        self._own_fds: list[int] = []
        self._early_input: list[bytes] = []
        self._input_ended_early = False
        self._stdin_open = False
        self._begun = False
        self._over = False
        self._finish_when_over = False
        self._paused = False

    @property
    def client_count(self) -> int:
        return len(self._clients)

    @property
    def is_over(self) -> bool:
        """Whether every output stream has ended."""
        return self._over

    @property
    def is_stdin_open(self) -> bool:
        return self._stdin_open

    # Before the process

    def open_pipes(self, *, stdin: bool) -> tuple[int, int, int]:
        """Pipes for a process without a terminal: its (0, 1, 2).  Without `stdin` its input is /dev/null."""
        if stdin:
            child_in, own_in = os.pipe()
            self._stdin_open = True
        else:
            child_in, own_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
        own_out, child_out = os.pipe()
        own_err, child_err = os.pipe()
        self._child_fds = [child_in, child_out, child_err]
        self._own_fds = [own_in, own_out, own_err]
        return child_in, child_out, child_err

    def set_master(self, master_fd: int, *, stdin: bool) -> None:
        """Take the terminal's master."""
        self._master = master_fd
        self._stdin_open = stdin

    def abandon(self) -> None:
        """The process was never started: close everything, clients included."""
        for fd in (*self._child_fds, *(fd for fd in self._own_fds if fd >= 0)):
            os.close(fd)
        self._child_fds, self._own_fds = [], []
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        self._over = True
        self.finish()

    def begin(self) -> None:
        """The process has its ends: watch ours."""
        for fd in self._child_fds:
            os.close(fd)
        self._child_fds = []
        self._begun = True
        if self.tty:
            self._begin_terminal()
        else:
            self._begin_pipes()
        early, self._early_input = self._early_input, []
        for data in early:
            self.feed(data)
        if self._input_ended_early:
            self.close_stdin()

    def _begin_terminal(self) -> None:
        if self._stdin_open:
            self._sink = Sink(os.dup(self._master), self._loop, on_room=self._room)
        self._add_source(self._master, STDOUT)

    def _begin_pipes(self) -> None:
        own_in, own_out, own_err = self._own_fds
        self._own_fds = []
        if own_in >= 0:
            self._sink = Sink(own_in, self._loop, on_room=self._room)
        self._add_source(own_out, STDOUT)
        self._add_source(own_err, STDERR)

    def _add_source(self, fd: int, stream: int) -> None:
        source = Source(fd, stream, self._loop, is_terminal=self.tty, on_data=self._output, on_end=self._source_ended)
        self._sources.append(source)

    # Clients

    def attach(self, fd: int, options: AttachOptions) -> None:
        """Take a client's connection.  Raises Unavailable when every stream has ended."""
        if self._over:
            raise Unavailable("the streams of the process have ended")
        client = Client(fd, self._loop, self, options)
        self._clients.append(client)
        self._connections.add(client)
        client.begin()

    def remove(self, client: Client) -> None:
        """A client that left by itself."""
        if client in self._clients:
            self._clients.remove(client)
        self.client_drained()

    def closed(self, client: Client) -> None:
        """A client's connection is closed."""
        self._connections.discard(client)

    def detached(self, client: Client) -> None:
        """A client typed the detach keys."""
        self.remove(client)
        client.finish()
        self._on_detach()

    def feed(self, data: bytes) -> None:
        """Input from a client."""
        if not self._begun:
            self._early_input.append(data)
            return
        if self._sink is None:
            return
        self._sink.write(data)
        if self._sink is not None and self._sink.is_full:
            self._throttle(True)

    def close_stdin(self) -> None:
        """End of the process's input; on a terminal nothing happens."""
        if self.tty:
            return
        self._stdin_open = False
        if not self._begun:
            self._input_ended_early = True
        elif self._sink is not None:
            sink, self._sink = self._sink, None
            sink.close()

    def client_drained(self) -> None:
        """Some client took output: go on reading if none is above its mark."""
        if self._paused and not self._is_full():
            self._pause(False)

    def _is_full(self) -> bool:
        return (self._log is not None and self._log.is_full) or any(
            client.pending >= HIGH_WATER_BYTES for client in self._clients
        )

    def _room(self) -> None:
        self._throttle(False)

    def _throttle(self, on: bool) -> None:
        for client in list(self._clients):
            client.throttle(on)

    def _pause(self, on: bool) -> None:
        self._paused = on
        for source in list(self._sources):
            source.pause(on)

    def _output(self, stream: int, data: bytes) -> None:
        log = self._log
        if log is not None:
            log.write(stream, data)
            if log.is_full and not self._paused:
                self._pause(True)
        for client in list(self._clients):
            client.send(stream, data)
            if client.pending >= HIGH_WATER_BYTES and not self._paused:
                self._pause(True)

    # The end

    def _source_ended(self, source: Source) -> None:
        self._sources.remove(source)
        if self._log is not None:
            self._log.end(source.stream)
        self._over = not self._sources
        if self._over and self._finish_when_over:
            self.finish()

    def drain(self) -> bool:
        """Read what the dead process left; True when every stream has ended."""
        for source in list(self._sources):
            source.drain()
        return self._over

    def end_output(self) -> None:
        """No more output will be read; clients stay until `finish`."""
        for source in list(self._sources):
            source.end()

    def finish(self) -> None:
        """No more output will be read: end clients (after their queues) and close everything."""
        self.end_output()
        if self._sink is not None:
            self._sink.abandon()
            self._sink = None
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        clients, self._clients = self._clients, []
        for client in clients:
            client.finish()
        self._over = True
        self._stdin_open = False

    def finish_soon(self, timeout_s: float) -> None:
        """`finish` at the end of the last stream, and after `timeout_s` when something holds one open."""
        self._finish_when_over = True
        for source in list(self._sources):
            source.leave()
        if self._over:
            self.finish()
            return
        self._loop.call_later(timeout_s, self.finish)

    def resize(self, rows: int, cols: int) -> None:
        """Size of the terminal; without one nothing happens."""
        if self._master >= 0:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def receive_master(connection: socket.socket) -> int:
    """The terminal's master that a runtime sends over its console socket; -1 when none came.

    The descriptor is close-on-exec and the caller's.  The socket should be non-blocking.
    """
    try:
        _, fds, _ = receive_fds(connection, 4096, 4)
    except BlockingIOError:
        return -1
    close_all(fds[1:])
    return fds[0] if fds else -1
