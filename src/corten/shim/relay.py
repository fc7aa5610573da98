"""Relays: what comes to a published port and no NAT leads to the container, the shim takes and passes on.

That is what comes to ::1, and to every IPv6 address where the container has none (dockerd's userland proxy).  The held
socket of the port is what is listened on; the container sees the address of its bridge.

    TCP   accept → connect → bytes by splice(2) through a pipe, both ways, each with its own end
    UDP   a connected socket for each asker, until 90 s after its last datagram (docker-proxy, UDPConnTrackTimeout)

One pipe serves a connection only while bytes wait in it.  What is not forwarded: connections beyond the limit wait in
the kernel, datagrams beyond it cost the asker that was silent longest its place.

Sources: splice(2), udp(7), ipv6(7) (IPV6_RECVPKTINFO).
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import select
import struct
import time
from typing import Any

from corten.shim.loop import HANGUP, READ, WRITE, Loop

CHUNK_BYTES = 1024 * 1024  # fcntl(2), F_SETPIPE_SZ: as much as everybody may
IDLE_S = 90.0
MAX_ASKERS = 1024  # of one UDP port
_BACKLOG = 4096  # as far as net.core.somaxconn lets it
_ROUNDS = 8  # of a direction, then the others have their turn
_BATCH = 64  # connections or datagrams, likewise
_KEPT_PIPES = 8
_SPARE_FDS = 256  # of the limit of descriptors: for attach, exec and log
_MIN_PAIRS, _MAX_PAIRS = 64, 8192  # of a shim; 3 kB each
_PAUSE_S = 0.1
_DATAGRAM_BYTES = 65535
_SO_DETACH_FILTER = 27

_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_RESET = struct.pack("ii", 1, 0)  # struct linger: close(2) sends RST
_PKTINFO_SPACE = _socket.CMSG_SPACE(20)  # struct in6_pktinfo

Target = tuple[str, int]
Address = tuple[Any, ...]


class Relays:
    """The relays of one shim, by the names of the sockets that it holds."""

    __slots__ = ("_by_name", "_loop", "_pipes", "pairs", "pairs_limit")

    def __init__(self, loop: Loop) -> None:
        self.pairs = 0
        self.pairs_limit = min(_MAX_PAIRS, max(_MIN_PAIRS, (os.sysconf("SC_OPEN_MAX") - _SPARE_FDS) // 2))
        self._loop = loop
        self._by_name: dict[str, _Tcp | _Udp] = {}
        self._pipes: list[tuple[int, int]] = []

    def serve(self, name: str, fd: int, target: Target) -> None:
        """Pass on to `target` (an address and a port) what comes to the bound socket `fd`, which stays the caller's.

        One that is served already goes on with the new target.  Raises OSError.
        """
        known = self._by_name.get(name)
        if known is not None:
            known.target = target
            return
        listener = _socket.socket(fileno=fd)
        try:
            listener.setblocking(False)
            kind = _Udp if listener.type == _socket.SOCK_DGRAM else _Tcp
            self._by_name[name] = kind(listener, target, self._loop, self)
        except OSError:
            listener.detach()
            raise

    def end(self, name: str) -> None:
        """No more of it; the socket can be closed then.  One that is not served is ignored."""
        relay = self._by_name.pop(name, None)
        if relay is not None:
            relay.close()

    def close(self) -> None:
        """The end of all; the sockets stay the caller's."""
        for name in list(self._by_name):
            self.end(name)
        while self._pipes:
            self.give_pipe(self._pipes.pop(), is_empty=False)

    def take_pipe(self) -> tuple[int, int]:
        """An empty one."""
        if self._pipes:
            return self._pipes.pop()
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        except OSError:  # the user's limit of pipe pages: a smaller one does as well
            return pipe
        return pipe

    def give_pipe(self, pipe: tuple[int, int], *, is_empty: bool) -> None:
        """It is needed no more."""
        if is_empty and len(self._pipes) < _KEPT_PIPES:
            self._pipes.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])

    def pair_ended(self) -> None:
        """There is room for another connection."""
        self.pairs -= 1
        for relay in self._by_name.values():
            if isinstance(relay, _Tcp):
                relay.go_on()


