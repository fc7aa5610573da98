"""What the network is made of, as values, and what it needs from its caller, as protocols.

Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Literal, Protocol

from corten.errors import Internal
from corten.network import options as words
from corten.sys.rtnetlink import IPAddress, IPInterface, IPNetwork

Transport = Literal["tcp", "udp", "sctp"]
ANY, ANY6 = IPv4Address("0.0.0.0"), IPv6Address("::")
LOOPBACK6 = IPv6Address("::1")

DEFAULT_NETWORK = "bridge"
FIXED = {"host": "host", "none": "null"}  # networks that are there in name: their drivers
PREDEFINED = frozenset({DEFAULT_NETWORK, *FIXED})
DEFAULT_MTU = 1500


class PortConflict(Internal):
    """A host port cannot be had.  Docker answers 500 here, so the kind is `internal` and not `conflict`."""


@dataclass(frozen=True, slots=True)
class PortBinding:
    """A request to publish: any free port of `first`..`last` (both 0: an ephemeral one) on `host_ip`.

    Without one it is the network's address for that, or every IPv4 and every IPv6 address, with one number.
    """

    transport: Transport
    container_port: int
    host_ip: IPAddress | None = None
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Publication:
    """A published port.

    `is_relayed`: the shim listens on its socket and passes on what NAT leaves: what comes to an IPv6 address, where the
    container has none, and to ::1, which no NAT leads elsewhere.
    """

    transport: Transport
    host_ip: IPAddress
    host_port: int  # 0: reached at the container's address alone (gateway mode routed)
    container_port: int
    is_relayed: bool = False

    @property
    def key(self) -> str:
        """`tcp:0.0.0.0:8080`: one name per reserved socket."""
        return f"{self.transport}:{self.shown}:{self.host_port}"

    @property
    def shown(self) -> str:
        """The host's address as it stands before a port."""
        return f"[{self.host_ip}]" if self.host_ip.version == 6 else str(self.host_ip)


@dataclass(frozen=True, slots=True)
class Subnet:
    """A range of a network: who asked for nothing was given one (`is_chosen`).

    `range`: where addresses are taken from, when it is less than all of it; `reserved`: names and addresses that nobody
    gets (AuxiliaryAddresses).
    """

    network: IPNetwork
    gateway: IPAddress
    range: IPNetwork | None = None
    reserved: tuple[tuple[str, IPAddress], ...] = ()
    is_chosen: bool = False
    has_free_gateway: bool = False  # nobody said which address it is

    @property
    def way_out_name(self) -> str:
        """The name of the address that containers have as their gateway, when it is not the bridge's (Docker's)."""
        return f"DefaultGatewayIPv{self.network.version}"

    @property
    def way_out(self) -> IPAddress:
        """The gateway of containers."""
        return dict(self.reserved).get(self.way_out_name, self.gateway)

    @property
    def own(self) -> IPInterface:
        """The gateway's address as the bridge has it."""
        kind = IPv4Interface if self.network.version == 4 else IPv6Interface
        return kind((self.gateway, self.network.prefixlen))


