"""The resolver of an engine: it answers what containers ask at 127.0.0.11, and outlives cortend.

One process for all containers.  cortend makes two sockets in a container's network namespace, to which a rule there
leads 127.0.0.11:53, and hands them over; it tells the names of each network as they change.  A cortend that was started
anew tells everything again and serves only those containers that are not served yet.

    hello                                → {"version", "containers": [id…]}
    network   {"id", "name"}                                 there is one; without a name: it is gone
    join      {"network", "container", "names": [name…], "addresses": [address…]}    in place of what it had there
    leave     {"network", "container"}
    table     {"networks": [{"id", "name", "members": [{"container", "names", "addresses"}…]}…]}    all there is
    serve     VIEW, and descriptors of a UDP and a listening TCP socket
    view      VIEW                                           another than before
    forget    {"container"}                                  it is not served, and is on no network
    end       the process ends; `cortend --destroy` says so

VIEW is {"container", "networks": [id…], "servers": [address…] or null for the host's, "way_out", "ndots", "ipv6",
"links", "joins"}: what `corten.shim.names.View` and `corten.shim.servers` say.  Without a way out nobody is asked.  The
joins are such messages, each with the "name" of its network, which need not be known.

With cortend gone and nobody to serve it ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from corten import errors
from corten.errors import CortenError, InvalidArgument, NotFound
from corten.shim import protocol, servers
from corten.shim.asking import Client, Room
from corten.shim.complain import complain
from corten.shim.loop import READ, Loop
from corten.shim.names import NetworkNames, View
from corten.shim.protocol import Message
from corten.shim.rest import Rest
from corten.shim.servers import HostServers, Place, Server
from corten.sys import openfiles

LOG_NAME: Final = "names.log"
TITLE: Final = "corten-shim names"  # and the exec-root
_FDS: Final = 2
_BREATH_S: Final = 0.05
_COMPLAINTS: Final = 1000  # of one life: its log is in memory


class Resolver:
    """Owns the control socket `names.sock` of an engine's exec-root."""

    def __init__(
        self,
        exec_root: str,
        loop: Loop,
        *,
        place: Callable[[socket.socket], Place] = Place,
        host: HostServers | None = None,
    ) -> None:
        self.loop = loop
        self.chance = random.Random()
        self.room = Room()
        self.is_ended = False
        self._place = place
        self._host = host or HostServers()
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
        return View(
            tuple(known[one] for one in client.networks if one in known),
            has_way_out=client.has_way_out,
            has_ndots=client.has_ndots,
            links=client.links,
        )

    def servers(self, client: Client) -> list[Server]:
        """Whom to ask for a container."""
        if client.named is not None:
            return servers.of_user(client.named, client.place)
        return servers.of_host(self._host.now(), client.place, has_ipv6=client.has_ipv6)

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
            self._drop(connection)
            return
        answer = self._answer(body, fds)
        with contextlib.suppress(OSError):
            protocol.send(connection, protocol.encode(answer))

    def _drop(self, connection: socket.socket) -> None:
        self.loop.remove(connection.fileno())
        self._connections.discard(connection)
        connection.close()
        self.is_ended = self.is_ended or not (self._connections or self._clients)

    def _answer(self, body: bytes, fds: list[int]) -> Message:
        seq: object = None
        try:
            request = protocol.decode(body)
            seq = request.get("seq")
            return {"seq": seq, "ok": self._do(request, fds)}
        except CortenError as error:
            return {"seq": seq, "error": protocol.failure(error)}
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            wrong = InvalidArgument(f"a request that cannot be served: {error!r}")
            return {"seq": seq, "error": protocol.failure(wrong)}
        finally:
            protocol.close_all(fds)

    def _do(self, request: Message, fds: list[int]) -> Message:
        match request.get("op"):
            case "hello":
                return {"version": protocol.VERSION, "containers": sorted(self._clients)}
            case "network":
                self._network(request)
            case "join":
                _join(self._network_of(request), request)
            case "leave":
                self._network_of(request).drop(str(request["container"]))
            case "table":
                self._networks = _table(request["networks"])
            case "serve":
                self._serve(request, fds)
            case "view":
                client = self._known(request)
                self._take_joins(request)
                _look(client, request)
            case "end":
                self.is_ended = True
            case "forget":
                self._forget(request)
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
        self._take_joins(request)
        udp, tcp = (socket.socket(fileno=fd) for fd in fds)
        fds.clear()
        before = self._clients.pop(container, None)
        if before is not None:
            before.close()
        client = self._clients[container] = Client(self, udp, tcp, self._place(udp))
        _look(client, request)

    def _take_joins(self, request: Message) -> None:
        for one in request.get("joins", ()):
            _join(self._networks.setdefault(str(one["network"]), NetworkNames(str(one["name"]))), one)

    def _known(self, request: Message) -> Client:
        container = str(request["container"])
        if container not in self._clients:
            raise NotFound(f"container {container} is not served")
        return self._clients[container]

    def _forget(self, request: Message) -> None:
        container = str(request["container"])
        for network in self._networks.values():
            network.drop(container)
        client = self._clients.pop(container, None)
        if client is not None:
            client.close()


def _join(network: NetworkNames, request: Message) -> None:
    addresses = [ip_address(one) for one in request["addresses"]]
    network.put(str(request["container"]), map(str, request["names"]), addresses)


def _table(rows: list[Message]) -> dict[str, NetworkNames]:
    networks = {}
    for row in rows:
        network = networks[str(row["id"])] = NetworkNames(str(row["name"]))
        for member in row["members"]:
            _join(network, member)
    return networks


def _look(client: Client, request: Message) -> None:
    said: Any = request.get("servers")
    client.networks = tuple(map(str, request["networks"]))
    client.named = None if said is None else tuple(map(str, said))
    client.has_way_out = bool(request.get("way_out"))
    client.has_ipv6 = bool(request.get("ipv6"))
    client.has_ndots = bool(request.get("ndots"))
    client.links = {str(alias).lower(): str(name).lower() for alias, name in (request.get("links") or {}).items()}


def run(exec_root: str, first: socket.socket, rest: Rest | None = None) -> None:
    """The life of the resolver in a process just forked from the zygote; ends when it is told to."""
    log_fd = os.open(f"{exec_root}/{LOG_NAME}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    openfiles.take_all()
    loop = Loop(rest)
    resolver = Resolver(exec_root, loop)
    resolver.take(first)
    left = _COMPLAINTS
    while not resolver.is_ended:
        try:
            loop.turn()
        except Exception as error:  # outermost: one client's or server's oddity is not everybody's
            if left:
                left -= 1
                complain(error)
            time.sleep(_BREATH_S)
