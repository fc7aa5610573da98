"""The networks that a container is on: those of its configuration, in the kernel while it runs.

At a start it joins all of them, in the order of `by_rank`, as eth0, eth1 and on; what a running one joins later gets
the first number that is free.  One network leads to the outside, for IPv4 and IPv6 each: the first of them that is not
internal and has the version.  Published ports are those of the first network.

by_rank: what is not internal, then the greatest priority as a gateway, then what has IPv6, then by name (libnetwork,
Endpoint.Less).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final, Protocol

from corten.core.events import EventBus
from corten.engine.container import Container
from corten.engine.effective import Effective, port_bindings
from corten.engine.events import network_event
from corten.engine.networkkinds import check_joinable
from corten.engine.networks import Networks
from corten.errors import Conflict, Internal, InvalidArgument
from corten.network import parents
from corten.network.bridge import BridgeDriver
from corten.network.values import FIXED, Endpoint, Network, Publication, Wanted
from corten.shim.protocol import NETNS_FD
from corten.spec.address import mac_address
from corten.spec.docker import EndpointSettings
from corten.sys.rtnetlink import IPAddress, IPInterface

SHARED: Final = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)
INTERFACE: Final = "eth"
PORT: Final = "port:"
INTERFACE_OPTION: Final = "com.docker.network.endpoint.ifname"
_INTERFACE_NAME: Final = re.compile(r"[!-.0-9;-~]{1,15}")  # no blank, slash or colon: dev_valid_name of the kernel
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
        """The networks of a configuration, by rank; none with `container:ID`.  Raises NotFound, InvalidArgument."""
        if effective.network == "host":  # what else it asks for would be the host's own
            others = effective.asked_networks.keys() - {"host"}
            if others:
                raise InvalidArgument(SHARED)
        find = self._parts.networks.find
        found: dict[str, Attachment] = {}
        for name, settings in effective.asked_networks.items():
            network = find(name)
            check_joinable(network)
            found.setdefault(network.network_id, Attachment(network, settings))
        return by_rank(found.values())

    def current(self, container: Container) -> tuple[Attachment, ...]:
        """Those of its networks that a running container has an interface on, by rank."""
        asked, named = container.record.effective.asked_networks, self._parts.networks.named
        found = ((named(name), asked.get(name) or EndpointSettings()) for name in container.endpoints)
        return by_rank(Attachment(network, settings) for network, settings in found if network is not None)

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
        for one in attached:
            if one.is_connected:
                endpoint = self.connect(container, one, netns_fd, is_gateway=one is attached[0])
                places[one.network.name] = endpoint.endpoint_id
            else:
                places[one.network.name] = secrets.token_hex(32)
        if len(attached) > 1:
            self.lead_out(container, netns_fd)
        return places, self._publish(container, gateway_of(attached))

    def connect(self, container: Container, one: Attachment, netns_fd: int, *, is_gateway: bool = False) -> Endpoint:
        """Joins one network as the interface that was asked for, or the first `eth…` that is free."""
        if one.network.driver == parents.IPVLAN and one.settings.mac_address:
            where = f"failed to create endpoint {container.name} on network {one.network.name}"
            raise Internal(f"{where}: ipvlan interfaces do not support custom mac address assignment")
        endpoint = self._parts.bridge.connect(
            container.id,
            netns_fd,
            network_id=one.network.network_id,
            wanted=wanted_of(one.settings),
            interface=interface_of(
                one.settings, {each.interface for each in container.endpoints.values()}, one.network.interface_prefix
            ),
            is_gateway=is_gateway,
        )
        container.endpoints[one.network.name] = endpoint
        link_local = link_local_of(one.settings)
        if link_local:
            self._parts.bridge.add_addresses(netns_fd, endpoint.interface, link_local)
        return endpoint

    def lead_out(self, container: Container, netns_fd: int) -> None:
        """Makes the default routes lead over the networks that they should, after one came or went."""
        leading = leading_of(self.current(container), container.endpoints)
        self._parts.bridge.lead_out(netns_fd, leading)

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
        self._parts.bridge.disconnect(container.id)

    def adopt(self, container: Container) -> None:
        """One that an earlier cortend connected: what is in its namespace alone goes at its end."""
        if all(one.link for one in container.endpoints.values()):
            return
        with contextlib.suppress(OSError):  # its shim is ending, and so is its namespace
            fd = os.open(f"/proc/{container.record.state.shim_pid}/fd/{NETNS_FD}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._parts.bridge.adopt(container.id, fd)
            finally:
                os.close(fd)

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


def by_rank(attached: Iterable[Attachment]) -> tuple[Attachment, ...]:
    """In the order in which they are to be the gateway."""
    return tuple(sorted(attached, key=_rank))


def _rank(one: Attachment) -> tuple[bool, int, bool, str]:
    network = one.network
    return network.internal, -one.settings.gw_priority, not network.has_ipv6, network.name


def gateway_of(attached: Iterable[Attachment]) -> Attachment | None:
    """The one whose network leads to the outside; None when there is none."""
    return next((one for one in attached if one.is_connected), None)


def leading_of(attached: Iterable[Attachment], endpoints: Mapping[str, Endpoint]) -> list[tuple[str, IPAddress]]:
    """(interface, gateway) of the default route of IPv4 and of that of IPv6, where there is one."""
    found: dict[int, tuple[str, IPAddress]] = {}
    for one in attached:
        endpoint = endpoints[one.network.name]
        if not one.network.internal:
            for gateway in endpoint.gateways:
                found.setdefault(gateway.version, (endpoint.interface, gateway))
    return list(found.values())


def interface_of(settings: EndpointSettings, taken: Collection[str], prefix: str = INTERFACE) -> str:
    """The name of an interface: the client's, or the first free one of the network's prefix.

    Raises InvalidArgument, Conflict.
    """
    wanted = (settings.driver_opts or {}).get(INTERFACE_OPTION, "")
    if not wanted:
        return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)
    if not _INTERFACE_NAME.fullmatch(wanted) or wanted in (".", "..", "lo"):
        raise InvalidArgument(f"invalid interface name: {wanted}")
    if wanted in taken:
        raise Conflict(f"interface name {wanted} is in use")
    return wanted


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


def link_local_of(settings: EndpointSettings) -> list[IPInterface]:
    """LinkLocalIPs as an interface has them.  Raises InvalidArgument."""
    texts = (settings.ipam_config.link_local_ips if settings.ipam_config is not None else None) or ()
    return [IPv6Interface((_v6(text), 64)) if ":" in text else IPv4Interface((_v4(text), 16)) for text in texts]


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
    return f"{PORT}{publication.key}"


def relays_of(*endpoints: Endpoint) -> dict[str, tuple[str, int]]:
    """What a shim is to pass on: (address, port) inside by the names of the sockets."""
    return {f"{PORT}{key}": target for one in endpoints for key, target in one.relays.items()}
