"""Devices, addresses, routes and neighbours: the requests of rtnetlink that Corten sends, and what it reads.

Pure encoders and decoders; `Socket` is a netlink socket that knows the questions asked most.  IPv4 and IPv6 alike: the
family is that of the address.  Interface names are at most 15 bytes.

Sources: rtnetlink(7), include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour,veth}.h.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_network

from corten.sys import netlink
from corten.sys.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    attributes,
    nested,
    number,
    string,
    text,
    u8,
    u32,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_DELNEIGH = 29

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IF_OPER_UP = 16, 6
IFLA_PROTINFO, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC = 12, 18, 20, 26
IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 28, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS, IFLA_VLAN_ID = 1, 1, 2, 1
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_FLUSH, IFLA_BRPORT_ISOLATED = 1, 4, 24, 33
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
BR_STATE_DISABLED = 0
RTEXT_FILTER_SKIP_STATS = 1 << 3

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTN_UNICAST = 254, 3, 0, 253, 1
NDA_DST = 1
IFF_UP = 1

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

IFINFO = struct.Struct("=BxHiII")  # ifi_family, ifi_type, ifi_index, ifi_flags, ifi_change
IFADDR = struct.Struct("=BBBBI")  # ifa_family, ifa_prefixlen, ifa_flags, ifa_scope, ifa_index
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BxxxiHBB")  # ndm_family, ndm_ifindex, ndm_state, ndm_flags, ndm_type

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Link:
    """A network device.  `master`, `parent` and `index` are interface indexes, 0 for none; `kind` is '' for hardware.

    `parent` is the device below a macvlan or ipvlan, and the other end of a veth pair.
    """

    index: int
    name: str
    kind: str
    master: int
    mac: str
    alias: str
    flags: int
    mtu: int
    operstate: int
    parent: int = 0

    @property
    def is_up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def is_running(self) -> bool:
        """Packets go through (RFC 2863 operational state up)."""
        return self.operstate == IF_OPER_UP


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a device."""

    index: int
    interface: IPInterface


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `index` 0 when it has no single device."""

    destination: IPNetwork
    gateway: IPAddress | None
    index: int
    table: int
    kind: int


# --- devices


def mac_bytes(mac: str) -> bytes:
    """The six bytes of `02:42:ac:11:00:02`."""
    return bytes.fromhex(mac.replace(":", ""))


def _ifinfo(*, family: int = socket.AF_UNSPEC, index: int = 0, up: bool | None = None) -> bytes:
    flags = IFF_UP if up else 0
    return IFINFO.pack(family, 0, index, flags, IFF_UP if up is not None else 0)


def _kind(kind: str, *data: bytes) -> bytes:
    """What a new device is, with its own settings."""
    settings = (nested(IFLA_INFO_DATA, *data),) if data else ()
    return nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()), *settings)


def _size(mtu: int) -> bytes:
    return u32(IFLA_MTU, mtu) if mtu else b""


def new_bridge(name: str, mac: str, mtu: int = 0) -> Request:
    """Makes a bridge.  The address pins it: else it would change with every port (ieee802.1q, br_stp_recalculate)."""
    body = _ifinfo() + text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac_bytes(mac)) + _size(mtu) + _kind("bridge")
    return Request(f"bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_dummy(name: str) -> Request:
    """Makes a device that drops what it is sent: the parent of macvlans that have no other."""
    return Request(
        f"dummy {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _ifinfo() + text(IFLA_IFNAME, name) + _kind("dummy")
    )


def new_vlan(name: str, parent: int, number_: int) -> Request:
    """Makes the 802.1q device of a VLAN over a parent, by its index."""
    data = attribute(IFLA_VLAN_ID, struct.pack("=H", number_))
    body = _ifinfo() + text(IFLA_IFNAME, name) + u32(IFLA_LINK, parent) + _kind("vlan", data)
    return Request(f"vlan {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_veth(name: str, peer: str, peer_mac: str, peer_netns_fd: int, mtu: int = 0) -> Request:
    """Makes a veth pair, both ends down: `name` here, `peer` in another namespace.  An mtu of 0 is the kernel's.

    veth refuses to be made up (ENOTCONN: the pair is joined only after its ends are configured).
    """
    there = (
        _ifinfo()
        + text(IFLA_IFNAME, peer)
        + attribute(IFLA_ADDRESS, mac_bytes(peer_mac))
        + u32(IFLA_NET_NS_FD, peer_netns_fd)
        + _size(mtu)
    )
    body = _ifinfo() + text(IFLA_IFNAME, name) + _size(mtu)
    body += _kind("veth", attribute(VETH_INFO_PEER | netlink.NLA_F_NESTED, there))
    return Request(f"veth {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_macvlan(name: str, parent: int, mac: str, netns_fd: int, *, mode: str = "bridge", mtu: int = 0) -> Request:
    """Makes a macvlan of a parent, by its index, in another namespace.  `mode`: one of MACVLAN_MODES."""
    body = (
        _ifinfo()
        + text(IFLA_IFNAME, name)
        + (attribute(IFLA_ADDRESS, mac_bytes(mac)) if mac else b"")
        + u32(IFLA_LINK, parent)
        + u32(IFLA_NET_NS_FD, netns_fd)
        + _size(mtu)
        + _kind("macvlan", u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]))
    )
    return Request(f"macvlan {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_ipvlan(
    name: str, parent: int, netns_fd: int, *, mode: str = "l2", flag: str = "bridge", mtu: int = 0
) -> Request:
    """Makes an ipvlan of a parent, by its index, in another namespace.

    `mode` and `flag` are of IPVLAN_MODES and IPVLAN_FLAGS.
    """
    data = (
        attribute(IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode])),
        attribute(IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag])),
    )
    body = (
        _ifinfo()
        + text(IFLA_IFNAME, name)
        + u32(IFLA_LINK, parent)
        + u32(IFLA_NET_NS_FD, netns_fd)
        + _size(mtu)
        + _kind("ipvlan", *data)
    )
    return Request(f"ipvlan {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_alias(name: str, alias: str) -> Request:
    """Gives a device its alias (`ip link show` prints it; 255 bytes)."""
    body = _ifinfo() + text(IFLA_IFNAME, name) + attribute(IFLA_IFALIAS, alias.encode())
    return Request(f"alias of {name}", RTM_SETLINK, 0, body)


def set_no_ipv6(name: str) -> Request:
    """No link-local address when the device comes up (IN6_ADDR_GEN_MODE_NONE)."""
    inet6 = nested(socket.AF_INET6, u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE))
    body = _ifinfo() + text(IFLA_IFNAME, name) + nested(IFLA_AF_SPEC, inet6)
    return Request(f"address mode of {name}", RTM_SETLINK, 0, body)


def set_up(name: str, master: int = 0) -> Request:
    """Brings a device up and, when `master` is an index, makes it a port of that bridge."""
    port = u32(IFLA_MASTER, master) if master else b""
    return Request(f"set up {name}", RTM_SETLINK, 0, _ifinfo(up=True) + text(IFLA_IFNAME, name) + port)


def set_mtu(name: str, mtu: int) -> Request:
    """The largest packet that a device takes."""
    return Request(f"mtu of {name}", RTM_SETLINK, 0, _ifinfo() + text(IFLA_IFNAME, name) + u32(IFLA_MTU, mtu))


def set_down(name: str) -> Request:
    """Takes a device down."""
    return Request(f"set down {name}", RTM_SETLINK, 0, _ifinfo(up=False) + text(IFLA_IFNAME, name))


def delete_link(name: str) -> Request:
    """Deletes a device, and a veth's peer with it.  Slow: the kernel waits for a grace period (17–27 ms)."""
    return Request(f"delete {name}", RTM_DELLINK, 0, _ifinfo() + text(IFLA_IFNAME, name))


