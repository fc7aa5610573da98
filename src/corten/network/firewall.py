"""The engine's nftables table: NAT to the outside, published ports, and what may be forwarded.

One table of family inet per engine.  `ruleset` writes all of it as one transaction over what is there, so applying it
again is how it is restored.  The rules are the same however many networks there are: a network is an element of some
sets, a published port an element of a map, each added and removed in one command.

    hook         chain        does
    prerouting   guard        raw priority: drops 127/8 that did not come in by lo, before NAT can touch it.  Without it
                              a neighbour reaches ports published on 127.0.0.1, and (route_localnet) a container
                              reaches what listens on the host's loopback
    prerouting   prerouting   published ports, for packets from other hosts and from containers
    output       output       published ports, for the host's own packets, also to 127.0.0.1
    forward      forward      out of a bridge: yes, unless it is internal; into a bridge: answers, published ports and
                              its own containers only.  What is not ours passes, unless we made the host a router
    postrouting  postrouting  to the outside: the host's address; from 127/8, or from a bridge back into it: the
                              bridge's address, so that answers come back here.  Else the client's address stays

    set          elements
    ours         every bridge
    within       bridge . itself, where containers may talk to each other
    internal     bridges with no way out
    local4/6     subnet . bridge
    hidden4/6    subnets that are seen outside as the host's address
    routed4/6    bridges whose containers answer a ping from outside (gateway mode routed)
    direct4/6    bridges whose containers are reached from outside at every port (gateway mode nat-unprotected)
    opened4/6    address, protocol, port of a container that is reached from outside at its own address (gateway mode
                 routed, allow-direct-routing)

`within` also has the devices that a network trusts, each with its bridge; map source4/6: subnet → address that it has
outside in place of that of the way out.

The maps, two for IPv4 and two for IPv6: (address, protocol, port) is looked up first, then (protocol, port) for ports
published on all addresses.  ::1 is not for NAT (there is no route_localnet of IPv6): the shim's relay has it.

Sources: nft(8), ip-sysctl.rst (route_localnet).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from corten.errors import Internal
from corten.network import admission
from corten.network.values import ANY, ANY6, Bridge, Endpoint, Publication
from corten.sys.nft import NftError

log = logging.getLogger(__name__)

FAMILY = "inet"
TOKEN = "token-"  # of chains by which our transactions are known: network/watch.py
BY_ADDRESS, BY_PORT = "by_address", "by_port"
BY_ADDRESS6, BY_PORT6 = "by_address6", "by_port6"
OPENED = ("opened4", "opened6")

PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}  # numbers are listed, names are written

MAPS = {
    BY_ADDRESS: "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    BY_PORT: "type inet_proto . inet_service : ipv4_addr . inet_service",
    BY_ADDRESS6: "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
    BY_PORT6: "type inet_proto . inet_service : ipv6_addr . inet_service",
}
SETS = {
    "ours": "type ifname",
    "within": "type ifname . ifname",
    "internal": "type ifname",
    "local4": "type ipv4_addr . ifname; flags interval",
    "local6": "type ipv6_addr . ifname; flags interval",
    "hidden4": "type ipv4_addr; flags interval",
    "hidden6": "type ipv6_addr; flags interval",
    "direct4": "type ifname",
    "direct6": "type ifname",
    "routed4": "type ifname",
    "routed6": "type ifname",
    "opened4": "type ipv4_addr . inet_proto . inet_service",
    "opened6": "type ipv6_addr . inet_proto . inet_service",
}
SOURCES = {
    "source4": "type ipv4_addr : ipv4_addr; flags interval",
    "source6": "type ipv6_addr : ipv6_addr; flags interval",
}

HOOKS = {
    "guard": "type filter hook prerouting priority raw; policy accept",
    "prerouting": "type nat hook prerouting priority dstnat; policy accept",
    "output": "type nat hook output priority -100; policy accept",
    "forward": "type filter hook forward priority filter; policy accept",
    "postrouting": "type nat hook postrouting priority srcnat; policy accept",
}

_PLAIN_NAME = re.compile(r"[\w.:@-]+", re.ASCII)  # a device name may hold what would end a quoted word

PUBLISHED = (
    f"fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @{BY_ADDRESS}",
    f"fib daddr type local dnat ip to meta l4proto . th dport map @{BY_PORT}",
    f"fib daddr type local ip6 daddr != ::1 dnat ip6 to ip6 daddr . meta l4proto . th dport map @{BY_ADDRESS6}",
    f"fib daddr type local ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @{BY_PORT6}",
)
RULES = {
    "guard": (
        'iifname != "lo" ip daddr 127.0.0.0/8 drop',
        'iifname != "lo" ip saddr 127.0.0.0/8 drop',
    ),
    "prerouting": PUBLISHED,
    "output": PUBLISHED,
    # Who began a flow counts, not that it is established: one that came through while somebody had flushed the table,
    # into a bridge or between two, ends with the table's return.
    "forward": (
        "iifname . oifname @within accept",
        "iifname @internal drop",
        "oifname @internal drop",
        "oifname @ours ct status dnat accept",
        "iifname @ours oifname @ours drop",
        "oifname @ours ct direction reply ct state established,related accept",
        "oifname @ours ct state related accept",
        "iifname @ours accept",
        "meta l4proto icmp oifname @routed4 accept",
        "meta l4proto icmpv6 oifname @routed6 accept",
        "ip daddr . meta l4proto . th dport @opened4 oifname @ours accept",
        "ip6 daddr . meta l4proto . th dport @opened6 oifname @ours accept",
        "meta nfproto ipv4 oifname @direct4 accept",
        "meta nfproto ipv6 oifname @direct6 accept",
        "oifname @ours drop",
    ),
    "postrouting": (
        "oifname @ours ip saddr 127.0.0.0/8 masquerade",
        "ip saddr . oifname @local4 ct status dnat masquerade",
        "ip6 saddr . oifname @local6 ct status dnat masquerade",
        "ip saddr . oifname @local4 accept",
        "ip6 saddr . oifname @local6 accept",
        "snat ip to ip saddr map @source4",
        "snat ip6 to ip6 saddr map @source6",
        "ip saddr @hidden4 masquerade",
        "ip6 saddr @hidden6 masquerade",
    ),
}


@dataclass(frozen=True, slots=True)
class Outside:
    """What is on the host and not ours: bridges, those of other engines, and whether the rest is routed.

    `routed`: those of the bridges that another program routes; `drops`: the IP versions of which what is routed and not
    ours is dropped.
    """

    bridges: frozenset[str] = frozenset()
    peers: frozenset[str] = frozenset()
    routed: frozenset[str] = frozenset()
    drops: frozenset[int] = frozenset()

    def rules(self) -> list[str]:
        """The end of the forward chain."""
        others = [*peers(sorted(self.peers)), *within(sorted(self.bridges)), *routed(sorted(self.routed))]
        return [*others, *map(drop_of, sorted(self.drops))]


class Runner(Protocol):
    """What runs nft commands: `corten.sys.nft.Nft`."""

    def run(self, commands: str, *, json: bool = False) -> str:
        """One transaction; raises NftError."""


def table_name(engine_id: str) -> str:
    """The table that belongs to an engine."""
    return f"corten-{engine_id}"


def elements(endpoint: Endpoint, publications: Iterable[Publication]) -> dict[str, list[str]]:
    """map name: elements, for published ports of an endpoint."""
    found: dict[str, list[str]] = {}
    for port in publications:
        target = endpoint.target(port)
        if target is not None and port.host_port:
            found.setdefault(_map_of(port), []).append(f"{_key_of(port)} : {target} . {port.container_port}")
    return found


def opened(endpoint: Endpoint, publications: Iterable[Publication], *, is_direct: bool) -> dict[str, list[str]]:
    """set name: elements, for ports that are reached at the container's own address, each once.

    `is_direct`: all that are published (daemon.json's allow-direct-routing).
    """
    found: dict[str, dict[str, None]] = {}
    for port in publications:
        target = endpoint.target(port)
        if target is not None and (is_direct or not port.host_port):
            element = f"{target} . {port.transport} . {port.container_port}"
            found.setdefault(f"opened{target.version}", {})[element] = None
    return {name: list(of) for name, of in found.items()}


def _map_of(port: Publication) -> str:
    if port.host_ip.version == 6:
        return BY_PORT6 if port.host_ip == ANY6 else BY_ADDRESS6
    return BY_PORT if port.host_ip == ANY else BY_ADDRESS


def _key_of(port: Publication) -> str:
    address = "" if port.host_ip in (ANY, ANY6) else f"{port.host_ip} . "
    return f"{address}{port.transport} . {port.host_port}"


def members(bridge: Bridge) -> dict[str, list[str]]:
    """set name: elements, for a bridge."""
    name = f'"{bridge.name}"'
    found = {"ours": [name]}
    if bridge.has_icc:
        found["within"] = [f"{name} . {name}"]
    if bridge.trusted and not bridge.is_internal:
        found["within"] = [*found.get("within", ()), *(f'"{one}" . {name}' for one in bridge.trusted)]
    if bridge.is_internal:
        found["internal"] = [name]
    for subnet in bridge.subnets:
        version = subnet.version
        found.setdefault(f"local{version}", []).append(f"{subnet} . {name}")
        if bridge.is_internal:
            continue
        if version in bridge.unprotected:
            found[f"direct{version}"] = [name]
        if version in bridge.routed:
            found[f"routed{version}"] = [name]
        if bridge.is_hidden and version not in bridge.routed:
            found.setdefault(f"hidden{version}", []).append(str(subnet))
            source = next((one for one in bridge.sources if one.version == version), None)
            if source is not None:
                found[f"source{version}"] = [f"{subnet} : {source}"]
    return found


def within(bridges: Iterable[str]) -> list[str]:
    """Rules that let frames pass between ports of other bridges.

    br_netfilter shows them to the forward hook as if they were routed, and the drop at its end would be theirs.
    """
    return [f'iifname "{name}" oifname "{name}" accept' for name in bridges if _PLAIN_NAME.fullmatch(name)]


def peers(bridges: Iterable[str]) -> list[str]:
    """Rules that leave the bridges of other engines to their own tables."""
    plain = [name for name in bridges if _PLAIN_NAME.fullmatch(name)]
    return [f'{end} "{name}" accept' for name in plain for end in ("iifname", "oifname")]


def routed(bridges: Iterable[str]) -> list[str]:
    """Rules for bridges that another program routes: out, back, and to ports that it publishes; not in from outside.

    That program's own chains are asked as well, and have the last word.
    """
    plain = [name for name in bridges if _PLAIN_NAME.fullmatch(name)]
    into = ("ct direction reply ct state established,related", "ct state related", "ct status dnat")
    return [
        rule
        for name in plain
        for rule in (f'iifname "{name}" accept', *(f'oifname "{name}" {one} accept' for one in into))
    ]


def drop_of(version: int) -> str:
    """The rule that ends what is not ours, of IPv4 or IPv6."""
    return f"meta nfproto ipv{version} drop"


def ruleset(
    table: str,
    bridges: Sequence[Bridge],
    endpoints: Iterable[Endpoint],
    outside: Outside,
    *,
    mark: tuple[int, int] | None = None,
    respects_host: bool = False,
) -> str:
    """The commands that make the table whole, whatever it holds.

    `mark` is the value and mask of packets that somebody else has let in (daemon.json's bridge-accept-fwmark).
    `respects_host`: with what network/admission.py says.

    Rules and elements are replaced within chains, sets and maps that stay: where the table itself was deleted and
    added again in one transaction, one of 500 times a new connection found the port closed (its hooks are registered
    anew).
    """
    at = f"{FAMILY} {table}"
    hooks, sets, chains = (HOOKS, SETS, RULES) if not respects_host else _respecting()
    lines = [f"add table {at}"]
    lines += [f"add map {at} {name} {{ {kind}; }}" for name, kind in (MAPS | SOURCES).items()]
    lines += [f"add set {at} {name} {{ {kind}; }}" for name, kind in sets.items()]
    lines += [f"add chain {at} {chain} {{ {hook}; }}" for chain, hook in hooks.items()]
    lines += [f"flush chain {at} {chain}" for chain in hooks]
    lines += [f"flush map {at} {name}" for name in MAPS | SOURCES]
    lines += [f"flush set {at} {name}" for name in sets]
    if mark is not None:
        lines.append(f"add rule {at} forward oifname @ours meta mark & {mark[1]:#x} == {mark[0]:#x} accept")
    lines += [f"add rule {at} {chain} {rule}" for chain in hooks for rule in chains[chain]]
    lines += [f"add rule {at} forward {rule}" for rule in outside.rules()]
    text = "\n".join(lines) + "\n"
    text += "".join(_change("add", table, members(bridge)) for bridge in bridges)
    found = (elements(one, one.publications) for one in endpoints)
    ports = (admission.with_keys(one, MAPS) if respects_host else one for one in found)
    return text + "".join(_change("add", table, one) for one in ports)


def _respecting() -> tuple[dict[str, str], dict[str, str], dict[str, tuple[str, ...]]]:
    """Hooks, sets and rules where the host's input chains are asked."""
    keys = {f"{name}{admission.KEYS}": admission.keys_type(kind) for name, kind in MAPS.items()}
    asked = {"prerouting": (*admission.BEFORE, *PUBLISHED), "input": admission.rules(MAPS)}
    return HOOKS | admission.HOOKS, SETS | admission.SETS | keys, RULES | asked


def _change(verb: str, table: str, found: dict[str, list[str]]) -> str:
    """`add` or `delete` of elements."""
    return "".join(f"{verb} element {FAMILY} {table} {name} {{ {', '.join(of)} }}\n" for name, of in found.items())


class Firewall:
    """The table in the kernel.  Every method is one transaction and may be repeated."""

    def __init__(
        self,
        engine_id: str,
        nft: Runner,
        *,
        mark: tuple[int, int] | None = None,
        respects_host: bool = False,
        is_direct: bool = False,
    ) -> None:
        """`mark`, `respects_host`: as of `ruleset`; `is_direct`: as of `opened`."""
        self._respects_host = respects_host
        self._is_clean = respects_host  # nothing is there of a start with another setting
        self._is_direct = is_direct
        self.table = table_name(engine_id)
        self._nft = nft
        self._mark = mark

    def apply(
        self, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint], outside: Outside, *, token: str = ""
    ) -> None:
        """Makes the table what it should be, whatever it was, without a gap.

        `token`: a chain that comes and goes in the same transaction, by whose name a listener knows it for ours.
        """
        self._clean()
        every = list(endpoints)
        commands = ruleset(self.table, bridges, every, outside, mark=self._mark, respects_host=self._respects_host)
        commands += "".join(_change("add", self.table, self._opened(one, one.publications)) for one in every)
        if token:
            commands += "".join(f"{verb} chain {FAMILY} {self.table} {token}\n" for verb in ("add", "delete"))
        try:
            self._nft.run(commands)
        except NftError as error:
            log.warning("nftables table %s cannot be changed (%s): it is made anew", self.table, error)
            self._run(f"add table {FAMILY} {self.table}\ndelete table {FAMILY} {self.table}\n{commands}")

    def _clean(self) -> None:
        """Without the host's input chains being asked any more, once."""
        if self._is_clean:
            return
        self._is_clean = True
        words = [f"{verb} chain {FAMILY} {self.table} input\n" for verb in ("flush", "delete")]
        with suppress(NftError):  # there is none
            self._nft.run("".join(words))

    def ask_again(self) -> None:
        """Forgets whom the host's input chains have admitted: they have changed, perhaps."""
        if self._respects_host:
            self._run("".join(f"flush set {FAMILY} {self.table} {name}\n" for name in admission.ADMITTED))

    def _ports(self, endpoint: Endpoint, publications: Iterable[Publication]) -> dict[str, list[str]]:
        those = list(publications)
        found = elements(endpoint, those)
        found = admission.with_keys(found, MAPS) if self._respects_host else found
        return found | self._opened(endpoint, those)

    def publish(self, endpoint: Endpoint, publications: Iterable[Publication]) -> None:
        """Adds ports of an endpoint (about 70 µs)."""
        if found := self._ports(endpoint, publications):
            self._run(_change("add", self.table, found))

    def _opened(self, endpoint: Endpoint, publications: Iterable[Publication]) -> dict[str, list[str]]:
        return opened(endpoint, publications, is_direct=self._is_direct)

    def unpublish(self, endpoint: Endpoint, publications: Iterable[Publication]) -> None:
        """Takes ports of an endpoint away."""
        gone = list(publications)
        kept = self._opened(endpoint, (one for one in endpoint.publications if one not in gone))
        found = self._ports(endpoint, gone)
        for name, of in kept.items():
            found[name] = [one for one in found.get(name, ()) if one not in of]
        if found := {name: of for name, of in found.items() if of}:
            self._take_away(found)

    def replace(self, old: Endpoint, new: Endpoint) -> None:
        """Leads the ports of one endpoint to another, without a moment in which they lead nowhere."""
        before, after = self._ports(old, old.publications), self._ports(new, new.publications)
        changes = [("add", before), ("delete", before), ("add", after)]
        if before or after:
            self._run("".join(_change(verb, self.table, found) for verb, found in changes))

    def add(self, bridge: Bridge) -> None:
        """Lets a bridge through.  Raises Internal."""
        self._run(_change("add", self.table, members(bridge)))

    def remove(self, bridge: Bridge) -> None:
        """Forgets a bridge; its device is down or gone already, or nothing passes any more that passed before."""
        self._take_away(members(bridge))

    def _take_away(self, found: dict[str, list[str]]) -> None:
        """They are added first: an element that is already gone would fail the delete, and adding what is there is
        nothing.  An element that belongs to somebody else by now makes the whole transaction fail, as it should.
        A table that is gone has taken them along.
        """
        try:
            self._nft.run(_change("add", self.table, found) + _change("delete", self.table, found))
        except NftError as error:
            if self.exists():
                raise Internal(f"nftables table {self.table}: {error}") from error

    def drop_others(self, version: int) -> None:
        """From now on what is routed and not ours is dropped; `apply` says so as well."""
        self._run(f"add rule {FAMILY} {self.table} forward {drop_of(version)}\n")

    def exists(self) -> bool:
        """The table is in the kernel."""
        tables = json.loads(self._run(f"list tables {FAMILY}", json=True))["nftables"]
        return any(one.get("table", {}).get("name") == self.table for one in tables)

    def destroy(self) -> None:
        """Removes the table, if it is there."""
        self._run(f"add table {FAMILY} {self.table}\ndelete table {FAMILY} {self.table}\n")

    @staticmethod
    def expected(endpoints: Iterable[Endpoint]) -> set[str]:
        """Every port's element that should be in the kernel, written as `published` does."""
        found = (elements(one, one.publications).items() for one in endpoints)
        return {f"{name} {element}" for each in found for name, of in each for element in of}

    def published(self) -> set[str]:
        """Every port's element in the kernel, as `map key : address . port`."""
        found: set[str] = set()
        for name in MAPS:
            listing = json.loads(self._run(f"list map {FAMILY} {self.table} {name}", json=True))
            found |= {f"{name} {element}" for element in _listed(listing)}
        return found

    def _run(self, commands: str, *, json: bool = False) -> str:
        try:
            return self._nft.run(commands, json=json)
        except NftError as error:
            raise Internal(f"nftables table {self.table}: {error}") from error


def _listed(listing: dict[str, Any]) -> Iterator[str]:
    """The elements in the JSON of `list map` (libnftables-json(5)), written as `elements` does."""
    for item in listing["nftables"]:
        for key, value in item.get("map", {}).get("elem", ()):
            *address, protocol, port = key["concat"]
            words = (*address, PROTOCOLS.get(protocol, protocol), port)
            yield f"{' . '.join(map(str, words))} : {' . '.join(map(str, value['concat']))}"
