"""What a container's resolver knows: the names and addresses on the container's networks.  Pure.

A name is found on every network of the container; behind a dot the network's own name may follow (`web.backend`).  Of
several addresses each answer begins with another one.  What is not known here is somebody else's to answer, unless the
container has no way out.

Source: libnetwork, resolver.go and sandbox_dns_unix.go as dockerd 26.1 answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corten.shim import dns
from corten.shim.dns import Address, Question

_KINDS = {dns.A: 4, dns.AAAA: 6}


class NetworkNames:
    """The names on one network, in lower case, and whose the addresses are."""

    __slots__ = ("_by_address", "_by_name", "_members", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._members: dict[str, tuple[tuple[str, ...], tuple[Address, ...]]] = {}
        self._by_name: dict[str, dict[str, None]] = {}  # → members, in the order in which they came
        self._by_address: dict[Address, str] = {}

    def put(self, member: str, names: Iterable[str], addresses: Iterable[Address]) -> None:
        """A member with its names, its own first, in place of what it had."""
        self.drop(member)
        words = tuple(dict.fromkeys(name.lower() for name in names))
        mine = self._members[member] = (words, tuple(addresses))
        for word in words:
            self._by_name.setdefault(word, {})[member] = None
        for one in mine[1]:
            self._by_address[one] = member

    def drop(self, member: str) -> None:
        """One that is gone; unknown ones are fine."""
        words, addresses = self._members.pop(member, ((), ()))
        for word in words:
            del self._by_name[word][member]
            if not self._by_name[word]:
                del self._by_name[word]
        for one in addresses:
            if self._by_address.get(one) == member:
                del self._by_address[one]

    def addresses(self, name: str) -> list[Address]:
        """Of a name in lower case."""
        return [one for member in self._by_name.get(name, ()) for one in self._members[member][1]]

    def owner(self, address: Address) -> str:
        """The first name of whose it is; '' for nobody's."""
        words = self._members[self._by_address[address]][0] if address in self._by_address else ()
        return words[0] if words else ""


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
                found += [one for one in network.addresses(word) if one not in found]
        return found

    def owner(self, address: Address) -> str:
        """`web.backend` of the container that has an address; '' for nobody's."""
        for network in self.networks:
            name = network.owner(address)
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
