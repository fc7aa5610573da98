"""The engine's database: SQLite in WAL mode, one connection, one writer at a time.

Commits do not wait for the disk (synchronous=NORMAL): after a crash of cortend everything that was committed is there,
after a crash of the machine the last moments may be missing, never a part of a transaction.  What must survive the
machine ends in `durable`, one fsync of the log for everything committed so far (design.md §5: records of kernel objects
need none, records of disk objects one per request).  On a full disk it goes on in room of its own (`dbroom`).

    component   tables
    core        meta, images, tags, snapshots, containers, leases, lease_items, journal
    others      what they pass to `migrate`
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from corten.core.dbroom import Index, Room, is_no_room
from corten.errors import FailedPrecondition, Unavailable

Found = TypeVar("Found")

_BUSY_S = 5  # that a transaction waits for somebody else's

# Each step takes the schema from version n to n + 1.  Steps are never edited, only added.
CORE_SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE images (
            id TEXT PRIMARY KEY,                -- digest of the configuration
            manifest TEXT NOT NULL,             -- digest
            media_type TEXT NOT NULL,           -- of the manifest
            manifest_size INTEGER NOT NULL,
            chain TEXT NOT NULL,                -- chain id of the top layer; '' without layers
            size INTEGER NOT NULL,              -- bytes of all layers, unpacked
            parent TEXT NOT NULL DEFAULT '',    -- image id
            added_ns INTEGER NOT NULL,
            tagged_ns INTEGER NOT NULL DEFAULT 0,
            used_ns INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
        """CREATE TABLE tags (
            reference TEXT PRIMARY KEY,         -- normalized, with a tag or a digest
            image TEXT NOT NULL REFERENCES images(id)
        ) STRICT""",
        "CREATE INDEX tags_image ON tags(image)",
        """CREATE TABLE snapshots (
            id INTEGER PRIMARY KEY AUTOINCREMENT,  -- names the directory, never used twice
            key TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,                    -- active, view, committed
            parent INTEGER REFERENCES snapshots(id),
            labels TEXT NOT NULL DEFAULT '{}',
            size INTEGER NOT NULL DEFAULT 0,
            inodes INTEGER NOT NULL DEFAULT 0,
            created_ns INTEGER NOT NULL,
            updated_ns INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX snapshots_parent ON snapshots(parent)",
        """CREATE TABLE containers (
            id TEXT NOT NULL,
            tenant TEXT NOT NULL,
            name TEXT NOT NULL,
            image TEXT NOT NULL,
            labels TEXT NOT NULL,
            spec BLOB NOT NULL,
            engine BLOB NOT NULL,
            created_ns INTEGER NOT NULL,
            updated_ns INTEGER NOT NULL,
            PRIMARY KEY (tenant, id)
        ) STRICT""",
        "CREATE UNIQUE INDEX containers_name ON containers(tenant, name) WHERE name != ''",
        """CREATE TABLE leases (
            id TEXT PRIMARY KEY,
            labels TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            expires_ns INTEGER NOT NULL         -- 0: never
        ) STRICT""",
        """CREATE TABLE lease_items (
            lease TEXT NOT NULL REFERENCES leases(id) ON DELETE CASCADE,
            kind TEXT NOT NULL,                 -- content, snapshot
            item TEXT NOT NULL,
            PRIMARY KEY (lease, kind, item)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE journal (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            data TEXT NOT NULL,
            created_ns INTEGER NOT NULL
        ) STRICT""",
    ),
    (
        # digest of the manifest or index that the name stands for; '': the manifest of its image
        "ALTER TABLE tags ADD COLUMN target TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tags ADD COLUMN target_type TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tags ADD COLUMN target_size INTEGER NOT NULL DEFAULT 0",
    ),
    (
        # 1: the manifest was made here and nobody else brought it; images of before may have been pushed as they are
        "ALTER TABLE images ADD COLUMN composed INTEGER NOT NULL DEFAULT 0",
    ),
)


