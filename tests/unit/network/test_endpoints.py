"""Endpoints by id, container and address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from corten.network.endpoints import Endpoints
from corten.network.values import Endpoint, Publication


def endpoint(number: int, container: str = "", endpoint_id: str = "") -> Endpoint:
    return Endpoint(
        endpoint_id=endpoint_id or f"e{number}",
        container_id=container or f"c{number}",
        network_id="n",
        address=IPv4Interface(f"172.17.0.{number}/16"),
        gateway=IPv4Address("172.17.0.1"),
        mac="",
        link=f"l{number}",
    )


def test_an_endpoint_is_found_until_it_is_gone() -> None:
    two, three = endpoint(2), endpoint(3)
    found = Endpoints([two, three])
    assert found.all() == (two, three)
    assert (found.of("c3"), found.get("e2"), found.of("c9"), found.get("e9")) == ((three,), two, (), None)
    assert found.numbers("n") == {int(two.ip), int(three.ip)}
    found.discard("e2")
    found.discard("e2")
    assert (found.of("c2"), found.get("e2"), len(found)) == ((), None, 1)
    assert found.numbers("n") == {int(three.ip)}


def test_another_value_of_an_endpoint_takes_its_place() -> None:
    published = replace(endpoint(2), publications=(Publication("tcp", IPv4Address(0), 80, 80),))
    found = Endpoints([endpoint(2), endpoint(3)])
    found.put(published)
    assert found.of("c2") == (published,)
    assert [one.endpoint_id for one in found.all()] == ["e2", "e3"]


def test_of_two_records_with_one_address_the_second_keeps_it_after_the_first() -> None:
    first, second = endpoint(2, "c", "e1"), endpoint(2, "c", "e2")
    found = Endpoints([first, second])
    assert found.of("c") == (first, second)
    found.discard("e1")
    assert found.of("c") == (second,)
    assert found.numbers("n") == {int(second.ip)}
    found.discard("e2")
    assert not found.numbers("n")


def test_the_same_address_on_two_networks_is_two_addresses() -> None:
    here, there = endpoint(2, "c", "e1"), replace(endpoint(2, "c", "e2"), network_id="m")
    found = Endpoints([here, there])
    assert found.of("c") == (here, there)
    assert (found.on("n"), found.on("m"), found.on("x")) == ((here,), (there,), ())
    found.discard("e1")
    assert (found.numbers("n"), found.numbers("m")) == (frozenset(), {int(there.ip)})
