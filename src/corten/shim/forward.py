"""Questions that a server outside has to answer: one socket each, by UDP or TCP, in the host's network.

A question by UDP goes out under a random id from a port that the kernel chose at random, to one server at a time; an
answer counts when it comes from that server, with that id and this question (RFC 5452).  Nobody waits: everything is
an event of the loop.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
from collections.abc import Callable, Sequence

from corten.shim import dns
from corten.shim.dns import Question
from corten.shim.loop import READ, WRITE, Loop, Timer

SERVER_S = 2.0  # until the next server is asked
SERVERS = 3  # asked at most, as resolv.conf(5)
PORT = 53
_LENGTH = struct.Struct("!H")
_MESSAGE = 65535

Done = Callable[[bytes], None]  # with the answer under the container's id


class Forward:
    """One question under way.  `done` is called once, unless it is cancelled."""

    __slots__ = ("_by_tcp", "_done", "_ident", "_incoming", "_loop", "_message", "_outgoing", "_question", "_servers",
                 "_socket", "_timer")  # fmt: skip

    def __init__(
        self, loop: Loop, message: bytes, question: Question, servers: Sequence[str], *, by_tcp: bool, done: Done
    ) -> None:
        self._loop = loop
        self._message = message
        self._question = question
        self._servers = list(servers[:SERVERS])
        self._by_tcp = by_tcp
        self._done = done
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._ident = 0
        self._incoming = b""
        self._outgoing = b""

    def start(self) -> None:
        """Asks the first server."""
        self._next()

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _next(self) -> None:
        self.cancel()
        while self._servers:
            server = self._servers.pop(0)
            try:
                self._ask(server)
            except OSError:  # no way there
                self.cancel()
                continue
            self._timer = self._loop.call_later(SERVER_S, self._next)
            return
        self._done(dns.answer(self._question, code=dns.SERVFAIL))

    def _ask(self, server: str) -> None:
        self._ident, self._incoming = secrets.randbelow(1 << 16), b""
        message = dns.with_ident(self._message, self._ident)
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        kind = socket.SOCK_STREAM if self._by_tcp else socket.SOCK_DGRAM
        sock = self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        code = sock.connect_ex((server, PORT))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
        if self._by_tcp:
            self._outgoing = _LENGTH.pack(len(message)) + message
            self._loop.add(sock.fileno(), WRITE, self._writable)
        else:
            sock.send(message)
            self._loop.add(sock.fileno(), READ, self._readable)

    def _writable(self, events: int) -> None:
        assert self._socket is not None
        try:
            self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
        except BlockingIOError:
            return
        except OSError:
            self._next()
            return
        if not self._outgoing:
            fd = self._socket.fileno()
            self._loop.remove(fd)
            self._loop.add(fd, READ, self._readable)

    def _readable(self, events: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_MESSAGE + _LENGTH.size)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self._next()
            return
        if self._by_tcp:
            self._gather(data)
        else:
            self._judge(data)

    def _gather(self, data: bytes) -> None:
        """Of a stream: the length, then the answer."""
        self._incoming += data
        if not data:
            self._next()
            return
        if len(self._incoming) < _LENGTH.size:
            return
        (length,) = _LENGTH.unpack_from(self._incoming)
        if len(self._incoming) >= _LENGTH.size + length:
            self._judge(self._incoming[_LENGTH.size : _LENGTH.size + length])

    def _judge(self, answer: bytes) -> None:
        """What is no answer to this is as if it had not come."""
        if dns.is_answer_to(answer, self._question, self._ident):
            self.cancel()
            self._done(dns.with_ident(answer, self._question.ident))
        elif self._by_tcp:
            self._next()
