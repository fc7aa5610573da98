"""`host-firewall: respect`: who reaches a published port from another host is for the host's input chains to say.

NAT leads packets to containers before any input chain sees them, so those chains would have no say.  Here the first
packet of a client is not led on: it goes the way of a packet to the host, through every input chain there is, be it
nft's, iptables' or ufw's.  If it arrives behind the last of them, its sender is noted as admitted, and it is dropped.
The client sends it again, TCP after one second, and from then on NAT leads its packets on.

    set            elements
    admitted4/6    way in, client, host's address, protocol, port: for an hour, or until the host's nftables change
    …_keys         the keys of the maps of published ports, for the look behind the input chains

Containers, and the host itself, are not asked.  Flows that have begun go on.

Source: nft(8), "SET STATEMENT".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TIMEOUT: Final = "1h"
MOST: Final = 65536
CLIENT4: Final = "iifname . ip saddr . ip daddr . meta l4proto . th dport"
CLIENT6: Final = "iifname . ip6 saddr . ip6 daddr . meta l4proto . th dport"
ADMITTED: Final = ("admitted4", "admitted6")
KEYS: Final = "_keys"

SETS: Final = {
    name: f"type ifname . {kind} . {kind} . inet_proto . inet_service; flags dynamic, timeout; timeout {TIMEOUT}; "
    f"size {MOST}"
    for name, kind in zip(ADMITTED, ("ipv4_addr", "ipv6_addr"), strict=True)
}
HOOKS: Final = {"input": "type filter hook input priority 290; policy accept"}  # 300: conntrack's helpers
BEFORE: Final = tuple(
    f'meta nfproto {family} iifname != "lo" iifname != @ours {client} != @{name} accept'
    for family, client, name in zip(("ipv4", "ipv6"), (CLIENT4, CLIENT6), ADMITTED, strict=True)
)


def rules(maps: Mapping[str, str]) -> tuple[str, ...]:
    """Of the input chain.  `maps`: those of published ports, with their types.

    Where there is no room for another note the first of the two rules ends before its drop.
    """
    found = ['iifname "lo" accept', "iifname @ours accept", "ct state != new accept"]
    for name, kind in maps.items():
        version = 6 if "ipv6_addr" in kind else 4
        client = CLIENT6 if version == 6 else CLIENT4
        key = "meta l4proto . th dport"
        if keys_type(kind).count(" . ") == 2:
            key = f"{'ip6' if version == 6 else 'ip'} daddr . {key}"
        family = f"meta nfproto ipv{version}"
        published = f"{family} fib daddr type local {key} @{name}{KEYS}"
        found += [f"{published} add @admitted{version} {{ {client} }} drop", f"{published} drop"]
    return tuple(found)


def keys_type(kind: str) -> str:
    """The type of a set of the keys of a map of type `kind`."""
    return kind.partition(" : ")[0]


def with_keys(found: Mapping[str, list[str]], maps: Mapping[str, str]) -> dict[str, list[str]]:
    """Elements of maps, and of the sets of their keys."""
    keys = {f"{name}{KEYS}": [one.partition(" : ")[0] for one in of] for name, of in found.items() if name in maps}
    return {**found, **keys}
