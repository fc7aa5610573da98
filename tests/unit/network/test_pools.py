"""Subnets, addresses and hardware addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from corten.errors import FailedPrecondition
from corten.network import pools


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
    assert sum(len(list(pool.subnets())) for pool in pools.DEFAULT_POOLS) == 31


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
