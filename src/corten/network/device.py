"""The bridge device of an engine, its subnet, and the host's sysctls that go with it.

    made in this order           because
    record of the subnet         a container's address outlives the daemon, and so must its subnet
    table (network/firewall.py)  its first chain guards the host's loopback before route_localnet opens it
    bridge, alias, sysctls       IPv6 is off on the bridge: a container's router advertisement finds no listener
    up, address
    ip_forward                   last: the table already drops what is not ours

Sources: ip-sysctl.rst; Linux bridge: br_stp_recalculate_bridge_id (why the hardware address is pinned).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Interface, IPv4Network

from corten.core.journal import LINK
from corten.errors import Conflict, NotFound
from corten.network import pools
from corten.network.host import Host
from corten.network.values import Bridge, Journal, Store
from corten.sys import netlink
from corten.sys.netlink import Link

log = logging.getLogger(__name__)

ADDRESS_SETTING, JOURNAL_SETTING = "network.bridge.address", "network.bridge.journal"
FORWARDING_SETTING = "network.forwarding"


def bridge_name(engine_id: str) -> str:
    """The bridge of an engine."""
    return f"ctn-{engine_id}"


def alias_of(engine_id: str, owner: str) -> str:
    """The alias of each of our devices: by it they are found when every record is lost."""
    return f"corten-{engine_id} {owner}"


def forward_policy(host: Host, store: Store) -> str:
    """What the table does with packets that are not ours: `drop` when it is us who turned on forwarding.

    The host did not mean to be a router for others then.  The decision is recorded before it is acted on, and holds
    for this boot and this network namespace.
    """
    here = host.identity()
    if host.sysctl("ipv4/ip_forward") == "0":
        store.set_setting(FORWARDING_SETTING, here)
    return "drop" if store.setting(FORWARDING_SETTING) == here else "accept"


class Device:
    """The default bridge's device."""

    def __init__(
        self,
        engine_id: str,
        *,
        store: Store,
        journal: Journal,
        host: Host,
        subnets: Sequence[pools.Pool],
        avoid: Collection[IPv4Network],
    ) -> None:
        self.name = bridge_name(engine_id)
        self._engine_id = engine_id
        self._store = store
        self._journal = journal
        self._host = host
        self._pools = subnets
        self._avoid = tuple(avoid)
        self.known_index = 0  # of the device as `make` left it

    def index(self) -> int:
        """Its interface index; raises NotFound."""
        found = self._host.links.link(self.name)
        if found is None:
            raise NotFound(f"bridge {self.name} is gone")
        return found.index

    def choose(self, links: Sequence[Link], *, is_used: bool) -> Bridge:
        """The subnet it had, or the first free one when a route came in its way and no container has an address.

        The choice is recorded.  Raises FailedPrecondition when every pool is taken.
        """
        own = {link.index for link in links if link.name == self.name}
        taken = [*self._avoid, *_used(self._host.links.routes(), own)]
        known = self._store.setting(ADDRESS_SETTING)
        if known:
            bridge = Bridge(self.name, IPv4Interface(known))
            if not any(bridge.subnet.overlaps(other) for other in taken):
                return bridge
            if is_used:
                log.warning("subnet %s of bridge %s overlaps a route of the host", bridge.subnet, self.name)
                return bridge
        subnet = pools.choose_subnet(self._pools, taken)
        chosen = Bridge(self.name, IPv4Interface((pools.first_free(subnet, ()), subnet.prefixlen)))
        self._store.set_setting(ADDRESS_SETTING, str(chosen.address))
        return chosen

    def make(self, bridge: Bridge, links: Sequence[Link]) -> None:
        """Makes the device, or brings what is left of it into order; raises Conflict when the name is another's."""
        found = next((link for link in links if link.name == self.name), None)
        if found is not None and found.kind != "bridge":
            raise Conflict(f"device {self.name} exists and is no bridge")
        if found is not None and not self._fits(found, bridge):
            self._host.links.send(netlink.delete_link(self.name))
            found = None
        if found is None:
            self._announce(bridge)
            self._host.links.send(netlink.new_bridge(self.name, pools.mac_of(bridge.address.ip)))
        self._configure(bridge)

    def _fits(self, found: Link, bridge: Bridge) -> bool:
        """It has this address, or none yet."""
        mine = [one.interface for one in self._host.links.addresses() if one.index == found.index]
        return not mine or bridge.address in mine

    def _announce(self, bridge: Bridge) -> None:
        if not self.journal_entries():
            with self._store.transaction():
                entry = self._journal.begin(LINK, self.name, address=str(bridge.address))
                self._store.set_setting(JOURNAL_SETTING, str(entry))

    def journal_entries(self) -> list[int]:
        """The device's entry, while it may exist."""
        entry = self._store.setting(JOURNAL_SETTING)
        return [int(entry)] if entry else []

    def _configure(self, bridge: Bridge) -> None:
        links = self._host.links
        links.send(netlink.set_alias(self.name, alias_of(self._engine_id, "bridge")))
        self._host.set_sysctl(f"ipv6/conf/{self.name}/disable_ipv6", "1")
        self._host.set_sysctl(f"ipv4/conf/{self.name}/route_localnet", "1")
        self.known_index = self.index()
        up, address = netlink.set_up(self.name), netlink.new_address(self.known_index, bridge.address)
        netlink.raise_unless(links.attempt(up, address), errno.EEXIST)

    def destroy(self) -> None:
        """Removes the device, if it is there, and its records."""
        netlink.raise_unless(self._host.links.attempt(netlink.delete_link(self.name)), errno.ENODEV)
        with self._store.transaction():
            self._journal.done(*self.journal_entries())
            self._store.set_setting(JOURNAL_SETTING, "")


def _used(routes: Iterable[netlink.Route], own: Collection[int]) -> list[IPv4Network]:
    """The networks that the host reaches other than by its default route or by our own bridge."""
    return [route.destination for route in routes if route.destination.prefixlen and route.index not in own]
