"""What a container's resolver knows: the names and addresses on the container's networks.  Pure.

A name is found on each network of the container, the first that has such an address answers; behind a dot the network's
own name may follow (`web.backend`).  Of several addresses each answer begins with another one.  What is not known here
is somebody else's to answer, unless the container has no way out.

Source: libnetwork, resolver.go and sandbox_dns_unix.go as dockerd 26.1 answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from corten.shim import dns
from corten.shim.dns import Address, Malformed, Question

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
    """What one container sees.

    networks: that which leads outside first; its answer counts where several know a name.  links: names of others by
    names that this container alone has for them.  has_way_out: the rest is asked of servers.  has_ndots: names
    without a dot are not, the container's own resolver tries them with a domain first.
    """

    networks: tuple[NetworkNames, ...]
    has_way_out: bool = False
    has_ndots: bool = False
    links: Mapping[str, str] = field(default_factory=dict)

    def addresses(self, name: str, kind: int) -> list[Address] | None:
        """Of a name on its networks, or of `name.network`; None when nobody there has the name."""
        is_known = False
        linked = self.links.get(name)
        for network in self.networks:
            inner = name.removesuffix(f".{network.name.lower()}")
            for word in (linked,) if linked is not None else {name: None, inner: None}:
                found = network.addresses(word)
                is_known = is_known or bool(found)
                wanted = [one for one in found if kind == dns.ANY or one.version == _KINDS.get(kind)]
                if wanted:
                    return wanted
        return [] if is_known else None

    def owner(self, address: Address) -> str:
        """`web.backend` of the container that has an address; '' for nobody's."""
        for network in self.networks:
            name = network.owner(address)
            if name:
                return f"{name}.{network.name}"
        return ""


def local_answer(question: Question, view: View, *, limit: int, chance: random.Random) -> bytes | None:
    """The answer that needs nobody else; None when a server has to be asked."""
    if question.edns > 0:
        return dns.answer(question, code=dns.BADVERS)
    if not question.is_plain:
        return dns.answer(question, code=dns.NOTIMP)
    known = _pointer(question, view) if question.kind == dns.PTR else _addresses(question, view, chance)
    if known is not None:
        return dns.answer(question, known, limit=limit)
    if view.has_ndots and question.kind in _KINDS and "." not in question.name:
        return dns.answer(question)
    return None if view.has_way_out else dns.answer(question, code=dns.SERVFAIL)


def _addresses(question: Question, view: View, chance: random.Random) -> list[bytes] | None:
    """A name of ours has no other records than these: no server is told of it, and none may answer for it."""
    found = view.addresses(question.name, question.kind)
    if found is None:
        return None
    chance.shuffle(found)
    return [dns.address_record(one) for one in found]


def _pointer(question: Question, view: View) -> list[bytes] | None:
    """What no message can say (a label of more than 63 bytes) is not known."""
    address = dns.reversed_address(question.name)
    owner = view.owner(address) if address is not None else ""
    try:
        return [dns.pointer_record(owner)] if owner else None
    except Malformed:
        return None
