"""Subnets of networks and leases on their addresses.  Pure; the records are the leases.

Source of the texts: libnetwork's ipam and bridge driver as dockerd 26.1 answers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from corten.errors import Conflict, FailedPrecondition, InvalidArgument
from corten.network import pools
from corten.network.values import BRIDGE_DEFAULT, DEFAULT_NETWORK, Network, Subnet
from corten.sys.rtnetlink import IPAddress, IPInterface, IPNetwork


@dataclass(frozen=True, slots=True)
class Lease:
    """An address of a container and the way out."""

    address: IPInterface
    gateway: IPAddress


def default_network(network_id: str, address: str = "") -> Network:
    """The network `bridge`; `address`: its bridge's of an earlier start."""
    subnets: tuple[Subnet, ...] = ()
    if address:
        own = ip_interface(address)
        subnets = (Subnet(own.network, own.ip, is_chosen=True),)
    created = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000000000Z"
    return Network(network_id, DEFAULT_NETWORK, "bridge", created, subnets, {BRIDGE_DEFAULT: "true"})


def with_subnets(network: Network, available: Sequence[pools.Pool], taken: Collection[IPNetwork]) -> Network:
    """The network with a chosen subnet for each version that it has none of.  Raises FailedPrecondition."""
    subnets = list(network.subnets)
    for version, is_on in ((4, network.has_ipv4), (6, network.has_ipv6)):
        if is_on and network.subnet(version) is None:
            chosen = pools.choose_subnet([one for one in available if one.base.version == version], taken)
            subnets.append(Subnet(chosen, pools.first_free(chosen, ()), is_chosen=True))
    return dataclasses.replace(network, subnets=tuple(subnets))


def check_apart(network: Network, others: Iterable[Network]) -> None:
    """Raises InvalidArgument when a subnet overlaps one of another network's."""
    for other in others:
        for theirs in other.subnets:
            for one in network.subnets:
                if one.network.version == theirs.network.version and one.network.overlaps(theirs.network):
                    raise InvalidArgument("invalid pool request: Pool overlaps with other one on this address space")


def lease(network: Network, version: int, wanted: IPAddress | None, taken: Collection[int]) -> Lease | None:
    """An address of a network; None when it has no subnet of this version.

    Raises InvalidArgument, Conflict, FailedPrecondition.
    """
    subnets = [one for one in network.subnets if one.network.version == version]
    if wanted is not None:
        return _wanted(subnets, wanted, taken)
    if not subnets:
        return None
    for subnet in subnets:
        reserved = {int(address) for _, address in subnet.reserved}
        try:
            numbers = _Taken(taken, reserved | {int(subnet.gateway)})
            found = pools.first_free(subnet.network, numbers, within=subnet.range)
        except FailedPrecondition:
            if subnet is subnets[-1]:
                raise
        else:
            return Lease(_interface(found, subnet), subnet.gateway)
    return None


class _Taken(Collection[int]):
    """Two sets as one, without a copy of the large one."""

    def __init__(self, many: Collection[int], few: Collection[int]) -> None:
        self._many, self._few = many, few

    def __contains__(self, number: object) -> bool:
        return number in self._many or number in self._few

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from self._many
        yield from self._few

    def __len__(self) -> int:
        return len(self._many) + len(self._few)


def _wanted(subnets: Sequence[Subnet], wanted: IPAddress, taken: Collection[int]) -> Lease:
    subnet = next((one for one in subnets if wanted in one.network), None)
    if subnet is None:
        raise InvalidArgument(f"no configured subnet contains IP address {wanted}")
    if wanted == subnet.gateway or int(wanted) in taken:
        raise Conflict("Address already in use")
    return Lease(_interface(wanted, subnet), subnet.gateway)


def _interface(address: IPAddress, subnet: Subnet) -> IPInterface:
    kind = IPv4Interface if address.version == 4 else IPv6Interface
    return kind((address, subnet.network.prefixlen))
