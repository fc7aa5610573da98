"""Questions that a server outside has to answer: one socket for each try, by UDP or TCP.

A question goes out under a random id from a port that the kernel chose at random; an answer counts when it comes from
the server that was asked, with that id and this question (RFC 5452).  A server that is silent is given up only when the
last one is: its late answer is as good.  Nobody waits: everything is an event of the loop.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence

from corten.shim import dns
from corten.shim.dns import Question
from corten.shim.loop import READ, WRITE, Loop, Timer
from corten.shim.servers import Server

SERVER_S = 2.0  # until the next server is asked, and how long the last one has
SERVERS = 3  # asked at most, as resolv.conf(5)
AGAIN = 2  # how often one that is alone is asked
PORT = 53
WRONG = 32  # answers to another question or id; then somebody guesses, and the next try has another port and id
_LENGTH = struct.Struct("!H")
_MESSAGE = 65535
_FAILED = frozenset({dns.SERVFAIL, dns.REFUSED})  # then the next server is asked, as dockerd does

Done = Callable[[bytes], None]  # with the answer under the container's id


class Forward:
    """One question under way.  `done` is called once, unless it is cancelled."""

    __slots__ = ("_by_tcp", "_done", "_left", "_loop", "_message", "_question", "_timer", "_tries")

    def __init__(
        self, loop: Loop, message: bytes, question: Question, servers: Sequence[Server], *, by_tcp: bool, done: Done
    ) -> None:
        self._loop = loop
        self._message = message
        self._question = question
        self._left = list(servers[:SERVERS]) if len(servers) > 1 else list(servers) * AGAIN
        self._by_tcp = by_tcp
        self._done = done
        self._timer: Timer | None = None
        self._tries: set[_Try] = set()

    def start(self) -> None:
        """Asks the first server."""
        self._next()

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self._forget_time()
        while self._tries:
            self._tries.pop().close()

    def _forget_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        """One more server; those that were asked may still answer."""
        self._forget_time()
        while self._left:
            server = self._left.pop(0)
            try:
                attempt = _Try(self._loop, self._message, server, by_tcp=self._by_tcp, said=self._said)
            except OSError:  # no way there
                continue
            self._tries.add(attempt)
            self._timer = self._loop.call_later(SERVER_S, self._late)
            return
        if not self._tries:
            self._finish(dns.answer(self._question, code=dns.SERVFAIL))
        else:
            self._timer = self._loop.call_later(SERVER_S, self._late)

    def _late(self) -> None:
        if self._left:
            self._next()
        else:
            self._finish(dns.answer(self._question, code=dns.SERVFAIL))

    def _finish(self, answer: bytes) -> None:
        self.cancel()
        self._done(answer)

    def _said(self, attempt: _Try, answer: bytes | None) -> None:
        """A server's message, or None for one that has nothing more to say."""
        if answer is not None and not dns.is_answer_to(answer, self._question, attempt.ident):
            attempt.wrong += 1
            if attempt.wrong < WRONG and not self._by_tcp:
                return
            answer = None
        if answer is not None and dns.code_of(answer) not in _FAILED:
            self._finish(dns.with_ident(answer, self._question.ident))
            return
        self._tries.discard(attempt)
        attempt.close()
        if self._left or not self._tries:
            self._next()


class _Try:
    """One server, one socket, one id.  `said` is called for each message, or with None at the end."""

    __slots__ = ("_by_tcp", "_incoming", "_loop", "_outgoing", "_said", "_socket", "ident", "wrong")

    def __init__(
        self,
        loop: Loop,
        message: bytes,
        server: Server,
        *,
        by_tcp: bool,
        said: Callable[[_Try, bytes | None], None],
    ) -> None:
        """Raises OSError when there is no way there."""
        self.ident = int.from_bytes(os.urandom(2), "big")
        self.wrong = 0
        self._loop = loop
        self._said = said
        self._by_tcp = by_tcp
        self._incoming = self._outgoing = b""
        message = dns.with_ident(message, self.ident)
        self._socket = server.connected(socket.SOCK_STREAM if by_tcp else socket.SOCK_DGRAM, PORT)
        if by_tcp:
            self._outgoing = _LENGTH.pack(len(message)) + message
            loop.add(self._socket.fileno(), WRITE, self._writable)
            return
        try:
            self._socket.send(message)
        except OSError:
            self._socket.close()
            raise
        loop.add(self._socket.fileno(), READ, self._readable)

    def close(self) -> None:
        """May be called twice."""
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()

    def _writable(self, events: int) -> None:
        try:
            self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
        except BlockingIOError:
            return
        except OSError:
            self._said(self, None)
            return
        if not self._outgoing:
            fd = self._socket.fileno()
            self._loop.remove(fd)
            self._loop.add(fd, READ, self._readable)

    def _readable(self, events: int) -> None:
        try:
            data = self._socket.recv(_MESSAGE + _LENGTH.size)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self._said(self, None)
            return
        if self._by_tcp:
            self._gather(data)
        else:
            self._said(self, data)

    def _gather(self, data: bytes) -> None:
        """Of a stream: the length, then the answer."""
        self._incoming += data
        if not data:
            self._said(self, None)
            return
        if len(self._incoming) < _LENGTH.size:
            return
        (length,) = _LENGTH.unpack_from(self._incoming)
        if len(self._incoming) >= _LENGTH.size + length:
            self._said(self, self._incoming[_LENGTH.size : _LENGTH.size + length])
