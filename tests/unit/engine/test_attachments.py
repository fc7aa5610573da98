"""Which networks a container joins, in which order, and over which of them it reaches the world."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any

import pytest

from corten.engine import attachments
from corten.engine.attachments import Attachment
from corten.errors import Conflict, InvalidArgument
from corten.network.values import Endpoint, Network
from corten.spec.docker import EndpointIPAMConfig, EndpointSettings


def on(name: str, *, priority: int = 0, **network: Any) -> Attachment:
    made = Network(name * 64, name, network.pop("driver", "bridge"), "", **network)
    return Attachment(made, EndpointSettings(gw_priority=priority))


def endpoint(interface: str, *gateways: str) -> Endpoint:
    v4 = next((IPv4Address(one) for one in gateways if ":" not in one), None)
    v6 = next((IPv6Address(one) for one in gateways if ":" in one), None)
    return Endpoint("e", "c", "n", None, v4, "", "", interface=interface, gateway6=v6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([on("b"), on("a")], "ab"),
        ([on("a", internal=True), on("b")], "ba"),
        ([on("a"), on("b", priority=1)], "ba"),
        ([on("a", priority=-1), on("b")], "ba"),
        ([on("a", priority=9, internal=True), on("b")], "ba"),
        ([on("a"), on("b", has_ipv6=True)], "ba"),
        ([on("a", priority=1), on("b", has_ipv6=True)], "ab"),
    ],
)
def test_networks_are_joined_in_the_order_in_which_they_are_to_be_the_gateway(
    given: list[Attachment], expected: str
) -> None:
    assert "".join(one.network.name for one in attachments.by_rank(given)) == expected


def test_the_gateway_is_the_first_network_with_an_interface() -> None:
    bare = on("none", driver="null")
    assert attachments.gateway_of([bare]) is None
    first = on("a")
    assert attachments.gateway_of([bare, first, on("b")]) is first


def test_ipv4_and_ipv6_may_leave_over_different_networks_and_never_over_an_internal_one() -> None:
    attached = [on("a"), on("b", has_ipv6=True), on("c", internal=True, has_ipv6=True)]
    ends = {
        "a": endpoint("eth0", "10.0.0.1"),
        "b": endpoint("eth1", "10.0.1.1", "fd00::1"),
        "c": endpoint("eth2", "10.0.2.1", "fd02::1"),
    }
    found = attachments.leading_of(attached, ends)
    assert found == [("eth0", ip_address("10.0.0.1")), ("eth1", ip_address("fd00::1"))]
    assert attachments.leading_of(attached[2:], ends) == []


def test_an_interface_has_the_first_number_that_is_free() -> None:
    bare = EndpointSettings()
    assert attachments.interface_of(bare, ()) == "eth0"
    assert attachments.interface_of(bare, {"eth0", "eth2"}) == "eth1"
    assert attachments.interface_of(bare, {"wan", "eth0"}) == "eth1"
    assert attachments.interface_of(bare, {"eth0", "lan0"}, "lan") == "lan1"


def test_an_interface_has_the_name_that_the_client_gives() -> None:
    named = EndpointSettings(driver_opts={attachments.INTERFACE_OPTION: "wan"})
    assert attachments.interface_of(named, {"eth0"}) == "wan"
    with pytest.raises(Conflict, match="interface name wan is in use"):
        attachments.interface_of(named, {"wan"})


@pytest.mark.parametrize("name", ["a/b", "a b", "lo", "..", "x" * 16, "a:b", "é", "a\n"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid interface name"):
        attachments.interface_of(EndpointSettings(driver_opts={attachments.INTERFACE_OPTION: name}), ())


def test_link_local_addresses_have_their_prefix() -> None:
    asked = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.3.4", "fe80::7"]))
    assert attachments.link_local_of(asked) == [ip_interface("169.254.3.4/16"), ip_interface("fe80::7/64")]
    assert attachments.link_local_of(EndpointSettings()) == []


def test_what_a_client_asks_of_a_network_is_parsed_once() -> None:
    ipam = EndpointIPAMConfig(ipv4_address="10.0.0.9", ipv6_address="fd00::9")
    asked = EndpointSettings(ipam_config=ipam, aliases=["x"], driver_opts={"a": "b"}, mac_address="02:42:0a:00:00:09")
    wanted = attachments.wanted_of(asked)
    assert (wanted.ip, wanted.ip6) == (IPv4Interface("10.0.0.9").ip, IPv6Interface("fd00::9").ip)
    assert (wanted.aliases, wanted.options, wanted.mac) == (("x",), {"a": "b"}, "02:42:0a:00:00:09")
