"""The netlink messages that Corten sends: pure encoders, pure decoders, and one socket that batches them.

Only what the network needs: bridges, veth pairs, bridge ports, addresses, routes and neighbours.  A request is a
value; `Socket.send` puts any number of them into one datagram, which the kernel works through in order in one
system call.  A socket belongs for ever to the network namespace of the thread that made it.

Sources: netlink(7), rtnetlink(7), include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,neighbour,veth}.h.
Numbers are in host byte order unless they say otherwise; interface names are at most 15 bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 20, 22, 24, 26
RTM_DELNEIGH = 29

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IF_OPER_UP = 16, 6
IFLA_PROTINFO, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC = 12, 18, 20, 26
IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 28, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_FLUSH = 1, 4, 24
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
BR_STATE_DISABLED = 0
RTEXT_FILTER_SKIP_STATS = 1 << 3

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1
NDA_DST = 1
IFF_UP = 1

HEADER = struct.Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
ATTRIBUTE = struct.Struct("=HH")  # nla_len, nla_type
IFINFO = struct.Struct("=BxHiII")  # ifi_family, ifi_type, ifi_index, ifi_flags, ifi_change
IFADDR = struct.Struct("=BBBBI")  # ifa_family, ifa_prefixlen, ifa_flags, ifa_scope, ifa_index
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BxxxiHBB")  # ndm_family, ndm_ifindex, ndm_state, ndm_flags, ndm_type

_RECEIVE_BYTES = 1 << 18  # a dump comes in datagrams of at most 32 KiB; one call may not truncate it


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and a text that names the request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message without its header; `title` is for the error text."""

    title: str
    kind: int
    flags: int
    body: bytes

    def encode(self, sequence: int) -> bytes:
        """The message as it goes over the wire, asking for an acknowledgement."""
        flags = self.flags | NLM_F_REQUEST | NLM_F_ACK
        return HEADER.pack(HEADER.size + len(self.body), self.kind, flags, sequence, 0) + self.body


@dataclass(frozen=True, slots=True)
class Link:
    """A network device.  `master` and `index` are interface indexes, 0 for none; `kind` is '' for hardware."""

    index: int
    name: str
    kind: str
    master: int
    mac: str
    alias: str
    flags: int
    mtu: int
    operstate: int

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
    """An IPv4 address of a device."""

    index: int
    interface: IPv4Interface


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route; `index` 0 when it has no single device."""

    destination: IPv4Network
    gateway: IPv4Address | None
    index: int
    table: int
    kind: int


# --- encoding


def attribute(kind: int, payload: bytes = b"") -> bytes:
    """One attribute, padded to 4 bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, os.fsencode(value) + b"\0")


