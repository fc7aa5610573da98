"""Docker's JSON of networks and endpoints, as API 1.51 has it (the door takes away what an older client does not know).

A container that does not run has an endpoint without values; one without a namespace of its own (`container:ID`) has
none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from corten.network.values import Bridge, Endpoint, Publication

Json = dict[str, Any]

DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True)
class Network:
    """One of the three networks that every engine has: `bridge`, `host`, `none`."""

    name: str
    network_id: str
    created: str

    @property
    def driver(self) -> str:
        """Docker calls the driver of `none` null."""
        return "null" if self.name == "none" else self.name


def ports_map(exposed: Iterable[str], publications: Iterable[Publication]) -> dict[str, list[Json] | None]:
    """NetworkSettings.Ports of a running container; an exposed port that is not published is null."""
    found: dict[str, list[Json] | None] = dict.fromkeys(exposed)
    for one in publications:
        key = f"{one.container_port}/{one.transport}"
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
        "Gateway": str(endpoint.gateway) if endpoint else "",
        "IPAddress": str(endpoint.ip) if endpoint else "",
        "IPPrefixLen": endpoint.prefix if endpoint else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


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
        "Gateway": str(endpoint.gateway) if endpoint else "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": str(endpoint.ip) if endpoint else "",
        "IPPrefixLen": endpoint.prefix if endpoint else 0,
        "IPv6Gateway": "",
        "MacAddress": endpoint.mac if endpoint else "",
    }


def network_resource(network: Network, bridge: Bridge | None, members: Mapping[str, Json] | None) -> Json:
    """NetworkInspect; in NetworkList `members` is None and Containers is empty."""
    config = [{"Subnet": str(bridge.subnet), "Gateway": str(bridge.address.ip)}] if bridge else None
    return {
        "Name": network.name,
        "Id": network.network_id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": dict(members or {}),
        "Options": _options(bridge) if bridge else {},
        "Labels": {},
    }


def member(name: str, endpoint: Endpoint | None, endpoint_id: str = "") -> Json:
    """An entry of Containers in NetworkInspect."""
    return {
        "Name": name,
        "EndpointID": endpoint.endpoint_id if endpoint else endpoint_id,
        "MacAddress": endpoint.mac if endpoint else "",
        "IPv4Address": str(endpoint.address) if endpoint else "",
        "IPv6Address": "",
    }


def _options(bridge: Bridge) -> Json:
    prefix = "com.docker.network"
    return {
        f"{prefix}.bridge.default_bridge": "true",
        f"{prefix}.bridge.enable_icc": "true",
        f"{prefix}.bridge.enable_ip_masquerade": "true",
        f"{prefix}.bridge.host_binding_ipv4": "0.0.0.0",
        f"{prefix}.bridge.name": bridge.name,
        f"{prefix}.driver.mtu": str(DEFAULT_MTU),
    }
