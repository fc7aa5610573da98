"""Networks of macvlan and ipvlan devices: their parent on the host, and the containers' devices on it.

    driver    a container's device                      options
    macvlan   its own hardware address on the parent's   parent, macvlan_mode: bridge (default), private, vepa, passthru
              wire
    ipvlan    the parent's hardware address              parent, ipvlan_mode: l2 (default), l3, l3s;
                                                         ipvlan_flag: bridge (default), private, vepa

The parent is a device of the host's.  One that is not there and is called `eth0.10` is made: VLAN 10 of eth0.  Without
the option it is a dummy device `dm-<id>`, and the network has no way out.  What was made here carries the engine's
alias, is journalled, made again when it is gone, and removed with the network; other devices are left as they are.

A container's device is made in its namespace, with which it goes.  A namespace may outlive the container (another
container joined it), and goes some 20 ms late in any case, so the device is deleted at the end, by a thread: its
addresses are free for the next container.

The firewall of the host does not see this traffic, so nothing is published here.

Sources: libnetwork's macvlan and ipvlan drivers as dockerd 26.1 answers; ip-link(8); ipvlan.rst.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from corten.core.journal import LINK
from corten.errors import CortenError, Internal
from corten.network import pools
from corten.network.addresses import Lease
from corten.network.device import alias_of
from corten.network.host import Host
from corten.network.values import Endpoint, Journal, Network, Store, Wanted
from corten.sys import netlink, netns, rtnetlink
from corten.sys.rtnetlink import Link

log = logging.getLogger(__name__)

MACVLAN, IPVLAN = "macvlan", "ipvlan"
DRIVERS: Final = frozenset({MACVLAN, IPVLAN})
PARENT, MACVLAN_MODE, IPVLAN_MODE, IPVLAN_FLAG = "parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"
KINDS: Final = frozenset({"vlan", "dummy"})  # of parents that are made here
PASSTHRU: Final = "passthru"

_DUMMY: Final = "dm-"
_NAME_BYTES: Final = 15
_VLANS: Final = range(1, 4095)
_MOST_DIGITS: Final = 18  # of a number, for Go
_END_S: Final = 1.0  # how long a start waits for devices that are being deleted
_RUNNING_S: Final = 0.2
_LOOK_S: Final = 0.001


def is_over_parent(network: Network) -> bool:
    """Its containers are on a device of the host's, without a bridge."""
    return network.driver in DRIVERS


def parent_name(network: Network) -> str:
    """The device below."""
    return network.options.get(PARENT) or f"{_DUMMY}{network.network_id[:12]}"


def has_way_out(network: Network) -> bool:
    """Its containers are given default routes."""
    return not network.internal and (not is_over_parent(network) or bool(network.options.get(PARENT)))


def is_routed(network: Network) -> bool:
    """The parent routes for its containers: their default route needs no gateway."""
    return network.driver == IPVLAN and network.options.get(IPVLAN_MODE) in ("l3", "l3s") and has_way_out(network)


def led(network: Network, lease: Lease | None) -> Lease | None:
    """A lease with the way out that a network of this kind has: the device itself where the parent routes."""
    if lease is None or (not is_over_parent(network) and not network.internal):
        return lease
    nowhere = type(lease.address.ip)(0)
    gateway = lease.gateway if not is_routed(network) else nowhere
    return Lease(lease.address, gateway if has_way_out(network) else None)


def check(network: Network, others: Iterable[Network]) -> None:
    """Raises Internal, as dockerd answers, when options are wrong or the parent is another network's."""
    _check_choice(
        network, MACVLAN, MACVLAN_MODE, rtnetlink.MACVLAN_MODES, "'bridge' mode is the macvlan driver default"
    )
    _check_choice(network, IPVLAN, IPVLAN_MODE, rtnetlink.IPVLAN_MODES, "'l2' mode is the ipvlan driver default")
    _check_choice(network, IPVLAN, IPVLAN_FLAG, rtnetlink.IPVLAN_FLAGS, "'bridge' is the ipvlan driver default")
    if not network.has_ipv4:
        raise Internal("ipv4 pool is empty")
    parent = parent_name(network)
    if parent == "lo":
        raise Internal(f"loopback interface is not a valid {network.driver} parent link")
    for other in others:
        if other.driver == network.driver and parent_name(other) == parent:
            named = f"{_DUMMY}{other.network_id[:12]}"
            raise Internal(f"network {named} is already using parent interface {parent}")


