"""The engine's nftables table: NAT to the outside, published ports, and what may be forwarded.

One table of family ip per engine.  `ruleset` writes all of it as one transaction over what is there, so applying it
again is how it is restored; ports come and go as elements of two maps, in one command each.

    hook         chain        does
    prerouting   guard        raw priority: drops 127/8 that did not come in by lo, before NAT can touch it.  Without it
                              a neighbour reaches ports published on 127.0.0.1, and (route_localnet) a container
                              reaches what listens on the host's loopback
    prerouting   prerouting   published ports, for packets from other hosts and from containers
    output       output       published ports, for the host's own packets, also to 127.0.0.1
    forward      forward      out of a bridge: yes; into a bridge: answers and published ports only; else the policy
    postrouting  postrouting  to the outside: the host's address; from 127/8, or from a bridge back into it: the
                              bridge's address, so that answers come back here.  Else the client's address stays

The two maps: (address, protocol, port) is looked up first, then (protocol, port) for ports published on all addresses.

Sources: nft(8), ip-sysctl.rst (route_localnet).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from corten.errors import Internal
from corten.network.values import ANY, Bridge, Endpoint, Publication
from corten.sys.nft import NftError

log = logging.getLogger(__name__)

BY_ADDRESS, BY_PORT = "by_address", "by_port"

PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}  # numbers are listed, names are written

MAPS = {
    BY_ADDRESS: "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    BY_PORT: "type inet_proto . inet_service : ipv4_addr . inet_service",
}

HOOKS = {
    "guard": "type filter hook prerouting priority raw; policy accept",
    "prerouting": "type nat hook prerouting priority dstnat; policy accept",
    "output": "type nat hook output priority -100; policy accept",
    "forward": "type filter hook forward priority filter; policy {policy}",
    "postrouting": "type nat hook postrouting priority srcnat; policy accept",
}

_PLAIN_NAME = re.compile(r"[\w.:@-]+", re.ASCII)  # a device name may hold what would end a quoted word

GUARD = (
    'iifname != "lo" ip daddr 127.0.0.0/8 drop',
    'iifname != "lo" ip saddr 127.0.0.0/8 drop',
)
PUBLISHED = (
    f"fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @{BY_ADDRESS}",
    f"fib daddr type local dnat ip to meta l4proto . th dport map @{BY_PORT}",
)
OF_A_BRIDGE = {
    "forward": (
        'oifname "{name}" ct state established,related accept',
        'iifname "{name}" accept',
        'oifname "{name}" ct status dnat accept',
        'oifname "{name}" drop',
    ),
    "postrouting": (
        'oifname != "{name}" ip saddr {subnet} masquerade',
        'oifname "{name}" ip saddr 127.0.0.0/8 masquerade',
        'oifname "{name}" ip saddr {subnet} ct status dnat masquerade',
    ),
}


class Runner(Protocol):
    """What runs nft commands: `corten.sys.nft.Nft`."""

    def run(self, commands: str, *, json: bool = False) -> str:
        """One transaction; raises NftError."""


def table_name(engine_id: str) -> str:
    """The table that belongs to an engine."""
    return f"corten-{engine_id}"


def elements(endpoint: Endpoint) -> dict[str, list[str]]:
    """map name: elements, for an endpoint's published ports."""
    found: dict[str, list[str]] = {}
    for port in endpoint.publications:
        found.setdefault(_map_of(port), []).append(f"{_key_of(port)} : {endpoint.ip} . {port.container_port}")
    return found


def _map_of(port: Publication) -> str:
    return BY_PORT if port.host_ip == ANY else BY_ADDRESS


def _key_of(port: Publication) -> str:
    address = "" if port.host_ip == ANY else f"{port.host_ip} . "
    return f"{address}{port.transport} . {port.host_port}"


def rules(chain: str, bridges: Iterable[Bridge]) -> list[str]:
    """The rules of a chain, in order."""
    match chain:
        case "guard":
            return list(GUARD)
        case "prerouting" | "output":
            return list(PUBLISHED)
        case _:
            return [
                rule.format(name=bridge.name, subnet=bridge.subnet) for bridge in bridges for rule in OF_A_BRIDGE[chain]
            ]


def within(bridges: Iterable[str]) -> list[str]:
    """Rules that let frames pass between ports of other bridges.

    br_netfilter shows them to the forward hook as if they were routed, and a policy of drop would end them.
    """
    return [f'iifname "{name}" oifname "{name}" accept' for name in bridges if _PLAIN_NAME.fullmatch(name)]


