"""Endpoints and settings of the network in the engine's database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, Protocol

import msgspec

from corten.network.values import Endpoint

SCHEMA = """
CREATE TABLE IF NOT EXISTS network_endpoints (endpoint_id TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS network_settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


class Transaction(Protocol):
    """What runs statements: a `sqlite3.Connection` or what is like it."""

    def execute(self, statement: str, parameters: Sequence[Any] = ..., /) -> Iterable[Any]:
        """Runs one statement; its rows."""


class Transactions(Protocol):
    """The database: `corten.core.metadata.Database`."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """One writer at a time; committed at the end, rolled back on an error."""


class DatabaseStore:
    """The `Store` of the network.  The tables are made when it is."""

    def __init__(self, database: Transactions) -> None:
        self._database = database
        with database.transaction() as transaction:
            for statement in SCHEMA.strip().splitlines():
                transaction.execute(statement)

    def endpoints(self) -> Sequence[Endpoint]:
        """Every recorded endpoint."""
        with self._database.transaction() as transaction:
            return [decode(row[0]) for row in transaction.execute("SELECT record FROM network_endpoints")]

    def save(self, endpoint: Endpoint) -> None:
        """Records an endpoint, or replaces it."""
        with self._database.transaction() as transaction:
            statement = "INSERT OR REPLACE INTO network_endpoints VALUES (?, ?)"
            transaction.execute(statement, (endpoint.endpoint_id, encode(endpoint)))

    def remove(self, endpoint_id: str) -> None:
        """Forgets an endpoint."""
        with self._database.transaction() as transaction:
            transaction.execute("DELETE FROM network_endpoints WHERE endpoint_id = ?", (endpoint_id,))

    def setting(self, key: str) -> str:
        """A remembered word, or ''."""
        with self._database.transaction() as transaction:
            rows = list(transaction.execute("SELECT value FROM network_settings WHERE key = ?", (key,)))
        return str(rows[0][0]) if rows else ""

    def set_setting(self, key: str, value: str) -> None:
        """Remembers a word."""
        with self._database.transaction() as transaction:
            transaction.execute("INSERT OR REPLACE INTO network_settings VALUES (?, ?)", (key, value))


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
