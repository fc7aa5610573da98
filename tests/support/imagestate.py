"""What an engine's data root has of images, judged from outside: tables, blobs and layers must say the same.

To be asked when no request is under way.  Nothing half-made is visible, nothing that an image needs is lost, and
nothing that no image needs takes room.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from support.engine import CortenEngine
from support.process import wait_for


def judge(engine: CortenEngine, *, partials: bool = False) -> None:
    """Everything of this file; `partials`: a pull that was broken off may have left what it will go on with."""
    wait_for(lambda: not _names(engine, "snapshots/trash"), "empty trash")
    wait_for(lambda: _Rows(engine).layers() == _layers_on_disk(engine), "layers on disk as in the tables")
    # The layers of an image go with its last container, which goes when its client has its answer already.
    wait_for(lambda: (rows := _Rows(engine)).chains_needed() == rows.chains(), "layers that nobody needs gone")
    # The database has room of its own for it on a full disk: no retry is waited for.
    wait_for(lambda: not _Rows(engine).leases(), "leases of requests ended, also on a full disk")
    rows = _Rows(engine)
    blobs = rows.blobs()
    on_disk = {path.name for path in (engine.data_root / "content/blobs/sha256").iterdir()}
    assert blobs <= on_disk, f"lost: {sorted(blobs - on_disk)}"
    assert on_disk <= blobs, f"nobody needs {sorted(on_disk - blobs)}"
    for name in sorted(on_disk):
        assert _sha256(engine.data_root / "content/blobs/sha256" / name) == name, f"damaged: {name}"
    for place in ("snapshots/staging", "content/ingest"):
        assert not _names(engine, place), f"{place}: {_names(engine, place)}"
    if not partials:
        assert not unfinished(engine), f"content/partial: {unfinished(engine)}"


def unfinished(engine: CortenEngine) -> dict[str, int]:
    """Blobs of which only a part came: name and bytes."""
    found = (engine.data_root / "content/partial").rglob("*")
    return {path.name: path.stat().st_size for path in found if path.is_file()}


def tags(engine: CortenEngine) -> set[str]:
    """Every name that an image has."""
    return {name for one in listed(engine) for name in one["RepoTags"] or ()}


def listed(engine: CortenEngine) -> list[dict[str, Any]]:
    """`GET /images/json`, by the docker CLI's connection."""
    text = engine.docker("image", "ls", "-a", "--no-trunc", "--format", "{{json .}}", check=True).stdout
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        {"Id": row["ID"], "RepoTags": [f"{row['Repository']}:{row['Tag']}"] if row["Tag"] != "<none>" else []}
        for row in rows
    ]


class _Rows:
    """The tables, read once; and the documents that they name."""

    def __init__(self, engine: CortenEngine) -> None:
        self._blobs = engine.data_root / "content/blobs/sha256"
        with closing(sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True)) as database:
            self.images = database.execute("SELECT id, manifest, chain FROM images").fetchall()
            self.targets = [row[0] for row in database.execute("SELECT target FROM tags WHERE target != ''")]
            self.snapshots = database.execute("SELECT id, key, kind, parent FROM snapshots").fetchall()
            self._leases = [row[0] for row in database.execute("SELECT id FROM leases")]

    def blobs(self) -> set[str]:
        """What images and names need, by hex."""
        needed = {digest for image_id, manifest, _ in self.images for digest in (image_id, *self._needs(manifest))}
        needed |= {digest for target in self.targets for digest in self._needs(target)}
        return {digest.removeprefix("sha256:") for digest in needed}

    def _needs(self, digest: str) -> Iterator[str]:
        """A manifest with what it names, or an index with those in it that are here."""
        path = self._blobs / digest.removeprefix("sha256:")
        document = json.loads(path.read_text())
        yield digest
        for one in document.get("manifests", ()):
            if (self._blobs / one["digest"].removeprefix("sha256:")).exists():
                yield from self._needs(one["digest"])
        if "config" in document:
            yield document["config"]["digest"]
            yield from (layer["digest"] for layer in document["layers"])

    def layers(self) -> set[str]:
        """The directories that there should be."""
        return {str(row[0]) for row in self.snapshots}

    def chains(self) -> set[str]:
        """Keys of committed snapshots that are layers of images."""
        return {key for _, key, kind, _ in self.snapshots if kind == "committed" and not key.startswith("init:")}

    def chains_needed(self) -> set[str]:
        """Those, by what images need: their top layers and all below them."""
        by_id = {number: (key, parent) for number, key, _, parent in self.snapshots}
        ids = {key: number for number, key, _, _ in self.snapshots}
        needed = set()
        for _, _, chain in self.images:
            assert not chain or chain in ids, f"an image's layers are lost: {chain}"
            number = ids.get(chain)
            while number is not None:
                key, number = by_id[number]
                needed.add(key)
        return needed

    def leases(self) -> list[str]:
        """Ids."""
        return self._leases


def _layers_on_disk(engine: CortenEngine) -> set[str]:
    return set(_names(engine, "snapshots")) - {"staging", "trash"}


def _names(engine: CortenEngine, place: str) -> list[str]:
    return sorted(path.name for path in (engine.data_root / place).iterdir())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
