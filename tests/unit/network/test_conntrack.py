"""Which tracked UDP flows are forgotten, and that a thread does it."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from corten.network import conntrack
from corten.network.conntrack import Flow, Forwarded, StaleFlows
from corten.network.values import ANY, ANY6, LOOPBACK6
from corten.sys import netlink
from corten.sys.netlink import Request, attribute, nested, u8, u32
from corten.sys.rtnetlink import IPAddress

HOST, CONTAINER, OTHER = (IPv4Address(text) for text in ("192.0.2.1", "172.17.0.2", "172.17.0.3"))


def tuple_of(kind: int, source: str, target: str, ports: tuple[int, int], protocol: int = 17) -> bytes:
    addresses = nested(
        conntrack.CTA_TUPLE_IP,
        attribute(conntrack.CTA_IP_V4_SRC, IPv4Address(source).packed),
        attribute(conntrack.CTA_IP_V4_DST, IPv4Address(target).packed),
    )
    transport = nested(
        conntrack.CTA_TUPLE_PROTO,
        u8(conntrack.CTA_PROTO_NUM, protocol),
        attribute(conntrack.CTA_PROTO_SRC_PORT, ports[0].to_bytes(2, "big")),
        attribute(conntrack.CTA_PROTO_DST_PORT, ports[1].to_bytes(2, "big")),
    )
    return nested(kind, addresses, transport)


def entry(answers_from: str = "172.17.0.2", protocol: int = 17) -> bytes:
    return (
        conntrack.NFGENMSG
        + tuple_of(conntrack.CTA_TUPLE_ORIG, "192.0.2.9", "192.0.2.1", (4000, 53), protocol)
        + tuple_of(conntrack.CTA_TUPLE_REPLY, answers_from, "192.0.2.9", (5353, 4000), protocol)
        + u32(conntrack.CTA_ID, 99)
    )


def test_a_flow_is_read() -> None:
    flow = conntrack.parse_flow(entry())
    assert flow is not None
    assert (flow.destination, flow.port, flow.answers_from, flow.answers_port) == (HOST, 53, CONTAINER, 5353)
    assert netlink.attributes(flow.handle).keys() == {conntrack.CTA_TUPLE_ORIG, conntrack.CTA_ID}


def test_a_flow_of_ipv6_is_read_and_forgotten_as_such() -> None:
    def addresses(kind: int, source: str, target: str, port: int) -> bytes:
        both = attribute(conntrack.CTA_IP_V6_SRC, IPv6Address(source).packed)
        both += attribute(conntrack.CTA_IP_V6_DST, IPv6Address(target).packed)
        transport = u8(conntrack.CTA_PROTO_NUM, 17)
        transport += attribute(conntrack.CTA_PROTO_SRC_PORT, port.to_bytes(2, "big"))
        transport += attribute(conntrack.CTA_PROTO_DST_PORT, port.to_bytes(2, "big"))
        return nested(kind, nested(conntrack.CTA_TUPLE_IP, both), nested(conntrack.CTA_TUPLE_PROTO, transport))

    body = conntrack.NFGENMSG6 + addresses(conntrack.CTA_TUPLE_ORIG, "2001:db8::9", "2001:db8::1", 53)
    flow = conntrack.parse_flow(body + addresses(conntrack.CTA_TUPLE_REPLY, "fd00::2", "2001:db8::9", 5353))
    assert flow is not None
    assert (flow.destination, flow.answers_from) == (IPv6Address("2001:db8::1"), IPv6Address("fd00::2"))
    assert conntrack.delete(flow).body.startswith(conntrack.NFGENMSG6)
    there = Forwarded({(ANY6, 53): (IPv6Address("fd00::2"), 5353)}, [], {IPv6Address("2001:db8::1")})
    assert not there.is_stale(flow)
    assert Forwarded({}, [IPv6Network("fd00::/64")], there.local).is_stale(flow)


def test_what_goes_to_the_relay_is_nobodys_business() -> None:
    ports: dict[tuple[IPAddress, int], tuple[IPAddress, int]] = {(ANY6, 53): (IPv6Address("fd00::2"), 53)}
    local = Flow(LOOPBACK6, 53, LOOPBACK6, 53, b"")
    assert not Forwarded(ports, [IPv6Network("fd00::/64")], {LOOPBACK6}).is_stale(local)


def test_what_is_not_udp_is_passed_over() -> None:
    assert conntrack.parse_flow(entry(protocol=6)) is None


def flow(destination: IPv4Address = HOST, answers: IPv4Address = CONTAINER, port: int = 53) -> Flow:
    return Flow(destination, port, answers, 5353, b"")


FORWARDED = Forwarded({(ANY, 53): (CONTAINER, 5353)}, [IPv4Network("172.17.0.0/16")], {HOST})


@pytest.mark.parametrize(
    ("one", "stale"),
    [
        (flow(), False),  # as a new one would go
        (flow(answers=OTHER), True),  # to the container that had the port before
        (flow(answers=HOST), True),  # to the host, from before the port was published
        (flow(destination=IPv4Address("127.0.0.1"), answers=IPv4Address("127.0.0.1")), True),
        (flow(destination=IPv4Address("9.9.9.9"), answers=IPv4Address("9.9.9.9")), False),  # of a container, outwards
        (flow(port=54), True),  # to a container of ours, by a port that is no longer published
        (flow(port=54, answers=HOST), False),  # the host's own
        (flow(port=54, answers=IPv4Address("10.0.0.1")), False),  # somebody else's NAT
    ],
)
def test_a_flow_is_stale_when_a_new_one_would_go_elsewhere(one: Flow, stale: bool) -> None:
    assert FORWARDED.is_stale(one) is stale


def test_a_port_on_one_address_goes_before_the_same_port_on_all() -> None:
    both = Forwarded({(ANY, 53): (CONTAINER, 5353), (HOST, 53): (OTHER, 5353)}, [IPv4Network("172.17.0.0/16")], {HOST})
    assert both.is_stale(flow())
    assert not both.is_stale(flow(answers=OTHER))


class Kernel:
    """A conntrack table of one stale flow."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.deleted: list[Request] = []
        self.threads: set[int] = set()

    def dump(self, request: Request) -> list[bytes]:
        self.threads.add(threading.get_ident())
        self.asked.append(request)
        return [entry("172.17.0.3"), entry("172.17.0.2")]

    def attempt(self, *requests: Request) -> list[netlink.NetlinkError | None]:
        self.deleted += requests
        return [None] * len(requests)


def test_stale_flows_go_and_the_others_stay() -> None:
    kernel = Kernel()
    flows = StaleFlows(kernel, lambda: FORWARDED)
    flows.check({53})
    flows.check({53})
    assert flows.settle()
    assert len(kernel.asked) == len(kernel.deleted) == 1
    assert threading.get_ident() not in kernel.threads


def test_many_ports_are_one_dump() -> None:
    kernel = Kernel()
    flows = StaleFlows(kernel, lambda: FORWARDED)
    flows.check(set(range(50, 60)))
    assert flows.settle()
    assert len(kernel.asked) == 1


def test_no_port_asks_nothing() -> None:
    kernel = Kernel()
    flows = StaleFlows(kernel, lambda: FORWARDED)
    flows.check(())
    assert flows.settle()
    assert kernel.asked == []