def set_bridge_port(index: int, *settings: bytes) -> Request:
    """Changes a bridge port by attributes IFLA_BRPORT_*."""
    body = _ifinfo(family=socket.AF_BRIDGE, index=index) + nested(IFLA_PROTINFO, *settings)
    return Request(f"bridge port {index}", RTM_SETLINK, 0, body)


def hairpin_on(index: int) -> Request:
    """Lets a port send a frame back to where it came from (a container that reaches its own published port)."""
    return set_bridge_port(index, u8(IFLA_BRPORT_MODE, 1))


def isolate(index: int) -> Request:
    """Lets a port reach no other isolated port of its bridge (icc=false, also for what is not IP)."""
    return set_bridge_port(index, u8(IFLA_BRPORT_ISOLATED, 1))


def unite(index: int) -> Request:
    """Takes that back."""
    return set_bridge_port(index, u8(IFLA_BRPORT_ISOLATED, 0))


def cut_off(index: int) -> Request:
    """Disables a port at once and forgets what was learnt behind it: no grace period, unlike a delete."""
    return set_bridge_port(index, u8(IFLA_BRPORT_STATE, BR_STATE_DISABLED), attribute(IFLA_BRPORT_FLUSH))


def get_link(name: str) -> Request:
    """Asks for one device by name; ENODEV when there is none."""
    body = _ifinfo() + text(IFLA_IFNAME, name) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Request(f"link {name}", RTM_GETLINK, 0, body)


# --- addresses, routes, neighbours


