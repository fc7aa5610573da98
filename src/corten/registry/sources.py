"""Where blobs are known to be: repositories that a blob was pulled from or pushed to.

A push asks a registry to take a blob over from there instead of sending it again (distribution-spec, "Mounting a blob
from another repository").  It is a hint: the registry may have lost the blob, and then says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.metadata import Database
from corten.errors import CortenError
from corten.spec.reference import Reference

CANDIDATES_MAX = 4
"""Repositories that a registry is asked about for one blob (dockerd's maxRepositoryMountAttempts)."""

SCHEMA = (
    (
        """CREATE TABLE blob_sources (
            digest TEXT NOT NULL,
            domain TEXT NOT NULL,
            path TEXT NOT NULL,
            seen_ns INTEGER NOT NULL,
            PRIMARY KEY (digest, domain, path)
        ) STRICT, WITHOUT ROWID""",
    ),
)


class BlobSources:
    """The table.  Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("registry", SCHEMA)

    def add(self, name: Reference, digests: Iterable[str]) -> None:
        """Notes that the repository of `name` has these blobs now."""
        now_ns = time.time_ns()
        with self._database.transaction() as tx:
            tx.executemany(
                "INSERT OR REPLACE INTO blob_sources VALUES (?, ?, ?, ?)",
                [(digest, name.domain, name.path, now_ns) for digest in digests],
            )

    def note(self, name: Reference, images: ImageStore) -> None:
        """Notes that the repository of `name`, which was pulled from, has the layers of its images here."""
        for image in images.list():
            if any(one.is_canonical and one.name == name.name for one in image.references):
                with suppress(CortenError):  # a damaged manifest
                    self.add(name, images.layer_blobs(image))

    def repositories(self, digest: str, name: Reference) -> Sequence[str]:
        """Paths of other repositories of the registry of `name` that had the blob, the latest first."""
        rows = self._database.query(
            "SELECT path FROM blob_sources WHERE digest = ? AND domain = ? AND path != ? ORDER BY seen_ns DESC LIMIT ?",
            (digest, name.domain, name.path, CANDIDATES_MAX),
        )
        return [str(row[0]) for row in rows]

    def forget(self, digest: str, name: Reference, path: str) -> None:
        """The repository at `path` of the registry of `name` has the blob no more."""
        with self._database.transaction() as tx:
            where = (digest, name.domain, path)
            tx.execute("DELETE FROM blob_sources WHERE digest = ? AND domain = ? AND path = ?", where)

    def sweep(self, content: ContentStore) -> None:
        """Forgets blobs that are not here any more: they cannot be pushed."""
        known = [row[0] for row in self._database.query("SELECT DISTINCT digest FROM blob_sources")]
        gone = [(digest,) for digest in known if not content.has(digest)]
        with self._database.transaction() as tx:
            tx.executemany("DELETE FROM blob_sources WHERE digest = ?", gone)
