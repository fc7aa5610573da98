"""Overlay snapshots: a layer is unpacked once, a container gets a directory for what it changes.

    prepare(key, parent) -> active      written through its mounts       commit(key, name) -> committed
    view(key, parent)    -> view        read only                        remove(key)       -> gone, unless a parent
    adopt(staged, …)     -> committed   an unpacked layer, under its chain id

    snapshots/<id>/fs    the layer: 0755 root:root as with Docker (the top one is what a container sees as `/`)
    snapshots/<id>/work  overlayfs's own, of an active snapshot
    snapshots/staging/   layers on their way; nothing in it outlives a start of the engine
    snapshots/trash/     directories that are none any more, until they are removed (corten.core.trash)

<id> is the row's number: short, because every layer's path goes into one mount.  The row is written before the
directory is made, so a directory without a row is a leftover, and a row without a directory never was a snapshot.
Life cycle as in containerd's snapshotter; kernel side: overlayfs.rst.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from corten.core import journal as j
from corten.core.journal import Journal
from corten.core.lower import LowerView
from corten.core.metadata import Database
from corten.core.projects import Projects
from corten.core.trash import Trash
from corten.core.trees import Usage, remove_entry, usage
from corten.errors import AlreadyExists, FailedPrecondition, NotFound

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
STAGING = "staging"
TRASH = "trash"
SNAPSHOT_MODE = 0o710
ROOT_MODE = 0o755
WORK_MODE = 0o700
SIZE_LABEL = "corten.size"  # of an active snapshot that may take so many bytes


class Kind(StrEnum):
    """What a snapshot is."""

    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


class Verb(StrEnum):
    """What may be done with one."""

    COMMIT = "commit"
    REMOVE = "remove"
    MOUNT = "mount"
    BE_PARENT = "be the parent of another"


ALLOWED: Mapping[Kind, frozenset[Verb]] = {
    Kind.ACTIVE: frozenset({Verb.COMMIT, Verb.REMOVE, Verb.MOUNT}),
    Kind.VIEW: frozenset({Verb.REMOVE, Verb.MOUNT}),
    Kind.COMMITTED: frozenset({Verb.REMOVE, Verb.BE_PARENT}),
}
"""The state machine: what each kind allows.  `commit` turns ACTIVE into COMMITTED, `remove` ends any."""


class Mount(msgspec.Struct, frozen=True):
    """A mount as containerd's snapshotters describe one: to be made by whoever runs the container."""

    type: str
    source: str
    options: list[str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One row.  `parent` is a key, '' at the bottom."""

    id: int
    key: str
    kind: Kind
    parent: str
    labels: Mapping[str, str]
    size: int
    inodes: int
    created_ns: int
    updated_ns: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A directory in staging: `path`/fs takes a layer."""

    path: str
    entry: int

    @property
    def name(self) -> str:
        """Its name in staging."""
        return os.path.basename(self.path)

    def open(self) -> int:
        """A descriptor of `fs`; the caller closes it."""
        return os.open(os.path.join(self.path, "fs"), _DIRECTORY)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A finished layer for `adopt`."""

    staged: Staged
    key: str
    parent: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A snapshot that is none any more; its directory is there until `Overlay.discard`, or the engine's next start."""

    key: str
    id: int
    entry: int
    """The journal's."""


class Overlay:
    """The snapshots below one directory.  Thread-safe."""

    def __init__(self, root: str, database: Database, journal: Journal, projects: Projects | None = None) -> None:
        """`root` exists.  What an earlier process left in staging is thrown away; `trash` is to be emptied.

        `projects` are those of `root`; without them no snapshot can have a size.
        """
        self.root = os.path.abspath(root)
        self.projects = projects
        self._database = database
        self._journal = journal
        self._staging = os.path.join(self.root, STAGING)
        os.makedirs(self._staging, 0o700, exist_ok=True)
        self.trash = Trash(os.path.join(self.root, TRASH))
        for name in os.listdir(self._staging):
            self.trash.take(self._staging, name)
        for entry in journal.entries(j.STAGING_DIR):
            journal.done(entry.id)

    # -- life cycle

    def prepare(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None, *, size: int = 0
    ) -> list[Mount]:
        """A writable snapshot over the committed `parent` ('' = nothing).

        size: bytes that it may take; 0 is no limit.
        Raises AlreadyExists, NotFound (the parent), FailedPrecondition (the parent is not committed; no project
        quotas for a size), OSError.
        """
        if size and not self.can_limit:
            raise FailedPrecondition(f"snapshot {key} cannot have a size: no project quotas in {self.root}")
        return self._create(Kind.ACTIVE, key, parent, {**(labels or {}), **({SIZE_LABEL: str(size)} if size else {})})

    @property
    def can_limit(self) -> bool:
        """Whether snapshots may have a size."""
        return self.projects is not None and self.projects.is_supported

    def view(self, key: str, parent: str, labels: Mapping[str, str] | None = None) -> list[Mount]:
        """A read-only snapshot; raises as `prepare`."""
        return self._create(Kind.VIEW, key, parent, labels or {})

    def commit(self, key: str, name: str, labels: Mapping[str, str] | None = None) -> None:
        """The active `key` becomes the committed `name`, never to be written again.

        Raises NotFound, AlreadyExists, FailedPrecondition.
        """
        snapshot = self._require(key, Verb.COMMIT)
        used = self.usage(key)
        self._remove_work(snapshot.id)
        with self._taken(name), self._database.durable() as tx:
            tx.execute(
                "UPDATE snapshots SET key = ?, kind = ?, labels = ?, size = ?, inodes = ?, updated_ns = ? WHERE id = ?",
                (
                    *(name, Kind.COMMITTED, _labels(labels if labels is not None else _unlimited(snapshot.labels))),
                    *(used.size, used.inodes, time.time_ns(), snapshot.id),
                ),
            )
        if self.projects is not None:
            self.projects.end(str(snapshot.id))

    def remove(self, key: str) -> None:
        """Ends a snapshot and removes its directory.  Raises NotFound; FailedPrecondition when it is a parent."""
        self.discard(self.forget(key))

    def forget(self, key: str) -> Forgotten:
        """Ends a snapshot; its directory, which may take seconds to go, is left to `discard`.  Raises as `remove`."""
        snapshot = self._require(key, Verb.REMOVE)
        with self._database.transaction() as tx:
            if tx.execute("SELECT 1 FROM snapshots WHERE parent = ?", (snapshot.id,)).fetchone():
                raise FailedPrecondition(f"snapshot {key} is the parent of another")
            entry = self._journal.begin(j.SNAPSHOT_DIR, str(snapshot.id))
            tx.execute("DELETE FROM snapshots WHERE id = ?", (snapshot.id,))
        return Forgotten(key, snapshot.id, entry)

    def discard(self, forgotten: Forgotten) -> None:
        """Removes the directory; no lock is needed: nobody else has its number.

        A process that ends meanwhile leaves it in the trash.
        """
        self.remove_directory(forgotten.id)
        self._journal.done(forgotten.entry)

    def remove_directory(self, snapshot_id: int) -> None:
        """Removes the directory of a snapshot that has no row (any more); absent is fine."""
        self.trash.throw(self.root, str(snapshot_id))
        if self.projects is not None:
            self.projects.end(str(snapshot_id))

    def repair_sizes(self) -> list[str]:
        """Makes the projects of snapshots with a size agree with the rows; sentences as `Projects.repair`."""
        wanted = {str(one.id): int(one.labels[SIZE_LABEL]) for one in self.all() if SIZE_LABEL in one.labels}
        return [] if self.projects is None else self.projects.repair(wanted)

    # -- layers on their way

    @contextmanager
    def stage(self) -> Iterator[Staged]:
        """A new empty directory for a layer, gone again at the end unless `adopt` took it."""
        name = secrets.token_hex(8)
        path = os.path.join(self._staging, name)
        entry = self._journal.begin(j.STAGING_DIR, name)
        try:
            os.mkdir(path, SNAPSHOT_MODE)
            _make_directory(os.path.join(path, "fs"), ROOT_MODE)
            yield Staged(path, entry)
        finally:
            self.trash.throw(self._staging, name)
            self._journal.done(entry)

    def adopt(self, adoptions: Sequence[Adoption]) -> None:
        """Staged layers become committed snapshots, all in one transaction, parents first.

        One that exists already keeps what it has.  The caller has synced the files and syncs the database.
        Raises NotFound for an unknown parent.
        """
        with self._database.held(), ExitStack() as undo:  # a commit that fails gives the numbers to the next adoption
            with self._database.transaction():
                for adoption in adoptions:
                    try:
                        with self._database.transaction():
                            number = self._insert(Kind.COMMITTED, adoption.key, adoption.parent, {}, adoption.usage)
                    except AlreadyExists:
                        continue
                    path = self._path(number)
                    os.rename(adoption.staged.path, path)
                    undo.callback(os.rename, path, adoption.staged.path)
            undo.pop_all()

    def put_back(self, staged: Staged, key: str) -> None:
        """Gives a snapshot whose directory was lost the staged one.  Raises NotFound, AlreadyExists."""
        path = self._path(self.stat(key).id)
        if os.path.exists(path):
            raise AlreadyExists(f"snapshot {key} has a directory")
        os.rename(staged.path, path)

    @contextmanager
    def below(self, key: str, staged: Sequence[Staged] = ()) -> Iterator[LowerView]:
        """What a layer over `staged` (bottom first) over the committed `key` ('' = nothing) finds below it."""
        with ExitStack() as stack:
            fds = []
            paths = [os.path.join(layer.path, "fs") for layer in reversed(staged)]
            for path in paths + ([self.fs_path(one.id) for one in self._ancestry(key)] if key else []):
                fds.append(os.open(path, _DIRECTORY))
                stack.callback(os.close, fds[-1])
            yield LowerView(fds)

    @contextmanager
    def layers(self, key: str) -> Iterator[list[int]]:
        """Descriptors of the directories of a snapshot and of what it stands on, topmost first.  Raises NotFound.

        Whoever reads an active one asks afterwards whether it is still there: its files go when it goes.
        """
        with ExitStack() as stack:
            fds = []
            for one in self._ancestry(key):
                fds.append(os.open(self.fs_path(one.id), _DIRECTORY))
                stack.callback(os.close, fds[-1])
            yield fds

    # -- questions

    def stat(self, key: str) -> Snapshot:
        """The snapshot; raises NotFound."""
        rows = self._select("s.key = ?", (key,))
        if not rows:
            raise NotFound(f"snapshot {key} does not exist")
        return rows[0]

    def exists(self, key: str) -> bool:
        """Whether there is a snapshot of this key."""
        return bool(self._select("s.key = ?", (key,)))

    def all(self) -> list[Snapshot]:
        """Every snapshot, oldest first."""
        return self._select("1", ())

    def children(self, key: str) -> list[Snapshot]:
        """The snapshots whose parent `key` is."""
        return self._select("p.key = ?", (key,))

    def mounts(self, key: str) -> list[Mount]:
        """How to mount an active snapshot or a view.  Raises NotFound, FailedPrecondition."""
        return self._mounts(self._require(key, Verb.MOUNT))

    def usage(self, key: str) -> Usage:
        """Space that the snapshot itself takes: measured now while it is active, as recorded afterwards."""
        snapshot = self.stat(key)
        if snapshot.kind is not Kind.ACTIVE:
            return Usage(snapshot.size, snapshot.inodes)
        fd = os.open(self.fs_path(snapshot.id), _DIRECTORY)
        try:
            return usage(fd)
        finally:
            os.close(fd)

    def fs_path(self, snapshot_id: int) -> str:
        """The directory of a snapshot's files."""
        return os.path.join(self._path(snapshot_id), "fs")

    def directories(self) -> list[str]:
        """What is on disk, by name, whoever made it."""
        return sorted(name for name in os.listdir(self.root) if name not in (STAGING, TRASH))

    def staged_directories(self) -> list[str]:
        """What is in staging."""
        return sorted(os.listdir(self._staging))

    # -- inside

    def _create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        with self._database.transaction():
            number = self._insert(kind, key, parent, labels, Usage(0, 0))
        path = self._path(number)
        try:
            os.mkdir(path, SNAPSHOT_MODE)
            if SIZE_LABEL in labels and self.projects is not None:
                self.projects.assign(str(number), int(labels[SIZE_LABEL]))  # fs and work inherit it
            _make_directory(os.path.join(path, "fs"), ROOT_MODE)
            if kind is Kind.ACTIVE:
                _make_directory(os.path.join(path, "work"), WORK_MODE)
        except OSError:
            with self._database.transaction() as tx:
                tx.execute("DELETE FROM snapshots WHERE id = ?", (number,))
            self.remove_directory(number)
            raise
        return self.mounts(key)

    def _insert(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], used: Usage) -> int:
        parent_id = self._require(parent, Verb.BE_PARENT).id if parent else None
        now = time.time_ns()
        with self._taken(key), self._database.transaction() as tx:
            cursor = tx.execute(
                "INSERT INTO snapshots (key, kind, parent, labels, size, inodes, created_ns, updated_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, kind, parent_id, _labels(labels), used.size, used.inodes, now, now),
            )
            return int(cursor.lastrowid or 0)

    @contextmanager
    def _taken(self, key: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"snapshot {key} already exists") from None

    def _require(self, key: str, verb: Verb) -> Snapshot:
        snapshot = self.stat(key)
        if verb not in ALLOWED[snapshot.kind]:
            raise FailedPrecondition(f"snapshot {key} is {snapshot.kind}: it cannot {verb}")
        return snapshot

    def _select(self, condition: str, parameters: Sequence[str]) -> list[Snapshot]:
        rows = self._database.query(
            "SELECT s.id, s.key, s.kind, coalesce(p.key, ''), s.labels, s.size, s.inodes, s.created_ns, s.updated_ns"
            f" FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent WHERE {condition} ORDER BY s.id",
            parameters,
        )
        return [Snapshot(row[0], row[1], Kind(row[2]), row[3], msgspec.json.decode(row[4]), *row[5:]) for row in rows]

    def _ancestry(self, key: str) -> list[Snapshot]:
        """The snapshot and what is below it, topmost first."""
        found = []
        while key:
            found.append(self.stat(key))
            key = found[-1].parent
        return found

    def _mounts(self, snapshot: Snapshot) -> list[Mount]:
        top = self._path(snapshot.id)
        lower = self._lower_paths(snapshot.id)
        if not lower:
            access = "ro" if snapshot.kind is Kind.VIEW else "rw"
            return [Mount("bind", os.path.join(top, "fs"), [access, "rbind"])]
        if snapshot.kind is Kind.VIEW:
            if len(lower) == 1:
                return [Mount("bind", lower[0], ["ro", "rbind"])]
            return [Mount("overlay", "overlay", [lowerdir(lower)])]
        upper, work = os.path.join(top, "fs"), os.path.join(top, "work")
        return [Mount("overlay", "overlay", [lowerdir(lower), f"upperdir={upper}", f"workdir={work}"])]

    def _lower_paths(self, snapshot_id: int) -> list[str]:
        rows = self._database.query(
            "WITH RECURSIVE below(id, depth) AS ("
            " SELECT parent, 1 FROM snapshots WHERE id = ? UNION ALL"
            " SELECT s.parent, depth + 1 FROM snapshots s JOIN below b ON s.id = b.id)"
            " SELECT id FROM below WHERE id IS NOT NULL ORDER BY depth",
            (snapshot_id,),
        )
        return [self.fs_path(row[0]) for row in rows]

    def _path(self, snapshot_id: int) -> str:
        return os.path.join(self.root, str(snapshot_id))

    def _remove_work(self, snapshot_id: int) -> None:
        fd = os.open(self._path(snapshot_id), _DIRECTORY)
        try:
            remove_entry(fd, b"work")
        finally:
            os.close(fd)


def _make_directory(path: str, mode: int) -> None:
    """mkdir with exactly this mode, whatever the umask."""
    os.mkdir(path, 0o700)
    os.chmod(path, mode)


def _unlimited(labels: Mapping[str, str]) -> Mapping[str, str]:
    return {key: value for key, value in labels.items() if key != SIZE_LABEL}


def _labels(labels: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(labels)).decode()


def lowerdir(paths: Sequence[str]) -> str:
    """The option, topmost first; colons and backslashes escaped (overlayfs.rst, "Multiple lower layers")."""
    return "lowerdir=" + ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in paths)
