"""The shim's socket: connections, requests in their order, events to everybody.

Requests that change the container run one after the other, in the order of arrival; those that only look, signal or
attach are answered at once, also while another one waits for a slow runtime.  A peer that stops reading is disconnected
(it adopts again with a new connection and misses nothing: `hello` tells the whole state).
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from corten.errors import CortenError, Internal, InvalidArgument
from corten.shim import protocol
from corten.shim.backend import Steps
from corten.shim.complain import complain
from corten.shim.loop import HANGUP, READ, WRITE, Loop
from corten.shim.protocol import Message
from corten.shim.request import Request
from corten.sys import files

_MAX_QUEUED = 1024  # answers and events for one peer
_MAX_REQUESTS = 16  # of one peer in one round
_SO_PEERCRED_BYTES = struct.calcsize("3i")


class Answerer(Protocol):
    """Who knows the requests."""

    def is_in_order(self, op: str) -> bool:
        """Whether requests of this name run one after the other."""

    def is_beside(self, op: str) -> bool:
        """Whether the next in order need not wait for the end of a request of this name."""

    def arrived(self, request: Request) -> None:
        """A request has come, perhaps while others are under way; now it waits for its turn."""

    def answer(self, request: Request) -> Message:
        """The value of `ok`, at once."""

    def answer_in_order(self, request: Request) -> Steps[Message]:
        """The value of `ok`, when its turn has come."""

    def last_peer_left(self) -> None:
        """Nobody is connected any more."""


class Connection:
    """One peer, cortend as a rule.  Owns its socket."""

    __slots__ = ("_loop", "_queue", "_server", "_socket")

    def __init__(self, sock: socket.socket, loop: Loop, server: Server) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = loop
        self._server = server
        self._queue: deque[bytes] = deque()
        loop.add(sock.fileno(), READ, self._ready)

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send or queue a message; one with descriptors is never queued, and is lost with a peer that does not read."""
        if self._socket.fileno() < 0:
            return
        body = protocol.encode(message)
        try:
            if not self._queue:
                protocol.send(self._socket, body, fds)
                return
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if len(self._queue) >= _MAX_QUEUED or fds:
            self.close()
            return
        self._queue.append(body)
        self._loop.change(self._socket.fileno(), READ | WRITE)

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._server.disconnected(self)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if self._socket.fileno() >= 0 and events & (READ | HANGUP):
            for _ in range(_MAX_REQUESTS):
                if not self._receive():
                    return

    def _flush(self) -> None:
        try:
            while self._queue:
                protocol.send(self._socket, self._queue[0])
                self._queue.popleft()
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._loop.change(self._socket.fileno(), READ)

    def _receive(self) -> bool:
        """One message; False when there is no more for now."""
        try:
            body, fds = protocol.receive(self._socket)
        except BlockingIOError:
            return False
        except InvalidArgument as error:
            self.send({"seq": None, "error": protocol.failure(error)})
            return True
        except OSError:
            body, fds = b"", []
        if not body:
            protocol.close_all(fds)
            self.close()
            return False
        self._server.handle(self, body, fds)
        return self._socket.fileno() >= 0


class Server:
    """Reads requests and sends what the `Answerer` makes of them."""

    __slots__ = ("_answerer", "_busy", "_connections", "_listener", "_loop", "_waiting")

    def __init__(self, loop: Loop, answerer: Answerer) -> None:
        self._loop = loop
        self._answerer = answerer
        self._connections: list[Connection] = []
        self._listener: socket.socket | None = None
        self._waiting: deque[tuple[Connection, Request] | Callable[[], Steps[None]]] = deque()
        self._busy = False

    @property
    def is_busy(self) -> bool:
        """Whether a request that changes the container is under way."""
        return self._busy

    def in_turn(self, work: Callable[[], Steps[None]]) -> None:
        """Have the shim's own work done among the requests that run one after the other."""
        self._waiting.append(work)
        self._next()

    def listen(self, directory: str) -> int:
        """Listen in `directory`; the inode of the socket's file, which appears when the shim can be connected to."""
        self._listener = protocol.bind_listener(directory)
        self._loop.add(self._listener.fileno(), READ, self._accept)
        return os.stat(f"{directory}/{protocol.SOCKET_NAME}").st_ino

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that exists already."""
        self._connections.append(Connection(sock, self._loop, self))

    def broadcast(self, event: Message) -> None:
        """An event to every peer."""
        for connection in list(self._connections):
            connection.send(event)

    def close(self) -> None:
        """Stop listening and disconnect everybody."""
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.close()

    def disconnected(self, connection: Connection) -> None:
        self._connections.remove(connection)
        if not self._connections:
            self._answerer.last_peer_left()

    def handle(self, connection: Connection, body: bytes, fds: list[int]) -> None:
        """One message of a peer; every failure becomes one answer."""
        try:
            message = protocol.decode(body)
        except InvalidArgument as error:
            protocol.close_all(fds)
            connection.send({"seq": None, "error": protocol.failure(error)})
            return
        try:
            request = Request(message, fds)
        except InvalidArgument as error:
            protocol.close_all(fds)
            connection.send({"seq": message.get("seq"), "error": protocol.failure(error)})
            return
        if self._answerer.is_in_order(request.op):
            self._answerer.arrived(request)
            self._waiting.append((connection, request))
            self._next()
        else:
            self._answer_now(connection, request)

    def _answer_now(self, connection: Connection, request: Request) -> None:
        try:
            answer: Message = {"ok": self._answerer.answer(request)}
        except Exception as error:  # the shim's outermost loop: no request may end it
            answer = {"error": failure(error)}
        finally:
            request.close()
        connection.send({"seq": request.seq, **answer}, request.answer_fds)

    def _next(self) -> None:
        while not self._busy and self._waiting:
            turn = self._waiting.popleft()
            if not isinstance(turn, tuple):
                self._busy = True
                self._loop.start(self._alone(turn()))
                return
            connection, request = turn
            if self._answerer.is_beside(request.op):
                self._loop.start(self._run(connection, request))
            else:
                self._busy = True
                self._loop.start(self._alone(self._run(connection, request)))

    def _alone(self, work: Steps[None]) -> Steps[None]:
        yield from work
        self._busy = False
        self._loop.call_later(0, self._next)

    def _run(self, connection: Connection, request: Request) -> Steps[None]:
        try:
            answer: Message = {"ok": (yield from self._answerer.answer_in_order(request))}
        except Exception as error:  # outermost, as above
            answer = {"error": failure(error)}
        finally:
            request.close()
        connection.send({"seq": request.seq, **answer})

    def _accept(self, events: int) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:  # taken back by the peer, or out of descriptors
            return
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED_BYTES)
        if struct.unpack("3i", credentials)[1] != os.geteuid():
            sock.close()
            return
        self.adopt(sock)


def failure(error: Exception) -> Message:
    """The value of `error` in an answer; what was not raised on purpose goes to the shim's log with its place."""
    if isinstance(error, CortenError):
        return protocol.failure(error)
    if isinstance(error, OSError):
        complain(error)
        return protocol.failure(Internal(files.sentence(error)))
    complain(error)
    return protocol.failure(Internal(f"{type(error).__name__}: {error}"))
