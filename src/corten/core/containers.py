"""Container records: what a container is, whoever made it (its task is the shim's).

One row per container and tenant.  Two columns are the makers' own bytes and never looked into here: `spec`
(containerd's runtime spec) and `engine` (what the Docker engine keeps).  Names are unique in a tenant; '' is no name.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corten.core.metadata import Database
from corten.errors import AlreadyExists, Conflict, InvalidArgument, NotFound

MOBY = "moby"


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row.  Times are Unix nanoseconds, set by the store when 0."""

    id: str
    tenant: str = MOBY
    name: str = ""
    image: str = ""
    labels: dict[str, str] = {}
    spec: bytes = b""
    engine: bytes = b""
    created_ns: int = 0
    updated_ns: int = 0


_COLUMNS = "id, tenant, name, image, labels, spec, engine, created_ns, updated_ns"


class ContainerStore:
    """The records of one database.  Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, record: ContainerRecord, *, durable: bool = True) -> ContainerRecord:
        """Adds a record; the stored one, with its times.

        Raises:
            Conflict: the name is taken, in Docker's words.
            AlreadyExists: the id is.
        """
        now = time.time_ns()
        stored = msgspec.structs.replace(record, created_ns=record.created_ns or now, updated_ns=now)
        writing = self._database.durable() if durable else self._database.transaction()
        with writing as tx:
            self._refuse_taken_name(stored)
            try:
                tx.execute(f"INSERT INTO containers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(stored))
            except sqlite3.IntegrityError:
                raise AlreadyExists(f"container {stored.id} already exists") from None
        return stored

    def get(self, container_id: str, tenant: str = MOBY) -> ContainerRecord:
        """The record of a full id; raises NotFound."""
        found = self._select("tenant = ? AND id = ?", (tenant, container_id))
        if not found:
            raise _no_such(container_id)
        return found[0]

    def find(self, ref: str, tenant: str = MOBY) -> ContainerRecord:
        """The record that a user means: full id, else name (with or without a slash), else unique prefix of an id.

        Raises NotFound, InvalidArgument (ambiguous), both in Docker's words.
        """
        bare = ref.removeprefix("/")
        exact = self._select("tenant = ? AND (id = ? OR name = ?)", (tenant, ref, bare)) if bare else []
        if exact:
            return min(exact, key=lambda record: record.id != ref)
        prefixed = self._select("tenant = ? AND substr(id, 1, ?) = ?", (tenant, len(ref), ref)) if ref else []
        if not prefixed:
            raise _no_such(ref)
        if len(prefixed) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        return prefixed[0]

    def list(self, tenant: str = MOBY) -> Sequence[ContainerRecord]:
        """Every record of a tenant, newest first."""
        return self._select("tenant = ?", (tenant,))

    def tenants(self) -> Sequence[str]:
        """Tenants that have containers."""
        return [row[0] for row in self._database.query("SELECT DISTINCT tenant FROM containers ORDER BY tenant")]

    def update(self, record: ContainerRecord, *, durable: bool = False) -> ContainerRecord:
        """Replaces everything but id, tenant and creation time; the stored record.

        Raises NotFound; Conflict when the new name is taken.
        """
        stored = msgspec.structs.replace(record, updated_ns=time.time_ns())
        writing = self._database.durable() if durable else self._database.transaction()
        with writing as tx:
            self._refuse_taken_name(stored)
            cursor = tx.execute(
                "UPDATE containers SET name = ?, image = ?, labels = ?, spec = ?, engine = ?, updated_ns = ?"
                " WHERE tenant = ? AND id = ?",
                (*_row(stored)[2:7], stored.updated_ns, stored.tenant, stored.id),
            )
            if not cursor.rowcount:
                raise _no_such(stored.id)
        return stored

    def delete(self, container_id: str, tenant: str = MOBY, *, durable: bool = True) -> None:
        """Removes a record; raises NotFound."""
        writing = self._database.durable() if durable else self._database.transaction()
        with writing as tx:
            cursor = tx.execute("DELETE FROM containers WHERE tenant = ? AND id = ?", (tenant, container_id))
            if not cursor.rowcount:
                raise _no_such(container_id)

    def _refuse_taken_name(self, record: ContainerRecord) -> None:
        holders = self._select("tenant = ? AND name = ? AND name != ''", (record.tenant, record.name))
        for holder in holders:
            if holder.id != record.id:
                raise Conflict(
                    f'Conflict. The container name "/{record.name}" is already in use by container "{holder.id}".'
                    " You have to remove (or rename) that container to be able to reuse that name."
                )

    def _select(self, condition: str, parameters: Sequence[Any]) -> Sequence[ContainerRecord]:
        statement = f"SELECT {_COLUMNS} FROM containers WHERE {condition} ORDER BY created_ns DESC, id"
        return [_record(row) for row in self._database.query(statement, parameters)]


def _row(record: ContainerRecord) -> tuple[Any, ...]:
    labels = msgspec.json.encode(record.labels).decode()
    head = (record.id, record.tenant, record.name, record.image, labels, record.spec, record.engine)
    return (*head, record.created_ns, record.updated_ns)


def _record(row: Sequence[Any]) -> ContainerRecord:
    labels: Mapping[str, str] = msgspec.json.decode(row[4])
    return ContainerRecord(
        id=row[0],
        tenant=row[1],
        name=row[2],
        image=row[3],
        labels=dict(labels),
        spec=row[5],
        engine=row[6],
        created_ns=row[7],
        updated_ns=row[8],
    )


def _no_such(ref: str) -> NotFound:
    return NotFound(f"No such container: {ref}")
