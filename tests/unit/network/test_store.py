"""The network's records in a real database."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from corten.core.metadata import Database
from corten.errors import Conflict
from corten.network.store import DatabaseStore, decode, decode_network, encode
from corten.network.values import ANY, Endpoint, Network, Publication, Subnet

ENDPOINT = Endpoint(
    endpoint_id="e" * 64,
    container_id="c" * 64,
    network_id="n" * 64,
    address=IPv4Interface("172.17.0.2/16"),
    gateway=IPv4Address("172.17.0.1"),
    mac="02:42:ac:11:00:02",
    link="ct0123eeeeeeee",
    publications=(Publication("tcp", ANY, 8080, 80), Publication("udp", IPv4Address("127.0.0.1"), 53, 53)),
    journal=(7, 8),
)


NETWORK = Network(
    "n" * 64,
    "web",
    "bridge",
    "2026-01-01T00:00:00Z",
    subnets=(
        Subnet(
            IPv4Network("10.1.0.0/24"),
            IPv4Address("10.1.0.1"),
            range=IPv4Network("10.1.0.128/25"),
            reserved=(("printer", IPv4Address("10.1.0.9")),),
        ),
        Subnet(IPv6Network("fd00::/64"), IPv6Address("fd00::1"), is_chosen=True),
    ),
    options={"a": "b"},
    labels={"c": "d"},
    has_ipv6=True,
    journal=(3,),
)


def test_an_endpoint_comes_back_as_it_went() -> None:
    assert decode(encode(ENDPOINT)) == ENDPOINT
    dual = replace(ENDPOINT, address6=IPv6Interface("fd00::2/64"), gateway6=IPv6Address("fd00::1"))
    assert decode(encode(dual)) == dual


def test_a_record_of_a_release_with_one_address_is_read() -> None:
    raw = json.loads(encode(ENDPOINT))
    del raw["address6"], raw["gateway6"]
    assert decode(json.dumps(raw).encode()) == ENDPOINT


def test_ports_of_both_kinds_of_addresses_come_back_as_they_went() -> None:
    ports = (Publication("tcp", ANY, 80, 80), Publication("sctp", IPv6Address("::1"), 81, 82, is_relayed=True))
    assert decode(encode(replace(ENDPOINT, publications=ports))).publications == ports


def test_a_port_of_an_earlier_release_is_not_relayed() -> None:
    raw = json.loads(encode(ENDPOINT))
    for one in raw["publications"]:
        del one["is_relayed"]
    assert decode(json.dumps(raw).encode()) == ENDPOINT


def test_a_network_comes_back_as_it_went() -> None:
    assert decode_network(encode(NETWORK)) == NETWORK


def test_networks_stay_in_order_and_have_one_name_each(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "engine.db"))
    store = DatabaseStore(database)
    other = replace(NETWORK, network_id="a" * 64, name="data")
    for one in (NETWORK, other, replace(NETWORK, labels={})):
        store.save_network(one)
    assert [one.name for one in DatabaseStore(database).networks()] == ["web", "data"]
    with pytest.raises(Conflict, match="network with name data already exists"):
        store.save_network(replace(NETWORK, network_id="b" * 64, name="data"))
    for _ in range(2):
        store.remove_network(NETWORK.network_id)
    assert store.networks() == [other]
    database.close()


def test_records_and_settings_survive_a_new_store(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "engine.db"))
    store = DatabaseStore(database)
    store.save(ENDPOINT)
    store.save(ENDPOINT)
    store.set_setting("a", "b")
    again = DatabaseStore(database)
    assert again.endpoints() == [ENDPOINT]
    assert (again.setting("a"), again.setting("c")) == ("b", "")
    again.remove(ENDPOINT.endpoint_id)
    again.remove(ENDPOINT.endpoint_id)
    assert again.endpoints() == []
    database.close()


def test_an_endpoint_knows_its_address_apart() -> None:
    assert (str(ENDPOINT.ip), ENDPOINT.prefix) == ("172.17.0.2", 16)
    assert [one.key for one in ENDPOINT.publications] == ["tcp:0.0.0.0:8080", "udp:127.0.0.1:53"]
