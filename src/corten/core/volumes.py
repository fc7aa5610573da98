"""Volumes on disk: one row and one directory each.

    volumes/<name>/_data    what containers see; Docker's path and modes (0701 above, 0755)
    volumes/<name>/.new     what is copied up from an image, until it takes the place of the empty `_data`

The directory is announced in the journal, made, and then recorded; a removal deletes the row and announces what it
will throw away.  So after a crash an announced directory without a row is a leftover.  What is made for a container
stays announced until that is recorded (`settle`), and is a leftover as well when it never was.  A directory that
nobody announced and no row names is somebody's data all the same (the database was lost, or an older copy of it is
back): it becomes a volume again.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from corten.core.dataroot import sync_directory
from corten.core.journal import VOLUME_DIR, Journal
from corten.core.metadata import Database
from corten.core.projects import Projects
from corten.core.trash import Trash
from corten.errors import InvalidArgument
from corten.spec.units import parse_size

log = logging.getLogger("corten.core")

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
DATA: Final = "_data"
STAGED: Final = ".new"
DIRECTORY_MODE: Final = 0o701
DATA_MODE: Final = 0o755

SCHEMA: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE volumes (
            name TEXT PRIMARY KEY,
            labels TEXT NOT NULL,
            options TEXT NOT NULL,              -- of the local driver: type, device, o, size
            created_ns INTEGER NOT NULL
        ) STRICT""",
    ),
)
_COLUMNS: Final = "name, labels, options, created_ns"

Forgotten = list[tuple[str, int]]
"""Names of volumes whose records are gone, each with what `take` wants."""


def is_name(name: str) -> bool:
    """Whether a volume may be called that: one component of a path, never hidden."""
    return _NAME.fullmatch(name) is not None


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One row.  `options` are the driver's; `labels` is None when none were given, as Docker prints it."""

    name: str
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    created_ns: int = 0


