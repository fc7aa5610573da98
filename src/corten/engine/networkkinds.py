"""What kinds of networks there are: drivers, scopes, and networks that are the configuration of others.

Sources: NetworkCreate of the Engine API (ConfigOnly, ConfigFrom, Scope, Ingress); the texts are dockerd 26.1's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from corten.errors import InvalidArgument, NotFound, PermissionDenied
from corten.network import parents
from corten.network.values import FIXED, Network
from corten.spec.docker import IPAM, NetworkCreateRequest

BRIDGE: Final = "bridge"
OVERLAY: Final = "overlay"
CONFIG_DRIVER: Final = "null"  # as dockerd's, of networks that are configuration only
LOCAL, SWARM = "local", "swarm"
_DEFAULT_IPAM: Final = frozenset({"", "default"})
_DEPENDS: Final = "if the network depends on a configuration network"


def check(request: NetworkCreateRequest, driver: str) -> None:
    """Raises PermissionDenied, NotFound, InvalidArgument for what there is no network of."""
    if driver == OVERLAY:
        raise PermissionDenied(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
            "swarm and try again."
        )
    if request.config_only and (request.ingress or request.internal or request.attachable or request.scope):
        raise PermissionDenied(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if source_of(request):
        _check_dependent(request)
    if not request.config_only:
        _check_driver(request, driver)


def source_of(request: NetworkCreateRequest) -> str:
    """The name of the network that a new one is configured from; '' when there is none."""
    return str((request.config_from or {}).get("Network", ""))


def _check_dependent(request: NetworkCreateRequest) -> None:
    if request.config_only:
        raise PermissionDenied("a configuration network cannot depend on another configuration network")
    ipam = request.ipam or IPAM()
    if ipam.driver not in _DEFAULT_IPAM or request.enable_ipv6 or request.labels or ipam.options or ipam.config:
        raise PermissionDenied(f"user specified configurations are not supported {_DEPENDS}")
    if request.options:
        raise PermissionDenied(f"network driver options are not supported {_DEPENDS}")


def _check_driver(request: NetworkCreateRequest, driver: str) -> None:
    if driver not in parents.DRIVERS and driver not in (BRIDGE, *FIXED.values()):
        raise NotFound(f'plugin "{driver}" not found')
    if request.ingress:
        raise PermissionDenied("Ingress network can only be global scope network")
    if request.scope == SWARM:
        raise PermissionDenied("cannot create a swarm scoped network when swarm is not active")
    if request.scope not in ("", LOCAL):
        raise InvalidArgument(f"invalid network scope: {request.scope}: a network of this engine is {LOCAL}")
    if driver in FIXED.values():
        raise PermissionDenied(f'only one instance of "{driver}" network is allowed')


def configured(network: Network, request: NetworkCreateRequest, others: Iterable[Network]) -> Network:
    """The network with the configuration that it is made from.  Raises NotFound."""
    name = source_of(request)
    if not name:
        return network
    source = next((one for one in others if one.config_only and one.name == name), None)
    if source is None:
        raise NotFound(f'configuration network "{name}" does not exist')
    return dataclasses.replace(
        network,
        subnets=source.subnets,
        options=source.options,
        labels=source.labels,
        ipam_driver=source.ipam_driver,
        ipam_options=source.ipam_options,
        has_ipv4=source.has_ipv4,
        has_ipv6=source.has_ipv6,
        config_from=name,
    )


def check_unused(network: Network, others: Iterable[Network]) -> None:
    """Raises PermissionDenied when networks are made from this configuration."""
    if network.config_only and any(one.config_from == network.name for one in others):
        raise PermissionDenied(f'error while removing network: configuration network "{network.name}" is in use')


def check_joinable(network: Network) -> None:
    """Raises PermissionDenied for a network that is configuration only."""
    if network.config_only:
        raise PermissionDenied("cannot create endpoint on configuration-only network")
