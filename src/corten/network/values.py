"""What the network is made of, as values, and what it needs from its caller, as protocols.

Nothing here acts.  Addresses are IPv4: the first form has no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Literal, Protocol

from corten.errors import Internal

Transport = Literal["tcp", "udp"]
ANY = IPv4Address("0.0.0.0")


class PortConflict(Internal):
    """A host port cannot be had.  Docker answers 500 here, so the kind is `internal` and not `conflict`."""


@dataclass(frozen=True, slots=True)
class PortBinding:
    """A request to publish: any free port of `first`..`last` (both 0: an ephemeral one) on `host_ip`."""

    transport: Transport
    container_port: int
    host_ip: IPv4Address = ANY
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """A published port."""

    transport: Transport
    host_ip: IPv4Address
    host_port: int
    container_port: int

    @property
    def key(self) -> str:
        """`tcp:0.0.0.0:8080`: one name per reserved socket."""
        return f"{self.transport}:{self.host_ip}:{self.host_port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on a network.

    It is recorded before anything of it exists, so the record is the lease on the address as well.  `link` is the
    host's end of the veth pair, `interface` the container's; `journal` are the entries to end with it.
    """

    endpoint_id: str
    container_id: str
    network_id: str
    address: IPv4Interface
    gateway: IPv4Address
    mac: str
    link: str
    interface: str = "eth0"
    publications: tuple[Publication, ...] = ()
    journal: tuple[int, ...] = ()

    @property
    def ip(self) -> IPv4Address:
        """The address without its prefix length."""
        return self.address.ip

    @property
    def prefix(self) -> int:
        """The subnet's prefix length."""
        return self.address.network.prefixlen


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of ours: its device, and its own address in its subnet."""

    name: str
    address: IPv4Interface

    @property
    def subnet(self) -> IPv4Network:
        """Where its containers' addresses come from."""
        return self.address.network


@dataclass(frozen=True, slots=True)
class Leftover:
    """A kernel object that carries the engine's id and that no record names."""

    kind: Literal["link", "nft-element"]
    name: str


class Store(Protocol):
    """The engine's database, as far as the network needs it.  Each call is a transaction; none waits for the disk."""

    def transaction(self) -> AbstractContextManager[object]:
        """Calls inside, of the journal as well, are committed together."""

    def endpoints(self) -> Sequence[Endpoint]:
        """Every recorded endpoint."""

    def save(self, endpoint: Endpoint) -> None:
        """Records an endpoint, or replaces the record of the same endpoint id."""

    def remove(self, endpoint_id: str) -> None:
        """Forgets an endpoint; no error when it is not there."""

    def setting(self, key: str) -> str:
        """A remembered word; '' when there is none."""

    def set_setting(self, key: str, value: str) -> None:
        """Remembers a word."""


class JournalEntry(Protocol):
    """An object that may exist."""

    @property
    def id(self) -> int:
        """For `done`."""


class Journal(Protocol):
    """Where kernel objects are announced before they exist (design.md §5): `corten.core.journal.Journal`."""

    def begin(self, kind: str, name: str, **data: object) -> int:
        """Announces an object; the entry's id."""

    def done(self, *ids: int) -> None:
        """The objects are gone; unknown ids are fine."""

    def entries(self, kind: str = "") -> Sequence[JournalEntry]:
        """What was announced and is not done, of one kind."""
