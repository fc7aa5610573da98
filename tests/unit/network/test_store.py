"""The network's records in a real database."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from corten.core.metadata import Database
from corten.network.store import DatabaseStore, decode, encode
from corten.network.values import ANY, Endpoint, Publication

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


def test_an_endpoint_comes_back_as_it_went() -> None:
    assert decode(encode(ENDPOINT)) == ENDPOINT


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