class VolumeStore:
    """The volumes below `path`.  Thread-safe."""

    def __init__(
        self,
        path: str,
        database: Database,
        journal: Journal,
        trash: Trash,
        *,
        owner: tuple[int, int] | None = None,
        projects: Projects | None = None,
    ) -> None:
        """`owner`: uid and gid that the data of a new volume gets: the root of containers whose users are mapped.

        `projects` are those of `path`; without them no volume can have a size.
        """
        self.path = path
        self.projects = projects
        self._owner = owner
        self._database = database
        self._journal = journal
        self._trash = trash
        database.migrate("volumes", SCHEMA)

    def directory(self, name: str) -> str:
        """Of one volume."""
        return os.path.join(self.path, name)

    def mountpoint(self, name: str) -> str:
        """What is bound into containers."""
        return os.path.join(self.path, name, DATA)

    def all(self) -> list[Volume]:
        """All, by name."""
        return [_volume(row) for row in self._database.query(f"SELECT {_COLUMNS} FROM volumes ORDER BY name")]

    def get(self, name: str) -> Volume | None:
        """By its name."""
        rows = self._database.query(f"SELECT {_COLUMNS} FROM volumes WHERE name = ?", (name,))
        return _volume(rows[0]) if rows else None

    def create(
        self, name: str, *, labels: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
    ) -> Volume:
        """A new one; the name is free.  Raises InvalidArgument for none, Unavailable, OSError."""
        volume = Volume(
            name=name,
            labels=None if labels is None else dict(labels),
            options=None if options is None else dict(options),
        )
        return self.create_all([volume])[0]

    def create_all(self, wanted: Sequence[Volume], owner: str = "") -> list[Volume]:
        """Several new ones in two transactions, however many they are: all of them, or none.

        owner: the container that they are made for; then `settle` is to follow.  The names are free and each stands
        once.  Raises what `create` does; an OSError has the path.
        """
        for one in wanted:
            if not is_name(one.name):
                raise InvalidArgument(f"{one.name!r} is no name of a volume")
        if not wanted:
            return []
        now = time.time_ns()
        volumes = [msgspec.structs.replace(one, created_ns=now) for one in wanted]
        entries = self._journal.begin_all(
            [(VOLUME_DIR, one.name, {"owner": owner} if owner else {}) for one in volumes]
        )
        begun = list(zip(volumes, entries, strict=True))
        try:
            for volume in volumes:
                self._make(volume)
            with self._database.transaction():
                for volume in volumes:
                    self._insert(volume)
                if not owner:
                    self._journal.done(*entries)
        except BaseException:
            self._unmake(begun)
            raise
        return volumes

    def settle(self, names: Iterable[str]) -> None:
        """Their container is recorded, in the transaction that this stands in, or will never be."""
        for name in names:
            self._journal.done_by_name(VOLUME_DIR, name)

    def _unmake(self, begun: Sequence[tuple[Volume, int]]) -> None:
        """What cannot be taken away stays announced, and goes with the next start."""
        for volume, entry in begun:
            with suppress(OSError):
                self._trash.throw(self.path, volume.name)
                self._end_size(volume.name)
                self._journal.done(entry)

    def _insert(self, volume: Volume) -> None:
        with self._database.transaction() as tx:
            tx.execute(f"INSERT INTO volumes ({_COLUMNS}) VALUES (?, ?, ?, ?)", _row(volume))

    def _make(self, volume: Volume) -> None:
        """Modes in spite of the umask; what is there already stays as it is."""
        self._make_directory(self.directory(volume.name), DIRECTORY_MODE)
        if (size := size_of(volume.options)) and self.projects is not None and self.projects.is_supported:
            self.projects.assign(volume.name, size)  # the data, and what is copied up beside them, inherit it
        self._make_directory(self.mountpoint(volume.name), DATA_MODE)

    def _make_directory(self, path: str, mode: int) -> None:
        with suppress(FileExistsError):
            os.mkdir(path, mode)
            if self._owner is not None and mode == DATA_MODE:
                os.chown(path, *self._owner)
            os.chmod(path, mode)

    @property
    def can_limit(self) -> bool:
        """Whether volumes may have a size."""
        return self.projects is not None and self.projects.is_supported

    def _end_size(self, name: str) -> None:
        if self.projects is not None:
            self.projects.end(name)

    def remove(self, name: str) -> str:
        """Forgets a volume and takes its directory away: its name is free; what to give to `discard`.

        Raises Unavailable when the database cannot be written: nothing has changed then.  Until the next sync the end
        of the machine may bring it back, empty.
        """
        return self.take(name, self.forget(name))

    def forget(self, name: str) -> int:
        """The record's part of `remove`, which may stand in a transaction with more; what to give to `take` then.

        A start of the engine takes away what nobody has taken.  Raises Unavailable.
        """
        with self._database.transaction() as tx:
            entry = self._journal.begin(VOLUME_DIR, name)
            tx.execute("DELETE FROM volumes WHERE name = ?", (name,))
        return entry

    def take(self, name: str, entry: int) -> str:
        """The disk's part of `remove`; what to give to `discard`."""
        taken = self._trash.take(self.path, name)
        self._end_size(name)
        self._journal.done(entry)
        return taken

    def discard(self, taken: str) -> None:
        """Ends what `remove` took away; as long as the disk takes.  An error leaves it to the next start."""
        self._trash.end(taken)

    # What an image puts into a new volume

    def stage(self, name: str) -> str:
        """An empty directory beside the data; what a copy before this one left is gone."""
        self._trash.throw(self.directory(name), STAGED)
        path = os.path.join(self.directory(name), STAGED)
        os.mkdir(path, DATA_MODE)
        return path

    def adopt_staged(self, name: str) -> None:
        """Puts it in the place of the data, which is empty and bound nowhere.  Raises OSError (ENOTEMPTY)."""
        os.rename(os.path.join(self.directory(name), STAGED), self.mountpoint(name))
        sync_directory(self.directory(name))

    def discard_staged(self, name: str) -> None:
        """Of a copy that failed: its room is free again."""
        with suppress(FileNotFoundError):
            self._trash.throw(self.directory(name), STAGED)

    # After a crash

    def repair(self, is_orphan: Callable[[str, str], bool] = lambda owner, name: False) -> list[str]:
        """Rows and directories made to agree; a sentence for each that did not.  No user is there yet.

        is_orphan: whether the container that a volume was made for is not there, and no other has the volume.
        """
        rows = {volume.name for volume in self.all()}
        said = []
        for entry in self._journal.entries(VOLUME_DIR):
            owner = str(entry.data.get("owner", ""))
            if entry.name in rows and owner and is_orphan(owner, entry.name):
                said.append(f"volume {entry.name}: its container was never made: removed")
                rows.discard(entry.name)
                self.remove(entry.name)
            elif entry.name not in rows:
                said.append(f"volume directory {entry.name}: no record: removed")
                self._trash.take(self.path, entry.name)
            self._journal.done(entry.id)
        for name in sorted(os.listdir(self.path)):
            if name in rows:
                self.discard_staged(name)
            elif is_name(name) and self._has_data(name):
                said.append(f"volume directory {name}: nobody announced it: it is a volume again")
                self._insert(Volume(name=name, created_ns=os.stat(self.directory(name)).st_mtime_ns))
        for volume in self.all():
            if not self._has_data(volume.name):
                said.append(f"volume {volume.name}: its directory is gone: it is empty now")
                self._end_size(volume.name)
                self._make(volume)
        sizes = {volume.name: size_of(volume.options) for volume in self.all()}
        limited = {name: size for name, size in sizes.items() if size}
        return said + ([] if self.projects is None else self.projects.repair(limited))

    def _has_data(self, name: str) -> bool:
        """By its entry alone: what is mounted there may be of a server that does not answer."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.directory(name)) as entries:
            return any(one.name == DATA and (one.is_dir(follow_symlinks=False) or one.is_symlink()) for one in entries)
        return False


def size_of(options: Mapping[str, str] | None) -> int:
    """The driver option `size` in bytes; 0 is no limit, as is what an earlier release took and nobody can read."""
    try:
        return parse_size((options or {}).get("size", "0"), 1024)
    except ValueError:
        return 0


def _row(volume: Volume) -> tuple[str, str, str, int]:
    labels, options = (msgspec.json.encode(value).decode() for value in (volume.labels, volume.options))
    return volume.name, labels, options, volume.created_ns


def _volume(row: tuple[str, str, str, int]) -> Volume:
    name, labels, options, created_ns = row
    return Volume(
        name=name,
        labels=msgspec.json.decode(labels, type=dict[str, str] | None),
        options=msgspec.json.decode(options, type=dict[str, str] | None),
        created_ns=created_ns,
    )
