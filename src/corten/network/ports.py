"""Published ports: what was asked, which host ports are ours, and the sockets that hold them.

A published port is held by a socket that is bound and does not listen, so that another program gets "address already
in use" as it would from Docker.  Packets do not reach it: NAT takes them before.  The shim keeps the socket, so the
port stays held while no daemon runs.  What NAT cannot lead to the container (to ::1; to any IPv6 address where the
container has none) the shim itself takes from the socket and relays (shim/relay.py).

Texts and order are those of dockerd 26.1, except that an unreadable HostIp is refused (dockerd publishes on all
addresses then) and that a port in PortBindings needs no entry in ExposedPorts (dockerd ignores it without one).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from corten.errors import InvalidArgument
from corten.network.values import (
    ANY,
    ANY6,
    LOOPBACK6,
    Endpoint,
    PortBinding,
    PortConflict,
    Publication,
    Transport,
)
from corten.sys.rtnetlink import IPAddress

EPHEMERAL = (32768, 60999)  # ip_local_port_range as the kernel sets it; Docker falls back to the same
WITH_PROXY = "Error starting userland proxy: "  # so dockerd calls what holds its ports, unless it has none
SO_ATTACH_FILTER = 26
DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)  # one classic BPF instruction: BPF_RET | BPF_K, 0 bytes

_EXPOSED_MAX = 1 << 17  # every port of tcp and udp
_KINDS: Mapping[Transport, tuple[socket.SocketKind, int]] = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_NO_SUCH_SOCKET = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


# --- what was asked


def parse_bindings(
    exposed: Iterable[str], bindings: Mapping[str, Sequence[tuple[str, str]]], *, publish_all: bool = False
) -> tuple[PortBinding, ...]:
    """ExposedPorts and PortBindings ({"80/tcp": [(HostIp, HostPort)]}) in the order in which they are taken.

    Ports that were named come before ephemeral ones, so that none of the latter takes one of the former.
    Raises InvalidArgument.
    """
    found = [_binding(key, *each) for key, wanted in bindings.items() for each in wanted]
    bound = {(one.container_port, one.transport) for one in found}
    for port, transport in _every_port(exposed) if publish_all else ():
        if (port, transport) not in bound:
            bound.add((port, transport))
            found.append(PortBinding(transport, port))
    return tuple(sorted(found, key=lambda one: (-one.first, -one.container_port, one.transport != "tcp")))


def _every_port(exposed: Iterable[str]) -> Iterator[tuple[int, Transport]]:
    """The ports of all entries, which may be an image's: raises InvalidArgument for more than there are."""
    for count, port in enumerate(port for spec in exposed for port in exposed_ports(spec)):
        if count >= _EXPOSED_MAX:
            raise InvalidArgument(f"more than {_EXPOSED_MAX} ports are exposed")
        yield port


def _binding(key: str, host_ip: str, host_port: str) -> PortBinding:
    port, transport = _container_port(key)
    first, last = _range(host_port.partition("/")[0]) if host_port else (0, 0)
    return PortBinding(transport, port, _host_ip(host_ip), first, last)


def exposed_ports(spec: str) -> Iterator[tuple[int, Transport]]:
    """(port, protocol) of every port in an entry of ExposedPorts such as `80`, `53/udp`, `8000-8005/tcp`."""
    ports, _, transport = spec.partition("/")
    first, last = _range(ports)
    for port in range(first, last + 1):
        yield port, _transport(transport)


def exposed_port(spec: str) -> str:
    """An entry of ExposedPorts as dockerd shows it: `80` is `80/tcp`, what is no single port is port 0.

    The entry may be an image's: whatever it says, the container must be seen.
    """
    port, _, transport = spec.partition("/")
    is_port = port.isascii() and port.isdecimal() and len(port) <= 18 and int(port) <= 65535
    return f"{int(port) if is_port else 0}/{transport.lower() or 'tcp'}"


def _container_port(key: str) -> tuple[int, Transport]:
    port, _, transport = key.partition("/")
    return _number(port, port), _transport(transport)


