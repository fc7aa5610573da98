"""Forgets tracked UDP flows, which outlive their port otherwise.

NAT decides once per flow, at its first packet, and a UDP flow that keeps coming never ends.  A flow that began
before its port was published would go on to the host, and one to a removed container would go on to its address.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h (CTA_FILTER: kernel 5.8; an older one ignores it, so
every flow is looked at again here).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from corten.sys import netlink
from corten.sys.netlink import Request, attribute, attributes, nested, u8, u32

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_PROTO_NUM, FILTER_PROTO_DST_PORT = 1 << 3, 1 << 5
NFGENMSG = struct.pack(">BBH", socket.AF_INET, 0, 0)  # family, version NFNETLINK_V0, res_id


class Tracking(Protocol):
    """A netlink socket of protocol NETLINK_NETFILTER."""

    def dump(self, request: Request) -> list[bytes]:
        """Every object of a kind."""

    def attempt(self, *requests: Request) -> list[netlink.NetlinkError | None]:
        """What became of each request."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked UDP flow: where it was sent to, and who answers."""

    destination: IPv4Address
    port: int
    answers_from: IPv4Address
    handle: bytes  # the attributes that name it in a delete


def flush_udp(tracking: Tracking, ports: Collection[int], matches: Callable[[Flow], bool]) -> int:
    """Forgets the flows to `ports` that match; how many were there.  One that ended meanwhile is no error."""
    if not ports:
        return 0
    flows = [parse_flow(body) for body in tracking.dump(get_udp(ports))]
    gone = [flow for flow in flows if flow is not None and flow.port in ports and matches(flow)]
    if gone:
        tracking.attempt(*(delete(flow) for flow in gone))
    return len(gone)


def get_udp(ports: Collection[int]) -> Request:
    """Asks for IPv4 UDP flows; of one port, the kernel filters by it as well."""
    protocol = u8(CTA_PROTO_NUM, socket.IPPROTO_UDP)
    flags = FILTER_PROTO_NUM
    if len(ports) == 1:
        (port,) = ports
        protocol += attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
        flags |= FILTER_PROTO_DST_PORT
    body = (
        NFGENMSG
        + nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, protocol))
        + nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, flags), u32(CTA_FILTER_REPLY_FLAGS, 0))
    )
    return Request("udp flows", NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, netlink.NLM_F_DUMP, body)


def delete(flow: Flow) -> Request:
    """Forgets one flow."""
    return Request("udp flow", NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0, NFGENMSG + flow.handle)


def parse_flow(body: bytes) -> Flow | None:
    """A conntrack entry without its netlink header; None when it is not UDP over IPv4."""
    found = attributes(body[len(NFGENMSG) :])
    original, reply = (attributes(found.get(kind, b"")) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    protocol = attributes(original.get(CTA_TUPLE_PROTO, b""))
    there = attributes(original.get(CTA_TUPLE_IP, b"")).get(CTA_IP_V4_DST)
    back = attributes(reply.get(CTA_TUPLE_IP, b"")).get(CTA_IP_V4_SRC)
    if protocol.get(CTA_PROTO_NUM) != bytes((socket.IPPROTO_UDP,)) or there is None or back is None:
        return None
    handle = nested(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG])
    handle += b"".join(attribute(kind, found[kind]) for kind in (CTA_ID, CTA_ZONE) if kind in found)
    port = int.from_bytes(protocol[CTA_PROTO_DST_PORT], "big")
    return Flow(IPv4Address(there), port, IPv4Address(back), handle)
