"""Which subnet a bridge gets, which address and hardware address a container gets.

The pools are Docker's default ones (`default-address-pools` in its daemon configuration reference).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from corten.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Pool:
    """A range that is cut into subnets with a prefix of `size` bits."""

    base: IPv4Network
    size: int

    def subnets(self) -> Iterator[IPv4Network]:
        """The subnets in ascending order."""
        return self.base.subnets(new_prefix=self.size)


DEFAULT_POOLS = (
    Pool(IPv4Network("172.17.0.0/16"), 16),
    Pool(IPv4Network("172.18.0.0/16"), 16),
    Pool(IPv4Network("172.19.0.0/16"), 16),
    Pool(IPv4Network("172.20.0.0/14"), 16),
    Pool(IPv4Network("172.24.0.0/14"), 16),
    Pool(IPv4Network("172.28.0.0/14"), 16),
    Pool(IPv4Network("192.168.0.0/16"), 20),
)


def choose_subnet(pools: Iterable[Pool], taken: Collection[IPv4Network]) -> IPv4Network:
    """The first subnet that overlaps nothing in `taken`; raises FailedPrecondition."""
    for pool in pools:
        for subnet in pool.subnets():
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
    raise FailedPrecondition(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )


def first_free(subnet: IPv4Network, taken: Collection[int]) -> IPv4Address:
    """The lowest host address that is not among the numbers of the taken, as Docker; raises FailedPrecondition."""
    for number in range(int(subnet.network_address) + 1, int(subnet.broadcast_address)):
        if number not in taken:
            return IPv4Address(number)
    raise FailedPrecondition("no available IPv4 addresses on this network's address pools")


def mac_of(address: IPv4Address) -> str:
    """The hardware address that goes with an address: 02:42 and its four bytes.

    A container that takes over an address takes over the hardware address too, so no neighbour table is ever stale.
    """
    return (b"\x02\x42" + address.packed).hex(":")
