"""The resolver of an engine: it answers what containers ask at 127.0.0.11, and outlives cortend.

One process for all containers.  cortend makes two sockets in a container's network namespace, to which a rule there
leads 127.0.0.11:53, and hands them over; it tells the names of each network as they change.  A cortend that was started
anew tells everything again and serves only those containers that are not served yet.

    hello                                → {"version", "containers": [id…]}
    network   {"id", "name"}                                 there is one; without a name: it is gone
    join      {"network", "container", "names": [name…], "addresses": [address…]}    in place of what it had there
    leave     {"network", "container"}
    serve     {"container", "networks": [id…], "servers": [address…]} + descriptors of a UDP and a listening TCP socket
    view      {"container", "networks", "servers"}                  others than before
    forget    {"container"}
    end       the process ends; `cortend --destroy` says so

What a container may have at once is bounded; what goes beyond is refused, and costs the others nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from ipaddress import ip_address
from typing import Any, Final

from corten import errors
from corten.errors import CortenError, InvalidArgument, NotFound
from corten.shim import dns, protocol
from corten.shim.complain import complain
from corten.shim.dns import Malformed
from corten.shim.forward import Forward
from corten.shim.loop import READ, Loop, Timer
from corten.shim.names import NetworkNames, View, local_answer
from corten.shim.protocol import Message

LOG_NAME: Final = "names.log"
FORWARDS: Final = 100  # questions of one container that servers have not answered yet
STREAMS: Final = 32  # connections of one container
_BURST: Final = 64  # datagrams read in one turn, so that one container does not hold up the others
_IDLE_S: Final = 10.0
_LENGTH: Final = struct.Struct("!H")
_FDS: Final = 2
_BREATH_S: Final = 0.05


class Client:
    """One container's sockets and what is under way for it."""

    def __init__(self, resolver: Resolver, container: str, udp: socket.socket, tcp: socket.socket) -> None:
        self._resolver = resolver
        self._loop = resolver.loop
        self.container = container
        self.networks: tuple[str, ...] = ()
        self.servers: tuple[str, ...] = ()
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
        for forward in tuple(self._forwards):
            forward.cancel()
        self._forwards.clear()
        for sock in (self._udp, self._tcp):
            self._loop.remove(sock.fileno())
            sock.close()

    def _datagrams(self, events: int) -> None:
        for _ in range(_BURST):
            try:
                message, peer = self._udp.recvfrom(dns.OWN_SIZE)
            except BlockingIOError:
                return
            except OSError:  # an earlier answer met nobody
                continue
            self.ask(message, lambda answer, peer=peer: self._reply(answer, peer), by_tcp=False)

    def _reply(self, answer: bytes, peer: Any) -> None:
        with contextlib.suppress(OSError):  # its buffer is full, or it is gone: it will ask again
            self._udp.sendto(answer, peer)

    def _accept(self, events: int) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._tcp.accept()
            if len(self._streams) >= STREAMS:
                connection.close()
                return
            stream = Stream(self, self._loop, connection)
            self._streams.add(stream)

    def forget_stream(self, stream: Stream) -> None:
        """It is closed."""
        self._streams.discard(stream)

    def ask(self, message: bytes, reply: Any, *, by_tcp: bool) -> None:
        """Answers a message, now or when a server has; nothing at all to what is no query."""
        try:
            question = dns.read(message)
        except Malformed:
            told = dns.failure(message, dns.FORMERR)
            if told is not None:
                reply(told)
            return
        limit = 0 if by_tcp else question.size
        answer = local_answer(question, self._resolver.view(self), limit=limit, chance=self._resolver.chance)
        if answer is not None:
            reply(answer)
        elif len(self._forwards) >= FORWARDS:
            reply(dns.answer(question, code=dns.REFUSED))
        else:
            self._forward(message, question, reply, by_tcp=by_tcp)

    def _forward(self, message: bytes, question: dns.Question, reply: Any, *, by_tcp: bool) -> None:
        def done(answer: bytes) -> None:
            self._forwards.discard(forward)
            reply(answer)

        forward = Forward(self._loop, message, question, self.servers, by_tcp=by_tcp, done=done)
        self._forwards.add(forward)
        forward.start()


class Stream:
    """A connection of a container: questions one after the other, each behind its length."""

    def __init__(self, client: Client, loop: Loop, connection: socket.socket) -> None:
        self._client = client
        self._loop = loop
        self._socket = connection
        self._incoming = b""
        self._timer: Timer | None = None
        connection.setblocking(False)
        loop.add(connection.fileno(), READ, self._readable)
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_IDLE_S, self.close)

    def close(self) -> None:
        """May be called twice."""
        if self._socket.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._client.forget_stream(self)

    def _readable(self, events: int) -> None:
        try:
            data = self._socket.recv(_LENGTH.size + 0xFFFF)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._incoming += data
        if not data or len(self._incoming) > 2 * 0xFFFF:
            self.close()
            return
        self._wait()
        self._work()

    def _work(self) -> None:
        while len(self._incoming) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming)
            if len(self._incoming) < _LENGTH.size + length:
                return
            message = self._incoming[_LENGTH.size : _LENGTH.size + length]
            self._incoming = self._incoming[_LENGTH.size + length :]
            self._client.ask(message, self._reply, by_tcp=True)

    def _reply(self, answer: bytes) -> None:
        """What a client does not take at once ends its connection."""
        if self._socket.fileno() < 0:
            return
        raw = _LENGTH.pack(len(answer)) + answer
        try:
            whole = self._socket.send(raw) == len(raw)
        except OSError:
            whole = False
        if not whole:
            self.close()


