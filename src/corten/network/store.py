"""Networks, endpoints and settings of the network in the engine's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_network
from typing import Any, Final

import msgspec

from corten.core.metadata import Database
from corten.errors import Conflict
from corten.network.values import Endpoint, Network, Publication, Subnet

SCHEMA = (
    (
        "CREATE TABLE network_endpoints (endpoint_id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT",
        "CREATE TABLE network_settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
    (
        "CREATE TABLE networks (number INTEGER PRIMARY KEY AUTOINCREMENT, network_id TEXT NOT NULL UNIQUE, "
        "name TEXT NOT NULL UNIQUE, record BLOB NOT NULL) STRICT",
    ),
)


class DatabaseStore:
    """The `Store` of the network.  Makes its tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("network", SCHEMA)

    def transaction(self) -> AbstractContextManager[object]:
        """Calls inside are committed together."""
        return self._database.transaction()

    def networks(self) -> Sequence[Network]:
        """Every recorded network, in the order in which they were made."""
        rows = self._database.query("SELECT record FROM networks ORDER BY number")
        return [decode_network(row[0]) for row in rows]

    def save_network(self, network: Network) -> None:
        """Records a network, or replaces the record of the same id; raises Conflict when the name is another's."""
        text = "INSERT INTO networks (network_id, name, record) VALUES (?, ?, ?) "
        text += "ON CONFLICT (network_id) DO UPDATE SET name = excluded.name, record = excluded.record"
        try:
            with self._database.transaction() as tx:
                tx.execute(text, (network.network_id, network.name, encode(network)))
        except sqlite3.IntegrityError as error:
            raise Conflict(f"network with name {network.name} already exists") from error

    def remove_network(self, network_id: str) -> None:
        """Forgets a network."""
        with self._database.transaction() as tx:
            tx.execute("DELETE FROM networks WHERE network_id = ?", (network_id,))

    def endpoints(self) -> Sequence[Endpoint]:
        """Every recorded endpoint."""
        return [decode(row[0]) for row in self._database.query("SELECT record FROM network_endpoints")]

    def save(self, endpoint: Endpoint) -> None:
        """Records an endpoint, or replaces it."""
        with self._database.transaction() as tx:
            row = (endpoint.endpoint_id, encode(endpoint))
            tx.execute("INSERT OR REPLACE INTO network_endpoints VALUES (?, ?)", row)

    def remove(self, endpoint_id: str) -> None:
        """Forgets an endpoint."""
        with self._database.transaction() as tx:
            tx.execute("DELETE FROM network_endpoints WHERE endpoint_id = ?", (endpoint_id,))

    def setting(self, key: str) -> str:
        """A remembered word, or ''."""
        rows = self._database.query("SELECT value FROM network_settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else ""

    def set_setting(self, key: str, value: str) -> None:
        """Remembers a word."""
        with self._database.transaction() as tx:
            tx.execute("INSERT OR REPLACE INTO network_settings VALUES (?, ?)", (key, value))


def encode(value: Endpoint | Network) -> bytes:
    """As JSON."""
    return msgspec.json.encode(value, enc_hook=str)


# msgspec reads no union of addresses of two kinds by itself
_READ: Final[dict[str, Callable[[Any], Any]]] = {
    "address": IPv4Interface,
    "gateway": IPv4Address,
    "address6": IPv6Interface,
    "gateway6": IPv6Address,
    "journal": tuple,
    "publications": lambda found: tuple(_publication(one) for one in found),
}


def decode(record: bytes) -> Endpoint:
    """The endpoint in a record."""
    raw = msgspec.json.decode(record)
    return Endpoint(
        **{key: _READ[key](value) if key in _READ and value is not None else value for key, value in raw.items()}
    )


def _publication(raw: dict[str, Any]) -> Publication:
    return Publication(**{**raw, "host_ip": ip_address(raw["host_ip"])})


def decode_network(record: bytes) -> Network:
    """The network in a record."""
    raw = msgspec.json.decode(record)
    subnets = tuple(_subnet(one) for one in raw.pop("subnets", ()))
    return Network(**{**raw, "subnets": subnets, "journal": tuple(raw.get("journal", ()))})


def _subnet(raw: dict[str, Any]) -> Subnet:
    return Subnet(
        network=ip_network(raw["network"]),
        gateway=ip_address(raw["gateway"]),
        range=ip_network(raw["range"]) if raw["range"] else None,
        reserved=tuple((name, ip_address(address)) for name, address in raw["reserved"]),
        is_chosen=raw["is_chosen"],
        has_free_gateway=raw.get("has_free_gateway", False),
    )