def _check_choice(network: Network, driver: str, option: str, known: Iterable[str], hint: str) -> None:
    said = network.options.get(option)
    if network.driver == driver and said and said not in known:
        raise Internal(f"requested {option.replace('_', ' ')} '{said}' is not valid, {hint}")


def vlan_of(name: str, links: Sequence[Link]) -> tuple[Link, int]:
    """The device and the VLAN that `eth0.10` names.  Raises Internal in dockerd's words."""
    base, *rest = name.split(".")
    if not rest:
        raise Internal(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
    if len(rest) > 1:
        wanted = "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10"
        raise Internal(f"{wanted}, instead received {name}")
    if not (rest[0].isascii() and rest[0].isdecimal()) or len(rest[0]) > _MOST_DIGITS:
        raise Internal(f"unable to parse a valid vlan id from: {rest[0]} (ex. eth0.10 for vlan 10)")
    found = next((link for link in links if link.name == base), None)
    if found is None:
        raise Internal(f"-o parent interface was not found on the host: {base}")
    if int(rest[0]) not in _VLANS:
        raise Internal(f"vlan id must be between 1-4094, received: {int(rest[0])}")
    return found, int(rest[0])


class Parents:
    """The parents of one engine's networks, and the devices on them.  Its caller holds a lock."""

    def __init__(self, engine_id: str, *, store: Store, journal: Journal, host: Host) -> None:
        self._engine_id = engine_id
        self._store = store
        self._journal = journal
        self._host = host
        self._inside: dict[str, int] = {}  # endpoint id → its namespace
        self._ending: list[threading.Thread] = []

    # --- networks

    def make(self, network: Network, links: Sequence[Link]) -> Network:
        """Makes a network's parent when it is not there; the network with its journal entry.  Raises Internal."""
        name = parent_name(network)
        found = next((link for link in links if link.name == name), None)
        if found is None:
            request = self._request(network, links)
            network = self._announce(network)
            self._add(network, request)
        elif found.alias == self._alias(network) and not found.is_up:
            self._host.links.send(rtnetlink.set_up(name))
        return network

    def _request(self, network: Network, links: Sequence[Link]) -> netlink.Request:
        name = parent_name(network)
        if not network.options.get(PARENT):
            return rtnetlink.new_dummy(name)
        base, number = vlan_of(name, links)
        if len(os.fsencode(name)) > _NAME_BYTES:
            raise Internal(f"failed to create {name} vlan link: numerical result out of range")
        return rtnetlink.new_vlan(name, base.index, number)

    def _add(self, network: Network, request: netlink.Request) -> None:
        name = parent_name(network)
        try:
            self._host.links.send(request)
            self._host.links.send(rtnetlink.set_alias(name, self._alias(network)), rtnetlink.set_up(name))
        except OSError as error:
            what = f"{name} vlan link" if network.options.get(PARENT) else f"parent link {name}"
            raise Internal(f"failed to create {what}: {os.strerror(error.errno or 0).lower()}") from error

    def _announce(self, network: Network) -> Network:
        if network.journal:
            return network
        with self._store.transaction():
            entry = self._journal.begin(LINK, parent_name(network), network=network.network_id)
            network = dataclasses.replace(network, journal=(entry,))
            self._store.save_network(network)
        return network

    def _alias(self, network: Network) -> str:
        return alias_of(self._engine_id, f"network {network.network_id}")

    def remove(self, network: Network) -> None:
        """Removes what was made for a network."""
        self._await_ends()
        found = self._host.links.link(parent_name(network)) if network.journal else None
        if found is not None and found.alias == self._alias(network):
            netlink.raise_unless(self._host.links.attempt(rtnetlink.delete_link(found.name)), errno.ENODEV)

    # --- endpoints

    def mac(self, network: Network, wanted: Wanted, ip: rtnetlink.IPAddress) -> str:
        """The hardware address of a new endpoint, of any network; '' when it has none of its own.  Raises Internal."""
        if network.driver == IPVLAN:
            return ""
        if network.driver == MACVLAN and network.options.get(MACVLAN_MODE) == PASSTHRU and not wanted.mac:
            return self._parent(network).mac  # the device has its parent's
        return wanted.mac or pools.mac_of(ip)

    def join(
        self,
        endpoint: Endpoint,
        network: Network,
        netns_fd: int,
        *,
        is_gateway: bool,
        sysctls: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Makes an endpoint's device in its namespace, with addresses and routes.  Raises Internal, OSError."""
        parent = self._parent(network)
        self._await_ends()
        try:
            self._host.links.send(self._device(endpoint, network, parent, netns_fd))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise Internal(f"failed to create the {network.driver} port: {reason}") from error
        self._inside[endpoint.endpoint_id] = os.dup(netns_fd)
        self._host.configure_inside(
            netns_fd,
            endpoint.interface,
            endpoint.addresses,
            endpoint.gateways if is_gateway else (),
            sysctls=sysctls,
        )
        if parent.is_running:
            netns.inside(netns_fd, lambda: _await_running(endpoint.interface))

    def _device(self, endpoint: Endpoint, network: Network, parent: Link, netns_fd: int) -> netlink.Request:
        options, name = network.options, endpoint.interface
        if network.driver == MACVLAN:
            mode = options.get(MACVLAN_MODE) or "bridge"
            mac = endpoint.mac if endpoint.mac != parent.mac else ""
            return rtnetlink.new_macvlan(name, parent.index, mac, netns_fd, mode=mode, mtu=network.mtu)
        mode, flag = options.get(IPVLAN_MODE) or "l2", options.get(IPVLAN_FLAG) or "bridge"
        return rtnetlink.new_ipvlan(name, parent.index, netns_fd, mode=mode, flag=flag, mtu=network.mtu)

    def _parent(self, network: Network) -> Link:
        """It is made again when it was deleted, or could not be made when the engine started."""
        name = parent_name(network)
        found = self._host.links.link(name) if len(os.fsencode(name)) <= _NAME_BYTES else None
        if found is None and network.journal:
            log.warning("%s of network %s was deleted; made again", name, network.name)
            self.make(network, self._host.links.links())
            found = self._host.links.link(name)
        if found is None:
            raise Internal(f"the requested parent interface {name} was not found on the Docker host")
        return found

    def adopt(self, endpoint: Endpoint, netns_fd: int) -> None:
        """An endpoint of an earlier cortend, in a namespace whose descriptor stays the caller's."""
        if endpoint.endpoint_id not in self._inside:
            self._inside[endpoint.endpoint_id] = os.dup(netns_fd)

    def leave(self, endpoint: Endpoint, *, lives_on: bool = False) -> None:
        """Deletes an endpoint's device; a thread does it unless the container lives on (17–27 ms)."""
        netns_fd = self._inside.pop(endpoint.endpoint_id, -1)
        if netns_fd < 0:
            return
        if lives_on:
            _delete(netns_fd, endpoint.interface)
            return
        thread = threading.Thread(target=_delete, args=(netns_fd, endpoint.interface), name="unlink", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had
            _delete(netns_fd, endpoint.interface)
            return
        self._ending = [one for one in self._ending if one.is_alive()] + [thread]

    def _await_ends(self) -> None:
        """Their addresses, and a parent that one device has alone, are free then."""
        end = time.monotonic() + _END_S
        for thread in self._ending:
            thread.join(max(0.0, end - time.monotonic()))
        self._ending = [one for one in self._ending if one.is_alive()]


def _delete(netns_fd: int, interface: str) -> None:
    """Closes the descriptor too."""
    try:
        with netns.inside(netns_fd, rtnetlink.Socket) as socket:
            netlink.raise_unless(socket.attempt(rtnetlink.delete_link(interface)), errno.ENODEV)
    except (OSError, CortenError) as error:
        log.warning("%s of a container that is gone: %s", interface, error)
    finally:
        with contextlib.suppress(OSError):
            os.close(netns_fd)


def _await_running(interface: str) -> None:
    """Runs inside: the first packet would be lost else (`Host.await_running`)."""
    end = time.monotonic() + _RUNNING_S
    with rtnetlink.Socket() as socket:
        while (link := socket.link(interface)) is not None and not link.is_running and time.monotonic() < end:
            time.sleep(_LOOK_S)
