"""Published ports of endpoints on bridges: sockets, records, elements of the firewall's maps, stale UDP flows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from corten.core.journal import NFT_ELEMENT
from corten.errors import CortenError, Internal
from corten.network.conntrack import Forwarded, StaleFlows
from corten.network.endpoints import Endpoints
from corten.network.firewall import Firewall
from corten.network.host import Host
from corten.network.ports import EPHEMERAL, PortTable, Reservation
from corten.network.values import Endpoint, Journal, PortBinding, PortConflict, Publication, Store
from corten.sys import rtnetlink


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
        self, host: Host, firewall: Firewall, *, store: Store, journal: Journal, forwarded: Callable[[], Forwarded]
    ) -> None:
        self._host = host
        self._firewall = firewall
        self._store = store
        self._journal = journal
        self._flows = StaleFlows(host.tracking, forwarded)
        self._ports = PortTable(_ephemeral(host))

    def take(self, endpoints: Endpoints) -> None:
        """Counts their ports as taken: shims hold the sockets."""
        for endpoint in endpoints.all():
            for publication in endpoint.publications:
                self._ports.take(publication)

    def publish(self, endpoint: Endpoint, name: str, bindings: Iterable[PortBinding]) -> Published:
        """All of them, or none and PortConflict in Docker's words.

        Raises FileNotFoundError when the firewall's table is gone.
        """
        reservations = self._reserve(endpoint, name, bindings)
        if not reservations:
            return Published(endpoint, ())
        wider = endpoint
        try:
            wider = self._widen(endpoint, tuple(one.publication for one in reservations))
            self._open(wider)
        except (OSError, CortenError) as error:
            self._give_back(reservations)
            self._narrow(wider)  # nothing of the elements' transaction is in the kernel
            if isinstance(error, FileNotFoundError | CortenError):
                raise
            raise Internal(f"ports of {name}: {error}") from error
        return Published(wider, reservations)

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

    def _widen(self, endpoint: Endpoint, publications: tuple[Publication, ...]) -> Endpoint:
        with self._store.transaction():
            ports = [one.key for one in publications]
            entry = self._journal.begin(NFT_ELEMENT, endpoint.endpoint_id, ports=ports)
            wider = dataclasses.replace(endpoint, publications=publications, journal=(*endpoint.journal, entry))
            self._store.save(wider)
        return wider

    def _narrow(self, endpoint: Endpoint) -> Endpoint:
        """The record without ports, and without the journal entry that is theirs."""
        if not endpoint.publications:
            return endpoint
        narrow = dataclasses.replace(endpoint, publications=(), journal=endpoint.journal[:1])
        with self._store.transaction():
            self._store.save(narrow)
            self._journal.done(*endpoint.journal[1:])
        return narrow

    def _open(self, endpoint: Endpoint) -> None:
        link = self._host.links.link(endpoint.link)
        if link is not None:
            self._host.links.send(rtnetlink.hairpin_on(link.index))
        try:
            self._firewall.publish(endpoint)
        except Internal as error:
            if self._firewall.exists():
                raise
            raise FileNotFoundError(self._firewall.table) from error
        self.check_flows(endpoint)

    def unpublish(self, endpoint: Endpoint) -> Endpoint:
        """Withdraws every port; the connection stays.  The endpoint without them."""
        self.withdraw(endpoint)
        narrow = self._narrow(endpoint)
        self.check_flows(endpoint)
        return narrow

    def withdraw(self, endpoint: Endpoint) -> None:
        """Out of the firewall, and free for others; the record says nothing of it yet."""
        self._firewall.unpublish(endpoint)
        for publication in endpoint.publications:
            self._ports.release(publication)

    def check_flows(self, endpoint: Endpoint) -> None:
        """Has UDP flows to its ports looked at soon: NAT decides once per flow."""
        self._flows.check({one.host_port for one in endpoint.publications if one.transport == "udp"})

    def settle(self) -> bool:
        """Waits until stale UDP flows are forgotten; False when that takes longer than 10 s."""
        return self._flows.settle()


def _ephemeral(host: Host) -> tuple[int, int]:
    words = host.sysctl("ipv4/ip_local_port_range").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else EPHEMERAL
