"""What daemon.json says of networks, and what it makes of the network `bridge`.  Pure.

    subnet of IPv4    bip's; else the first address of the device that `bridge` names; else fixed-cidr; else one of the
                      pools, which stays
    subnet of IPv6    with ipv6 alone: bip6's; else fixed-cidr-v6; else one of the pools, which stays
    addresses from    fixed-cidr, fixed-cidr-v6, where they are less than the subnet
    way out           default-gateway, default-gateway-v6; else the bridge's address

Source: the reference of dockerd, "Daemon configuration file"; docs of Docker Engine, "Configure the default bridge".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from corten.errors import InvalidArgument
from corten.network import addresses, options, pools
from corten.network.pools import Pool
from corten.network.values import DEFAULT_MTU, Network, Subnet
from corten.sys.rtnetlink import IPAddress, IPInterface, IPNetwork

NO_BRIDGE: Final = "none"  # of the key `bridge`
KEYS: Final = {4: ("bip", "fixed-cidr", "default-gateway"), 6: ("bip6", "fixed-cidr-v6", "default-gateway-v6")}


@dataclass(frozen=True, slots=True)
class Family:
    """What is said of one family of the default bridge."""

    address: IPInterface | None = None  # the bridge's own
    part: IPNetwork | None = None  # where addresses are taken from
    way_out: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """The settings.  `pools`: empty for the built-in ones; `options`: driver → options of new networks.

    `device`: the bridge to use in place of one of our own, or NO_BRIDGE; `mark`: (value, mask) of packets that are
    forwarded into a bridge like answers are; `respects_host`: who reaches published ports is for the host's input
    chains to say.
    """

    pools: tuple[Pool, ...] = ()
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    v4: Family = Family()
    v6: Family = Family()
    has_ipv6: bool = False
    device: str = ""
    mtu: int = 0
    has_icc: bool = True
    masquerades: bool = True
    host_ip: str = ""
    forwards: bool = True
    drops_others: bool = True
    is_direct: bool = False
    mark: tuple[int, int] | None = None
    respects_host: bool = False

    @property
    def has_no_bridge(self) -> bool:
        """There is no network `bridge`."""
        return self.device == NO_BRIDGE

    def family(self, version: int) -> Family:
        """IPv4's or IPv6's."""
        return self.v4 if version == 4 else self.v6

    @property
    def bridge_options(self) -> dict[str, str]:
        """The driver options of the network `bridge`, as dockerd fills them in."""
        found = {
            options.DEFAULT: "true",
            options.ICC: _word(self.has_icc),
            options.MASQUERADE: _word(self.masquerades),
            options.HOST_IP: self.host_ip or "0.0.0.0",
            options.MTU: str(self.mtu or DEFAULT_MTU),
        }
        return found | ({options.NAME: self.device} if self.device else {})

    def pools_of(self, network: Network, engine_id: str) -> tuple[Pool, ...]:
        """Where a network's subnets come from: where the settings name none of IPv6, the engine's own range."""
        is_default = options.DEFAULT in network.options
        found = self.pools or (pools.DEFAULT_POOLS if is_default else pools.USER_POOLS)
        has_ipv6 = any(one.base.version == 6 for one in found)
        return found if has_ipv6 else (*found, pools.local_pool(engine_id))


def _word(value: bool) -> str:
    return "true" if value else "false"


def check(defaults: Defaults) -> None:
    """Raises InvalidArgument that names the key."""
    for version, (bip, fixed, gateway) in KEYS.items():
        said = defaults.family(version)
        network = said.address.network if said.address else said.part
        if said.address is not None and said.address.ip in addresses.unusable(said.address.network):
            raise InvalidArgument(f"{bip}: {said.address.ip} is not the address of a host in {said.address.network}")
        for key, one in ((bip, said.address.network if said.address else None), (fixed, said.part)):
            if one is not None:
                _check_usable(key, one)
        if network is not None and said.part is not None and not addresses.contains(network, said.part):
            raise InvalidArgument(f"{fixed}: {said.part} is not in {bip}'s {network}")
        if network is not None and said.way_out is not None and said.way_out not in network:
            raise InvalidArgument(f"{gateway}: {said.way_out} is not in {network}")


def _check_usable(key: str, network: IPNetwork) -> None:
    try:
        addresses.check_usable(network)
    except InvalidArgument as error:
        raise InvalidArgument(f"{key}: {error.text}") from error


def applied(defaults: Defaults, network: Network, found: Sequence[IPInterface] = ()) -> Network:
    """The network `bridge` as the settings want it; `network`: as it was.  A subnet that is left to choose is missing.

    `found`: the addresses of the device that the settings name.  Raises InvalidArgument.
    """
    subnets = []
    for version in (4, 6) if defaults.has_ipv6 else (4,):
        subnet = _subnet(defaults.family(version), network.subnet(version), _first(found, version, defaults))
        if subnet is not None:
            subnets.append(subnet)
    return dataclasses.replace(
        network,
        subnets=tuple(subnets),
        has_ipv6=defaults.has_ipv6,
        options=defaults.bridge_options,
    )


def _first(found: Sequence[IPInterface], version: int, defaults: Defaults) -> IPInterface | None:
    """The device's address that is in the part to take addresses from, else its first."""
    mine = [one for one in found if one.version == version and not one.ip.is_link_local]
    part = defaults.family(version).part
    return next((one for one in mine if part is not None and one.ip in part), mine[0] if mine else None)


def _subnet(said: Family, before: Subnet | None, of_device: IPInterface | None) -> Subnet | None:
    own = said.address or of_device
    if own is not None:
        made = Subnet(own.network, own.ip)
    elif said.part is not None:
        made = Subnet(said.part, pools.first_free(said.part, ()))
    elif before is not None and before.is_chosen:
        made = Subnet(before.network, before.gateway, is_chosen=True)
    else:
        return None
    return with_words(made, said)


def with_words(subnet: Subnet, said: Family) -> Subnet:
    """A subnet with the part that addresses come from and the way out.  Raises InvalidArgument."""
    part = said.part if said.part != subnet.network else None
    key = KEYS[subnet.network.version]
    if part is not None and not addresses.contains(subnet.network, part):
        raise InvalidArgument(f"{key[1]}: {part} is not in the bridge's subnet {subnet.network}")
    reserved: tuple[tuple[str, IPAddress], ...] = ()
    if said.way_out is not None and said.way_out != subnet.gateway:
        if said.way_out not in subnet.network:
            raise InvalidArgument(f"{key[2]}: {said.way_out} is not in the bridge's subnet {subnet.network}")
        reserved = ((subnet.way_out_name, said.way_out),)
    return dataclasses.replace(subnet, range=part, reserved=reserved)
