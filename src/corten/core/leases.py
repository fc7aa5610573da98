"""Leases: what a collection of garbage must leave alone, for as long as somebody works with it.

First form of containerd's leases: named, with labels and an expiry; items are content digests and snapshot keys.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from corten.core.metadata import Database
from corten.errors import AlreadyExists, NotFound, Unavailable

CONTENT = "content"
SNAPSHOT = "snapshot"
_REQUEST = "corten.request"


class Lease(msgspec.Struct, frozen=True):
    """One lease; `expires_ns` 0 is never."""

    id: str
    labels: dict[str, str]
    created_ns: int
    expires_ns: int


class Leases:
    """The leases of one database.  Thread-safe.

    A request that ends while the database refuses to write leaves its lease in the table: from then on it protects
    nothing, and `settle` removes it when it can.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._over: set[str] = set()
        self.owed: Callable[[Unavailable], object] = lambda _: None
        """Told when `settle` has something to do, in any thread."""

    def create(self, lease_id: str = "", labels: Mapping[str, str] | None = None, *, expires_ns: int = 0) -> Lease:
        """A new lease, with a random id unless one is given; raises AlreadyExists."""
        lease = Lease(lease_id or secrets.token_hex(8), dict(labels or {}), time.time_ns(), expires_ns)
        try:
            with self._database.transaction() as tx:
                tx.execute(
                    "INSERT INTO leases (id, labels, created_ns, expires_ns) VALUES (?, ?, ?, ?)",
                    (lease.id, msgspec.json.encode(lease.labels).decode(), lease.created_ns, lease.expires_ns),
                )
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"lease {lease.id} already exists") from None
        return lease

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """A lease for the length of one request; `end_requests` ends those that a crash left."""
        lease = self.create(labels={_REQUEST: "1"})
        try:
            yield lease
        finally:
            self._over.add(lease.id)
            try:
                self.settle()
            except Unavailable as error:
                self.owed(error)

    def add(self, lease_id: str, kind: str, item: str) -> None:
        """Protects an item, whether it is there yet or not; raises NotFound."""
        try:
            with self._database.transaction() as tx:
                tx.execute("INSERT OR IGNORE INTO lease_items VALUES (?, ?, ?)", (lease_id, kind, item))
        except sqlite3.IntegrityError:
            raise NotFound(f"lease {lease_id} does not exist") from None

    def delete(self, lease_id: str) -> None:
        """Ends a lease; an unknown one is fine."""
        with self._database.transaction() as tx:
            tx.execute("DELETE FROM leases WHERE id = ?", (lease_id,))

    def settle(self) -> None:
        """Removes the leases of requests that are over; raises Unavailable."""
        over = list(self._over)
        with self._database.transaction() as tx:
            tx.executemany("DELETE FROM leases WHERE id = ?", [(lease_id,) for lease_id in over])
        self._over.difference_update(over)

    def list(self) -> Sequence[Lease]:
        """Every lease, oldest first."""
        rows = self._database.query("SELECT id, labels, created_ns, expires_ns FROM leases ORDER BY created_ns")
        return [Lease(row[0], msgspec.json.decode(row[1]), row[2], row[3]) for row in rows if row[0] not in self._over]

    def items(self, kind: str) -> set[str]:
        """What is protected now, of one kind."""
        rows = self._database.query(
            "SELECT item, lease FROM lease_items JOIN leases ON leases.id = lease"
            " WHERE kind = ? AND (expires_ns = 0 OR expires_ns > ?)",
            (kind, time.time_ns()),
        )
        return {row[0] for row in rows if row[1] not in self._over}

    def end_requests(self) -> None:
        """Ends the leases of requests that an earlier process did not finish."""
        for lease in self.list():
            if _REQUEST in lease.labels:
                self.delete(lease.id)

    def drop_expired(self) -> None:
        """Forgets leases whose time is over."""
        with self._database.transaction() as tx:
            tx.execute("DELETE FROM leases WHERE expires_ns != 0 AND expires_ns <= ?", (time.time_ns(),))
