"""Forgets tracked UDP flows that go where no published port leads any more.

NAT decides once per flow, at its first packet, and a UDP flow that keeps coming never ends.  A flow that began before
its port was published would go on to the host, and one to a removed container would go on to its address.

A flow is judged by the ports as they are when it is looked at, so checking late or twice is right as well.  The kernel
walks its whole table for a dump (11 ms for 262 144 buckets), so a thread does it, behind the start of a container.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h (CTA_FILTER: kernel 5.8; an older one ignores it, so
every flow is looked at again here).
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from corten.network.values import ANY, ANY6, LOOPBACK6
from corten.sys import netlink
from corten.sys.netlink import Request, attribute, attributes, nested, u8, u32
from corten.sys.rtnetlink import IPAddress, IPNetwork

log = logging.getLogger(__name__)

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_PROTO_NUM, FILTER_PROTO_DST_PORT = 1 << 3, 1 << 5
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NFGENMSG, NFGENMSG6 = (struct.pack(">BBH", one, 0, 0) for one in _FAMILIES.values())  # family, version, res_id


MAX_SINGLE_DUMPS = 3  # for more ports than this, one dump of every UDP flow
PATIENCE_S = 0.05  # the start of a container comes first, and what is asked meanwhile is one look


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked UDP flow: where it was sent to, and who answers."""

    destination: IPAddress
    port: int
    answers_from: IPAddress
    answers_port: int
    handle: bytes  # the attributes that name it in a delete


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What decides whether a flow is stale: published UDP ports, our subnets, and the host's own addresses."""

    ports: Mapping[tuple[IPAddress, int], tuple[IPAddress, int]]  # (host address, 0.0.0.0 or [::], port): container's
    subnets: Sequence[IPNetwork]
    local: Collection[IPAddress]

    def is_stale(self, flow: Flow) -> bool:
        """It is answered by another than a new flow would be."""
        if not (flow.destination.is_loopback or flow.destination in self.local) or flow.destination == LOOPBACK6:
            return False  # ::1 is the relay's
        every = ANY if flow.destination.version == 4 else ANY6
        goes = self.ports.get((flow.destination, flow.port)) or self.ports.get((every, flow.port))
        if goes is not None:
            return goes != (flow.answers_from, flow.answers_port)
        return flow.answers_from != flow.destination and any(flow.answers_from in one for one in self.subnets)


class Tracking(Protocol):
    """A `netlink.Socket` of protocol NETLINK_NETFILTER."""

    def dump(self, request: Request) -> list[bytes]:
        """Every object of a kind."""

    def attempt(self, *requests: Request) -> list[netlink.NetlinkError | None]:
        """What became of each request."""


class StaleFlows:
    """Looks for stale flows in a thread of its own, which starts with the first port and ends with the process."""

    def __init__(self, tracking: Tracking, now: Callable[[], Forwarded]) -> None:
        """`now` is called in that thread, for the ports as they are."""
        self._tracking = tracking
        self._now = now
        self._asked: set[int] = set()
        self._busy = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def check(self, ports: Collection[int]) -> None:
        """Has the flows to these host ports looked at soon."""
        if not ports:
            return
        with self._change:
            self._asked.update(ports)
            self._change.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="stale-flows", daemon=True)
                self._thread.start()

    def settle(self, timeout_s: float = 10.0) -> bool:
        """Waits until everything asked for is done; False when it took longer."""
        with self._change:
            return self._change.wait_for(lambda: not self._asked and not self._busy, timeout_s)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._asked))
            time.sleep(PATIENCE_S)
            with self._change:
                ports, self._asked, self._busy = self._asked, set(), True
            try:
                self._forget(ports)
            except (OSError, ValueError):
                log.warning("stale udp flows to ports %s were not forgotten", sorted(ports), exc_info=True)
            finally:
                with self._change:
                    self._busy = False
                    self._change.notify_all()

    def _forget(self, ports: Collection[int]) -> None:
        asked = ports if len(ports) <= MAX_SINGLE_DUMPS else (0,)
        versions = {4, *(one.version for one in self._now().subnets)}
        requests = [get_udp(port, version) for version in sorted(versions) for port in asked]
        flows = [parse_flow(body) for request in requests for body in self._tracking.dump(request)]
        now = self._now()
        stale = [flow for flow in flows if flow is not None and flow.port in ports and now.is_stale(flow)]
        if stale:
            outcome = self._tracking.attempt(*(delete(flow) for flow in stale))
            netlink.raise_unless(outcome, errno.ENOENT)  # it ended by itself


def get_udp(port: int = 0, version: int = 4) -> Request:
    """Asks for UDP flows of IPv4 or IPv6: to one port, where the kernel filters by it, or all."""
    protocol = u8(CTA_PROTO_NUM, socket.IPPROTO_UDP)
    flags = FILTER_PROTO_NUM
    if port:
        protocol += attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
        flags |= FILTER_PROTO_DST_PORT
    body = (
        (NFGENMSG if version == 4 else NFGENMSG6)
        + nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, protocol))
        + nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, flags), u32(CTA_FILTER_REPLY_FLAGS, 0))
    )
    return Request("udp flows", NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, netlink.NLM_F_DUMP, body)


def delete(flow: Flow) -> Request:
    """Forgets one flow."""
    head = NFGENMSG if flow.destination.version == 4 else NFGENMSG6
    return Request("udp flow", NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0, head + flow.handle)


def parse_flow(body: bytes) -> Flow | None:
    """A conntrack entry without its netlink header; None when it is not UDP."""
    found = attributes(body[len(NFGENMSG) :])
    original, reply = (attributes(found.get(kind, b"")) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    there, back = (attributes(one.get(CTA_TUPLE_IP, b"")) for one in (original, reply))
    protocol, answer = (attributes(one.get(CTA_TUPLE_PROTO, b"")) for one in (original, reply))
    destination = _address(there, CTA_IP_V4_DST, CTA_IP_V6_DST)
    source = _address(back, CTA_IP_V4_SRC, CTA_IP_V6_SRC)
    if protocol.get(CTA_PROTO_NUM) != bytes((socket.IPPROTO_UDP,)) or destination is None or source is None:
        return None
    handle = nested(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG])
    handle += b"".join(attribute(kind, found[kind]) for kind in (CTA_ID, CTA_ZONE) if kind in found)
    return Flow(
        destination=destination,
        port=int.from_bytes(protocol[CTA_PROTO_DST_PORT], "big"),
        answers_from=source,
        answers_port=int.from_bytes(answer[CTA_PROTO_SRC_PORT], "big"),
        handle=handle,
    )


def _address(found: Mapping[int, bytes], *kinds: int) -> IPAddress | None:
    return next((ip_address(found[kind]) for kind in kinds if kind in found), None)
