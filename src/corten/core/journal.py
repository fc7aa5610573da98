"""What exists outside the database: written down before it is made, struck out after it is gone.

    entry = journal.begin("link", "ctab12…", netns=4026…)
    make_link()
    …
    remove_link()
    journal.done(entry)

Crash-only (design.md §5): after a crash every entry is something that may exist, and recovery looks.  The journal is a
helper, not the truth: recovery scans kernel and disk for the engine's id as well.  An entry costs one transaction
without fsync; `begin_all` writes several in one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from corten.core.metadata import Database
from corten.errors import Unavailable

log = logging.getLogger("corten.core")

SNAPSHOT_DIR = "snapshot-dir"
STAGING_DIR = "staging-dir"
CONTAINER_DIR = "container-dir"
VOLUME_DIR = "volume-dir"
TASK_DIR = "task-dir"
CONTENT_INGEST = "content-ingest"
CGROUP = "cgroup"
NETNS = "netns"
LINK = "link"
ADDRESS = "address"
NFT_ELEMENT = "nft-element"
NFT_RULE = "nft-rule"

DISK_KINDS = frozenset({SNAPSHOT_DIR, STAGING_DIR, CONTAINER_DIR, VOLUME_DIR, CONTENT_INGEST})
"""Kinds that outlive the machine; all others are gone after a reboot."""


class JournalEntry(msgspec.Struct, frozen=True):
    """One object that may exist."""

    id: int
    kind: str
    name: str
    data: dict[str, Any]
    created_ns: int


class Journal:
    """The entries, in the order in which they were begun.  Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._owed: set[int] = set()  # struck out as soon as the database can be written again

    def begin(self, kind: str, name: str, **data: Any) -> int:
        """Writes down an object that is about to be made; the entry's id, for `done`."""
        return self.begin_all([(kind, name, data)])[0]

    def begin_all(self, objects: Iterable[tuple[str, str, Mapping[str, Any]]]) -> list[int]:
        """Writes down several objects in one transaction."""
        now = time.time_ns()
        ids = []
        with self._database.transaction() as tx:
            for kind, name, data in objects:
                cursor = tx.execute(
                    "INSERT INTO journal (kind, name, data, created_ns) VALUES (?, ?, ?, ?)",
                    (kind, name, msgspec.json.encode(data).decode(), now),
                )
                ids.append(int(cursor.lastrowid or 0))
        return ids

    def done(self, *ids: int) -> None:
        """Strikes out objects that are gone (or were never made); unknown ids are fine.

        On a full disk they stay for now, which does no harm, and go with the next ones.  Inside a transaction this is a
        part of it, and raises Unavailable: after an error SQLite may have rolled back all of it.
        """
        if self._database.is_in_transaction:
            self._strike_out(ids)
            return
        with self._lock:
            self._owed.update(ids)
            owed = list(self._owed)
        try:
            self._strike_out(owed)
        except Unavailable as error:
            log.warning("%d entries of the journal are struck out later: %s", len(owed), error)
            return
        with self._lock:
            self._owed.difference_update(owed)

    def _strike_out(self, ids: Iterable[int]) -> None:
        with self._database.transaction() as tx:
            tx.executemany("DELETE FROM journal WHERE id = ?", [(entry_id,) for entry_id in ids])

    def done_by_name(self, kind: str, name: str) -> None:
        """Strikes out every entry of an object."""
        rows = self._database.query("SELECT id FROM journal WHERE kind = ? AND name = ?", (kind, name))
        self.done(*(row[0] for row in rows))

    def entries(self, kind: str = "") -> list[JournalEntry]:
        """What may exist, oldest first; of one kind or of all."""
        rows = self._database.query(
            "SELECT id, kind, name, data, created_ns FROM journal WHERE ? IN ('', kind) ORDER BY id", (kind,)
        )
        return [JournalEntry(row[0], row[1], row[2], msgspec.json.decode(row[3]), row[4]) for row in rows]
