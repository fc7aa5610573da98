"""What a container's resolver knows: the names and addresses on the container's networks.  Pure.

A name is found on every network of the container; behind a dot the network's own name may follow (`web.backend`).  Of
several addresses each answer begins with another one.  What is not known here is somebody else's to answer, unless the
container has no way out.

Source: libnetwork, resolver.go and sandbox_dns_unix.go as dockerd 26.1 answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from corten.shim import dns
from corten.shim.dns import Address, Question

_KINDS = {dns.A: 4, dns.AAAA: 6}


@dataclass(slots=True)
class NetworkNames:
    """The names on one network, in lower case, and whose the addresses are."""

    name: str
    by_name: dict[str, list[Address]] = field(default_factory=dict)
    by_address: dict[Address, str] = field(default_factory=dict)

    def put(self, names: Iterable[str], addresses: Sequence[Address]) -> None:
        """A container's names, its own first."""
        words = [name.lower() for name in names]
        for word in words:
            known = self.by_name.setdefault(word, [])
            known += [one for one in addresses if one not in known]
        for one in addresses:
            if words:
                self.by_address.setdefault(one, words[0])


@dataclass(frozen=True, slots=True)
class View:
    """What one container sees.  `servers`: whom the rest is asked; none when it has no way out."""

    networks: tuple[NetworkNames, ...]
    servers: tuple[str, ...] = ()

    def addresses(self, name: str) -> list[Address]:
        """Of a name on any of its networks, and of `name.network`."""
        found: list[Address] = []
        for network in self.networks:
            inner = name.removesuffix(f".{network.name.lower()}")
            for word in {name: None, inner: None}:
                found += [one for one in network.by_name.get(word, ()) if one not in found]
        return found

    def owner(self, address: Address) -> str:
        """`web.backend` of the container that has an address; '' for nobody's."""
        for network in self.networks:
            name = network.by_address.get(address)
            if name:
                return f"{name}.{network.name}"
        return ""


def local_answer(question: Question, view: View, *, limit: int, chance: random.Random) -> bytes | None:
    """The answer that needs nobody else; None when a server has to be asked."""
    if not question.is_plain:
        return dns.answer(question, code=dns.NOTIMP)
    if question.kind == dns.PTR:
        return _pointer(question, view, limit)
    found = view.addresses(question.name)
    if found:
        return _addresses(question, found, limit=limit, chance=chance)
    return None if view.servers else dns.answer(question, code=dns.NXDOMAIN)


def _addresses(question: Question, found: Sequence[Address], *, limit: int, chance: random.Random) -> bytes | None:
    """A name of ours has no other records than these: no server is told of it, and none may answer for it."""
    version = _KINDS.get(question.kind)
    wanted = [one for one in found if one.version == version]
    chance.shuffle(wanted)
    return dns.answer(question, [dns.address_record(one) for one in wanted], limit=limit)


def _pointer(question: Question, view: View, limit: int) -> bytes | None:
    address = dns.reversed_address(question.name)
    owner = view.owner(address) if address is not None else ""
    if owner:
        return dns.answer(question, [dns.pointer_record(owner)], limit=limit)
    return None if view.servers else dns.answer(question, code=dns.NXDOMAIN)


def network_of(name: str, rows: Iterable[tuple[Sequence[str], Sequence[str]]]) -> NetworkNames:
    """From (names, addresses) of each container on it."""
    made = NetworkNames(name)
    for names, addresses in rows:
        made.put(names, [ip_address(one) for one in addresses])
    return made
