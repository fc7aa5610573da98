"""Docker's JSON of networks and endpoints, as API 1.51 has it (the door takes away what an older client does not know).

A container that does not run has an endpoint without values; one without a namespace of its own (`container:ID`) has
none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from corten.network.options import NAME
from corten.network.values import (
    Bridge,
    Endpoint,
    Network,
    Publication,
    Subnet,
)
from corten.sys.rtnetlink import IPAddress

Json = dict[str, Any]


def ports_map(exposed: Iterable[str], publications: Iterable[Publication]) -> dict[str, list[Json] | None]:
    """NetworkSettings.Ports of a running container; one that has no port of the host is null."""
    found: dict[str, list[Json] | None] = dict.fromkeys(exposed)
    for one in publications:
        key = f"{one.container_port}/{one.transport}"
        if not one.host_port:
            found.setdefault(key)
            continue
        pair = {"HostIp": str(one.host_ip), "HostPort": str(one.host_port)}
        found[key] = [*(found.get(key) or ()), pair]
    return dict(sorted(found.items()))


def endpoint_settings(network_id: str, endpoint: Endpoint | None, endpoint_id: str = "") -> Json:
    """One entry of NetworkSettings.Networks.  `endpoint_id` alone is for `host` and `none`, which have no addresses."""
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "MacAddress": endpoint.mac if endpoint else "",
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": network_id,
        "EndpointID": endpoint.endpoint_id if endpoint else endpoint_id,
        **_addresses(endpoint),
        "DNSNames": None,
    }


def _addresses(endpoint: Endpoint | None) -> Json:
    """Empty for a container that does not run."""
    v4, v6 = (endpoint.address, endpoint.address6) if endpoint else (None, None)
    return {
        "Gateway": _gateway(endpoint.gateway) if endpoint else "",
        "IPAddress": str(v4.ip) if v4 else "",
        "IPPrefixLen": v4.network.prefixlen if v4 else 0,
        "IPv6Gateway": _gateway(endpoint.gateway6) if endpoint else "",
        "GlobalIPv6Address": str(v6.ip) if v6 else "",
        "GlobalIPv6PrefixLen": v6.network.prefixlen if v6 else 0,
    }


def _gateway(address: IPAddress | None) -> str:
    """Empty where the device is the way out."""
    return "" if address is None or address.is_unspecified else str(address)


def default_bridge_settings(endpoint: Endpoint | None) -> Json:
    """The old fields of NetworkSettings that speak of the default bridge only."""
    return {
        "Bridge": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": endpoint.endpoint_id if endpoint else "",
        **_addresses(endpoint),
        "MacAddress": endpoint.mac if endpoint else "",
    }


def network_resource(network: Network, bridge: Bridge | None, members: Mapping[str, Json] | None) -> Json:
    """NetworkInspect; in NetworkList `members` is None and Containers is empty.  `bridge`: of the default network."""
    config = [_subnet(one) for one in network.subnets]
    return {
        "Name": network.name,
        "Id": network.network_id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.has_ipv4,
        "EnableIPv6": network.has_ipv6,
        "IPAM": {
            "Driver": network.ipam_driver,
            "Options": dict(network.ipam_options) if network.ipam_options is not None else None,
            "Config": config or ([] if network.driver not in ("host", "null") else None),
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Containers": dict(members or {}),
        "Options": {**network.options, **({NAME: bridge.name} if bridge else {})},
        "Labels": dict(network.labels),
    }


def _subnet(one: Subnet) -> Json:
    """An entry of IPAM.Config."""
    out: Json = {"Subnet": str(one.network)}
    if one.range is not None:
        out["IPRange"] = str(one.range)
    if not one.has_free_gateway:
        out["Gateway"] = str(one.gateway)
    if one.reserved:
        out["AuxiliaryAddresses"] = {name: str(address) for name, address in one.reserved}
    return out


def member(name: str, endpoint: Endpoint | None, endpoint_id: str = "") -> Json:
    """An entry of Containers in NetworkInspect."""
    return {
        "Name": name,
        "EndpointID": endpoint.endpoint_id if endpoint else endpoint_id,
        "MacAddress": endpoint.mac if endpoint else "",
        "IPv4Address": str(endpoint.address or "") if endpoint else "",
        "IPv6Address": str(endpoint.address6 or "") if endpoint else "",
    }