def _transport(word: str) -> Transport:
    match word.lower():
        case "" | "tcp":
            return "tcp"
        case "udp":
            return "udp"
        case "sctp":
            return "sctp"
        case _:
            raise InvalidArgument(f"invalid proto: {word}")


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low = _number(first, text)
    high = _number(last, text) if dash else low
    if high < low:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return low, high


def _number(word: str, text: str) -> int:
    if not (word.isascii() and word.isdecimal()) or len(word) > 18 or int(word) > 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return int(word)


def _host_ip(text: str) -> IPAddress | None:
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f'invalid host IP address: "{text}"') from error
    if isinstance(address, IPv6Address):
        if address.scope_id:
            raise InvalidArgument(f'invalid host IP address: "{text}"')
        return address.ipv4_mapped or address  # as net.ParseIP reads it
    return address


# --- who has which port


@dataclass(frozen=True, slots=True)
class Place:
    """A host's address on which a port is published; `is_relayed` as of a Publication."""

    host_ip: IPAddress
    is_relayed: bool = False


def places(
    binding: PortBinding, default: IPAddress, has: Endpoint, *, has_relay: bool, is_v6_listenable: bool
) -> tuple[Place, ...]:
    """Where a binding is published for a container with the addresses that `has` has; what cannot be is left out.

    libnetwork's bridge driver, allocatePortsInternal: a container without IPv6 is reached by IPv6 as well, over the
    userland proxy, which is our relay.
    """
    if binding.host_ip is not None:
        wanted: tuple[IPAddress, ...] = (binding.host_ip,)
    else:
        wanted = (ANY, ANY6) if default == ANY and is_v6_listenable else (default,)
    found = (place(one, binding.transport, has, has_relay=has_relay) for one in wanted)
    return tuple(one for one in found if one is not None)


def place(host_ip: IPAddress, transport: Transport, has: Endpoint, *, has_relay: bool) -> Place | None:
    """Where a port of the host's address is published for a container; None where it cannot be."""
    if host_ip.version == 4:
        return Place(host_ip) if has.address is not None else None
    can_relay = has_relay and transport != "sctp"
    if has.address6 is None:
        return Place(host_ip, is_relayed=True) if can_relay else None
    return Place(host_ip, is_relayed=can_relay and host_ip in (ANY6, LOOPBACK6))


def is_v6_listenable() -> bool:
    """::1 can be had; where it cannot, Docker publishes nothing on IPv6 unasked."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((str(LOOPBACK6), 0))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Reservation:
    """A host port and the socket that holds it; who gets the reservation closes it."""

    publication: Publication
    socket: socket.socket


class PortTable:
    """The host ports of this engine.  Not for several threads at once."""

    def __init__(self, ephemeral: tuple[int, int] = EPHEMERAL, *, prefix: str = WITH_PROXY) -> None:
        """`prefix` of what is told of a port that another program has."""
        self._ephemeral = ephemeral
        self._prefix = prefix
        self._taken: set[tuple[Transport, IPAddress, int]] = set()
        self._last: dict[tuple[Transport, IPAddress, int, int], int] = {}

    def take(self, publication: Publication) -> None:
        """Counts a port as taken whose socket a shim holds already."""
        self._taken.add((publication.transport, publication.host_ip, publication.host_port))

    def release(self, publication: Publication) -> None:
        """Gives a port back; no error when it was not taken."""
        self._taken.discard((publication.transport, publication.host_ip, publication.host_port))

    def reserve(self, binding: PortBinding, on: Sequence[Place]) -> tuple[Reservation, ...]:
        """Takes one port on every place and binds its sockets; raises PortConflict in Docker's words."""
        if not on:
            return ()
        if binding.first and binding.first == binding.last:
            for one in on:
                if (binding.transport, one.host_ip, binding.first) in self._taken:
                    raise PortConflict(f"Bind for {one.host_ip}:{binding.first} failed: port is already allocated")
            return self._bind(binding, on, binding.first)
        return self._first_free(binding, on)

    def _first_free(self, binding: PortBinding, on: Sequence[Place]) -> tuple[Reservation, ...]:
        refused: PortConflict | None = None
        for port in self._candidates(binding, on[0].host_ip):
            if any((binding.transport, one.host_ip, port) in self._taken for one in on):
                continue
            try:
                return self._bind(binding, on, port)
            except PortConflict as conflict:
                refused = conflict
        raise refused or PortConflict("all ports are allocated")

    def _candidates(self, binding: PortBinding, host_ip: IPAddress) -> Iterator[int]:
        """The range once around, beginning behind the port that it gave last."""
        first, last = (binding.first, binding.last) if binding.first else self._ephemeral
        key = (binding.transport, host_ip, first, last)
        begin = self._last.get(key, last) + 1
        for offset in range(last - first + 1):
            port = first + (begin - first + offset) % (last - first + 1)
            self._last[key] = port
            yield port

    def _bind(self, binding: PortBinding, on: Sequence[Place], port: int) -> tuple[Reservation, ...]:
        held: list[Reservation] = []
        try:
            for one in on:
                publication = Publication(
                    binding.transport, one.host_ip, port, binding.container_port, is_relayed=one.is_relayed
                )
                held.append(Reservation(publication, bind(publication, self._prefix)))
        except (OSError, PortConflict):
            for reservation in held:
                reservation.socket.close()
            raise
        for reservation in held:
            self.take(reservation.publication)
        return tuple(held)