class Resolver:
    """Owns the control socket `names.sock` of an engine's exec-root."""

    def __init__(self, exec_root: str, loop: Loop) -> None:
        self.loop = loop
        self.chance = random.Random()
        self.is_ended = False
        self._networks: dict[str, NetworkNames] = {}
        self._clients: dict[str, Client] = {}
        self._connections: set[socket.socket] = set()
        self._listener = protocol.bind_listener(exec_root, protocol.NAMES_SOCKET)
        loop.add(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Serves nobody any more."""
        for client in self._clients.values():
            client.close()
        for connection in (*self._connections, self._listener):
            self.loop.remove(connection.fileno())
            connection.close()

    def view(self, client: Client) -> View:
        """What a container sees now."""
        known = self._networks
        return View(tuple(known[one] for one in client.networks if one in known), client.servers)

    def _accept(self, events: int) -> None:
        with contextlib.suppress(OSError):
            self.take(self._listener.accept()[0])

    def take(self, connection: socket.socket) -> None:
        """Serves a connection of cortend's."""
        connection.setblocking(False)
        self._connections.add(connection)
        self.loop.add(connection.fileno(), READ, lambda events: self._readable(connection))

    def _readable(self, connection: socket.socket) -> None:
        try:
            body, fds = protocol.receive(connection)
        except BlockingIOError:
            return
        except (OSError, InvalidArgument):
            body, fds = b"", []
        if not body:
            self.loop.remove(connection.fileno())
            self._connections.discard(connection)
            connection.close()
            return
        try:
            request = protocol.decode(body)
            answer: Message = {"seq": request.get("seq"), "ok": self._do(request, fds)}
        except CortenError as error:
            answer = {"seq": protocol.decode(body).get("seq"), "error": protocol.failure(error)}
        except (KeyError, TypeError, ValueError) as error:
            wrong = InvalidArgument(f"a request that cannot be read: {error}")
            answer = {"seq": None, "error": protocol.failure(wrong)}
        finally:
            protocol.close_all(fds)
        with contextlib.suppress(OSError):
            protocol.send(connection, protocol.encode(answer))

    def _do(self, request: Message, fds: list[int]) -> Message:
        match request.get("op"):
            case "hello":
                return {"version": protocol.VERSION, "containers": sorted(self._clients)}
            case "network":
                self._network(request)
            case "join":
                addresses = [ip_address(one) for one in request["addresses"]]
                self._network_of(request).put(str(request["container"]), map(str, request["names"]), addresses)
            case "leave":
                self._network_of(request).drop(str(request["container"]))
            case "serve":
                self._serve(request, fds)
            case "view":
                self._look(self._known(request), request)
            case "end":
                self.is_ended = True
            case "forget":
                client = self._clients.pop(str(request["container"]), None)
                if client is not None:
                    client.close()
            case other:
                raise errors.NotImplemented(f"unknown op {other!r}")
        return {}

    def _network(self, request: Message) -> None:
        ident, name = str(request["id"]), str(request.get("name") or "")
        if not name:
            self._networks.pop(ident, None)
        elif ident not in self._networks:
            self._networks[ident] = NetworkNames(name)

    def _network_of(self, request: Message) -> NetworkNames:
        ident = str(request["network"])
        if ident not in self._networks:
            raise NotFound(f"network {ident} is not known")
        return self._networks[ident]

    def _serve(self, request: Message, fds: list[int]) -> None:
        if len(fds) != _FDS:
            raise InvalidArgument(f"serve: {len(fds)} descriptors in place of {_FDS}")
        container = str(request["container"])
        before = self._clients.pop(container, None)
        if before is not None:
            before.close()
        udp, tcp = (socket.socket(fileno=fd) for fd in fds)
        fds.clear()
        client = self._clients[container] = Client(self, container, udp, tcp)
        self._look(client, request)

    def _known(self, request: Message) -> Client:
        container = str(request["container"])
        if container not in self._clients:
            raise NotFound(f"container {container} is not served")
        return self._clients[container]

    def _look(self, client: Client, request: Message) -> None:
        client.networks = tuple(map(str, request["networks"]))
        client.servers = tuple(map(str, request["servers"]))


def run(exec_root: str, first: socket.socket) -> None:
    """The life of the resolver in a process just forked from the zygote; ends when it is told to."""
    log_fd = os.open(f"{exec_root}/{LOG_NAME}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    loop = Loop()
    resolver = Resolver(exec_root, loop)
    resolver.take(first)
    while not resolver.is_ended:
        try:
            loop.turn()
        except Exception as error:  # outermost: one client's or server's oddity is not everybody's
            complain(error)
            time.sleep(_BREATH_S)