class _Tcp:
    """A listening socket and its connections."""

    __slots__ = ("_listener", "_loop", "_pairs", "_relays", "target")

    def __init__(self, listener: _socket.socket, target: Target, loop: Loop, relays: Relays) -> None:
        self.target = target
        self._listener = listener
        self._loop = loop
        self._relays = relays
        self._pairs: set[_Pair] = set()
        # past TIME_WAIT of what was accepted here before, and those of this one will let others; a listener lets nobody
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.listen(_BACKLOG)
        loop.add(listener.fileno(), READ, self._ready)

    def _ready(self, events: int) -> None:
        """At the end of the round: a new descriptor may have the number of one that was closed in it, and events of
        that may still come."""
        self._loop.call_later(0, self._accept)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            if self._listener.fileno() < 0:
                return
            if self._relays.pairs >= self._relays.pairs_limit:  # `go_on` comes with the end of a connection
                self._loop.change(self._listener.fileno(), 0)
                return
            try:
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # as socket.socket.accept does
            except BlockingIOError:
                return
            except ConnectionError:  # gone already
                continue
            except OSError:  # no descriptor, no memory
                self._loop.change(self._listener.fileno(), 0)
                self._loop.call_later(_PAUSE_S, self.go_on)
                return
            self._pair(_socket.socket(fileno=fd))

    def _pair(self, client: _socket.socket) -> None:
        try:
            pair = _Pair(client, self, self._loop, self._relays)
        except OSError:
            _reset(client)
            return
        self._pairs.add(pair)
        self._relays.pairs += 1

    def go_on(self) -> None:
        """Accept again."""
        if self._listener.fileno() >= 0:
            self._loop.change(self._listener.fileno(), READ)

    def ended(self, pair: _Pair) -> None:
        """A connection is closed."""
        self._pairs.discard(pair)
        self._relays.pair_ended()

    def close(self) -> None:
        """Ends every connection."""
        self._loop.remove(self._listener.fileno())
        self._listener.detach()
        for pair in list(self._pairs):
            pair.abort()


class _Flow:
    """One direction.  `is_done`: its end was passed on."""

    __slots__ = ("_pending", "_pipe", "_relays", "_source", "_target", "is_done")

    def __init__(self, source: _socket.socket, target: _socket.socket, relays: Relays) -> None:
        self.is_done = False
        self._source = source
        self._target = target
        self._relays = relays
        self._pipe: tuple[int, int] | None = None
        self._pending = 0

    @property
    def wants_to_read(self) -> bool:
        return not self._pending and not self.is_done

    @property
    def wants_to_write(self) -> bool:
        return self._pending > 0

    def pump(self) -> None:
        """Pass on what is there.  Raises OSError: the connection is broken."""
        try:
            for _ in range(_ROUNDS):
                if not self._pending and not self._fill():
                    break
                assert self._pipe is not None
                self._pending -= os.splice(self._pipe[0], self._target.fileno(), self._pending, flags=_SPLICE)
        except BlockingIOError:
            pass
        if not self._pending:
            self.let_go()

    def _fill(self) -> bool:
        if self.is_done:
            return False
        if self._pipe is None:
            self._pipe = self._relays.take_pipe()
        self._pending = os.splice(self._source.fileno(), self._pipe[1], CHUNK_BYTES, flags=_SPLICE)
        if self._pending:
            return True
        self.is_done = True
        self._target.shutdown(_socket.SHUT_WR)
        return False

    def let_go(self) -> None:
        """Give the pipe back."""
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            self._relays.give_pipe(pipe, is_empty=not self._pending)


class _Pair:
    """A client's connection and ours to the container.  Owns both."""

    __slots__ = ("_back", "_client", "_inside", "_is_connected", "_loop", "_tcp", "_there")

    def __init__(self, client: _socket.socket, tcp: _Tcp, loop: Loop, relays: Relays) -> None:
        """Takes `client`, unless it raises OSError."""
        self._client = client
        self._tcp = tcp
        self._loop = loop
        self._is_connected = False
        self._inside = _socket.socket(_family(tcp.target), _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        try:
            for one in (client, self._inside):
                one.setblocking(False)
                one.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                one.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
            self._connect(tcp.target)
            loop.add(self._inside.fileno(), WRITE, self._inside_ready)
            loop.add(client.fileno(), 0, self._client_ready)
        except OSError:
            loop.remove(self._inside.fileno())
            self._inside.close()
            raise
        self._there = _Flow(client, self._inside, relays)
        self._back = _Flow(self._inside, client, relays)

    def _connect(self, target: Target) -> None:
        try:
            self._inside.connect(target)
        except BlockingIOError:  # EINPROGRESS
            return

    def _client_ready(self, events: int) -> None:
        if self._is_connected:
            self._turn(self._there, self._back, events, 0)
        else:  # it is gone
            self.abort()

    def _inside_ready(self, events: int) -> None:
        if self._is_connected:
            self._turn(self._back, self._there, 0, events)
        elif self._inside.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            self.abort()
        else:
            self._is_connected = True
            self._watch(0, 0)

    def _turn(self, from_it: _Flow, to_it: _Flow, client_events: int, inside_events: int) -> None:
        events = client_events | inside_events
        try:
            if events & (READ | HANGUP) and from_it.wants_to_read:
                from_it.pump()
            if events & (WRITE | HANGUP) and to_it.wants_to_write:
                to_it.pump()
        except OSError:
            self.abort()
            return
        if self._there.is_done and self._back.is_done:
            self._close()
        else:
            self._watch(client_events, inside_events)

    def _watch(self, client_events: int, inside_events: int) -> None:
        self._watch_one(self._client, self._there, self._back, client_events)
        if self._client.fileno() >= 0:
            self._watch_one(self._inside, self._back, self._there, inside_events)

    def _watch_one(self, sock: _socket.socket, from_it: _Flow, to_it: _Flow, events: int) -> None:
        mask = (READ if from_it.wants_to_read else 0) | (WRITE if to_it.wants_to_write else 0)
        if not mask and events & select.EPOLLERR:
            self.abort()
        elif not mask and events & HANGUP:
            self._loop.remove(sock.fileno())  # it would be told for ever
        elif self._loop.watches(sock.fileno()):
            self._loop.change(sock.fileno(), mask)
        elif mask:
            handler = self._client_ready if sock is self._client else self._inside_ready
            self._loop.add(sock.fileno(), mask, handler)

    def abort(self) -> None:
        """End both sides with a reset."""
        for one in (self._client, self._inside):
            one.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET)
        self._close()

    def _close(self) -> None:
        for flow in (self._there, self._back):
            flow.let_go()
        for one in (self._client, self._inside):
            self._loop.remove(one.fileno())
            one.close()
        self._tcp.ended(self)


