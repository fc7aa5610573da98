"""Subnets, addresses and hardware addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from corten.errors import FailedPrecondition
from corten.network import pools
from corten.sys.rtnetlink import IPNetwork


def networks(*texts: str) -> list[IPv4Network]:
    return [IPv4Network(text) for text in texts]


def test_the_first_subnet_is_dockers() -> None:
    assert pools.choose_subnet(pools.DEFAULT_POOLS, ()) == IPv4Network("172.17.0.0/16")


@pytest.mark.parametrize(
    ("taken", "chosen"),
    [
        (("172.17.4.0/24",), "172.18.0.0/16"),
        (("172.16.0.0/15",), "172.18.0.0/16"),
        (("172.17.0.1/32", "172.18.0.0/16", "172.19.255.0/24"), "172.20.0.0/16"),
        (("172.16.0.0/12",), "192.168.0.0/20"),
        (("172.16.0.0/12", "192.168.1.0/24"), "192.168.16.0/20"),
    ],
)
def test_a_subnet_never_overlaps_a_route(taken: tuple[str, ...], chosen: str) -> None:
    assert pools.choose_subnet(pools.DEFAULT_POOLS, networks(*taken)) == IPv4Network(chosen)


def test_pools_run_out_with_an_error() -> None:
    with pytest.raises(FailedPrecondition, match="non-overlapping IPv4 address pool"):
        pools.choose_subnet(pools.DEFAULT_POOLS, networks("172.0.0.0/8", "192.168.0.0/16"))


def test_there_are_31_subnets_as_with_docker() -> None:
    taken: list[IPNetwork] = []
    for _ in range(31):
        taken.append(pools.choose_subnet(pools.DEFAULT_POOLS, taken))
    assert len(set(taken)) == 31
    with pytest.raises(FailedPrecondition):
        pools.choose_subnet(pools.DEFAULT_POOLS, taken)


def test_networks_of_ones_own_get_a_24_and_never_what_the_default_bridge_has() -> None:
    first = pools.choose_subnet(pools.USER_POOLS, networks("172.18.0.0/25", "172.18.1.128/26"))
    assert first == IPv4Network("172.18.2.0/24")
    assert not any(pool.base.overlaps(IPv4Network("172.17.0.0/16")) for pool in pools.USER_POOLS)


def test_an_engine_has_one_local_range_of_ipv6_that_stays() -> None:
    pool = pools.local_pool("0123abcd")
    assert pool == pools.local_pool("0123abcd") != pools.local_pool("0123abce")
    assert IPv6Network("fd00::/8").overlaps(IPv6Network(str(pool.base)))
    first = pools.choose_subnet([pool], ())
    assert (first.prefixlen, first.version) == (64, 6)
    assert pools.first_free(first, {int(first.network_address) + 1}) == first.network_address + 2


def test_addresses_come_from_the_range_that_was_asked_for() -> None:
    subnet, part = IPv4Network("10.0.0.0/24"), IPv4Network("10.0.0.252/30")
    assert pools.first_free(subnet, {int(IPv4Address("10.0.0.252"))}, within=part) == IPv4Address("10.0.0.253")
    with pytest.raises(FailedPrecondition):
        pools.first_free(subnet, {int(part[number]) for number in range(3)}, within=part)


def test_the_lowest_free_address_is_given() -> None:
    subnet = IPv4Network("10.0.0.0/29")
    taken = {int(IPv4Address(f"10.0.0.{number}")) for number in (1, 2, 4)}
    assert pools.first_free(subnet, taken) == IPv4Address("10.0.0.3")
    assert pools.first_free(subnet, ()) == IPv4Address("10.0.0.1")


def test_network_and_broadcast_address_are_never_given() -> None:
    with pytest.raises(FailedPrecondition, match="no available IPv4 addresses"):
        pools.first_free(IPv4Network("10.0.0.0/30"), {int(IPv4Address("10.0.0.1")), int(IPv4Address("10.0.0.2"))})


def test_the_hardware_address_follows_from_the_address() -> None:
    assert pools.mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"