def u8(kind: int, value: int) -> bytes:
    """One byte."""
    return attribute(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    """Four bytes."""
    return attribute(kind, struct.pack("=I", value))


def mac_bytes(mac: str) -> bytes:
    """The six bytes of `02:42:ac:11:00:02`."""
    return bytes.fromhex(mac.replace(":", ""))


def _ifinfo(*, family: int = socket.AF_UNSPEC, index: int = 0, up: bool | None = None) -> bytes:
    flags = IFF_UP if up else 0
    return IFINFO.pack(family, 0, index, flags, IFF_UP if up is not None else 0)


def new_bridge(name: str, mac: str) -> Request:
    """Makes a bridge.  The address pins it: else it would change with every port (ieee802.1q, br_stp_recalculate)."""
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bridge"))
    body = _ifinfo() + text(IFLA_IFNAME, name) + attribute(IFLA_ADDRESS, mac_bytes(mac)) + info
    return Request(f"bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def new_veth(name: str, peer: str, peer_mac: str, peer_netns_fd: int, mtu: int = 0) -> Request:
    """Makes a veth pair, both ends down: `name` here, `peer` in another namespace.  An mtu of 0 is the kernel's.

    veth refuses to be made up (ENOTCONN: the pair is joined only after its ends are configured).
    """
    size = u32(IFLA_MTU, mtu) if mtu else b""
    there = (
        _ifinfo()
        + text(IFLA_IFNAME, peer)
        + attribute(IFLA_ADDRESS, mac_bytes(peer_mac))
        + u32(IFLA_NET_NS_FD, peer_netns_fd)
        + size
    )
    data = nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER | NLA_F_NESTED, there))
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth"), data)
    body = _ifinfo() + text(IFLA_IFNAME, name) + size + info
    return Request(f"veth {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


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


def cut_off(index: int) -> Request:
    """Disables a port at once and forgets what was learnt behind it: no grace period, unlike a delete."""
    return set_bridge_port(index, u8(IFLA_BRPORT_STATE, BR_STATE_DISABLED), attribute(IFLA_BRPORT_FLUSH))


def get_link(name: str) -> Request:
    """Asks for one device by name; ENODEV when there is none."""
    body = _ifinfo() + text(IFLA_IFNAME, name) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Request(f"link {name}", RTM_GETLINK, 0, body)


def new_address(index: int, interface: IPv4Interface) -> Request:
    """Adds an address with its subnet's broadcast address; the kernel adds the route to the subnet."""
    local = interface.ip.packed
    body = (
        IFADDR.pack(socket.AF_INET, interface.network.prefixlen, 0, RT_SCOPE_UNIVERSE, index)
        + attribute(IFA_LOCAL, local)
        + attribute(IFA_ADDRESS, local)
        + attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    )
    return Request(f"address {interface}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def new_default_route(gateway: IPv4Address, index: int) -> Request:
    """Adds the default route over a gateway."""
    body = RTMSG.pack(socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body += attribute(RTA_GATEWAY, gateway.packed) + u32(RTA_OIF, index)
    return Request(f"default route over {gateway}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_neighbour(index: int, address: IPv4Address) -> Request:
    """Forgets which hardware address `address` had; ENOENT when it is not known."""
    body = NDMSG.pack(socket.AF_INET, index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    return Request(f"neighbour {address}", RTM_DELNEIGH, 0, body)


GET_LINKS = Request("links", RTM_GETLINK, NLM_F_DUMP, _ifinfo() + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))
GET_ADDRESSES = Request("addresses", RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(socket.AF_INET, 0, 0, 0, 0))
GET_ROUTES = Request("routes", RTM_GETROUTE, NLM_F_DUMP, RTMSG.pack(socket.AF_INET, *(0,) * 8))


# --- decoding


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type, without flags; of a repeated type the last one."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size or offset + length > len(data):
            raise ValueError(f"netlink attribute of {length} bytes at {offset} of {len(data)}")
        found[kind & NLA_TYPE_MASK] = data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of every message in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > len(datagram):
            raise ValueError(f"netlink message of {length} bytes at {offset} of {len(datagram)}")
        yield kind, flags, sequence, datagram[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _string(found: Mapping[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _u32(found: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b"")[:4], "little" if struct.pack("=H", 1)[0] else "big")


def parse_link(body: bytes) -> Link:
    """RTM_NEWLINK without its header."""
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    found = attributes(body[IFINFO.size :])
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_string(found, IFLA_IFNAME),
        kind=_string(info, IFLA_INFO_KIND),
        master=_u32(found, IFLA_MASTER),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        alias=_string(found, IFLA_IFALIAS),
        flags=flags,
        mtu=_u32(found, IFLA_MTU),
        operstate=int.from_bytes(found.get(IFLA_OPERSTATE, b""), "little"),
    )


def parse_address(body: bytes) -> Address:
    """RTM_NEWADDR of family AF_INET without its header."""
    _, prefix, _, _, index = IFADDR.unpack_from(body)
    found = attributes(body[IFADDR.size :])
    local = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Address(index, IPv4Interface((local, prefix)))


def parse_route(body: bytes) -> Route:
    """RTM_NEWROUTE of family AF_INET without its header."""
    _, length, _, _, table, _, _, kind, _ = RTMSG.unpack_from(body)
    found = attributes(body[RTMSG.size :])
    gateway = found.get(RTA_GATEWAY)
    return Route(
        destination=IPv4Network((found.get(RTA_DST, bytes(4)), length)),
        gateway=IPv4Address(gateway) if gateway else None,
        index=_u32(found, RTA_OIF),
        table=_u32(found, RTA_TABLE) or table,
        kind=kind,
    )


# --- the socket


class Socket:
    """A netlink socket of the calling thread's network namespace.  Not for several threads at once."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, *requests: Request) -> None:
        """Has the kernel work through `requests` in order; raises for the first that failed (the others ran too)."""
        for error in self.attempt(*requests):
            if error is not None:
                raise error

    def attempt(self, *requests: Request) -> list[NetlinkError | None]:
        """As `send`, but returns what became of each request."""
        if not requests:
            return []  # the kernel takes no empty message (ENODATA)
        first = self._post(requests)
        outcome: list[NetlinkError | None] = [None] * len(requests)
        pending = len(requests)
        while pending:
            for kind, flags, sequence, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                place = sequence - first
                if kind == NLMSG_ERROR and 0 <= place < len(requests):
                    outcome[place] = _error(requests[place], flags, payload)
                    pending -= 1
        return outcome

    def get(self, request: Request) -> bytes | None:
        """The answer to a request for one object; None when there is no such object."""
        first = self._post((request,))
        answer: bytes | None = None
        while True:
            for kind, flags, sequence, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != first:
                    continue
                if kind != NLMSG_ERROR:
                    answer = payload
                    continue
                error = _error(request, flags, payload)
                if error is None or error.errno in (errno.ENODEV, errno.ENOENT):
                    return answer
                raise error

    def dump(self, request: Request) -> list[bytes]:
        """Every object of a kind, without headers; asked again when it changed underneath (NLM_F_DUMP_INTR)."""
        while True:
            found, whole = self._dump_once(request)
            if whole:
                return found

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        first = self._post((request,))
        found: list[bytes] = []
        whole = True
        while True:
            for kind, flags, sequence, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != first:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return found, whole
                if kind == NLMSG_ERROR:
                    error = _error(request, flags, payload)
                    if error is not None:
                        raise error
                else:
                    found.append(payload)

    def _post(self, requests: tuple[Request, ...]) -> int:
        """Sends requests as one datagram; the sequence number of the first."""
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.send(b"".join(_padded(one.encode(first + place)) for place, one in enumerate(requests)))
        return first

    # what the callers ask most

    def link(self, name: str) -> Link | None:
        """The device of this name."""
        body = self.get(get_link(name))
        return parse_link(body) if body is not None else None

    def links(self) -> list[Link]:
        """Every device of the namespace."""
        return [parse_link(body) for body in self.dump(GET_LINKS)]

    def addresses(self) -> list[Address]:
        """Every IPv4 address of the namespace."""
        return [parse_address(body) for body in self.dump(GET_ADDRESSES)]

    def routes(self) -> list[Route]:
        """Every IPv4 route of the namespace, in all tables."""
        return [parse_route(body) for body in self.dump(GET_ROUTES)]


def raise_unless(outcome: Iterable[NetlinkError | None], *fine: int) -> None:
    """Raises the first error of an `attempt` whose errno is not among `fine`."""
    for error in outcome:
        if error is not None and error.errno not in fine:
            raise error


def _padded(message: bytes) -> bytes:
    return message + bytes(-len(message) % 4)


def _error(request: Request, flags: int, payload: bytes) -> NetlinkError | None:
    """The outcome in an NLMSG_ERROR: None for an acknowledgement."""
    (code,) = struct.unpack_from("=i", payload)
    if code == 0:
        return None
    detail = _extended(flags, payload)
    return NetlinkError(-code, f"{request.title}: {os.strerror(-code).lower()}{detail}")


def _extended(flags: int, payload: bytes) -> str:
    """The kernel's own sentence, where it gives one (NETLINK_EXT_ACK)."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    length = HEADER.size if flags & NLM_F_CAPPED else HEADER.unpack_from(payload, 4)[0]
    sentence = _string(attributes(payload[4 + length :]), NLMSGERR_ATTR_MSG)
    return f" ({sentence})" if sentence else ""
