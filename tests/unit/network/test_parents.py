"""Options of macvlan and ipvlan networks, and what their parents are called.  The devices: tests/system."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface

import pytest

from corten.errors import Internal
from corten.network import parents
from corten.network.addresses import Lease
from corten.network.values import Network, Subnet
from corten.sys.rtnetlink import Link

SUBNET = Subnet(IPv4Network("10.7.0.0/24"), IPv4Address("10.7.0.1"))
NETWORK = Network("a" * 64, "lan", "macvlan", "2026-01-01T00:00:00Z", (SUBNET,), {"parent": "eth0"})
LEASE = Lease(IPv4Interface("10.7.0.2/24"), IPv4Address("10.7.0.1"))
LEASE6 = Lease(IPv6Interface("fd00::2/64"), IPv6Address("fd00::1"))
ETH0 = Link(2, "eth0", "", 0, "02:00:00:00:00:01", "", 0, 1500, 6)


def ipvlan(**options: str) -> Network:
    return replace(NETWORK, driver="ipvlan", options={"parent": "eth0", **options})


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (
            replace(NETWORK, options={"macvlan_mode": "x"}),
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (ipvlan(ipvlan_mode="x"), "requested ipvlan mode 'x' is not valid, 'l2' mode is the ipvlan driver default"),
        (ipvlan(ipvlan_flag="x"), "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default"),
        (ipvlan(parent="lo"), "loopback interface is not a valid ipvlan parent link"),
        (replace(NETWORK, options={"parent": "lo"}), "loopback interface is not a valid macvlan parent link"),
        (replace(NETWORK, has_ipv4=False), "ipv4 pool is empty"),
    ],
)
def test_wrong_options_are_refused_in_dockerds_words(network: Network, text: str) -> None:
    with pytest.raises(Internal) as caught:
        parents.check(network, ())
    assert caught.value.text == text


def test_a_parent_has_one_network_of_each_driver() -> None:
    other = replace(NETWORK, network_id="b" * 64)
    with pytest.raises(Internal, match=f"network dm-{'b' * 12} is already using parent interface eth0"):
        parents.check(NETWORK, [other])
    parents.check(ipvlan(), [other])
    parents.check(replace(NETWORK, options={}), [replace(other, options={})])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("eth1", "invalid subinterface vlan name eth1, example formatting is eth0.10"),
        (
            "eth0.1.2",
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received eth0.1.2",
        ),
        ("eth0.x", "unable to parse a valid vlan id from: x (ex. eth0.10 for vlan 10)"),
        (f"eth0.{'9' * 20}", f"unable to parse a valid vlan id from: {'9' * 20} (ex. eth0.10 for vlan 10)"),
        ("eth1.5", "-o parent interface was not found on the host: eth1"),
        ("eth0.4095", "vlan id must be between 1-4094, received: 4095"),
        ("eth0.0", "vlan id must be between 1-4094, received: 0"),
    ],
)
def test_names_of_vlan_devices_are_read_as_dockerd_reads_them(name: str, text: str) -> None:
    with pytest.raises(Internal) as caught:
        parents.vlan_of(name, [ETH0])
    assert caught.value.text == text


def test_a_vlan_device_is_of_the_device_that_it_names() -> None:
    assert parents.vlan_of("eth0.10", [ETH0]) == (ETH0, 10)


def test_the_way_out_is_the_gateway_the_device_or_nothing() -> None:
    assert parents.led(NETWORK, LEASE) == LEASE
    assert parents.led(ipvlan(ipvlan_mode="l2"), LEASE) == LEASE
    for mode in ("l3", "l3s"):
        assert parents.led(ipvlan(ipvlan_mode=mode), LEASE) == replace(LEASE, gateway=IPv4Address("0.0.0.0"))
        assert parents.led(ipvlan(ipvlan_mode=mode), LEASE6) == replace(LEASE6, gateway=IPv6Address("::"))
    for shut in (
        replace(NETWORK, internal=True),
        replace(NETWORK, options={}),
        replace(NETWORK, driver="bridge", internal=True),
    ):
        assert parents.led(shut, LEASE) == replace(LEASE, gateway=None)
    assert parents.led(replace(NETWORK, driver="bridge"), LEASE) is LEASE
    assert parents.led(NETWORK, None) is None
