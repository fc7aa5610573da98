"""The networks of an engine: their records, subnets and devices, and what the firewall lets through.

    create      subnets → record → elements of the firewall → device
    remove      device → elements → record

The devices of macvlan and ipvlan networks are in `network/parents.py`; the firewall does not see them.  A network that
is configuration only is a record.

The caller holds a lock, and looks after the endpoints.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Collection, Sequence
from ipaddress import IPv4Network

from corten.errors import CortenError, FailedPrecondition, Internal, NotFound, PermissionDenied
from corten.network import addresses, defaults, device, options, parents
from corten.network.defaults import Defaults
from corten.network.device import FORWARDING, Devices, bridge_of, decide_forwarding, dropped
from corten.network.endpoints import Endpoints
from corten.network.firewall import Firewall, Outside
from corten.network.host import Host
from corten.network.parents import Parents
from corten.network.values import DEFAULT_NETWORK, Bridge, Journal, Network, Store
from corten.sys.rtnetlink import IPNetwork, Link

log = logging.getLogger(__name__)

NETWORK_ID_SETTING, ADDRESS_SETTING = "network.bridge.id", "network.bridge.address"  # of releases with one network


class Bridges:
    """Networks by id."""

    def __init__(
        self,
        engine_id: str,
        firewall: Firewall,
        *,
        store: Store,
        journal: Journal,
        host: Host,
        settings: Defaults,
        avoid: Collection[IPv4Network],
    ) -> None:
        self._engine_id = engine_id
        self._firewall = firewall
        self._store = store
        self._journal = journal
        self._host = host
        self._settings = settings
        self._avoid = tuple(avoid)
        self._devices = Devices(engine_id, store=store, journal=journal, host=host)
        self.parents = Parents(engine_id, store=store, journal=journal, host=host)
        self._networks: dict[str, Network] = {}
        self._told: set[str] = set()
        self._bridges: dict[str, tuple[Network, Bridge]] = {}
        self._outside = Outside()

    def __contains__(self, network_id: str) -> bool:
        return network_id in self._networks

    def all(self) -> tuple[Network, ...]:
        """The default one first, then as they were made."""
        return tuple(self._networks.values())

    def get(self, network_id: str = "") -> Network:
        """One by its id; the default bridge without.  Raises NotFound, before `ensure` FailedPrecondition."""
        found = self._networks.get(network_id) if network_id else self.default
        if found is not None:
            return found
        if not self._networks and not self._settings.has_no_bridge:
            raise FailedPrecondition(f"bridge {device.bridge_name(self._engine_id)} is not set up")
        raise NotFound(f"network {network_id or DEFAULT_NETWORK} not found")

    @property
    def default(self) -> Network | None:
        """The network `bridge`; None where daemon.json wants none."""
        return next((one for one in self._networks.values() if one.name == DEFAULT_NETWORK), None)

    def device(self, network_id: str) -> str:
        """The name of its device; '' when it is gone."""
        network = self._networks.get(network_id)
        if network is None or network.config_only:
            return ""
        if parents.is_over_parent(network):
            return parents.parent_name(network)
        return device.device_name(self._engine_id, network)

    def bridge(self, network: Network) -> Bridge:
        """What a network is for device and firewall; made once, for each start asks."""
        known = self._bridges.get(network.network_id)
        if known is None or known[0] is not network:
            known = self._bridges[network.network_id] = (network, bridge_of(self._engine_id, network))
        return known[1]

    def known_index(self, name: str) -> int:
        """The index of a device as `ensure` or `create` left it; 0 before."""
        return self._devices.known_index(name)

    def subnets(self, version: int) -> list[IPNetwork]:
        """Of all networks."""
        found = (subnet.network for one in self._networks.values() for subnet in one.subnets)
        return [one for one in found if one.version == version]

    # --- at a start

    def load(self) -> None:
        """Reads the records; the default bridge's is made at the first start."""
        found = {one.network_id: one for one in self._store.networks()}
        if not any(one.name == DEFAULT_NETWORK for one in found.values()):
            default = self._default()
            found = {default.network_id: default, **found}
        self._networks = found

    def _default(self) -> Network:
        """A release with one network had its id and its address in the settings."""
        network_id = self._store.setting(NETWORK_ID_SETTING) or secrets.token_hex(32)
        return addresses.default_network(network_id, self._store.setting(ADDRESS_SETTING))

    def ensure(self, endpoints: Endpoints) -> None:
        """Makes everything as it should be, with every endpoint's ports."""
        links = self._host.links.links()
        default = self.default
        if default is not None:
            self._apply_settings(default, is_used=bool(endpoints.on(default.network_id)))
        for network in self.all():
            self._settle_subnets(network, links, is_used=bool(endpoints.on(network.network_id)))
        for version in self._routed(*self.bridged()) if self._settings.forwards else ():
            decide_forwarding(self._host, self._store, version)
        self.look(links)
        self.write_table(endpoints)
        for network in self.all():
            self._restore(network, links)
        self._forward(*self.bridged())

    def bridged(self) -> list[Network]:
        """Those with a bridge."""
        return [one for one in self._networks.values() if one.driver == device.BRIDGE]

    def _leased(self) -> list[Network]:
        """Those whose subnets are in use."""
        return [one for one in self._networks.values() if not one.config_only]

    def _make(self, network: Network, links: Sequence[Link]) -> Network:
        if parents.is_over_parent(network):
            return self.parents.make(network, links)
        return self._devices.make(network, links) if not network.config_only else network

    def _restore(self, network: Network, links: Sequence[Link]) -> None:
        """A network whose device cannot be had is none for the others.

        Another has its name now; or what is below a parent comes later than the engine, and its next container looks.
        """
        try:
            self._networks[network.network_id] = self._make(network, links)
        except (OSError, CortenError) as error:
            if network.name == DEFAULT_NETWORK:
                raise
            log.warning("network %s has no device: %s", network.name, error)

    @property
    def table(self) -> str:
        """The name of the firewall's table."""
        return self._firewall.table

    @property
    def outside(self) -> Outside:
        """What the table says of what is not ours."""
        return dataclasses.replace(self._outside, drops=self._dropped())

    def _dropped(self) -> frozenset[int]:
        return dropped(self._host, self._store) if self._settings.drops_others else frozenset()

    def look(self, links: Sequence[Link]) -> bool:
        """Notes the bridges of others; whether they are not those of before."""
        own = {self.device(one.network_id) for one in self.bridged()}
        others = [link for link in links if link.kind == device.BRIDGE and link.name not in own]
        peers = frozenset(link.name for link in others if link.alias.startswith(device.ALIAS))
        bridges = frozenset(link.name for link in others) - peers
        before, self._outside = self._outside, Outside(bridges, peers, self._outside.routed & bridges)
        return self._outside != before

    def note_routed(self, routed: frozenset[str]) -> bool:
        """Notes the bridges of others that another program routes; whether they are not those of before."""
        before, self._outside = self._outside, dataclasses.replace(self._outside, routed=routed)
        return self._outside != before

    def write_table(self, endpoints: Endpoints, *, token: str = "") -> None:
        """Everything of the table anew, from what is in memory; `token` as in `Firewall.apply`."""
        bridges = [self.bridge(one) for one in self.bridged()]
        self._firewall.apply(bridges, endpoints.all(), self.outside, token=token)

    def ask_again(self) -> None:
        """The host's own firewall has changed, perhaps: whoever it admitted is to ask again."""
        self._firewall.ask_again()

    def ways_out(self) -> list[str]:
        """The devices of networks that are not internal."""
        return [self.device(one.network_id) for one in self.bridged() if not one.internal]

    def _apply_settings(self, before: Network, *, is_used: bool) -> None:
        """The default bridge as daemon.json has it now; while containers are on it, it keeps device and subnets."""
        if self._settings.has_no_bridge:
            if is_used:
                self._tell_once(f"network {before.name} stays while containers are on it")
            else:
                self._turn_off(before)
            return
        device_of = self._devices.addresses(self._settings.device) if self._settings.device else ()
        after = defaults.applied(self._settings, before, device_of)
        has_moved = self.device(before.network_id) != device.device_name(self._engine_id, after)
        if is_used and before.subnets and (has_moved or after.subnets != before.subnets):
            self._tell_once(f"network {before.name} keeps device and subnets while containers are on it")
            after = _with_place_of(after, before)
        elif has_moved:
            self._devices.remove(before)
            after = dataclasses.replace(after, journal=())
            with self._store.transaction():
                self._journal.done(*before.journal)
                self._keep(after, before)
        self._keep(after, self.get())

    def _tell_once(self, text: str) -> None:
        """A start looks twice: before and after it knows which containers are alive."""
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    def _turn_off(self, network: Network) -> None:
        """No device any more; the record is for the start that wants it back."""
        self._devices.remove(network)
        if network.journal:
            with self._store.transaction():
                self._store.save_network(dataclasses.replace(network, journal=()))
                self._journal.done(*network.journal)
        del self._networks[network.network_id]

    def _keep(self, network: Network, before: Network) -> None:
        if network != before:
            self._store.save_network(network)
            self._networks[network.network_id] = network

    def _settle_subnets(self, network: Network, links: Sequence[Link], *, is_used: bool) -> None:
        """The default bridge's at its first start; others where nobody uses them and a route of the host came in."""
        if network.driver != device.BRIDGE:  # on the host's own subnet as often as not
            return
        taken = self._taken(links, apart_from=network)
        hit = device.overlapping(network, taken)
        if hit is None and all(network.subnet(version) is not None for version in network.versions):
            return
        if hit is not None and (not hit.is_chosen or is_used):
            log.warning("subnet %s of network %s overlaps a route of the host", hit.network, network.name)
            return
        bare = dataclasses.replace(network, subnets=tuple(one for one in network.subnets if not one.is_chosen))
        chosen = addresses.with_subnets(bare, self._settings.pools_of(network, self._engine_id), taken)
        if network.name == DEFAULT_NETWORK:
            device_of = tuple(one.own for one in chosen.subnets if not one.is_chosen)
            chosen = defaults.applied(self._settings, chosen, device_of)
        self._keep(chosen, network)

    def _taken(self, links: Sequence[Link], *, apart_from: Network | None = None) -> list[IPNetwork]:
        """What other networks have, and the host."""
        others = [one for one in self._leased() if one is not apart_from]
        names = {self.device(one.network_id) for one in self.bridged()}
        own = {link.index for link in links if link.name in names}
        routes = device.used(self._host.links.routes(), own)
        return [*self._avoid, *routes, *(subnet.network for one in others for subnet in one.subnets)]

    def _routed(self, *networks: Network) -> list[int]:
        """The IP versions that have to be routed for these networks."""
        open_ones = [one for one in networks if not one.internal]
        return [version for version in FORWARDING if any(one.subnet(version) is not None for one in open_ones)]

    def _forward(self, *networks: Network) -> None:
        """Only when it is needed and wanted, and after the table drops what is not ours."""
        for version in self._routed(*networks):
            switch = FORWARDING[version]
            if not self._settings.forwards:
                if self._host.sysctl(switch) == "0":
                    log.warning("IPv%d forwarding is disabled. Networking will not work.", version)
                continue
            is_told = version in self._dropped()
            if decide_forwarding(self._host, self._store, version) and not is_told and self._settings.drops_others:
                self._firewall.drop_others(version)
            if version == 6 and self._host.sysctl(switch) == "0":
                self._host.keep_advertisements()
            self._host.set_sysctl(switch, "1")

    # --- a new one, and its end

    def create(self, network: Network) -> Network:
        """Raises Conflict, FailedPrecondition, InvalidArgument, PermissionDenied; Internal when the kernel refuses."""
        links = self._host.links.links()
        if network.config_only:
            self._store.save_network(network)
            self._networks[network.network_id] = network
            return network
        self._check(network)
        addresses.check_apart(network, self._leased())
        pools = self._settings.pools_of(network, self._engine_id)
        network = addresses.with_subnets(network, pools, self._taken(links))
        self._store.save_network(network)
        self._networks[network.network_id] = network
        try:
            if network.driver == device.BRIDGE:
                self._firewall.add(self.bridge(network))
            network = self._networks[network.network_id] = self._make(network, links)
        except (OSError, CortenError) as error:
            made = next((one for one in self._store.networks() if one.network_id == network.network_id), network)
            self.remove(made)
            if isinstance(error, CortenError):
                raise
            raise Internal(f"network {network.name}: {error}") from error
        if network.driver == device.BRIDGE:
            self._forward(network)
        return network

    def _check(self, network: Network) -> None:
        if parents.is_over_parent(network):
            parents.check(network, self._networks.values())
            return
        self._check_device(network)
        options.check(network.options, internal=network.internal, has_ipv6=network.has_ipv6)

    def _check_device(self, network: Network) -> None:
        """Each network has a device of its own.  Raises PermissionDenied."""
        name = device.device_name(self._engine_id, network)
        for ident in self._networks:
            if self.device(ident) == name:
                both = f"cannot create network {network.network_id} ({name}): conflicts with network {ident} ({name})"
                raise PermissionDenied(f"{both}: networks have same bridge name")

    def _unmake(self, network: Network) -> None:
        if parents.is_over_parent(network):
            self.parents.remove(network)
        elif network.driver == device.BRIDGE:
            self._devices.remove(network)

    def remove(self, network: Network) -> None:
        """Nobody is on it any more."""
        self._unmake(network)
        if network.driver == device.BRIDGE:
            self._firewall.remove(self.bridge(network))
        with self._store.transaction():
            self._store.remove_network(network.network_id)
            self._journal.done(*network.journal)
        self._networks.pop(network.network_id, None)
        self._bridges.pop(network.network_id, None)

    def destroy(self) -> None:
        """Everything of the engine."""
        for network in self.all():
            self._unmake(network)
        self._firewall.destroy()
        for network in self._store.networks():
            self._store.remove_network(network.network_id)
        self._networks.clear()


def _with_place_of(network: Network, before: Network) -> Network:
    """A network on the device and in the subnets that it had."""
    name = {options.NAME: before.options[options.NAME]} if options.NAME in before.options else {}
    said = {key: value for key, value in network.options.items() if key != options.NAME}
    return dataclasses.replace(network, subnets=before.subnets, has_ipv6=before.has_ipv6, options={**said, **name})
