"""What a container may ask of one network: dockerd's checks with dockerd's texts.

Sources: moby daemon/container_operations.go (validateEndpointSettings) and api/types/network/endpoint.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec.structs import replace

from corten.errors import InvalidArgument
from corten.network import endpointoptions
from corten.network.values import PREDEFINED, Network
from corten.spec.address import mac_address
from corten.spec.docker import ContainerCreateRequest, EndpointIPAMConfig, EndpointSettings, HostConfig

_NO_ADDRESS = "user specified IP address is supported on user defined networks only"
_NO_SUBNET = "user specified IP address is supported only when connecting to networks with user configured subnets"
_NO_ALIAS = "network-scoped alias is supported only for containers in user defined networks"


def check_settings(network: Network, settings: EndpointSettings) -> None:
    """Of a network that is there.  Raises InvalidArgument."""
    _check(network.name, network, settings)


def check_asked(name: str, network: Network | None, settings: EndpointSettings) -> None:
    """At create, when the network need not be there.  Raises InvalidArgument."""
    try:
        _check(network.name if network is not None else name, network, settings)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid config for network {name}: {error.text}") from error


def _check(name: str, network: Network | None, settings: EndpointSettings) -> None:
    if settings.mac_address and not mac_address(settings.mac_address):
        raise InvalidArgument(f"invalid MAC address {settings.mac_address}")
    ipam = settings.ipam_config or EndpointIPAMConfig()
    problems = [
        *_of_name(name, settings, ipam),
        *_of_values(ipam),
        *_of_subnets(name, network, ipam),
        *_of_options(settings),
    ]
    if problems:
        joined = problems[0] if len(problems) == 1 else "\n".join(f"* {one}" for one in problems)
        raise InvalidArgument(f"invalid endpoint settings:\n{joined}")


def _of_name(name: str, settings: EndpointSettings, ipam: EndpointIPAMConfig) -> Iterator[str]:
    if name in PREDEFINED and (ipam.ipv4_address or ipam.ipv6_address):
        yield _NO_ADDRESS
    if name in PREDEFINED and settings.aliases:
        yield _NO_ALIAS


def _of_values(ipam: EndpointIPAMConfig) -> Iterator[str]:
    for text, version in ((ipam.ipv4_address, 4), (ipam.ipv6_address, 6)):
        if text and not _is_address(text, version):
            yield f"invalid IPv{version} address: {text}"
    for text in ipam.link_local_ips or ():
        if not _is_address(text, 4) and not _is_address(text, 6):
            yield f"invalid link-local IP address: {text}"


def _of_subnets(name: str, network: Network | None, ipam: EndpointIPAMConfig) -> Iterator[str]:
    """A static address needs a subnet of the user's own, in which it is."""
    if network is None and name not in PREDEFINED:
        return
    subnets = network.subnets if network is not None else ()
    for text, version in ((ipam.ipv4_address, 4), (ipam.ipv6_address, 6)):
        own = [one.network for one in subnets if one.network.version == version and not one.is_chosen]
        if text and not own:
            yield _NO_SUBNET
        elif text and not (_is_address(text, version) and any(ip_address(text) in one for one in own)):
            yield f"no configured subnet or ip-range contain the IP address {text}"


def _of_options(settings: EndpointSettings) -> Iterator[str]:
    try:
        endpointoptions.sysctls(settings.driver_opts or {})
    except InvalidArgument as error:
        yield error.text


def _is_address(text: str, version: int) -> bool:
    kind = IPv4Address if version == 4 else IPv6Address
    try:
        return not kind(text).is_unspecified
    except ValueError:
        return False


def endpoints(
    request: ContainerCreateRequest, host: HostConfig, find_network: Callable[[str], Network | None]
) -> dict[str, EndpointSettings]:
    """What is asked of each network; of that of the mode alone when no other is named.

    An address of the old form (Config.MacAddress) is of the mode's.
    """
    if host.network_mode.startswith("container:"):
        return {}

    def name_of(ref: str) -> str:
        found = find_network(host.network_mode if ref == "default" else ref)
        return found.name if found is not None else ref

    main = name_of(host.network_mode)
    given = request.networking_config.endpoints_config or {}
    named = {main if ref == "default" else name_of(ref): one for ref, one in given.items()}
    mac = request.config.mac_address
    if mac:
        named[main] = replace(named.get(main) or EndpointSettings(), mac_address=mac)
    first = {main: named[main]} if main in named else {}
    return {**first, **named} or {main: EndpointSettings()}
