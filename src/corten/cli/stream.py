"""A hijacked connection between the terminal and a container: copying, demultiplexing, resize, signals, detach keys.

Docker API, "Attach to a container", Stream format: an 8-byte header (stream, 0, 0, 0, length big-endian) before each
chunk unless the container has a terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import termios
import tty as ttymod
from collections.abc import Callable, Iterator
from types import FrameType

from corten import errors

STDIN, STDOUT, STDERR = 0, 1, 2
_CHUNK = 65536
# sent to nobody: they are about this process alone
_NOT_FORWARDED = {
    signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP, signal.SIGCONT,
}  # fmt: skip


class Demultiplexer:
    """Feeds on bytes, gives (stream, payload) pairs."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The complete frames so far."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 8:
            stream, length = struct.unpack_from(">BxxxI", self._buffer, at)
            if len(self._buffer) - at - 8 < length:
                break
            yield stream, self._buffer[at + 8 : at + 8 + length]
            at += 8 + length
        self._buffer = self._buffer[at:]


class DetachKeys:
    """Finds the detach sequence in what is typed.  `feed` returns what to send and whether to detach."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Bytes that belong to a possible sequence are held back until it fails or completes."""
        if not self._keys:
            return data, False
        out = b""
        for byte in data:
            held = self._held + bytes([byte])
            if held == self._keys:
                return out, True
            if self._keys.startswith(held):
                self._held = held
            else:
                out += held
                self._held = b""
        return out, False


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` → b"\\x10\\x11".  Raises `InvalidArgument` naming the key."""
    found = b""
    for key in filter(None, text.split(",")):
        if len(key) == 1:
            found += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6 and 0x40 <= ord(key[5].upper()) < 0x60:
            found += bytes([ord(key[5].upper()) - 0x40])
        else:
            raise errors.InvalidArgument(f"invalid detach keys ({text}): unknown character: '{key}'")
    return found


@contextlib.contextmanager
def raw_terminal(fd: int, wanted: bool) -> Iterator[None]:
    """The terminal in raw mode while the block runs."""
    if not wanted or not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    ttymod.setraw(fd, termios.TCSANOW)  # what was typed already is kept
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def forwarded_signals(send: Callable[[str], None], wanted: bool) -> Iterator[None]:
    """Every signal that reaches us goes to the container instead (`--sig-proxy`)."""
    saved: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    follow = signal.getsignal(signal.SIGWINCH)

    def forward(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGWINCH and callable(follow):
            follow(number, frame)
        with contextlib.suppress(errors.CortenError):
            send(signal.Signals(number).name)

    if wanted:
        for number in set(signal.Signals) - _NOT_FORWARDED:
            with contextlib.suppress(OSError, ValueError):
                saved[number] = signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def followed_size(resize: Callable[[int, int], None], wanted: bool) -> Iterator[None]:
    """`resize(rows, columns)` now and at every SIGWINCH."""

    def tell(_number: int = 0, _frame: FrameType | None = None) -> None:
        with contextlib.suppress(OSError, errors.CortenError):
            size = os.get_terminal_size(STDOUT)
            resize(size.lines, size.columns)

    if not wanted or not os.isatty(STDOUT):
        yield
        return
    saved = signal.signal(signal.SIGWINCH, tell)
    tell()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, saved)


def copy(sock: socket.socket, first: bytes, *, stdin: bool, raw: bool, detach_keys: bytes) -> bool:
    """Copies both ways until the container's side ends; True when the user typed the detach keys."""
    demultiplexer = Demultiplexer()
    keys = DetachKeys(detach_keys if raw else b"")
    _deliver(first, demultiplexer, raw)
    pending = b""  # typed, and not taken yet: a container that waits for its output to be read takes no more
    while True:
        readable, writable = ready(sock, bool(pending), stdin and not pending)
        if sock.fileno() in readable:
            data = _receive(sock)
            if not data:
                return False
            _deliver(data, demultiplexer, raw)
        if writable:
            pending = send_some(sock, pending)
        if STDIN in readable:
            typed = os.read(STDIN, _CHUNK)
            to_send, detach = keys.feed(typed)
            pending = send_some(sock, to_send)
            if detach:
                return True
            if not typed:
                stdin = False
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)


def ready(sock: socket.socket, is_writing: bool, stdin: bool) -> tuple[set[int], bool]:
    """The descriptors that can be read (or have ended), and whether the socket takes more."""
    poller = select.poll()
    poller.register(sock, select.POLLIN | (select.POLLOUT if is_writing else 0))
    if stdin:
        poller.register(STDIN, select.POLLIN)
    found = dict(poller.poll())
    readable = {fd for fd, events in found.items() if events & ~select.POLLOUT}
    return readable, bool(found.get(sock.fileno(), 0) & select.POLLOUT)


def send_some(sock: socket.socket, data: bytes) -> bytes:
    """What is left of it; nothing when the container's side takes no more for good."""
    try:
        return data[sock.send(data, socket.MSG_DONTWAIT) :] if data else b""
    except BlockingIOError:
        return data
    except ConnectionError:
        return b""


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_CHUNK)
    except ConnectionError:
        return b""


def _deliver(data: bytes, demultiplexer: Demultiplexer, raw: bool) -> None:
    if raw:
        write_all(STDOUT, data)
        return
    for stream, payload in demultiplexer.feed(data):
        write_all(STDERR if stream == STDERR else STDOUT, payload)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data`, also to a slow descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
