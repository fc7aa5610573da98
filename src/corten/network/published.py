"""Published ports of endpoints on bridges: sockets, records, elements of the firewall's maps, stale UDP flows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from corten.core.journal import NFT_ELEMENT
from corten.errors import CortenError, Internal
from corten.network import ports
from corten.network.conntrack import Forwarded, StaleFlows
from corten.network.endpoints import Endpoints
from corten.network.firewall import Firewall
from corten.network.host import Host
from corten.network.ports import EPHEMERAL, Place, PortTable, Reservation
from corten.network.values import ANY, ANY6, Endpoint, Journal, PortBinding, PortConflict, Publication, Store
from corten.sys import rtnetlink
from corten.sys.rtnetlink import IPAddress


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


class Publisher:
    """The ports of one engine.  Its caller holds a lock."""

    def __init__(
        self,
        host: Host,
        firewall: Firewall,
        *,
        store: Store,
        journal: Journal,
        forwarded: Callable[[], Forwarded],
        has_relay: bool = True,
    ) -> None:
        """`has_relay`: what NAT cannot lead to a container, its shim does (daemon.json `userland-proxy`)."""
        self._host = host
        self._firewall = firewall
        self._store = store
        self._journal = journal
        self._flows = StaleFlows(host.tracking, forwarded)
        self._ports = PortTable(_ephemeral(host), prefix=ports.WITH_PROXY if has_relay else "")
        self._has_relay = has_relay

    def take(self, endpoints: Endpoints) -> None:
        """Counts their ports as taken: shims hold the sockets."""
        for endpoint in endpoints.all():
            for publication in endpoint.publications:
                self._ports.take(publication)

    def publish(
        self,
        endpoint: Endpoint,
        name: str,
        bindings: Iterable[PortBinding],
        default: IPAddress = ANY,
        *,
        routed: frozenset[int] = frozenset(),
    ) -> Published:
        """All of them, beside those that it has, or none and PortConflict in Docker's words.

        `default`: the host's address of those that name none; `routed`: the families in which the container's own
        address is what is reached, and no port of the host's.
        Raises FileNotFoundError when the firewall's table is gone.
        """
        asked = list(bindings)
        reservations = self._reserve(endpoint, name, asked, default, routed)
        added = tuple(one.publication for one in reservations) + opened_ports(endpoint, asked, routed)
        if not added:
            return Published(endpoint, ())
        wider = endpoint
        try:
            wider = self._record(endpoint, (*endpoint.publications, *added))
            self._open(wider, added)
        except (OSError, CortenError) as error:
            self._give_back(reservations)
            if wider is not endpoint:
                self._record(wider, endpoint.publications)  # nothing of the elements' transaction is in the kernel
            if isinstance(error, FileNotFoundError | CortenError):
                raise
            raise Internal(f"ports of {name}: {error}") from error
        return Published(wider, reservations)

    def _reserve(
        self,
        endpoint: Endpoint,
        name: str,
        bindings: Iterable[PortBinding],
        default: IPAddress,
        routed: frozenset[int],
    ) -> tuple[Reservation, ...]:
        held: list[Reservation] = []
        can_listen = ports.is_v6_listenable()
        try:
            for binding in bindings:
                on = ports.places(binding, default, endpoint, has_relay=self._has_relay, is_v6_listenable=can_listen)
                held += self._ports.reserve(binding, [one for one in on if _family(one, endpoint) not in routed])
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

    def _record(self, endpoint: Endpoint, publications: tuple[Publication, ...]) -> Endpoint:
        """The endpoint with these ports, recorded; the journal's entry of its elements lives as long as there are any.

        `endpoint`: as it was recorded last.
        """
        link, old = endpoint.journal[:1], endpoint.journal[1:]
        with self._store.transaction():
            begun = [one.key for one in publications]
            entry = (self._journal.begin(NFT_ELEMENT, endpoint.endpoint_id, ports=begun),) if begun else ()
            changed = dataclasses.replace(endpoint, publications=publications, journal=(*link, *entry))
            self._store.save(changed)
            self._journal.done(*old)
        return changed

    def _open(self, endpoint: Endpoint, added: tuple[Publication, ...]) -> None:
        link = self._host.links.link(endpoint.link)
        if link is not None:
            self._host.links.send(rtnetlink.hairpin_on(link.index))
        try:
            self._firewall.publish(endpoint, added)
        except Internal as error:
            if self._firewall.exists():
                raise
            raise FileNotFoundError(self._firewall.table) from error
        self._flows.check(udp_ports(added))

    def unpublish(self, endpoint: Endpoint, gone: Collection[Publication]) -> Endpoint:
        """Withdraws some of its ports, or all; the connection stays.  The endpoint without them."""
        self._firewall.unpublish(endpoint, gone)
        rest = tuple(one for one in endpoint.publications if one not in gone)
        narrow = self._record(endpoint, rest)
        for publication in gone:
            self._ports.release(publication)
        self._flows.check(udp_ports(gone))
        return narrow

    def withdraw(self, endpoint: Endpoint) -> None:
        """Out of the firewall, and free for others; the record says nothing of it yet."""
        self._firewall.unpublish(endpoint, endpoint.publications)
        for publication in endpoint.publications:
            self._ports.release(publication)

    def move(self, old: Endpoint, new: Endpoint) -> tuple[Endpoint, Endpoint]:
        """The ports of one endpoint of a container to another of it: both as they are then.

        One transaction of the firewall, so that a port is never closed; the shim holds the sockets all the while.  What
        can be relayed, or need not be any more, is what the new one's addresses say.
        """
        kept = tuple(self._moved(old.publications, new))
        with self._store.transaction():
            wider = self._record(new, (*new.publications, *kept))
            narrow = self._record(old, ())
        self._firewall.replace(old, wider)
        if (link := self._host.links.link(new.link)) is not None:
            self._host.links.send(rtnetlink.hairpin_on(link.index))
        for gone in {one.key: one for one in old.publications}.keys() - {one.key for one in kept}:
            self._ports.release(next(one for one in old.publications if one.key == gone))
        self._flows.check(udp_ports(old.publications))
        return narrow, wider

    def _moved(self, publications: Iterable[Publication], new: Endpoint) -> Iterator[Publication]:
        for one in publications:
            if not one.host_port:  # of a routed network: it has no port of the host's
                continue
            place = ports.place(one.host_ip, one.transport, new, has_relay=self._has_relay)
            if place is not None:
                yield dataclasses.replace(one, is_relayed=place.is_relayed)

    def check_flows(self, endpoint: Endpoint) -> None:
        """Has UDP flows to its ports looked at soon: NAT decides once per flow."""
        self._flows.check(udp_ports(endpoint.publications))

    def settle(self) -> bool:
        """Waits until stale UDP flows are forgotten; False when that takes longer than 10 s."""
        return self._flows.settle()


def _family(place: Place, has: Endpoint) -> int:
    """The family in which the container is reached from a place."""
    return 4 if place.is_relayed and has.address6 is None else place.host_ip.version


def opened_ports(
    endpoint: Endpoint, bindings: Iterable[PortBinding], routed: frozenset[int]
) -> tuple[Publication, ...]:
    """The ports that are reached at the endpoint's own addresses of these families."""
    versions = [one.version for one in endpoint.addresses if one.version in routed]
    found = {
        Publication(one.transport, ANY if version == 4 else ANY6, 0, one.container_port)
        for one in bindings
        for version in versions
    }
    known = set(endpoint.publications)
    return tuple(sorted(found - known, key=lambda one: (one.container_port, one.transport, one.host_ip.version)))


def udp_ports(publications: Iterable[Publication]) -> set[int]:
    """The host's ports of those that are UDP."""
    return {one.host_port for one in publications if one.transport == "udp" and one.host_port}


def _ephemeral(host: Host) -> tuple[int, int]:
    words = host.sysctl("ipv4/ip_local_port_range").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else EPHEMERAL