@dataclass(frozen=True, slots=True)
class Network:
    """A network as it is recorded.  `created`: RFC 3339; `journal`: the entries to end with it."""

    network_id: str
    name: str
    driver: str
    created: str
    subnets: tuple[Subnet, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ipam_driver: str = "default"
    ipam_options: Mapping[str, str] | None = None
    has_ipv4: bool = True
    has_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    config_only: bool = False  # others are made from it, and nobody joins it
    config_from: str = ""  # the name of that network
    journal: tuple[int, ...] = ()

    def subnet(self, version: int) -> Subnet | None:
        """The first one of IPv4 or IPv6."""
        return next((one for one in self.subnets if one.network.version == version), None)

    @property
    def versions(self) -> tuple[int, ...]:
        """The families that are on."""
        return tuple(version for version, is_on in ((4, self.has_ipv4), (6, self.has_ipv6)) if is_on)

    @property
    def mtu(self) -> int:
        """Of its devices; 0 is the kernel's."""
        return int(self.options.get(words.MTU) or 0)

    @property
    def host_ip(self) -> IPAddress | None:
        """Where ports are published that name no address: None is everywhere."""
        if self.options.get(words.HOST_IP, "") in ("", "0.0.0.0"):  # the usual: each start asks
            return None
        found = words.parse(self.options).host_ip
        return None if found is None or found.is_unspecified else found

    @property
    def interface_prefix(self) -> str:
        """What names of interfaces on it begin with."""
        return self.options.get(words.PREFIX) or "eth"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a container asks of one network; an empty value leaves the choice."""

    mac: str = ""
    ip: IPv4Address | None = None
    ip6: IPv6Address | None = None
    aliases: tuple[str, ...] = ()
    interface: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on a network.

    It is recorded before anything of it exists, so the record is the lease on its addresses as well.  `link` is the
    host's end of the veth pair ('' on a network without a bridge), `interface` the container's; `journal` are the
    entries to end with it.  A gateway of 0.0.0.0 or :: is
    the device itself.
    """

    endpoint_id: str
    container_id: str
    network_id: str
    address: IPv4Interface | None
    gateway: IPv4Address | None
    mac: str
    link: str
    interface: str = "eth0"
    publications: tuple[Publication, ...] = ()
    journal: tuple[int, ...] = ()
    address6: IPv6Interface | None = None
    gateway6: IPv6Address | None = None

    @property
    def ip(self) -> IPv4Address:
        """The address without its prefix length."""
        assert self.address is not None
        return self.address.ip

    @property
    def prefix(self) -> int:
        """The subnet's prefix length."""
        return self.address.network.prefixlen if self.address is not None else 0

    def target(self, publication: Publication) -> IPAddress | None:
        """Where NAT leads a published port; None where it does not."""
        found = self.address if publication.host_ip.version == 4 else self.address6
        return found.ip if found is not None and publication.host_ip != LOOPBACK6 else None

    @property
    def relays(self) -> dict[str, tuple[str, int]]:
        """Where the shim passes on what comes to a published port: (address, port) by the port's key."""
        inside = self.address6 or self.address
        if inside is None:
            return {}
        return {one.key: (str(inside.ip), one.container_port) for one in self.publications if one.is_relayed}

    @property
    def addresses(self) -> tuple[IPInterface, ...]:
        """Those that it has, IPv4 first."""
        return tuple(one for one in (self.address, self.address6) if one is not None)

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """Those that it has, IPv4 first."""
        return tuple(one for one in (self.gateway, self.gateway6) if one is not None)


@dataclass(frozen=True, slots=True)
class Bridge:
    """The device of a bridge network: its addresses and what the firewall lets through.

    Families are numbers of versions: `bare` ones have no address on the device, those of `routed` keep their addresses
    outside, at those of `unprotected` every port is reached from outside.  From the devices `trusted` all is let in;
    `sources` are seen outside in place of the address of the way out.
    """

    name: str
    addresses: tuple[IPInterface, ...]
    is_internal: bool = False
    has_icc: bool = True
    is_hidden: bool = True  # behind the host's address
    bare: frozenset[int] = frozenset()
    routed: frozenset[int] = frozenset()
    unprotected: frozenset[int] = frozenset()
    trusted: tuple[str, ...] = ()
    sources: tuple[IPAddress, ...] = ()

    @property
    def on_device(self) -> tuple[IPInterface, ...]:
        """The addresses that the device has."""
        return tuple(one for one in self.addresses if one.version not in self.bare)

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """Where its containers' addresses come from."""
        return tuple(one.network for one in self.addresses)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A kernel object that carries the engine's id and that no record names."""

    kind: Literal["link", "nft-element"]
    name: str


class Store(Protocol):
    """The engine's database, as far as the network needs it.  Each call is a transaction; none waits for the disk."""

    def transaction(self) -> AbstractContextManager[object]:
        """Calls inside, of the journal as well, are committed together."""

    def networks(self) -> Sequence[Network]:
        """Every recorded network, in the order in which they were made."""

    def save_network(self, network: Network) -> None:
        """Records a network, or replaces the record of the same id; raises Conflict when the name is another's."""

    def remove_network(self, network_id: str) -> None:
        """Forgets a network; no error when it is not there."""

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

    @property
    def name(self) -> str:
        """What was announced."""


class Journal(Protocol):
    """Where kernel objects are announced before they exist (design.md §5): `corten.core.journal.Journal`."""

    def begin(self, kind: str, name: str, **data: object) -> int:
        """Announces an object; the entry's id."""

    def done(self, *ids: int) -> None:
        """The objects are gone; unknown ids are fine."""

    def entries(self, kind: str = "") -> Sequence[JournalEntry]:
        """What was announced and is not done, of one kind."""