# --- the sockets


def bind(publication: Publication, prefix: str = WITH_PROXY) -> socket.socket:
    """The socket that holds a port; raises PortConflict when another program has it."""
    address = (str(publication.host_ip), publication.host_port)
    held: socket.socket | None = None
    try:
        held = _socket(publication)
        _hold(held, address, swallows=not publication.is_relayed)
    except OSError as error:
        if held is not None:
            held.close()
        elif error.errno not in _NO_SUCH_SOCKET:  # no descriptor left
            raise
        reason = os.strerror(error.errno or errno.EADDRINUSE).lower()
        raise PortConflict(f"{prefix}{_listen(publication)}{reason}") from error
    return held


def _listen(publication: Publication) -> str:
    """What Go's net says before a reason; of sctp dockerd's library says nothing."""
    if publication.transport == "sctp":
        return ""
    version = publication.host_ip.version
    return f"listen {publication.transport}{version} {publication.shown}:{publication.host_port}: bind: "


def _socket(publication: Publication) -> socket.socket:
    """Sockets of [::] leave 0.0.0.0 to others.  ipv6(7), IPV6_V6ONLY"""
    is_v6 = publication.host_ip.version == 6
    kind, protocol = _KINDS[publication.transport]
    made = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, kind, protocol)
    if is_v6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _hold(held: socket.socket, address: tuple[str, int], *, swallows: bool) -> None:
    """Binds; of connections that are only in TIME_WAIT, a plain bind says EADDRINUSE, so it is tried again.

    `swallows`: what comes to a UDP socket all the same is dropped.
    """
    if held.type == socket.SOCK_DGRAM:
        if swallows:
            _swallow(held)
        held.bind(address)
        return
    try:
        held.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or held.proto == socket.IPPROTO_SCTP:
            raise
        _hold_over_time_wait(held, address)


def _swallow(held: socket.socket) -> None:
    """Drops what reaches a UDP socket, so that nothing piles up in it.  socket(7), SO_ATTACH_FILTER"""
    code = ctypes.create_string_buffer(DROP_ALL, len(DROP_ALL))
    program = struct.pack("@HP", 1, ctypes.addressof(code))  # struct sock_fprog
    held.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _hold_over_time_wait(held: socket.socket, address: tuple[str, int]) -> None:
    """SO_REUSEADDR gets past TIME_WAIT, and would let others past us: listening for a moment ends that.

    listen(2) makes the kernel forget that everyone on this port agreed to share it (inet_csk_update_fastreuse);
    shutdown(2) turns a listener back into a bound socket.
    """
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(address)
    held.listen(1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.shutdown(socket.SHUT_RDWR)
