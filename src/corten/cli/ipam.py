"""Subnets, ranges, gateways and reserved addresses of `network create`, put together as Docker's CLI does.

Each range, gateway and address goes to the subnet that it lies in; the engine judges the rest.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from corten import errors

Json = dict[str, Any]
_CIDR: Final = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}")


def split(text: str) -> list[str]:
    """A value that may be several, with commas between them.  Raises InvalidArgument."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise errors.InvalidArgument(f"parse error on line 1: {error}") from None


def configs(
    subnets: Sequence[str], ranges: Sequence[str], gateways: Sequence[str], reserved: Mapping[str, str]
) -> list[Json]:
    """IPAM.Config of NetworkCreate.  Raises InvalidArgument in the words of Docker's CLI."""
    if len(subnets) < max(len(ranges), len(gateways)):
        raise errors.InvalidArgument("every ip-range or gateway must have a corresponding subnet")
    found: dict[str, Json] = {}
    for subnet in subnets:
        if any(_holds(subnet, other) or _holds(other, subnet) for other in found):
            raise errors.InvalidArgument("multiple overlapping subnet configuration is not supported")
        found[subnet] = {"Subnet": subnet}
    for one in ranges:
        _put(found, "IPRange", one, "range", "ranges ({}, {}) on")
    for one in gateways:
        _put(found, "Gateway", one, "gateway", "gateways ({}, {}) for")
    for name, address in reserved.items():
        for config in _matching(found, address, "aux-address"):
            config.setdefault("AuxiliaryAddresses", {})[name] = address
    return list(found.values())


def _put(found: Mapping[str, Json], key: str, value: str, what: str, twice: str) -> None:
    for config in _matching(found, value, what):
        if config.get(key):
            several = twice.format(value, config[key])
            raise errors.InvalidArgument(f"cannot configure multiple {several} the same subnet ({config['Subnet']})")
        config[key] = value


def _matching(found: Mapping[str, Json], value: str, what: str) -> Iterable[Json]:
    is_range = what == "range"
    configs_of = [config for subnet, config in found.items() if _holds(subnet, value, is_range=is_range)]
    if not configs_of:
        raise errors.InvalidArgument(f"no matching subnet for {what} {value}")
    return configs_of


def _holds(subnet: str, value: str, *, is_range: bool = False) -> bool:
    """Whether the address of `value` lies in the subnet.  `is_range`: it has to have a prefix length."""
    try:
        network = _network(subnet)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"invalid subnet: {error.text}") from None
    if "/" in value or is_range:
        _network(value)
        return _address(value.partition("/")[0]) in network
    address = _address(value)
    return address is not None and address in network


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        if _CIDR.fullmatch(text):
            return ip_network(text, strict=False)
    except ValueError:
        pass
    raise errors.InvalidArgument(f"invalid CIDR address: {text}")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