def _family(address: IPAddress | IPNetwork) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def new_address(index: int, interface: IPInterface) -> Request:
    """Adds an address, of IPv4 with its subnet's broadcast address where it has one (RFC 3021).

    The kernel adds the route to the subnet.  One of IPv6 is not looked for on the link first (no DAD): it is ours
    by the record, and usable at once.
    """
    local = interface.ip.packed
    body = IFADDR.pack(_family(interface.ip), interface.network.prefixlen, 0, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, local) + attribute(IFA_ADDRESS, local)
    if isinstance(interface, IPv4Interface) and interface.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    if interface.version == 6:
        body += u32(IFA_FLAGS, IFA_F_NODAD)
    return Request(f"address {interface}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def new_route(destination: IPNetwork, index: int, gateway: IPAddress | None = None) -> Request:
    """Adds a route over a gateway, or to what is on the device's own link."""
    scope = RT_SCOPE_LINK if gateway is None and destination.version == 4 else RT_SCOPE_UNIVERSE
    body = _route(destination, scope)
    body += (attribute(RTA_GATEWAY, gateway.packed) if gateway else b"") + u32(RTA_OIF, index)
    return Request(f"route to {destination}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def _route(destination: IPNetwork, scope: int) -> bytes:
    length = destination.prefixlen
    body = RTMSG.pack(_family(destination), length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    return body + (attribute(RTA_DST, destination.network_address.packed) if length else b"")


def new_default_route(gateway: IPAddress, index: int) -> Request:
    """Adds the default route over a gateway."""
    body = _route(_everything(gateway), RT_SCOPE_UNIVERSE)
    body += attribute(RTA_GATEWAY, gateway.packed) + u32(RTA_OIF, index)
    return Request(f"default route over {gateway}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def replace_default_route(gateway: IPAddress, index: int) -> Request:
    """Makes this the default route, whichever it was; with 0.0.0.0 or :: it is the device without a gateway."""
    made = new_route(_everything(gateway), index) if gateway.is_unspecified else new_default_route(gateway, index)
    return Request(made.title, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, made.body)


def delete_default_route(family: int) -> Request:
    """Takes the default route away; ESRCH when there is none.  `family`: 4 or 6."""
    destination = IPv4Network(0).supernet(new_prefix=0) if family == 4 else IPv6Network(0).supernet(new_prefix=0)
    return Request(f"default route of IPv{family}", RTM_DELROUTE, 0, _route(destination, RT_SCOPE_UNIVERSE))


def _everything(address: IPAddress) -> IPNetwork:
    return ip_network((type(address)(0), 0))


def delete_neighbour(index: int, address: IPAddress) -> Request:
    """Forgets which hardware address `address` had; ENOENT when it is not known."""
    body = NDMSG.pack(_family(address), index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    return Request(f"neighbour {address}", RTM_DELNEIGH, 0, body)


# --- what there is


GET_LINKS = Request("links", RTM_GETLINK, NLM_F_DUMP, _ifinfo() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def _get_addresses(family: int) -> Request:
    return Request("addresses", RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(family, 0, 0, 0, 0))


def _get_routes(family: int) -> Request:
    return Request("routes", RTM_GETROUTE, NLM_F_DUMP, RTMSG.pack(family, *(0,) * 8))


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def parse_link(body: bytes) -> Link:
    """RTM_NEWLINK without its header."""
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    found = attributes(body[IFINFO.size :])
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=string(found, IFLA_IFNAME),
        kind=string(info, IFLA_INFO_KIND),
        master=number(found, IFLA_MASTER),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        alias=string(found, IFLA_IFALIAS),
        flags=flags,
        mtu=number(found, IFLA_MTU),
        operstate=int.from_bytes(found.get(IFLA_OPERSTATE, b""), sys.byteorder),
        parent=number(found, IFLA_LINK),
    )


def parse_address(body: bytes) -> Address:
    """RTM_NEWADDR without its header."""
    family, prefix, _, _, index = IFADDR.unpack_from(body)
    found = attributes(body[IFADDR.size :])
    local = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    kind = IPv4Interface if family == socket.AF_INET else IPv6Interface
    return Address(index, kind((local, prefix)))


def parse_route(body: bytes) -> Route:
    """RTM_NEWROUTE without its header."""
    family, length, _, _, table, _, _, kind, _ = RTMSG.unpack_from(body)
    found = attributes(body[RTMSG.size :])
    gateway = found.get(RTA_GATEWAY)
    is_v4 = family == socket.AF_INET
    network, address = (IPv4Network, IPv4Address) if is_v4 else (IPv6Network, IPv6Address)
    return Route(
        destination=network((found.get(RTA_DST, bytes(4 if is_v4 else 16)), length)),
        gateway=address(gateway) if gateway else None,
        index=number(found, RTA_OIF),
        table=number(found, RTA_TABLE) or table,
        kind=kind,
    )


class Socket(netlink.Socket):
    """A socket for these requests.  Not for several threads at once."""

    def link(self, name: str) -> Link | None:
        """The device of this name."""
        body = self.get(get_link(name))
        return parse_link(body) if body is not None else None

    def links(self) -> list[Link]:
        """Every device of the namespace."""
        return [parse_link(body) for body in self.dump(GET_LINKS)]

    def addresses(self) -> list[Address]:
        """Every address of the namespace, of IPv4 and then of IPv6."""
        return [parse_address(body) for family in _FAMILIES for body in self.dump(_get_addresses(family))]

    def routes(self) -> list[Route]:
        """Every route of the namespace, in all tables."""
        return [parse_route(body) for family in _FAMILIES for body in self.dump(_get_routes(family))]
