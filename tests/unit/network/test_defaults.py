"""The network `bridge` as daemon.json wants it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest

from corten.errors import InvalidArgument
from corten.network import defaults, options
from corten.network.addresses import default_network, lease
from corten.network.defaults import Defaults, Family
from corten.network.pools import DEFAULT_POOLS, USER_POOLS, Pool
from corten.network.values import Network, Subnet
from corten.sys.rtnetlink import IPInterface

CHOSEN = default_network("n" * 64, "172.17.0.1/16")
BIP = Family(address=IPv4Interface("10.1.0.1/16"))


def test_a_chosen_subnet_stays_where_nothing_is_said() -> None:
    assert defaults.applied(Defaults(), CHOSEN).subnets == CHOSEN.subnets


def test_bip_is_the_bridges_address_and_subnet() -> None:
    (subnet,) = defaults.applied(Defaults(v4=BIP), CHOSEN).subnets
    assert subnet == Subnet(IPv4Network("10.1.0.0/16"), IPv4Address("10.1.0.1"))


def test_a_subnet_that_was_said_once_is_chosen_anew_when_it_is_not_said_any_more() -> None:
    said = defaults.applied(Defaults(v4=BIP), CHOSEN)
    assert defaults.applied(Defaults(), said).subnets == ()


def test_fixed_cidr_is_where_addresses_come_from_and_the_gateway_another_than_the_bridge() -> None:
    said = Family(BIP.address, IPv4Network("10.1.8.0/29"), IPv4Address("10.1.0.254"))
    network = defaults.applied(Defaults(v4=said), CHOSEN)
    found = lease(network, 4, None, ())
    assert found is not None
    assert (str(found.address), str(found.gateway)) == ("10.1.8.0/16", "10.1.0.254")


def test_fixed_cidr_alone_is_the_subnet() -> None:
    network = defaults.applied(Defaults(v4=Family(part=IPv4Network("10.9.0.0/24"))), CHOSEN)
    assert network.subnets == (Subnet(IPv4Network("10.9.0.0/24"), IPv4Address("10.9.0.1")),)


def test_the_device_that_was_named_brings_its_subnet_along() -> None:
    said = Defaults(device="br0", v4=Family(part=IPv4Network("10.2.0.128/25")))
    found: list[IPInterface] = [
        IPv4Interface("10.1.0.5/24"),
        IPv4Interface("10.2.0.200/24"),
        IPv6Interface("fe80::1/64"),
    ]
    network = defaults.applied(said, CHOSEN, found)
    assert network.subnets == (
        Subnet(IPv4Network("10.2.0.0/24"), IPv4Address("10.2.0.200"), range=IPv4Network("10.2.0.128/25")),
    )
    assert network.options[options.NAME] == "br0"


def test_ipv6_has_a_subnet_only_where_it_is_on() -> None:
    said = Defaults(v6=Family(part=IPv6Network("2001:db8:1::/64"), way_out=IPv6Address("2001:db8:1::9")))
    assert not defaults.applied(said, CHOSEN).has_ipv6
    network = defaults.applied(replace(said, has_ipv6=True), CHOSEN)
    subnet = network.subnet(6)
    assert subnet is not None
    assert (str(subnet.own), str(subnet.way_out)) == ("2001:db8:1::1/64", "2001:db8:1::9")
    assert defaults.applied(Defaults(), network).subnets == CHOSEN.subnets


def test_the_options_of_the_bridge_are_dockers() -> None:
    found = Defaults(mtu=1400, has_icc=False, masquerades=False, host_ip="127.0.0.1").bridge_options
    assert found == {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.driver.mtu": "1400",
    }
    assert replace(CHOSEN, options=found).host_ip == IPv4Address("127.0.0.1")
    assert replace(CHOSEN, options=Defaults().bridge_options).host_ip is None


def test_pools_of_daemon_json_are_for_all_networks_and_ipv6_has_always_one() -> None:
    own = Network("n" * 64, "own", "bridge", "")
    assert Defaults().pools_of(own, "0123abcd")[:-1] == USER_POOLS
    assert Defaults().pools_of(CHOSEN, "0123abcd")[:-1] == DEFAULT_POOLS
    mine = Pool(IPv4Network("10.0.0.0/8"), 26)
    both = (mine, Pool(IPv6Network("2001:db8::/32"), 64))
    for network in (own, CHOSEN):
        v4, v6 = Defaults(pools=(mine,)).pools_of(network, "0123abcd")
        assert (v4, v6.base.version) == (mine, 6)
        assert Defaults(pools=both).pools_of(network, "0123abcd") == both


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (Family(IPv4Interface("10.1.0.0/16")), "bip: 10.1.0.0 is not the address of a host in 10.1.0.0/16"),
        (Family(IPv4Interface("127.0.0.1/8")), "bip: loopback subnet '127.0.0.0/8' is not allowed"),
        (Family(BIP.address, IPv4Network("10.2.0.0/24")), "fixed-cidr: 10.2.0.0/24 is not in bip's 10.1.0.0/16"),
        (Family(BIP.address, way_out=IPv4Address("10.2.0.1")), "default-gateway: 10.2.0.1 is not in 10.1.0.0/16"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(said: Family, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        defaults.check(Defaults(v4=said))
    assert caught.value.text == text


def test_an_ipv6_subnet_beside_the_link_local_one_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="clashes with the Link-Local prefix"):
        defaults.check(Defaults(has_ipv6=True, v6=Family(part=IPv6Network("fe80::/80"))))
