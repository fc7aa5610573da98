"""The bridge devices of an engine, their subnets, and the host's sysctls that go with them.

    made in this order           because
    record of the subnets        a container's address outlives the daemon, and so must its subnet
    table (network/firewall.py)  its first chain guards the host's loopback before route_localnet opens it
    bridge, alias, sysctls       without IPv6 it is off on the bridge: a container's router advertisement finds no
                                 listener; with it, no advertisement is taken either
    up, addresses
    ip_forward                   last: the table already drops what is not ours

Sources: ip-sysctl.rst; Linux bridge: br_stp_recalculate_bridge_id (why the hardware address is pinned).
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Collection, Iterable, Sequence

from corten.core.journal import LINK
from corten.errors import Conflict, NotFound, PermissionDenied
from corten.network import options, pools
from corten.network.host import Host
from corten.network.options import Mode
from corten.network.values import (
    DEFAULT_NETWORK,
    Bridge,
    Journal,
    Network,
    Store,
    Subnet,
)
from corten.sys import netlink, rtnetlink
from corten.sys.rtnetlink import IPInterface, IPNetwork, Link

log = logging.getLogger(__name__)

FORWARDING_SETTINGS = {4: "network.forwarding", 6: "network.forwarding6"}
FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
ALIAS = "corten-"
BRIDGE = "bridge"


def bridge_name(engine_id: str) -> str:
    """The default bridge of an engine."""
    return f"ctn-{engine_id}"


def alias_of(engine_id: str, owner: str) -> str:
    """The alias of each of our devices: by it they are found when every record is lost."""
    return f"{ALIAS}{engine_id} {owner}"


def device_name(engine_id: str, network: Network) -> str:
    """The name of a network's device."""
    wanted = network.options.get(options.NAME, "")
    if wanted:
        return wanted
    return bridge_name(engine_id) if network.name == DEFAULT_NETWORK else f"br-{network.network_id[:12]}"


def bridge_of(engine_id: str, network: Network) -> Bridge:
    """What a bridge network is for device and firewall."""
    said = options.parse(network.options)
    inhibited = {4} if said.inhibits_ipv4 else set()

    def families(mode: Mode) -> frozenset[int]:
        return frozenset(version for version in (4, 6) if said.mode(version) is mode)

    return Bridge(
        device_name(engine_id, network),
        tuple(one.own for one in network.subnets),
        is_internal=network.internal,
        has_icc=said.has_icc,
        is_hidden=said.masquerades,
        bare=families(Mode.ISOLATED) | inhibited,
        routed=families(Mode.ROUTED),
        unprotected=families(Mode.UNPROTECTED),
        trusted=said.trusted,
        sources=tuple(one for one in (said.source4, said.source6) if one is not None),
    )


def dropped(host: Host, store: Store) -> frozenset[int]:
    """The IP versions of which we made the host a router: what is not ours is not routed then.

    The host did not mean to be one for others.  `decide_forwarding` has recorded it, for this boot and this network
    namespace.
    """
    here = host.identity()
    return frozenset(version for version, setting in FORWARDING_SETTINGS.items() if store.setting(setting) == here)


def decide_forwarding(host: Host, store: Store, version: int) -> bool:
    """Before it is turned on: whether it is us who do that."""
    is_ours = host.sysctl(FORWARDING[version]) == "0"
    if is_ours:
        store.set_setting(FORWARDING_SETTINGS[version], host.identity())
    return is_ours


