"""A name server in a namespace of the lab: what a host's resolver would answer, in words of dnspython's.

It keeps what it was asked, so that a test can tell a question that leaked from one that did not.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from support.netlab import Node

TTL_S = 60
ANSWER_S = 10.0
PLAIN_BYTES = 512  # of a UDP answer to who did not say more (EDNS)

Transport = Literal["udp", "tcp"]
Answer = Callable[[dns.message.Message, Transport], dns.message.Message | None]

ZONE: Mapping[str, Sequence[str]] = {
    "www.example.test": ("203.0.113.7", "2001:db8:7::7"),
    "v4.example.test": ("203.0.113.4",),
    "v6.example.test": ("2001:db8:7::6",),
    "many.example.test": tuple(f"203.0.113.{number}" for number in range(1, 201)),  # more than a UDP answer holds
}
SILENT, BROKEN = "silent.example.test", "broken.example.test"  # never answered; SERVFAIL


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that arrived."""

    name: str
    kind: str
    transport: Transport
    client: str
    has_edns: bool


def of_zone(zone: Mapping[str, Sequence[str]]) -> Answer:
    """Answers with the addresses of a zone, and with its names for addresses; NXDOMAIN for the rest."""
    backwards = {str(dns.reversename.from_address(address)): name for name, found in zone.items() for address in found}

    def answer(query: dns.message.Message, _: Transport) -> dns.message.Message | None:
        question = query.question[0]
        name, made = str(question.name).rstrip(".").lower(), dns.message.make_response(query, recursion_available=True)
        if name == SILENT:
            return None
        if name == BROKEN:
            made.set_rcode(dns.rcode.SERVFAIL)
        elif question.rdtype == dns.rdatatype.PTR and f"{name}." in backwards:
            made.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "PTR", f"{backwards[f'{name}.']}."))
        elif name in zone:
            version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(question.rdtype)
            found = [one for one in zone[name] if ip_address(one).version == version]
            if found:
                kind = dns.rdatatype.to_text(question.rdtype)
                made.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", kind, *found))
        else:
            made.set_rcode(dns.rcode.NXDOMAIN)
        return made

    return answer


@dataclass
class NameServer:
    """UDP and TCP on a port of every address of a node, until `close`; `answer` may be replaced at any time."""

    node: Node
    answer: Answer = field(default_factory=lambda: of_zone(ZONE))
    port: int = 53
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._udp = self._socket(socket.SOCK_DGRAM)
        self._tcp = self._socket(socket.SOCK_STREAM)
        self._tcp.listen(128)
        self._awake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="nameserver")
        self._thread.start()

    def _socket(self, kind: int) -> socket.socket:
        made = self.node.call(lambda: socket.socket(socket.AF_INET6, kind))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("::", self.port))
        return made

    def names(self) -> list[str]:
        """Every name that it was asked for, in order."""
        return [one.name for one in self.asked]

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (self._udp, self._tcp, self._awake):
                selector.register(one, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._awake in ready:
                    return
                with suppress(OSError, dns.exception.DNSException):
                    if self._udp in ready:
                        self._datagram()
                    if self._tcp in ready:
                        self._connection()

    def _datagram(self) -> None:
        wire, peer = self._udp.recvfrom(65535)
        query, made = self._answered(wire, "udp", peer[0])
        if made is None:
            return
        room = query.payload if query.edns >= 0 else PLAIN_BYTES
        try:
            self._udp.sendto(made.to_wire(max_size=max(room, PLAIN_BYTES)), peer)
        except dns.exception.TooBig:
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            self._udp.sendto(short.to_wire(), peer)

    def _connection(self) -> None:
        connection, peer = self._tcp.accept()
        with connection:
            connection.settimeout(ANSWER_S)
            with connection.makefile("rb") as stream:
                size = int.from_bytes(stream.read(2), "big")
                _, made = self._answered(stream.read(size), "tcp", peer[0])
            if made is not None:
                wire = made.to_wire()
                connection.sendall(len(wire).to_bytes(2, "big") + wire)

    def _answered(
        self, wire: bytes, transport: Transport, client: str
    ) -> tuple[dns.message.Message, dns.message.Message | None]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = str(question.name).rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(Asked(name, kind, transport, client.removeprefix("::ffff:"), query.edns >= 0))
        return query, self.answer(query, transport)

    def close(self) -> None:
        """Stops answering."""
        self._waker.send(b"!")
        self._thread.join()
        for one in (self._udp, self._tcp, self._awake, self._waker):
            one.close()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