def ruleset(
    table: str, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint], *, policy: str, others: Iterable[str] = ()
) -> str:
    """The commands that make the table whole, whatever it holds.

    `policy` (accept or drop) is for what is routed and not ours, `others` are the bridges that are not ours.

    Rules and elements are replaced within chains and maps that stay: where the table itself was deleted and added
    again in one transaction, one of 500 times a new connection found the port closed (its hooks are registered anew).
    """
    hooks = {chain: hook.format(policy=policy) for chain, hook in HOOKS.items()}
    lines = [f"add table ip {table}"]
    lines += [f"add map ip {table} {name} {{ {kind}; }}" for name, kind in MAPS.items()]
    lines += [f"add chain ip {table} {chain} {{ {hook}; }}" for chain, hook in hooks.items()]
    lines += [f"flush chain ip {table} {chain}" for chain in hooks]
    lines += [f"flush map ip {table} {name}" for name in MAPS]
    lines += [f"add rule ip {table} {chain} {rule}" for chain in hooks for rule in rules(chain, bridges)]
    lines += [f"add rule ip {table} forward {rule}" for rule in within(others)]
    return "\n".join(lines) + "\n" + "".join(_add(table, endpoint) for endpoint in endpoints)


def _add(table: str, endpoint: Endpoint) -> str:
    return "".join(f"add element ip {table} {name} {{ {', '.join(of)} }}\n" for name, of in elements(endpoint).items())


def _delete(table: str, endpoint: Endpoint) -> str:
    return "".join(
        f"delete element ip {table} {name} {{ {', '.join(of)} }}\n" for name, of in elements(endpoint).items()
    )


class Firewall:
    """The table in the kernel.  Every method is one transaction and may be repeated."""

    def __init__(self, engine_id: str, nft: Runner) -> None:
        self.table = table_name(engine_id)
        self._nft = nft

    def apply(
        self, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint], *, policy: str, others: Iterable[str] = ()
    ) -> None:
        """Makes the table what it should be, whatever it was, without a gap.  Arguments as of `ruleset`."""
        commands = ruleset(self.table, bridges, list(endpoints), policy=policy, others=others)
        try:
            self._nft.run(commands)
        except NftError as error:
            log.warning("nftables table %s cannot be changed (%s): it is made anew", self.table, error)
            self._run(f"add table ip {self.table}\ndelete table ip {self.table}\n{commands}")

    def publish(self, endpoint: Endpoint) -> None:
        """Adds an endpoint's ports (about 70 µs)."""
        if endpoint.publications:
            self._run(_add(self.table, endpoint))

    def unpublish(self, endpoint: Endpoint) -> None:
        """Takes an endpoint's ports away.

        They are added first: an element that is already gone would fail the delete, and adding what is there is
        nothing.  An element that belongs to somebody else by now makes the whole transaction fail, as it should.
        A table that is gone has taken them along.
        """
        if not endpoint.publications:
            return
        try:
            self._nft.run(_add(self.table, endpoint) + _delete(self.table, endpoint))
        except NftError as error:
            if self.exists():
                raise Internal(f"nftables table {self.table}: {error}") from error

    def exists(self) -> bool:
        """The table is in the kernel."""
        tables = json.loads(self._run("list tables ip", json=True))["nftables"]
        return any(one.get("table", {}).get("name") == self.table for one in tables)

    def destroy(self) -> None:
        """Removes the table, if it is there."""
        self._run(f"add table ip {self.table}\ndelete table ip {self.table}\n")

    @staticmethod
    def expected(endpoints: Iterable[Endpoint]) -> set[str]:
        """Every element that should be in the kernel, written as `published` does."""
        return {f"{name} {element}" for one in endpoints for name, of in elements(one).items() for element in of}

    def published(self) -> set[str]:
        """Every element in the kernel, as `map key : address . port`."""
        found: set[str] = set()
        for name in (BY_ADDRESS, BY_PORT):
            listing = json.loads(self._run(f"list map ip {self.table} {name}", json=True))
            found |= {f"{name} {element}" for element in _listed(listing)}
        return found

    def _run(self, commands: str, *, json: bool = False) -> str:
        try:
            return self._nft.run(commands, json=json)
        except NftError as error:
            raise Internal(f"nftables table {self.table}: {error}") from error


def _listed(listing: dict[str, Any]) -> Iterable[str]:
    """The elements in the JSON of `list map` (libnftables-json(5)), written as `elements` does."""
    for item in listing["nftables"]:
        for key, value in item.get("map", {}).get("elem", ()):
            *address, protocol, port = key["concat"]
            words = (*address, PROTOCOLS.get(protocol, protocol), port)
            yield f"{' . '.join(map(str, words))} : {' . '.join(map(str, value['concat']))}"
