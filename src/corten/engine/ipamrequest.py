"""IPAM of NetworkCreate, checked: the subnets of a new network.

Every fault of the request is told at once, as dockerd does (Engine API, IPAMConfig; the texts are dockerd 26.1's).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Final

from corten.errors import InvalidArgument, NotFound, PermissionDenied
from corten.network import addresses, options, pools
from corten.network.values import Subnet
from corten.spec.docker import IPAMConfig, NetworkCreateRequest
from corten.sys.rtnetlink import IPAddress, IPNetwork

_TITLE: Final = "invalid network config:"


def check_driver(name: str) -> None:
    """There is one that gives addresses.  Raises NotFound; InvalidArgument for that which gives none."""
    if name == "null":
        raise InvalidArgument("ipv4 pool is empty")
    if name not in ("", "default"):
        raise NotFound(f'plugin "{name}" not found')


def enabled(request: NetworkCreateRequest, said: Mapping[str, str]) -> frozenset[int]:
    """The families of a new network: what the request says, else the options.  Raises InvalidArgument."""
    on = {
        4: options.is_enabled(said, 4) if request.enable_ipv4 is None else request.enable_ipv4,
        6: options.is_enabled(said, 6) if request.enable_ipv6 is None else request.enable_ipv6,
    }
    found = frozenset(version for version, value in on.items() if value or (value is None and version == 4))
    if not found:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    return found


def subnets_of(configs: Iterable[IPAMConfig], versions: Iterable[int], *, is_single: bool = True) -> tuple[Subnet, ...]:
    """The subnets, IPv4 first: the docker CLI sends them in any order.

    Those of families that are not in `versions` are left out, unlooked at.

    `is_single`: the driver takes one of a family.
    Raises InvalidArgument with one line for each fault, PermissionDenied.
    """
    wanted = frozenset(versions)
    faults: list[str] = []
    found = [_checked(one, wanted, faults) for one in configs]
    if faults:
        raise InvalidArgument("\n".join((_TITLE, *faults)))
    subnets = sorted((one for one in found if one is not None), key=lambda one: one.network.version)
    if is_single and any(sum(one.network.version == version for one in subnets) > 1 for version in (4, 6)):
        raise PermissionDenied("bridge driver doesn't support multiple subnets")
    return tuple(subnets)


def _checked(config: IPAMConfig, versions: frozenset[int], faults: list[str]) -> Subnet | None:
    network = _prefix(config.subnet)
    if network is None:
        faults.append(f"invalid subnet {config.subnet}: invalid CIDR block notation")
        return None
    if network.version not in versions:
        return None
    before = len(faults)
    if _host_bits(config.subnet):
        faults.append(f"invalid subnet {config.subnet}: it should be {network}")
    part = _prefix(config.ip_range) if config.ip_range else None
    faults += _range_faults(config.ip_range, part, network) if config.ip_range else ()
    faults += _address_faults(f"gateway {config.gateway}", config.gateway, network)
    for name, text in sorted((config.auxiliary_addresses or {}).items()):
        faults += _address_faults(f"auxiliary address {name}", text, network)
    return _subnet(config, network, part) if len(faults) == before else None


def _prefix(text: str) -> IPNetwork | None:
    """As Go's netip.ParsePrefix: a length in digits, no mask, no zone."""
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in address or length != str(int(length)):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _host_bits(text: str) -> bool:
    return ip_address(text.partition("/")[0]) != ip_network(text, strict=False).network_address


def _family(network: IPNetwork | IPAddress) -> str:
    return f"IPv{network.version}"


def _range_faults(text: str, part: IPNetwork | None, network: IPNetwork) -> Iterator[str]:
    if part is None:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if part.version != network.version:
        yield f"invalid ip-range {text}: parent subnet is an {_family(network)} block"
        return
    if part.prefixlen < network.prefixlen:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {network}"
    if _host_bits(text):
        yield f"invalid ip-range {text}: it should be {part}"
    if not network.overlaps(part):
        yield f"invalid ip-range {text}: parent subnet {network} doesn't contain ip-range"


def _address_faults(title: str, text: str, network: IPNetwork) -> Iterator[str]:
    if not text:
        return
    try:
        address = ip_address(text)
    except ValueError:
        yield f"invalid {title}: invalid address"
        return
    if address.version != network.version:
        yield f"invalid {title}: parent subnet is an {_family(network)} block"
    elif address not in network:
        yield f"invalid {title}: parent subnet {network} doesn't contain this address"


def _subnet(config: IPAMConfig, network: IPNetwork, part: IPNetwork | None) -> Subnet:
    """Its gateway is the first address that nobody has a name for.  Raises InvalidArgument, Conflict."""
    addresses.check_usable(network)
    reserved = tuple(_reserved(config.auxiliary_addresses or {}))
    taken = {int(address) for _, address in reserved}
    gateway = ip_address(config.gateway) if config.gateway else pools.first_free(network, taken, within=part)
    subnet = Subnet(network, gateway, part, reserved, has_free_gateway=not config.gateway)
    addresses.check_reserved(subnet)
    return subnet


def _reserved(named: Mapping[str, str]) -> Iterator[tuple[str, IPAddress]]:
    for name, text in sorted(named.items()):
        if text:
            yield name, ip_address(text)
