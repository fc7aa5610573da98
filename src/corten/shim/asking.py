"""One container's sockets at its resolver: what it asks by UDP and TCP, and what is under way for it.

What a container may have at once is bounded; what goes beyond is refused, and costs the others nothing: of what one
sends at once only so much is read in one turn of the loop.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from corten.shim import dns
from corten.shim.dns import Malformed
from corten.shim.forward import Forward
from corten.shim.loop import READ, WRITE, Loop, Timer
from corten.shim.names import View, local_answer
from corten.shim.servers import Place, Server

FORWARDS: Final = 100  # questions of one container that servers have not answered yet
FORWARDS_IN_ALL: Final = 1024
STREAMS: Final = 32  # connections of one container
_FEWEST: Final = 8  # questions under way that are granted as long as there is any room
_SHARE: Final = 4  # one container's, of the room that is left
_BURST: Final = 16  # questions of one socket in one turn
_QUERY: Final = 4096  # bytes of a question that is read
_IDLE_S: Final = 10.0
_UNSENT: Final = 256 * 1024  # bytes of answers that wait for a container to take them
_LATER_S: Final = 1.0
_LENGTH: Final = struct.Struct("!H")

Reply = Callable[[bytes], None]


class Room:
    """How many questions may be under way in all: who has few is served while others have many."""

    __slots__ = ("_free",)

    def __init__(self, size: int = FORWARDS_IN_ALL) -> None:
        self._free = size

    def take(self, have: int) -> bool:
        """One more, for a container that has so many; False when that is too many."""
        if not self._free or have >= min(FORWARDS, max(_FEWEST, self._free // _SHARE)):
            return False
        self._free -= 1
        return True

    def give_back(self, count: int = 1) -> None:
        """They are answered, or nobody wants them."""
        self._free += count


class House(Protocol):
    """What a client needs of its resolver."""

    loop: Loop
    chance: random.Random
    room: Room

    def view(self, client: Client) -> View: ...
    def servers(self, client: Client) -> list[Server]: ...


class Client:
    """One container's sockets.  `networks`, `named`, `links`: what cortend said of it, see corten.shim.resolver."""

    def __init__(self, house: House, udp: socket.socket, tcp: socket.socket, place: Place) -> None:
        self._house = house
        self._loop = house.loop
        self.place = place
        self.networks: tuple[str, ...] = ()
        self.named: tuple[str, ...] | None = None
        self.has_way_out = self.has_ndots = self.has_ipv6 = False
        self.links: dict[str, str] = {}
        self._udp, self._tcp = udp, tcp
        self._forwards: set[Forward] = set()
        self._streams: set[Stream] = set()
        for sock, handler in ((udp, self._datagrams), (tcp, self._accept)):
            sock.setblocking(False)
            self._loop.add(sock.fileno(), READ, handler)

    def close(self) -> None:
        """Nothing is answered any more."""
        for stream in tuple(self._streams):
            stream.close()
        for forward in self._forwards:
            forward.cancel()
        self._house.room.give_back(len(self._forwards))
        self._forwards.clear()
        for sock in (self._udp, self._tcp):
            self._loop.remove(sock.fileno())
            sock.close()
        self.place.close()

    def _datagrams(self, events: int) -> None:
        for _ in range(_BURST):
            try:
                message, peer = self._udp.recvfrom(_QUERY + 1)
            except BlockingIOError:
                return
            except OSError:  # an earlier answer met nobody
                continue
            self.ask(message, partial(self._reply, peer), by_tcp=False)
            if self._udp.fileno() < 0:
                return

    def _reply(self, peer: Any, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # its buffer is full, or it is gone: it will ask again
            self._udp.sendto(answer, peer)

    def _accept(self, events: int) -> None:
        try:
            connection, _ = self._tcp.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is left: not asked again at once
            self._loop.remove(self._tcp.fileno())
            self._loop.call_later(_LATER_S, self._listen_again)
            return
        if len(self._streams) >= STREAMS:
            connection.close()
            return
        self._streams.add(Stream(self, self._loop, connection))

    def _listen_again(self) -> None:
        if self._tcp.fileno() >= 0:
            self._loop.add(self._tcp.fileno(), READ, self._accept)

    def forget_stream(self, stream: Stream) -> None:
        """It is closed."""
        self._streams.discard(stream)

    def ask(self, message: bytes, reply: Reply, *, by_tcp: bool) -> None:
        """Answers a message, now or when a server has; nothing at all to what is no query."""
        try:
            question = dns.read(message if len(message) <= _QUERY else message[: dns.HEADER.size])
        except Malformed:
            told = dns.failure(message, dns.FORMERR)
            if told is not None:
                reply(told)
            return
        limit = 0 if by_tcp else question.size
        answer = local_answer(question, self._house.view(self), limit=limit, chance=self._house.chance)
        if answer is not None:
            reply(answer)
        elif not self._house.room.take(len(self._forwards)):
            reply(dns.answer(question, code=dns.REFUSED))
        else:
            self._forward(message, question, reply, by_tcp=by_tcp)

    def _forward(self, message: bytes, question: dns.Question, reply: Reply, *, by_tcp: bool) -> None:
        def done(answer: bytes) -> None:
            self._forwards.discard(forward)
            self._house.room.give_back()
            reply(answer)

        forward = Forward(self._loop, message, question, self._house.servers(self), by_tcp=by_tcp, done=done)
        self._forwards.add(forward)
        forward.start()


class Stream:
    """A connection of a container: questions one after the other, each behind its length."""

    def __init__(self, client: Client, loop: Loop, connection: socket.socket) -> None:
        self._client = client
        self._loop = loop
        self._socket = connection
        self._incoming = self._outgoing = b""
        self._timer: Timer | None = None
        self._more: Timer | None = None
        connection.setblocking(False)
        loop.add(connection.fileno(), READ, self._ready)
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_IDLE_S, self.close)

    def close(self) -> None:
        """May be called twice."""
        if self._socket.fileno() < 0:
            return
        for timer in (self._timer, self._more):
            if timer is not None:
                timer.cancel()
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._client.forget_stream(self)

    def _ready(self, events: int) -> None:
        if events & WRITE and self._outgoing:
            self._send()
            self._work()
        elif events & ~WRITE:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_LENGTH.size + 0xFFFF)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._incoming += data
        self._wait()
        self._work()

    def _work(self) -> None:
        """So many questions; while there are more, or answers that nobody takes, nothing is read."""
        if self._more is not None:
            self._more.cancel()
            self._more = None
        for _ in range(_BURST):
            if self._socket.fileno() < 0 or self._outgoing or len(self._incoming) < _LENGTH.size:
                break
            (length,) = _LENGTH.unpack_from(self._incoming)
            end = _LENGTH.size + length
            if len(self._incoming) < end:
                break
            message, self._incoming = self._incoming[_LENGTH.size : end], self._incoming[end:]
            self._client.ask(message, self._reply, by_tcp=True)
        else:
            self._more = self._loop.call_later(0, self._work)
        self._watch()

    def _watch(self) -> None:
        if self._socket.fileno() >= 0:
            wanted = WRITE if self._outgoing else READ if self._more is None else 0
            self._loop.change(self._socket.fileno(), wanted)

    def _reply(self, answer: bytes) -> None:
        if self._socket.fileno() < 0:
            return
        self._outgoing += _LENGTH.pack(len(answer)) + answer
        if len(self._outgoing) > _UNSENT:
            self.close()
        else:
            self._send()

    def _send(self) -> None:
        try:
            self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch()
