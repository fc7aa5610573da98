"""Endpoints and settings of the network in the engine's database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv4Interface

import msgspec

from corten.core.metadata import Database
from corten.network.values import Endpoint

SCHEMA = (
    (
        "CREATE TABLE network_endpoints (endpoint_id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT",
        "CREATE TABLE network_settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
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


def encode(endpoint: Endpoint) -> bytes:
    """An endpoint as JSON."""
    return msgspec.json.encode(endpoint, enc_hook=str)


def decode(record: bytes) -> Endpoint:
    """The endpoint in a record."""
    return msgspec.json.decode(record, type=Endpoint, dec_hook=_address)


def _address(kind: type, value: object) -> IPv4Address | IPv4Interface:
    if kind in (IPv4Address, IPv4Interface):
        return IPv4Interface(str(value)) if kind is IPv4Interface else IPv4Address(str(value))
    raise TypeError(f"{kind} in a record of the network")
