"""Directories with a size: each a project of the file system's quota (XFS with pquota, ext4 with prjquota).

    assign(owner, path, size)   row, limit, then the directory's project: what is made in it counts
    end(owner)                  no limit any more, the row gone; the number is free when the last file is

A number is the engine's: 17 bits are of its id, so that two engines on one file system never give the same, and no
number is taken that the file system knows a limit or a file of.  The row is written before the limit, so a limit
without a row is a leftover, which `repair` takes away; as it does those of the engine's numbers that no row names and
nothing counts for (the database is an older copy).  dockerd counts up from the directory's own project in memory
(moby quota/projectquota.go).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Mapping
from typing import Final, Protocol

from corten.core.metadata import Database
from corten.sys import projectquota
from corten.sys.projectquota import Project

log = logging.getLogger("corten.core")

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MARK: Final = 1 << 30
ENGINE_BITS, COUNT_BITS = 17, 13

SCHEMA: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE projects (
            place TEXT NOT NULL,                -- the directory below the data root: snapshots, volumes
            owner TEXT NOT NULL,                -- the name of a directory in it
            id INTEGER NOT NULL UNIQUE,
            PRIMARY KEY (place, owner)
        ) STRICT""",
    ),
)


class Kernel(Protocol):
    """`corten.sys.projectquota`, or what a test has in its place."""

    def is_enforced(self, fd: int) -> bool: ...
    def project_of(self, fd: int) -> int: ...
    def set_project(self, fd: int, project: int) -> None: ...
    def look(self, fd: int, project: int) -> Project: ...
    def next_project(self, fd: int, project: int) -> Project | None: ...
    def set_limit(self, fd: int, project: int, limit: int) -> None: ...


class Projects:
    """Those of the directories in `path`, which is a part of an engine's data root.  Thread-safe."""

    def __init__(self, path: str, database: Database, engine_id: str, kernel: Kernel = projectquota) -> None:
        self._path = path
        self._place = os.path.basename(path)
        self._database = database
        self._kernel = kernel
        self._lock = threading.Lock()
        self._first = MARK | (int(engine_id, 16) & (1 << ENGINE_BITS) - 1) << COUNT_BITS
        fd = os.open(path, _DIRECTORY)
        try:
            self.is_supported = kernel.is_enforced(fd)
        finally:
            os.close(fd)
        database.migrate("projects", SCHEMA)

    def assign(self, owner: str, size: int) -> None:
        """Gives the directory `owner`, which is there and empty, a size in bytes.

        Raises OSError; what was done by then is undone by `end`.
        """
        fd = os.open(os.path.join(self._path, owner), _DIRECTORY)
        try:
            with self._lock:
                number = self._reserve(fd, owner)
            self._kernel.set_limit(fd, number, size)
            self._kernel.set_project(fd, number)
        finally:
            os.close(fd)

    def _reserve(self, fd: int, owner: str) -> int:
        """A number that nobody has, written down.  Raises OSError (ENOSPC) when there is none."""
        taken = {row[0] for row in self._database.query("SELECT id FROM projects")}
        for number in range(self._first + 1, self._first + (1 << COUNT_BITS)):
            if number not in taken and self._kernel.look(fd, number).is_free:
                self._record(owner, number)
                return number
        raise OSError(errno.ENOSPC, "no project id is free", os.path.join(self._path, owner))

    def _record(self, owner: str, number: int) -> None:
        with self._database.transaction() as tx:
            tx.execute("INSERT OR REPLACE INTO projects VALUES (?, ?, ?)", (self._place, owner, number))

    def end(self, owner: str) -> None:
        """Takes the limit of a directory, which may be gone, away; one without is fine.  Raises nothing of the disk."""
        if not self.is_supported:
            return
        number = self._rows().get(owner)
        if number is not None:
            self._end(owner, number)

    def end_all(self) -> None:
        """Takes every limit away: the engine goes."""
        if self.is_supported:
            for owner, number in self._rows().items():
                self._end(owner, number)

    def _end(self, owner: str, number: int) -> None:
        """What the file system does not take back keeps its row, for the next start."""
        try:
            self._unlimit(number)
        except OSError as error:
            log.warning("the limit of project %d (%s/%s) stays: %s", number, self._place, owner, error)
            return
        with self._database.transaction() as tx:
            tx.execute("DELETE FROM projects WHERE place = ? AND owner = ?", (self._place, owner))

    def _unlimit(self, number: int) -> None:
        fd = os.open(self._path, _DIRECTORY)
        try:
            self._kernel.set_limit(fd, number, 0)
        finally:
            os.close(fd)

    def _rows(self) -> dict[str, int]:
        return dict(self._database.query("SELECT owner, id FROM projects WHERE place = ?", (self._place,)))

    # After a crash

    def repair(self, wanted: Mapping[str, int]) -> list[str]:
        """Makes rows, limits and directories agree; a sentence for what did not.

        wanted: the directories that have a size, each with it.
        """
        if not self.is_supported:
            return [f"{self._place}/{name}: its size is not enforced: no project quotas here" for name in wanted]
        said = []
        rows = self._rows()
        for owner in sorted(rows.keys() - wanted.keys()):
            said.append(f"project {rows[owner]} of {self._place}/{owner}: no record: its limit is removed")
            self._end(owner, rows[owner])
        for owner, size in wanted.items():
            try:
                said += self._restore(owner, size, rows)
            except OSError as error:
                said.append(f"{self._place}/{owner}: its size is not enforced: {error}")
        return said + self._drop_unknown()

    def _restore(self, owner: str, size: int, rows: Mapping[str, int]) -> list[str]:
        """One whose row is lost gets the project that the directory has.

        A copy has none, nor do its files: what is made in directories that are there would not count for a new one
        (the parent alone hands it down), and none of the files could be renamed in directories of another project.
        """
        fd = os.open(os.path.join(self._path, owner), _DIRECTORY)
        try:
            number = self._kernel.project_of(fd)
            if rows.get(owner) != number or not self._is_ours(number):
                others = self._database.query(
                    "SELECT id FROM projects WHERE (place, owner) != (?, ?)", (self._place, owner)
                )
                if not self._is_ours(number) or (number,) in others:
                    self.end(owner)
                    return [f"{self._place}/{owner}: its size is not enforced: its files have lost their project"]
                self._record(owner, number)
            if self._kernel.look(fd, number).limit != size // 512 * 512:
                self._kernel.set_limit(fd, number, size)
        finally:
            os.close(fd)
        return []

    def _is_ours(self, number: int) -> bool:
        return self._first < number < self._first + (1 << COUNT_BITS)

    def _drop_unknown(self) -> list[str]:
        """Limits of our numbers that no row names and nothing counts for."""
        said = []
        known = {row[0] for row in self._database.query("SELECT id FROM projects")}
        fd = os.open(self._path, _DIRECTORY)
        try:
            found = self._kernel.next_project(fd, self._first + 1)
            while found is not None and self._is_ours(found.id):
                if found.limit and not found.used and not found.inodes and found.id not in known:
                    said.append(f"project {found.id}: no record: its limit is removed")
                    self._kernel.set_limit(fd, found.id, 0)
                found = self._kernel.next_project(fd, found.id + 1)
        except OSError as error:
            said.append(f"projects of {self._place} cannot be listed: {error}")
        finally:
            os.close(fd)
        return said
