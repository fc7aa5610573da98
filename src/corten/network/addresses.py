"""Subnets of networks and leases on their addresses.  Pure; the records are the leases.

Source of the texts: libnetwork's ipam and bridge driver as dockerd 26.1 answers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network, ip_interface
from typing import Final

from corten.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from corten.network import pools
from corten.network.options import DEFAULT
from corten.network.values import DEFAULT_NETWORK, Network, Subnet
from corten.sys.rtnetlink import IPAddress, IPInterface, IPNetwork

LINK_LOCAL: Final = IPv6Network("fe80::/64")
_IN_USE: Final = "Address already in use"


@dataclass(frozen=True, slots=True)
class Lease:
    """An address of a container and the way out."""

    address: IPInterface
    gateway: IPAddress | None


def default_network(network_id: str, address: str = "") -> Network:
    """The network `bridge`; `address`: its bridge's of an earlier start."""
    subnets: tuple[Subnet, ...] = ()
    if address:
        own = ip_interface(address)
        subnets = (Subnet(own.network, own.ip, is_chosen=True),)
    created = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000000000Z"
    return Network(network_id, DEFAULT_NETWORK, "bridge", created, subnets, {DEFAULT: "true"})


def with_subnets(network: Network, available: Sequence[pools.Pool], taken: Collection[IPNetwork]) -> Network:
    """The network with a chosen subnet for each version that it has none of.  Raises FailedPrecondition."""
    subnets = list(network.subnets)
    for version in network.versions:
        if network.subnet(version) is None:
            chosen = pools.choose_subnet([one for one in available if one.base.version == version], taken)
            subnets.append(Subnet(chosen, pools.first_free(chosen, ()), is_chosen=True))
    return dataclasses.replace(network, subnets=tuple(subnets))


def check_apart(network: Network, others: Iterable[Network]) -> None:
    """Raises PermissionDenied when a subnet overlaps one of another network's."""
    for other in others:
        for theirs in other.subnets:
            for one in network.subnets:
                if one.network.version == theirs.network.version and one.network.overlaps(theirs.network):
                    raise PermissionDenied("Pool overlaps with other one on this address space")


def check_usable(network: IPNetwork) -> None:
    """A subnet may be a network's.  Raises InvalidArgument (libnetwork, bridge: validateIPv6Subnet)."""
    if network.is_multicast:
        raise InvalidArgument(f"multicast subnet '{network}' is not allowed")
    if network.version == 6 and network != LINK_LOCAL and network.overlaps(LINK_LOCAL):
        raise InvalidArgument(f"'{network}' clashes with the Link-Local prefix '{LINK_LOCAL}'")
    if network.is_loopback:
        raise InvalidArgument(f"loopback subnet '{network}' is not allowed")


def check_reserved(subnet: Subnet) -> None:
    """Gateway and names have an address each, one that somebody can have.  Raises PermissionDenied, as dockerd."""
    used: set[int] = {int(one) for one in unusable(subnet.network)}
    if int(subnet.gateway) in used:
        raise PermissionDenied(f"failed to allocate gateway ({subnet.gateway}): {_IN_USE}")
    used.add(int(subnet.gateway))
    for name, address in subnet.reserved:
        if int(address) in used:
            raise PermissionDenied(f"failed to allocate secondary ip address ({name}:{address}): {_IN_USE}")
        used.add(int(address))


def unusable(network: IPNetwork) -> tuple[IPAddress, ...]:
    """Its own address, and that of everybody (RFC 3021: a /31 has neither; RFC 4291, 2.6.1)."""
    bits = network.max_prefixlen - network.prefixlen
    if network.version == 6:
        return (network.network_address,) if bits else ()
    return (network.network_address, network.broadcast_address) if bits > 1 else ()


def contains(network: IPNetwork, part: IPNetwork) -> bool:
    """All of `part` is in `network`."""
    is_same = network.version == part.version
    return is_same and int(network[0]) <= int(part[0]) and int(part[-1]) <= int(network[-1])


def lease(network: Network, version: int, wanted: IPAddress | None, taken: Collection[int]) -> Lease | None:
    """An address of a network; None when it has no subnet of this version.

    Raises InvalidArgument, PermissionDenied, FailedPrecondition.
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
            return Lease(_interface(found, subnet), subnet.way_out)
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
    held = {subnet.gateway, *(address for _, address in subnet.reserved), *unusable(subnet.network)}
    if wanted in held or int(wanted) in taken:
        raise PermissionDenied(_IN_USE)
    return Lease(_interface(wanted, subnet), subnet.way_out)


def _interface(address: IPAddress, subnet: Subnet) -> IPInterface:
    kind = IPv4Interface if address.version == 4 else IPv6Interface
    return kind((address, subnet.network.prefixlen))