class Devices:
    """The devices of bridge networks."""

    def __init__(self, engine_id: str, *, store: Store, journal: Journal, host: Host) -> None:
        self._engine_id = engine_id
        self._store = store
        self._journal = journal
        self._host = host
        self._indexes: dict[str, int] = {}  # of devices as `make` left them, by name

    def known_index(self, name: str) -> int:
        """A device's index as `make` left it; 0 before."""
        return self._indexes.get(name, 0)

    def index(self, name: str) -> int:
        """A device's index now; raises NotFound."""
        found = self._host.links.link(name)
        if found is None:
            raise NotFound(f"bridge {name} is gone")
        return found.index

    def make(self, network: Network, links: Sequence[Link]) -> Network:
        """Makes a network's device, or brings what is left of it into order; the network with its journal entry.

        Raises Conflict when the name is another's.
        """
        bridge = bridge_of(self._engine_id, network)
        found = next((link for link in links if link.name == bridge.name), None)
        if found is not None and not self._is_ours(found, network):
            self._check_foreign(found, network)
            self._configure(network, bridge, is_ours=False)
            return network
        if found is not None and not self._fits(found, bridge):
            self._host.links.send(rtnetlink.delete_link(bridge.name))
            found = None
        if found is None:
            network = self._announce(network, bridge)
            mac = pools.mac_of(bridge.addresses[0].ip)
            self._host.links.send(rtnetlink.new_bridge(bridge.name, mac, network.mtu))
        self._configure(network, bridge)
        return network

    def _is_ours(self, found: Link, network: Network) -> bool:
        """A bridge with the engine's alias, or with none yet: a kill came between the two."""
        if found.kind != BRIDGE:
            return False
        return found.alias == self._alias(network) or (not found.alias and bool(network.journal))

    @staticmethod
    def _check_foreign(found: Link, network: Network) -> None:
        """A bridge that somebody made may be used by its name; never deleted.  Raises Conflict, PermissionDenied."""
        if found.kind != BRIDGE:
            raise PermissionDenied(f"existing interface {found.name} is not a bridge")
        is_named = network.options.get(options.NAME) == found.name
        if not is_named or found.alias.startswith(ALIAS):
            raise Conflict(f"device {found.name} exists and is not of network {network.name}")

    def _alias(self, network: Network) -> str:
        owner = BRIDGE if network.name == DEFAULT_NETWORK else f"network {network.network_id}"
        return alias_of(self._engine_id, owner)

    def _fits(self, found: Link, bridge: Bridge) -> bool:
        """It has these addresses, or none yet."""
        mine = {
            one.interface
            for one in self._host.links.addresses()
            if one.index == found.index and not one.interface.is_link_local
        }
        return mine <= set(bridge.on_device)

    def _announce(self, network: Network, bridge: Bridge) -> Network:
        if network.journal:
            return network
        with self._store.transaction():
            entry = self._journal.begin(LINK, bridge.name, network=network.network_id)
            network = dataclasses.replace(network, journal=(entry,))
            self._store.save_network(network)
        return network

    def _configure(self, network: Network, bridge: Bridge, *, is_ours: bool = True) -> None:
        links, name = self._host.links, bridge.name
        has_ipv6 = any(one.version == 6 for one in bridge.on_device)
        if is_ours:
            links.send(rtnetlink.set_alias(name, self._alias(network)))
            if has_ipv6:
                self._host.set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
                # its link-local address at once: until it has one, what comes from elsewhere waits 2 s for a neighbour
                self._host.set_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
        if is_ours or has_ipv6:
            self._host.set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if has_ipv6 else "1")
        self._host.set_sysctl(f"ipv4/conf/{name}/route_localnet", "1")
        index = self._indexes[name] = self.index(name)
        if is_ours and network.mtu:
            links.send(rtnetlink.set_mtu(name, network.mtu))
        wanted = [rtnetlink.new_address(index, one) for one in bridge.on_device]
        netlink.raise_unless(links.attempt(rtnetlink.set_up(name), *wanted), errno.EEXIST)

    def addresses(self, name: str) -> tuple[IPInterface, ...]:
        """Those of a device; none when there is no such device."""
        found = self._host.links.link(name)
        if found is None:
            return ()
        return tuple(one.interface for one in self._host.links.addresses() if one.index == found.index)

    def remove(self, network: Network) -> None:
        """Removes a network's device, if it is there and the engine's."""
        name = device_name(self._engine_id, network)
        self._indexes.pop(name, None)
        found = self._host.links.link(name)
        if found is not None and network.journal and self._is_ours(found, network):
            netlink.raise_unless(self._host.links.attempt(rtnetlink.delete_link(name)), errno.ENODEV)


def overlapping(network: Network, taken: Iterable[IPNetwork]) -> Subnet | None:
    """The first subnet of a network that overlaps one of those."""
    others = list(taken)
    for one in network.subnets:
        if any(one.network.version == other.version and one.network.overlaps(other) for other in others):
            return one
    return None


def used(routes: Iterable[rtnetlink.Route], own: Collection[int]) -> list[IPNetwork]:
    """The networks that the host reaches other than by its default route or by our own bridges."""
    return [
        route.destination
        for route in routes
        if route.destination.prefixlen
        and route.index not in own
        and not route.destination.is_link_local
        and not route.destination.is_multicast
        and not route.destination.is_loopback
    ]
