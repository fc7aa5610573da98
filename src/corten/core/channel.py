"""Requests and answers over one socket to a shim or the zygote, on asyncio (docs/shim.md)."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corten.errors import InvalidArgument, Unavailable
from corten.shim import protocol
from corten.shim.protocol import Message, raise_failure

EventHandler = Callable[[Message], None]
LostHandler = Callable[[], None]


class Channel:
    """Requests and answers by `seq` over one SEQPACKET socket, in the running event loop."""

    def __init__(self, sock: socket.socket, *, name: str, on_event: EventHandler, on_lost: LostHandler) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._name = name
        self._on_event = on_event
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._seq = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[Message, list[int]]]] = {}
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def is_open(self) -> bool:
        return self._socket.fileno() >= 0

    async def request(
        self, op: str, fields: Mapping[str, Any], fds: Sequence[int], timeout_s: float | None
    ) -> tuple[Message, list[int]]:
        """(answer, descriptors, which are the caller's).  `fds` stay the caller's."""
        seq = next(self._seq)
        future: asyncio.Future[tuple[Message, list[int]]] = self._loop.create_future()
        body = protocol.encode({**fields, "op": op, "seq": seq})
        self._send(body, fds)
        self._waiting[seq] = future
        try:
            answer, received = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            _drop(future)
            raise Unavailable(f"{self._name} does not answer ({op}, {timeout_s:g} s)") from None
        except asyncio.CancelledError:
            _drop(future)
            raise
        finally:
            self._waiting.pop(seq, None)
        error = answer.get("error")
        if error is not None:
            protocol.close_all(received)
            raise_failure(error)
        return answer.get("ok") or {}, received

    def close(self) -> None:
        """Disconnect without calling `on_lost`; requests under way fail with Unavailable."""
        if not self.is_open:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        while self._outgoing:
            protocol.close_all(self._outgoing.popleft()[1])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"{self._name} is gone"))

    def _send(self, body: bytes, fds: Sequence[int]) -> None:
        if not self.is_open:
            raise Unavailable(f"{self._name} is gone")
        if not self._outgoing and self._send_now(body, fds):
            return
        self._outgoing.append((body, [os.dup(fd) for fd in fds]))
        self._loop.add_writer(self._socket.fileno(), self._writable)

    def _send_now(self, body: bytes, fds: Sequence[int]) -> bool:
        """False when the peer's buffer is full."""
        try:
            protocol.send(self._socket, body, fds)
        except BlockingIOError:
            return False
        except OSError as error:  # the peer's end is seen here before its reader has run
            self.close()
            self._loop.call_soon(self._on_lost)
            raise Unavailable(f"{self._name} is gone") from error
        return True

    def _writable(self) -> None:
        while self._outgoing:
            body, fds = self._outgoing[0]
            try:
                if not self._send_now(body, fds):
                    return
            except Unavailable:
                return
            protocol.close_all(fds)
            self._outgoing.popleft()
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while self.is_open:
            try:
                body, fds = protocol.receive(self._socket)
            except BlockingIOError:
                return
            except (OSError, InvalidArgument):
                body, fds = b"", []
            if not body:
                self._lost()
                return
            self._received(protocol.decode(body), fds)

    def _received(self, message: Message, fds: list[int]) -> None:
        if "event" in message:
            protocol.close_all(fds)
            self._on_event(message)
            return
        future = self._waiting.get(message.get("seq") or 0)
        if future is None or future.done():
            protocol.close_all(fds)
        else:
            future.set_result((message, fds))

    def _lost(self) -> None:
        self.close()
        self._on_lost()


def _drop(future: asyncio.Future[tuple[Message, list[int]]]) -> None:
    """An answer that came in the moment in which its request was cancelled (from Python 3.12): nobody else has it."""
    if future.done() and not future.cancelled() and future.exception() is None:
        protocol.close_all(future.result()[1])