def _family(target: Target) -> int:
    return _socket.AF_INET6 if ":" in target[0] else _socket.AF_INET


def _reset(sock: _socket.socket) -> None:
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET)
    sock.close()


class _Asker:
    """Who sends to a UDP port: our socket for it, and how it is answered."""

    __slots__ = ("address", "last", "local", "sock")

    def __init__(self, sock: _socket.socket, address: Address, local: bytes) -> None:
        self.sock = sock
        self.address = address
        self.local = local  # struct in6_pktinfo of the address that it asked
        self.last = 0.0


class _Udp:
    """A UDP port and those who send to it."""

    __slots__ = ("_askers", "_is_sweeping", "_listener", "_loop", "_target", "target")

    def __init__(self, listener: _socket.socket, target: Target, loop: Loop, relays: Relays) -> None:
        self.target = self._target = target
        self._listener = listener
        self._loop = loop
        self._askers: dict[tuple[Address, bytes], _Asker] = {}  # the one that spoke last comes last
        self._is_sweeping = False
        with contextlib.suppress(OSError):  # as ENOENT: there is none; one that was not relayed before has one
            listener.setsockopt(_socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        listener.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO, 1)
        loop.add(listener.fileno(), READ, self._ready)

    def _ready(self, events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, address = self._listener.recvmsg(_DATAGRAM_BYTES, _PKTINFO_SPACE)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an answer
                continue
            self._pass_on(data, address, ancillary[0][2] if ancillary else b"")

    def _pass_on(self, data: bytes, address: Address, local: bytes) -> None:
        if self._target != self.target:
            self._target = self.target
            self._forget_all()
        key = (address, local)
        asker = self._askers.pop(key, None) or self._new_asker(address, local)
        if asker is None:
            return
        self._askers[key] = asker
        asker.last = time.monotonic()
        try:
            asker.sock.send(data)
        except OSError:  # nobody listens there, or the queue is full: a datagram is lost
            return

    def _new_asker(self, address: Address, local: bytes) -> _Asker | None:
        if len(self._askers) >= MAX_ASKERS:
            self._forget(next(iter(self._askers)))
        try:
            sock = _socket.socket(_family(self.target), _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK)
        except OSError:
            return None
        try:
            sock.connect(self.target)
        except OSError:
            sock.close()
            return None
        asker = _Asker(sock, address, local)
        self._loop.add(sock.fileno(), READ, lambda events: self._answer(asker))
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(IDLE_S, self._sweep)
        return asker

    def _answer(self, asker: _Asker) -> None:
        for _ in range(_BATCH):
            try:
                data = asker.sock.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ICMP: nobody listens
                continue
            asker.last = time.monotonic()
            ancillary = [(_socket.IPPROTO_IPV6, _socket.IPV6_PKTINFO, asker.local)] if asker.local else []
            try:
                self._listener.sendmsg([data], ancillary, 0, asker.address)
            except OSError:  # it is gone, or its queue is full
                continue

    def _sweep(self) -> None:
        """Forget those that were silent; look again while there are others."""
        end = time.monotonic() - IDLE_S
        for key in [key for key, asker in self._askers.items() if asker.last <= end]:
            self._forget(key)
        self._is_sweeping = bool(self._askers)
        if self._is_sweeping:
            self._loop.call_later(IDLE_S / 3, self._sweep)

    def _forget(self, key: tuple[Address, bytes]) -> None:
        asker = self._askers.pop(key)
        self._loop.remove(asker.sock.fileno())
        self._loop.call_later(0, asker.sock.close)  # its number may not be another's while events of this round come

    def _forget_all(self) -> None:
        for key in list(self._askers):
            self._forget(key)

    def close(self) -> None:
        """Ends it."""
        self._loop.remove(self._listener.fileno())
        self._listener.detach()
        self._forget_all()
