"""Bridge networks: their devices, their endpoints, their published ports.

    connect     record (the lease on the addresses) → veth pair, one end a port of the bridge → addresses, routes inside
    publish     sockets → record → elements of the nft maps; a thread forgets UDP flows that are older
    disconnect  elements → port of the bridge cut off → record → UDP flows; the netns takes the veth pair with it
    restore     after a kill at any point: what no record names goes, what a record names is there again

A record is written before the object that it names exists, and removed after it is gone; every method may be repeated.
The veth pair is not deleted on disconnect: that would take 17–27 ms, and the kernel deletes it with the namespace.
Until it does, the bridge port is disabled, so that the next container with this address has it alone.  A container
that goes on is another matter: its pair is deleted.

Calls are serialized by a lock and take 1–2 ms: no other thread is needed for them.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import Final

from corten.core.journal import LINK, NFT_ELEMENT
from corten.errors import CortenError, FailedPrecondition, Internal, NotFound, Unavailable
from corten.network import addresses, parents
from corten.network.bridges import Bridges
from corten.network.conntrack import Forwarded
from corten.network.defaults import Defaults
from corten.network.device import alias_of
from corten.network.endpointoptions import Sysctls, for_interface
from corten.network.endpointoptions import sysctls as sysctls_of
from corten.network.endpoints import Endpoints
from corten.network.ends import Ends
from corten.network.firewall import Firewall
from corten.network.guard import Guard
from corten.network.host import Host
from corten.network.published import Published, Publisher
from corten.network.values import (
    ANY,
    Bridge,
    Endpoint,
    Journal,
    Leftover,
    Network,
    PortBinding,
    Publication,
    Store,
    Wanted,
)
from corten.network.watch import Watch
from corten.sys import netlink, rtnetlink
from corten.sys.rtnetlink import IPAddress, IPInterface

__all__ = ["BridgeDriver", "Published", "link_name"]

log = logging.getLogger(__name__)

_DEFAULTS: Final = Defaults()


def link_name(engine_id: str, endpoint_id: str) -> str:
    """The host's end of an endpoint's veth pair (15 bytes are the limit).

    Named after the endpoint, not the container: when a container is started again, its last pair may still be there.
    """
    return f"ct{engine_id[:4]}{endpoint_id[:8]}"


class BridgeDriver:
    """One engine's bridges.  Safe to call from several threads."""

    def __init__(
        self,
        engine_id: str,
        *,
        store: Store,
        journal: Journal,
        host: Host,
        settings: Defaults = _DEFAULTS,
        avoid: Collection[IPv4Network] = (),
        has_relay: bool = True,
    ) -> None:
        """`settings`: daemon.json's; `avoid`: networks that are used though no route says so, such as the host's
        name servers; `has_relay` as of a
        Publisher.
        """
        self._engine_id = engine_id
        self._store = store
        self._journal = journal
        self._host = host
        self._firewall = Firewall(
            engine_id,
            host.nft,
            mark=settings.mark,
            respects_host=settings.respects_host,
            is_direct=settings.is_direct,
        )
        self.settings = settings
        self._bridges = Bridges(
            engine_id, self._firewall, store=store, journal=journal, host=host, settings=settings, avoid=avoid
        )
        self._ends = Ends(engine_id, self._bridges, host=host)
        self._endpoints = Endpoints()
        self._publisher = Publisher(
            host, self._firewall, store=store, journal=journal, forwarded=self._forwarded, has_relay=has_relay
        )
        self._gone: dict[str, Endpoint] = {}  # whose records could not be removed yet
        self._lock = threading.RLock()
        self._guard = Guard(
            engine_id,
            self._bridges,
            host,
            journal=journal,
            lock=self._lock,
            endpoints=lambda: self._endpoints,
        )

    # --- what there is

    def networks(self) -> tuple[Network, ...]:
        """Every bridge network, the default one first."""
        with self._lock:
            return self._bridges.all()

    def network(self, network_id: str = "") -> Network:
        """One by its id; the default bridge without.  Raises NotFound, before `ensure` FailedPrecondition."""
        with self._lock:
            return self._bridges.get(network_id)

    def bridge(self, network_id: str = "") -> Bridge:
        """A network's device; raises as `network`."""
        return self._bridges.bridge(self.network(network_id))

    @property
    def forwards(self) -> bool:
        """IPv4 is routed; looked up where daemon.json leaves it alone, else each start has turned it on."""
        return self.settings.forwards or self._host.sysctl("ipv4/ip_forward") != "0"

    @property
    def own_address(self) -> str:
        """The default bridge's first one, which host-gateway stands for; '' where there is no such bridge."""
        with self._lock:
            default = self._bridges.default
            return str(default.subnets[0].gateway) if default is not None and default.subnets else ""

    def endpoints(self, network_id: str = "") -> tuple[Endpoint, ...]:
        """Every endpoint, or those of one network."""
        with self._lock:
            return self._endpoints.on(network_id) if network_id else self._endpoints.all()

    def endpoints_of(self, container_id: str) -> tuple[Endpoint, ...]:
        """A container's endpoints, in the order in which it was connected."""
        with self._lock:
            return self._endpoints.of(container_id)

    def endpoint(self, container_id: str, network_id: str = "") -> Endpoint | None:
        """A container's endpoint on a network; without one, its first."""
        found = self.endpoints_of(container_id)
        return next((one for one in found if network_id in ("", one.network_id)), None)

    # --- networks

    def ensure(self) -> None:
        """Makes bridges, table and sysctls as they should be, with every recorded endpoint's ports."""
        with self._lock:
            self._load()
            self._bridges.ensure(self._endpoints)
            self._guard.settle()

    def watch(self) -> Watch:
        """From here on what other programs change in the firewall is put right, by a thread that `close` ends.

        Called once, after `ensure`, in a thread of the engine's network namespace.
        """
        return self._guard.watch()

    def close(self) -> None:
        """Ends the watch; network and records stay."""
        self._guard.close()

    def _load(self) -> None:
        self._endpoints = Endpoints(self._store.endpoints())
        self._publisher.take(self._endpoints)
        self._bridges.load()

    def create(self, network: Network) -> Network:
        """A new network; subnets that it has none of are chosen.

        Raises Conflict when name or device are another's, FailedPrecondition when no subnet is left, InvalidArgument
        when one of its own overlaps another network's.
        """
        with self._lock:
            made = self._bridges.create(network)
            self._guard.follow()
            return made

    def remove(self, network_id: str) -> None:
        """Removes a network; the caller has seen that nobody is on it."""
        with self._lock:
            network = self._bridges.get(network_id)
            for endpoint in self._endpoints.on(network_id):  # what a container that is gone has left
                self._disconnect(endpoint)
            self._bridges.remove(network)
            self._guard.follow()

    # --- endpoints

    def connect(
        self,
        container_id: str,
        netns_fd: int,
        *,
        network_id: str = "",
        wanted: Wanted | None = None,
        interface: str = "eth0",
        is_gateway: bool = True,
    ) -> Endpoint:
        """Joins the namespace behind `netns_fd` to a bridge as `interface`; the descriptor stays the caller's.

        `is_gateway`: the namespace's default routes lead over this network.
        Raises FailedPrecondition when no address is free, Conflict when the wanted one is not, InvalidArgument when a
        sysctl of its interface cannot be set.
        """
        with self._lock:
            network = self._bridges.get(network_id)
            self._guard.check(network)
            asked = wanted or Wanted()
            sysctls = sysctls_of(asked.options)
            endpoint = self._record(container_id, network, asked, interface)
            try:
                self._join(endpoint, network, netns_fd, is_gateway=is_gateway, sysctls=sysctls)
            except (OSError, CortenError) as error:
                self._take_off(endpoint, lives_on=True)
                self._forget(endpoint)
                if isinstance(error, CortenError):
                    raise
                raise Internal(f"network of container {container_id[:12]}: {error}") from error
            return endpoint

    def _record(self, container_id: str, network: Network, wanted: Wanted, interface: str) -> Endpoint:
        taken = self._endpoints.numbers(network.network_id)
        v4 = parents.led(network, addresses.lease(network, 4, wanted.ip, taken))
        v6 = parents.led(network, addresses.lease(network, 6, wanted.ip6, taken))
        endpoint_id = secrets.token_hex(32)
        link = link_name(self._engine_id, endpoint_id)
        first = v4 or v6
        assert first is not None
        is_bridged = not parents.is_over_parent(network)
        with self._store.transaction():
            entry = self._journal.begin(LINK, link, container=container_id, address=str(first.address.ip))
            endpoint = Endpoint(
                endpoint_id=endpoint_id,
                container_id=container_id,
                network_id=network.network_id,
                address=v4.address if v4 and isinstance(v4.address, IPv4Interface) else None,
                gateway=v4.gateway if v4 else None,  # type: ignore[arg-type]  # of the same version
                mac=self._bridges.parents.mac(network, wanted, first.address.ip),
                link=link if is_bridged else "",
                interface=interface,
                journal=(entry,),
                address6=v6.address if v6 and isinstance(v6.address, IPv6Interface) else None,
                gateway6=v6.gateway if v6 else None,  # type: ignore[arg-type]  # of the same version
            )
            self._store.save(endpoint)
        self._endpoints.put(endpoint)
        return endpoint

    def _join(self, endpoint: Endpoint, network: Network, netns_fd: int, *, is_gateway: bool, sysctls: Sysctls) -> None:
        """The part that the kernel does: 1.2 ms."""
        if not endpoint.link:
            found = for_interface(sysctls, endpoint.interface)
            self._bridges.parents.join(endpoint, network, netns_fd, is_gateway=is_gateway, sysctls=found)
            return
        name = self._bridges.device(network.network_id)
        self._host.links.send(
            rtnetlink.new_veth(endpoint.link, endpoint.interface, endpoint.mac, netns_fd, network.mtu),
            rtnetlink.set_alias(endpoint.link, alias_of(self._engine_id, endpoint.container_id)),
            rtnetlink.set_no_ipv6(endpoint.link),
        )
        self._attach(endpoint.link, name)
        if not self._bridges.bridge(network).has_icc:
            link = self._host.links.link(endpoint.link)
            if link is not None:
                self._host.links.send(rtnetlink.isolate(link.index))
        gateways = endpoint.gateways if is_gateway else ()
        self._host.configure_inside(
            netns_fd,
            endpoint.interface,
            endpoint.addresses,
            gateways,
            sysctls=for_interface(sysctls, endpoint.interface),
        )
        self._host.await_running(endpoint.link, name)
        self._ends.forget_neighbour(endpoint, name)

    def lead_out(self, netns_fd: int, gateways: Sequence[tuple[str, IPAddress]]) -> None:
        """Makes the default routes of a namespace lead over these gateways behind these interfaces.

        Raises Internal.
        """
        try:
            self._host.lead_out(netns_fd, gateways)
        except OSError as error:
            raise Internal(f"default routes: {error}") from error

    def add_addresses(self, netns_fd: int, interface: str, addresses: Sequence[IPInterface]) -> None:
        """More addresses for a container's end, of no lease.  Raises Internal."""
        try:
            self._host.add_addresses(netns_fd, interface, addresses)
        except OSError as error:
            raise Internal(f"addresses of {interface}: {error}") from error

    def _attach(self, link: str, name: str) -> None:
        """Makes a link a port of a bridge, and the bridge itself when somebody has deleted it."""
        index = self._bridges.known_index(name)
        if not index:
            raise FailedPrecondition(f"bridge {name} is not there")
        (error,) = self._host.links.attempt(rtnetlink.set_up(link, index))
        if error is None:
            return
        if error.errno not in (errno.ENODEV, errno.EINVAL):
            raise error
        log.warning("bridge %s was deleted; made again", name)
        self.ensure()
        self._host.links.send(rtnetlink.set_up(link, self._bridges.known_index(name)))

    def disconnect(
        self, container_id: str, network_id: str = "", *, lives_on: bool = False, netns_fd: int | None = None
    ) -> None:
        """Takes a container off a network, or off all.  No error when it is on none.

        `lives_on`: its namespace stays, so its end of the pair is deleted.  `netns_fd`: its namespace, which helps to
        delete a device that an earlier cortend made; it stays the caller's.
        """
        with self._lock:
            if netns_fd is not None:
                self.adopt(container_id, netns_fd)
            for endpoint in self._endpoints.of(container_id):
                if network_id in ("", endpoint.network_id):
                    self._disconnect(endpoint, lives_on=lives_on)

    def adopt(self, container_id: str, netns_fd: int) -> None:
        """A container that an earlier cortend connected: what is in its namespace alone can be deleted at its end."""
        with self._lock:
            for endpoint in self._endpoints.of(container_id):
                if not endpoint.link:
                    self._bridges.parents.adopt(endpoint, netns_fd)

    def _disconnect(self, endpoint: Endpoint, *, lives_on: bool = False) -> None:
        self._publisher.withdraw(endpoint)
        self._take_off(endpoint, lives_on=lives_on)
        self._forget(endpoint)
        self._publisher.check_flows(endpoint)

    def _take_off(self, endpoint: Endpoint, *, lives_on: bool) -> None:
        if not endpoint.link:
            self._bridges.parents.leave(endpoint, lives_on=lives_on)
            return
        if lives_on:
            self._delete_link(endpoint.link)
        else:
            self._ends.cut_off(endpoint.link)
        self._ends.forget_neighbour(endpoint, self._bridges.device(endpoint.network_id))

    def _delete_link(self, name: str) -> None:
        """Deletes a device at once; slow, so not on the ordinary way."""
        netlink.raise_unless(self._host.links.attempt(rtnetlink.delete_link(name)), errno.ENODEV)

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
        """Publishes ports for a container called `name`: all of them, or none and PortConflict in Docker's words.

        Those that the endpoint has already stay as they are.  Raises NotFound for an endpoint that is gone.
        """
        if not endpoint.link:  # dockerd ignores them too: its addresses are reached directly
            log.warning("container %s: nothing is published on a network without a bridge", name)
            return Published(endpoint, ())
        with self._lock:
            if self._endpoints.get(endpoint.endpoint_id) is None:
                raise NotFound(f"endpoint {endpoint.endpoint_id} not found")
            network = self._bridges.get(endpoint.network_id)
            default, routed = network.host_ip or ANY, self._bridges.bridge(network).routed
            asked = list(bindings)
            try:
                published = self._publisher.publish(endpoint, name, asked, default, routed=routed)
            except FileNotFoundError:
                log.warning("nftables table %s was deleted; made again", self._firewall.table)
                self.ensure()
                published = self._publisher.publish(endpoint, name, asked, default, routed=routed)
            self._endpoints.put(published.endpoint)
            return published

    def unpublish(self, endpoint: Endpoint, gone: Collection[Publication]) -> Endpoint:
        """Withdraws some of an endpoint's ports; its connections stay.  The endpoint without them.

        One that is gone has none.
        """
        with self._lock:
            if self._endpoints.get(endpoint.endpoint_id) is None:
                return endpoint
            narrow = self._publisher.unpublish(endpoint, gone)
            self._endpoints.put(narrow)
            return narrow

    def move_ports(self, old: Endpoint, new: Endpoint) -> tuple[Endpoint, Endpoint]:
        """Leads the ports of one endpoint of a container to another of it: both as they are then."""
        with self._lock:
            narrow, wider = self._publisher.move(old, new)
            self._endpoints.put(narrow)
            self._endpoints.put(wider)
            return narrow, wider

    def _forwarded(self) -> Forwarded:
        """For the thread that looks for stale flows."""
        with self._lock:
            ports = {
                (port.host_ip, port.host_port): (target, port.container_port)
                for one in self._endpoints.all()
                for port in one.publications
                if port.transport == "udp" and (target := one.target(port)) is not None
            }
            local = {one.interface.ip for one in self._host.links.addresses()}
            return Forwarded(ports, [*self._bridges.subnets(4), *self._bridges.subnets(6)], local)

    def settle(self) -> bool:
        """Waits until stale UDP flows are forgotten; False when that takes longer than 10 s."""
        return self._publisher.settle()

    # --- recovery

    def restore(self, alive: Collection[str]) -> list[Leftover]:
        """Brings kernel and records together; `alive` are the containers that still run.  Returns what was removed."""
        with self._lock:
            self._load()
            for endpoint in self._endpoints.all():
                if endpoint.container_id not in alive or endpoint.network_id not in self._bridges:
                    self._disconnect(endpoint)
            self.ensure()
            self._ends.rejoin(self._endpoints.all())
            self._ends.part(self._endpoints.all())
            for endpoint in self._endpoints.all():
                self._publisher.check_flows(endpoint)
            strays = self.leftovers()
            for one in strays:
                if one.kind == "link":  # elements that no record names went when the table was written
                    self._delete_link(one.name)
            self._strike_out()
            return strays

    def _strike_out(self) -> None:
        """Ends the journal entries of what is gone."""
        known = {entry for one in self._endpoints.all() for entry in one.journal}
        known.update(entry for one in self._bridges.all() for entry in one.journal)
        begun = [entry.id for kind in (LINK, NFT_ELEMENT) for entry in self._journal.entries(kind)]
        self._journal.done(*(entry for entry in begun if entry not in known))

    def leftovers(self) -> list[Leftover]:
        """What carries the engine's id and no record names.  Changes nothing."""
        with self._lock:
            known = {one.link for one in self._endpoints.all()}
            known |= {self._bridges.device(one.network_id) for one in self._bridges.all()}
            found = [Leftover("link", link.name) for link in self._ends.own() if link.name not in known]
            if self._firewall.exists():
                strays = self._firewall.published() - self._firewall.expected(self._endpoints.all())
                found += [Leftover("nft-element", one) for one in sorted(strays)]
            return found

    def destroy(self) -> None:
        """Removes everything of this engine from kernel and records.  The host's sysctls stay as they are."""
        with self._lock:
            self._load()
            for link in self._ends.own():
                self._delete_link(link.name)
            for endpoint in self._endpoints.all():
                self._forget(endpoint)
            self._guard.remove()
            self._bridges.destroy()
            self._strike_out()
