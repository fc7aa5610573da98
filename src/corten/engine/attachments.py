"""The networks that a container is on: those of its configuration, in the kernel while it runs.

At a start it joins the network of its mode first, as eth0, then the others as eth1 and on.  One of them leads to the
outside: that with the greatest priority as a gateway, then one that is not internal, then by name (libnetwork,
Endpoint.Less).  Published ports are those of that one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from corten.core.events import EventBus
from corten.engine.container import Container
from corten.engine.effective import Effective, port_bindings
from corten.engine.events import network_event
from corten.engine.networks import FIXED, Networks
from corten.errors import InvalidArgument
from corten.network.bridge import BridgeDriver
from corten.network.values import Endpoint, Network, Publication, Wanted
from corten.spec.address import mac_address
from corten.spec.docker import EndpointSettings

INTERFACE: Final = "eth"
_FIXED_DRIVERS: Final = frozenset(FIXED.values())


class Wiring(Protocol):
    """What of the engine's parts is needed here."""

    @property
    def bridge(self) -> BridgeDriver: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def bus(self) -> EventBus: ...


@dataclass(frozen=True, slots=True)
class Attachment:
    """A network, and what the container asks of it."""

    network: Network
    settings: EndpointSettings

    @property
    def is_connected(self) -> bool:
        """It has an interface there; `host` and `none` are networks in name."""
        return self.network.driver not in _FIXED_DRIVERS


class Attachments:
    """Joins and leaves networks."""

    def __init__(self, parts: Wiring) -> None:
        self._parts = parts

    def wanted(self, effective: Effective) -> tuple[Attachment, ...]:
        """The networks of a configuration, that of its mode first; none with `container:ID`.  Raises NotFound."""
        mode = effective.network
        if mode.startswith("container:"):
            return ()
        find = self._parts.networks.find
        found: dict[str, Attachment] = {}
        for name, settings in ((mode, effective.endpoint), *effective.networks.items()):
            network = find(name)
            found.setdefault(network.network_id, Attachment(network, settings or EndpointSettings()))
        return tuple(found.values())

    def join(
        self, container: Container, attached: Sequence[Attachment], netns_fd: int, undo: AsyncExitStack
    ) -> tuple[dict[str, str], dict[str, int]]:
        """(endpoint ids by network, sockets of published ports by the name that the shim holds them under).

        The descriptors are the caller's.  Raises CortenError; what was joined by then `undo` knows of.
        """
        driver = self._parts.bridge
        if driver.endpoints_of(container.id):  # the end of its last run could not take it off
            driver.disconnect(container.id)
        undo.callback(driver.disconnect, container.id)
        places: dict[str, str] = {}
        gateway = gateway_of(attached)
        for number, one in enumerate(attached):
            if one.is_connected:
                endpoint = self.connect(container, one, netns_fd, number, is_gateway=one is gateway)
                places[one.network.name] = endpoint.endpoint_id
            else:
                places[one.network.name] = secrets.token_hex(32)
        return places, self._publish(container, gateway)

    def connect(
        self, container: Container, one: Attachment, netns_fd: int, number: int, *, is_gateway: bool
    ) -> Endpoint:
        """Joins one network as interface `eth<number>`."""
        endpoint = self._parts.bridge.connect(
            container.id,
            netns_fd,
            network_id=one.network.network_id,
            wanted=wanted_of(one.settings),
            interface=f"{INTERFACE}{number}",
            is_gateway=is_gateway,
        )
        container.endpoints[one.network.name] = endpoint
        return endpoint

    def _publish(self, container: Container, gateway: Attachment | None) -> dict[str, int]:
        effective = container.record.effective
        bindings = port_bindings(effective.config, effective.host)
        if gateway is None or not bindings or gateway.network.internal:
            return {}
        name = gateway.network.name
        published = self._parts.bridge.publish(container.endpoints[name], container.name, bindings)
        container.endpoints[name] = published.endpoint
        return {port_name(one.publication): one.socket.detach() for one in published.reservations}

    def leave(self, container: Container) -> None:
        """Off all networks; its namespace is going."""
        if any(self._parts.networks.driver_of(name) not in _FIXED_DRIVERS for name in container.record.place.networks):
            self._parts.bridge.disconnect(container.id)

    def known(self, container: Container) -> dict[str, Endpoint]:
        """A running container's endpoints by network, from the records."""
        names = {one.network_id: one.name for one in self._parts.bridge.networks()}
        found = self._parts.bridge.endpoints_of(container.id)
        return {names[one.network_id]: one for one in found if one.network_id in names}

    def tell(self, container: Container, action: str, networks: Mapping[str, str]) -> None:
        """The events `connect` or `disconnect`.  `networks`: of its place."""
        for name in networks:
            network = self._parts.networks.named(name)
            if network is not None:
                kind, ident = network.driver, network.network_id
                self._parts.bus.publish(network_event(ident, action, name=name, kind=kind, container_id=container.id))


def gateway_of(attached: Sequence[Attachment]) -> Attachment | None:
    """The one whose network leads to the outside; None when there is none."""
    connected = [one for one in attached if one.is_connected]
    if not connected:
        return None
    return min(connected, key=lambda one: (-one.settings.gw_priority, one.network.internal, one.network.name))


def wanted_of(settings: EndpointSettings) -> Wanted:
    """What a client asked of a network.  Raises InvalidArgument."""
    ipam = settings.ipam_config
    return Wanted(
        mac=mac_address(settings.mac_address) if settings.mac_address else "",
        ip=_v4(ipam.ipv4_address) if ipam and ipam.ipv4_address else None,
        ip6=_v6(ipam.ipv6_address) if ipam and ipam.ipv6_address else None,
        aliases=tuple(settings.aliases or ()),
        options=dict(settings.driver_opts or {}),
    )


def _v4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid IPv4 address: {text}") from error


def _v6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid IPv6 address: {text}") from error


def port_name(publication: Publication) -> str:
    """The name under which a shim holds the socket of a published port."""
    return f"port:{publication.key}"


def relays_of(*endpoints: Endpoint) -> dict[str, tuple[str, int]]:
    """What a shim is to pass on: (address, port) inside by the names of the sockets."""
    return {f"port:{key}": target for one in endpoints for key, target in one.relays.items()}
