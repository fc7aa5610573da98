"""Which subnet a network gets, which address and hardware address a container gets.

The default bridge's pools are Docker's (`default-address-pools` in its daemon configuration reference); other networks
get a /24 each of the same ranges, so that there are thousands of them.  IPv6 subnets are of one unique local prefix
per engine (RFC 4193).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from corten.errors import FailedPrecondition
from corten.sys.rtnetlink import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Pool:
    """A range that is cut into subnets with a prefix of `size` bits."""

    base: IPNetwork
    size: int


DEFAULT_POOLS = (
    Pool(IPv4Network("172.17.0.0/16"), 16),
    Pool(IPv4Network("172.18.0.0/16"), 16),
    Pool(IPv4Network("172.19.0.0/16"), 16),
    Pool(IPv4Network("172.20.0.0/14"), 16),
    Pool(IPv4Network("172.24.0.0/14"), 16),
    Pool(IPv4Network("172.28.0.0/14"), 16),
    Pool(IPv4Network("192.168.0.0/16"), 20),
)
USER_POOLS = (
    Pool(IPv4Network("172.18.0.0/15"), 24),
    Pool(IPv4Network("172.20.0.0/14"), 24),
    Pool(IPv4Network("172.24.0.0/13"), 24),
    Pool(IPv4Network("192.168.0.0/16"), 24),
)


def local_pool(engine_id: str) -> Pool:
    """The engine's own IPv6 range: a /48 of fd00::/8 that no other is likely to have, cut into /64."""
    number = int.from_bytes(hashlib.sha256(f"ula {engine_id}".encode()).digest()[:5], "big")
    return Pool(IPv6Network(((0xFD << 120) | (number << 80), 48)), 64)


def choose_subnet(pools: Iterable[Pool], taken: Collection[IPNetwork]) -> IPNetwork:
    """The first subnet that overlaps nothing in `taken`; raises FailedPrecondition."""
    version = 4
    for pool in pools:
        version = pool.base.version
        used = sorted(_numbers(one) for one in taken if one.version == version)
        found = _first_gap(pool, used)
        if found is not None:
            return found
    raise FailedPrecondition(
        f"could not find an available, non-overlapping IPv{version} address pool among the defaults to assign to the "
        "network"
    )


def _numbers(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _first_gap(pool: Pool, used: Iterable[tuple[int, int]]) -> IPNetwork | None:
    """`used`: (first, last) of each, sorted."""
    size = 1 << (pool.base.max_prefixlen - pool.size)
    candidate, end = _numbers(pool.base)
    for first, last in used:
        if first >= candidate + size:
            break
        candidate = max(candidate, (last // size + 1) * size)
    if candidate + size - 1 > end:
        return None
    return type(pool.base)((candidate, pool.size))


def first_free(subnet: IPNetwork, taken: Collection[int], *, within: IPNetwork | None = None) -> IPAddress:
    """The lowest host address that is not among the numbers of the taken, as Docker; raises FailedPrecondition.

    `within`: the part of the subnet that addresses come from.
    """
    place = within or subnet
    is_pair = subnet.version == 4 and subnet.prefixlen >= 31  # RFC 3021: both addresses are hosts'
    lowest = max(int(place.network_address), int(subnet.network_address) + (0 if is_pair else 1))
    is_whole = subnet.version == 6 or is_pair
    highest = min(int(place.broadcast_address), int(subnet.broadcast_address) - (0 if is_whole else 1))
    for number in range(lowest, highest + 1):
        if number not in taken:
            return type(subnet.network_address)(number)
    raise FailedPrecondition(f"no available IPv{subnet.version} addresses on this network's address pools")


def mac_of(address: IPAddress) -> str:
    """The hardware address that goes with an address: 02:42 and its last four bytes.

    A container that takes over an address takes over the hardware address too, so no neighbour table is ever stale.
    """
    return (b"\x02\x42" + address.packed[-4:]).hex(":")
