"""The default bridge: its device, its endpoints, their published ports.

    connect     record (the lease on the address) → veth pair, one end a port of the bridge → address and route inside
    publish     sockets → record → elements of the nft maps; a thread forgets UDP flows that are older
    disconnect  elements → port of the bridge cut off → record → UDP flows; the netns takes the veth pair with it
    restore     after a kill at any point: what no record names goes, what a record names is there again

A record is written before the object that it names exists, and removed after it is gone; every method may be repeated.
The veth pair is not deleted on disconnect: that would take 17–27 ms, and the kernel deletes it with the namespace.
Until it does, the bridge port is disabled, so that the next container with this address has it alone.

Calls are serialized by a lock and take 1–2 ms: no other thread is needed for them.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import re
import secrets
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Self

from corten.core.journal import LINK, NFT_ELEMENT
from corten.errors import Conflict, CortenError, FailedPrecondition, Internal, InvalidArgument, Unavailable
from corten.network import pools
from corten.network.conntrack import Forwarded, StaleFlows
from corten.network.device import Device, alias_of, forward_policy
from corten.network.endpoints import Endpoints
from corten.network.firewall import Firewall
from corten.network.host import Host
from corten.network.ports import EPHEMERAL, PortTable, Reservation
from corten.network.values import (
    Bridge,
    Endpoint,
    Journal,
    Leftover,
    PortBinding,
    PortConflict,
    Publication,
    Store,
)
from corten.sys import netlink
from corten.sys.netlink import Link

log = logging.getLogger(__name__)

NETWORK_ID_SETTING = "network.bridge.id"


def link_name(engine_id: str, endpoint_id: str) -> str:
    """The host's end of an endpoint's veth pair (15 bytes are the limit).

    Named after the endpoint, not the container: when a container is started again, its last pair may still be there.
    """
    return f"ct{engine_id[:4]}{endpoint_id[:8]}"


@dataclass(frozen=True, slots=True)
class Published:
    """An endpoint with its ports, and the sockets that hold them, which go to the shim."""

    endpoint: Endpoint
    reservations: tuple[Reservation, ...]

    def close(self) -> None:
        """Closes this process's copies of the sockets."""
        for one in self.reservations:
            one.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BridgeDriver:
    """One engine's default bridge.  Safe to call from several threads."""

    def __init__(
        self,
        engine_id: str,
        *,
        store: Store,
        journal: Journal,
        host: Host,
        subnets: Sequence[pools.Pool] = pools.DEFAULT_POOLS,
        avoid: Collection[IPv4Network] = (),
    ) -> None:
        """`avoid`: networks that are used though no route says so, such as the host's name servers."""
        self._engine_id = engine_id
        self._store = store
        self._journal = journal
        self._host = host
        self._device = Device(engine_id, store=store, journal=journal, host=host, subnets=subnets, avoid=avoid)
        self._firewall = Firewall(engine_id, host.nft)
        self._flows = StaleFlows(host.tracking, self._forwarded)
        self._ports = PortTable(_ephemeral(host))
        self._endpoints = Endpoints()
        self._gone: dict[str, Endpoint] = {}  # whose records could not be removed yet
        self._bridge: Bridge | None = None
        self._lock = threading.RLock()

    # --- what there is

    @property
    def bridge(self) -> Bridge:
        """The bridge and its subnet; raises FailedPrecondition before `ensure`."""
        if self._bridge is None:
            raise FailedPrecondition(f"bridge {self._device.name} is not set up")
        return self._bridge

    @property
    def network_id(self) -> str:
        """64 hex digits, made once."""
        known = self._store.setting(NETWORK_ID_SETTING)
        if not known:
            known = secrets.token_hex(32)
            self._store.set_setting(NETWORK_ID_SETTING, known)
        return known

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint on the bridge."""
        with self._lock:
            return self._endpoints.all()

    def endpoint(self, container_id: str) -> Endpoint | None:
        """A container's endpoint."""
        with self._lock:
            return self._endpoints.of(container_id)

    # --- the bridge

    def ensure(self) -> None:
        """Makes bridge, table and sysctls as they should be, with every recorded endpoint's ports."""
        with self._lock:
            self._load()
            links = self._host.links.links()
            bridge = self._device.choose(links, is_used=len(self._endpoints) > 0)
            policy = forward_policy(self._host, self._store)
            others = [link.name for link in links if link.kind == "bridge" and link.name != bridge.name]
            self._firewall.apply((bridge,), self._endpoints.all(), policy=policy, others=others)
            self._device.make(bridge, links)
            self._host.set_sysctl("ipv4/ip_forward", "1")
            self._bridge = bridge

    def _load(self) -> None:
        self._endpoints = Endpoints(self._store.endpoints())
        for endpoint in self._endpoints.all():
            for publication in endpoint.publications:
                self._ports.take(publication)

    # --- endpoints

    def connect(self, container_id: str, netns_fd: int, *, mac: str = "", ip: IPv4Address | None = None) -> Endpoint:
        """Joins the namespace behind `netns_fd` to the bridge as eth0; the descriptor stays the caller's.

        Raises FailedPrecondition when no address is free, Conflict when `ip` is not.
        """
        with self._lock:
            endpoint = self._record(container_id, mac, ip)
            try:
                self._join(endpoint, netns_fd)
            except (OSError, CortenError) as error:
                self._delete_link(endpoint.link)
                self._forget(endpoint)
                if isinstance(error, CortenError):
                    raise
                raise Internal(f"network of container {container_id[:12]}: {error}") from error
            return endpoint

    def _record(self, container_id: str, mac: str, ip: IPv4Address | None) -> Endpoint:
        address = self._lease(ip)
        endpoint_id = secrets.token_hex(32)
        link = link_name(self._engine_id, endpoint_id)
        with self._store.transaction():
            entry = self._journal.begin(LINK, link, container=container_id, address=str(address))
            endpoint = Endpoint(
                endpoint_id=endpoint_id,
                container_id=container_id,
                network_id=self.network_id,
                address=IPv4Interface((address, self.bridge.subnet.prefixlen)),
                gateway=self.bridge.address.ip,
                mac=mac or pools.mac_of(address),
                link=link,
                journal=(entry,),
            )
            self._store.save(endpoint)
        self._endpoints.put(endpoint)
        return endpoint

    def _lease(self, wanted: IPv4Address | None) -> IPv4Address:
        own = self.bridge.address.ip
        if wanted is None:
            return pools.first_free(self.bridge.subnet, {int(own)} | self._endpoints.numbers)
        if wanted not in self.bridge.subnet:
            raise InvalidArgument(f"no configured subnet contains IP address {wanted}")
        if wanted == own or int(wanted) in self._endpoints.numbers:
            raise Conflict("Address already in use")
        return wanted

    def _join(self, endpoint: Endpoint, netns_fd: int) -> None:
        """The part that the kernel does: 1.2 ms."""
        self._host.links.send(
            netlink.new_veth(endpoint.link, endpoint.interface, endpoint.mac, netns_fd),
            netlink.set_alias(endpoint.link, alias_of(self._engine_id, endpoint.container_id)),
            netlink.set_no_ipv6(endpoint.link),
        )
        self._attach(endpoint.link)
        self._host.configure_inside(netns_fd, endpoint.interface, endpoint.address, endpoint.gateway)
        self._host.await_running(endpoint.link, self._device.name)
        self._forget_neighbour(endpoint)

    def _attach(self, link: str) -> None:
        """Makes a link a port of the bridge, and the bridge itself when somebody has deleted it."""
        (error,) = self._host.links.attempt(netlink.set_up(link, self._device.known_index))
        if error is None:
            return
        if error.errno not in (errno.ENODEV, errno.EINVAL):
            raise error
        log.warning("bridge %s was deleted; made again", self._device.name)
        self.ensure()
        self._host.links.send(netlink.set_up(link, self._device.known_index))

    def _forget_neighbour(self, endpoint: Endpoint) -> None:
        """A hardware address of the user's own does not follow from the address: somebody may remember another."""
        bridge = self._host.links.link(self._device.name) if endpoint.mac != pools.mac_of(endpoint.ip) else None
        if bridge is not None:
            outcome = self._host.links.attempt(netlink.delete_neighbour(bridge.index, endpoint.ip))
            netlink.raise_unless(outcome, errno.ENOENT)

    def disconnect(self, container_id: str) -> None:
        """Takes a container off the bridge whose namespace is gone or going.  No error when it is not on it."""
        with self._lock:
            endpoint = self.endpoint(container_id)
            if endpoint is not None:
                self._disconnect(endpoint)

    def _disconnect(self, endpoint: Endpoint) -> None:
        self._withdraw(endpoint)
        link = self._host.links.link(endpoint.link)
        if link is not None:
            outcome = self._host.links.attempt(netlink.cut_off(link.index))
            netlink.raise_unless(outcome, errno.ENODEV, errno.ENETDOWN, errno.EOPNOTSUPP)
        self._forget_neighbour(endpoint)
        self._forget(endpoint)
        self._flows.check(_udp_ports(endpoint))

    def _delete_link(self, name: str) -> None:
        """Deletes a device at once; slow, so not on the ordinary way."""
        netlink.raise_unless(self._host.links.attempt(netlink.delete_link(name)), errno.ENODEV)

    def _forget(self, endpoint: Endpoint) -> None:
        """Nothing of it is left in the kernel.  On a full disk its record stays for now, and goes with the next one."""
        self._endpoints.discard(endpoint.endpoint_id)
        self._gone[endpoint.endpoint_id] = endpoint
        try:
            with self._store.transaction():
                for one in self._gone.values():
                    self._store.remove(one.endpoint_id)
                    self._journal.done(*one.journal)
        except Unavailable as error:
            log.warning("%d endpoints are forgotten later: %s", len(self._gone), error)
            return
        self._gone.clear()

    # --- published ports

    def publish(self, endpoint: Endpoint, name: str, bindings: Iterable[PortBinding]) -> Published:
        """Publishes ports for a container called `name`: all of them, or none and PortConflict in Docker's words."""
        with self._lock:
            reservations = self._reserve(endpoint, name, bindings)
            if not reservations:
                return Published(endpoint, ())
            try:
                wider = self._widen(endpoint, tuple(one.publication for one in reservations))
                self._open(wider)
            except (OSError, CortenError) as error:
                self._give_back(reservations)
                self._narrow(endpoint)  # nothing of the elements' transaction is in the kernel
                raise error if isinstance(error, CortenError) else Internal(f"ports of {name}: {error}") from error
            return Published(wider, reservations)

    def _widen(self, endpoint: Endpoint, publications: tuple[Publication, ...]) -> Endpoint:
        with self._store.transaction():
            ports = [one.key for one in publications]
            entry = self._journal.begin(NFT_ELEMENT, endpoint.endpoint_id, ports=ports)
            wider = dataclasses.replace(endpoint, publications=publications, journal=(*endpoint.journal, entry))
            self._store.save(wider)
        self._endpoints.put(wider)
        return wider

    def _reserve(self, endpoint: Endpoint, name: str, bindings: Iterable[PortBinding]) -> tuple[Reservation, ...]:
        held: list[Reservation] = []
        try:
            for binding in bindings:
                held.append(self._ports.reserve(binding))
        except OSError as error:  # no descriptor left
            self._give_back(held)
            raise Internal(f"ports of {name}: {error.strerror}") from error
        except PortConflict as conflict:
            self._give_back(held)
            failed = f"driver failed programming external connectivity on endpoint {name} ({endpoint.endpoint_id})"
            raise PortConflict(f"{failed}: {conflict}") from conflict
        return tuple(held)

    def _give_back(self, reservations: Iterable[Reservation]) -> None:
        for one in reservations:
            one.socket.close()
            self._ports.release(one.publication)

    def _open(self, endpoint: Endpoint) -> None:
        link = self._host.links.link(endpoint.link)
        if link is not None:
            self._host.links.send(netlink.hairpin_on(link.index))
        try:
            self._firewall.publish(endpoint)
        except Internal:
            if self._firewall.exists():
                raise
            log.warning("nftables table %s was deleted; made again", self._firewall.table)
            self.ensure()
        self._flows.check(_udp_ports(endpoint))

    def _forwarded(self) -> Forwarded:
        """For the thread that looks for stale flows."""
        with self._lock:
            ports = {
                (port.host_ip, port.host_port): (one.ip, port.container_port)
                for one in self._endpoints.all()
                for port in one.publications
                if port.transport == "udp"
            }
            local = {one.interface.ip for one in self._host.links.addresses()}
            return Forwarded(ports, [self._bridge.subnet] if self._bridge else [], local)

    def settle(self) -> bool:
        """Waits until stale UDP flows are forgotten; False when that takes longer than 10 s."""
        return self._flows.settle()

    def unpublish(self, container_id: str) -> None:
        """Withdraws every port of a container; its connection stays."""
        with self._lock:
            endpoint = self.endpoint(container_id)
            if endpoint is not None:
                self._unpublish(endpoint)

    def _unpublish(self, endpoint: Endpoint) -> None:
        self._withdraw(endpoint)
        self._narrow(endpoint)
        self._flows.check(_udp_ports(endpoint))

    def _narrow(self, endpoint: Endpoint) -> None:
        """The record without ports, and without the journal entry that is theirs."""
        before = self._endpoints.get(endpoint.endpoint_id)
        if before is None or not before.publications:
            return
        narrow = dataclasses.replace(endpoint, publications=(), journal=before.journal[:1])
        self._endpoints.put(narrow)
        with self._store.transaction():
            self._store.save(narrow)
            self._journal.done(*before.journal[1:])

    def _withdraw(self, endpoint: Endpoint) -> None:
        self._firewall.unpublish(endpoint)
        for publication in endpoint.publications:
            self._ports.release(publication)

    # --- recovery

    def restore(self, alive: Collection[str]) -> list[Leftover]:
        """Brings kernel and records together; `alive` are the containers that still run.  Returns what was removed."""
        with self._lock:
            self._load()
            for endpoint in self._endpoints.all():
                if endpoint.container_id not in alive:
                    self._disconnect(endpoint)
            self.ensure()
            self._rejoin()
            self._flows.check({port for one in self._endpoints.all() for port in _udp_ports(one)})
            strays = self.leftovers()
            for one in strays:
                if one.kind == "link":  # elements that no record names went when the table was written
                    self._delete_link(one.name)
            self._strike_out()
            return strays

    def _strike_out(self) -> None:
        """Ends the journal entries of what is gone."""
        known = {entry for one in self._endpoints.all() for entry in one.journal}
        known.update(self._device.journal_entries())
        begun = [entry.id for kind in (LINK, NFT_ELEMENT) for entry in self._journal.entries(kind)]
        self._journal.done(*(entry for entry in begun if entry not in known))

    def _rejoin(self) -> None:
        """Makes recorded links ports of the bridge again, when it was made anew."""
        index = self._device.index()
        known = {one.link for one in self._endpoints.all()}
        apart = [link for link in self._own_links() if link.name in known and link.master != index]
        for link in apart:
            self._host.links.send(netlink.set_up(link.name, index), netlink.hairpin_on(link.index))
        if apart:
            self._host.await_running(*(link.name for link in apart), self._device.name)

    def leftovers(self) -> list[Leftover]:
        """What carries the engine's id and no record names.  Changes nothing."""
        with self._lock:
            known = {one.link for one in self._endpoints.all()}
            found = [Leftover("link", link.name) for link in self._own_links() if link.name not in known]
            if self._firewall.exists():
                strays = self._firewall.published() - self._firewall.expected(self._endpoints.all())
                found += [Leftover("nft-element", one) for one in sorted(strays)]
            return found

    def _own_links(self) -> list[Link]:
        """The host's ends of our veth pairs: by alias, or by name when a kill came before the alias."""
        named = re.compile(rf"ct{self._engine_id[:4]}[0-9a-f]{{8}}")
        prefix = alias_of(self._engine_id, "")
        return [
            link
            for link in self._host.links.links()
            if link.kind == "veth"
            and (link.alias.startswith(prefix) or (not link.alias and named.fullmatch(link.name)))
        ]

    def destroy(self) -> None:
        """Removes everything of this engine from kernel and records.  The host's sysctls stay as they are."""
        with self._lock:
            self._endpoints = Endpoints(self._store.endpoints())
            for link in self._own_links():
                self._delete_link(link.name)
            self._device.destroy()
            self._firewall.destroy()
            for endpoint in self._endpoints.all():
                self._forget(endpoint)
            self._strike_out()
            self._bridge = None


def _ephemeral(host: Host) -> tuple[int, int]:
    words = host.sysctl("ipv4/ip_local_port_range").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else EPHEMERAL


def _udp_ports(endpoint: Endpoint) -> set[int]:
    return {one.host_port for one in endpoint.publications if one.transport == "udp"}