class Database:
    """The connection.  Any thread may use it; calls wait for each other."""

    def __init__(self, path: str) -> None:
        """Opens or makes the database at `path`.

        Raises:
            FailedPrecondition: a newer Corten wrote it.
            Unavailable: the disk is full, and the database has no room of its own yet.
            sqlite3.Error: it is damaged or another program holds it.
        """
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        index = self._find_room(lambda: Index(path))
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._connection.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
        self._room = Room(path, self._connection, index)
        self._room.top_up()
        self.migrate("core", CORE_SCHEMA)

    def close(self) -> None:
        """Ends the connection; the log is written back, and stays."""
        with self._lock:
            with suppress(sqlite3.DatabaseError):
                self._connection.execute("PRAGMA wal_checkpoint")
            self._connection.close()
            self._room.close()

    def migrate(self, component: str, steps: Sequence[Sequence[str]]) -> None:
        """Brings the tables of `component` to version `len(steps)`, each step in a transaction.

        Raises FailedPrecondition when they are newer than that.
        """
        version = int(self.meta(f"schema:{component}") or 0)
        if version > len(steps):
            text = f"{self.path} has {component} schema {version}, this release knows {len(steps)}"
            raise FailedPrecondition(text)
        for number, statements in enumerate(steps[version:], version + 1):
            with self.transaction() as tx:
                for statement in statements:
                    tx.execute(statement)
                self.set_meta(f"schema:{component}", str(number))

    def meta(self, key: str) -> str:
        """A word kept beside the tables, or ''."""
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else ""

    def set_meta(self, key: str, value: str) -> None:
        """Keeps a word."""
        with self.transaction() as tx:
            tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one SELECT.  Raises Unavailable."""
        with self._lock, self._in_words():
            return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other thread's transaction comes before the end of this."""
        with self._lock:
            yield

    def probe(self) -> None:
        """Whether somebody else holds the database, which raises Unavailable at once: nobody waits for him.

        Not by a connection of its own: SQLite keeps the descriptor of one that is closed for as long as another has
        locks (os_unix.c, "pending close").
        """
        with self._lock, self._in_words():
            self._connection.execute("PRAGMA busy_timeout=0")
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute("ROLLBACK")
            finally:
                self._connection.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000}")

    @property
    def is_in_transaction(self) -> bool:
        """Whether the caller is inside a transaction: its next one would be a part of that."""
        with self._lock:
            return self._depth > 0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Statements that happen all or not at all.  Inside another one it is a part of it that can fail alone.

        Raises Unavailable when the disk is full, damaged or cannot be written, or somebody else holds the database.
        """
        with self._lock, self._in_words():
            name = f"level{self._depth}"
            nested = self._depth > 0
            if nested:
                self._check_open()
            self._connection.execute(f"SAVEPOINT {name}" if nested else "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
                self._check_open()
                if not nested:
                    self._find_room(self._room.before_commit)
                self._connection.execute(f"RELEASE {name}" if nested else "COMMIT")
            except BaseException as error:
                self._roll_back(name if nested else "")
                if not nested and isinstance(error, (sqlite3.DatabaseError, Unavailable)):
                    self._room.refused()
                raise
            finally:
                self._depth -= 1
            if not nested:
                self._room.committed()

    def _find_room(self, find: Callable[[], Found]) -> Found:
        """Raises Unavailable, in SQLite's words, where there is none."""
        try:
            return find()
        except OSError as error:
            if is_no_room(error):
                raise Unavailable(f"{os.path.basename(self.path)}: database or disk is full") from error
            raise Unavailable(f"{os.path.basename(self.path)}: {error}") from error

    def _check_open(self) -> None:
        """Somebody took an error for one that cost nothing else: what follows it must not be committed alone."""
        if not self._connection.in_transaction:
            raise Unavailable(f"{os.path.basename(self.path)}: an error rolled back the whole transaction")

    def _roll_back(self, savepoint: str) -> None:
        """SQLite has done it itself, all of it, when it had no room to go on (lang_transaction.html, 3.2)."""
        if not self._connection.in_transaction:
            return
        self._connection.execute(f"ROLLBACK TO {savepoint}" if savepoint else "ROLLBACK")
        if savepoint:
            self._connection.execute(f"RELEASE {savepoint}")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """SQLite's errors of the host: all but rows that contradict each other, and mistakes in the statements."""
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) == sqlite3.SQLITE_ERROR:
                raise
            raise Unavailable(f"{os.path.basename(self.path)}: {error}") from error

    @contextmanager
    def durable(self) -> Iterator[sqlite3.Connection]:
        """A transaction after which everything committed so far is on the disk; inside another one that one's part."""
        with self.transaction() as tx:
            is_part = self._depth > 1  # the lock is held: nobody else's depth
            yield tx
        if not is_part:
            self.sync()

    def sync(self) -> None:
        """What was committed reaches the disk: one fsync, concurrent callers each wait for their own."""
        os.fsync(self._room.log_fd)
