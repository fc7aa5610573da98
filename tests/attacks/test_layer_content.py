"""Layers that are too much, or not what they say.  Each attack has a twin, as in test_layers."""

from __future__ import annotations

import gzip
import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from corten.core.limits import DEFAULT, Limits
from corten.core.streams import decompressed
from corten.core.tarreader import TarReader
from corten.core.unpack import apply_layer
from corten.errors import InvalidArgument, NotFound
from support import tarballs as t
from support import weakened_corten
from support.hostile import NOTHING_BELOW, UNLIMITED, Place, made_place, unpack
from support.weakened import Edit


@pytest.fixture
def place() -> Iterator[Place]:
    with made_place() as made:
        yield made


# Bombs: a budget stops each, and without the budget it goes off.


def _gzip_bomb() -> bytes:
    return gzip.compress(t.archive(t.entry(b"zero", data=bytes(48 << 20))), 9)


def _zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(t.archive(t.entry(b"zero", data=bytes(48 << 20))))


def _sparse_bomb() -> bytes:
    records = {b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": str(1 << 42).encode()}
    return t.archive(t.pax(records), t.entry(b"huge", data=b"x"))


def _many_entries() -> bytes:
    return gzip.compress(t.archive(*(t.entry(b"f%d" % number) for number in range(5_000))), 1)


def _long_names() -> bytes:
    return gzip.compress(t.archive(*(t.gnu_long(b"./" * 2000 + b"f%d" % n) + t.entry(b"f") for n in range(300))), 1)


def _long_attributes() -> bytes:
    records = {b"SCHILY.xattr.nobody.%d" % number: b"x" * 4000 for number in range(10)}
    return gzip.compress(t.archive(*(t.pax(records) + t.directory(b"d%d" % number) for number in range(50))), 1)


def _huge_pax_header() -> bytes:
    return gzip.compress(t.archive(t.pax({b"comment": bytes(32 << 20)}), t.entry(b"f")), 1)


def _long_name() -> bytes:
    return gzip.compress(t.archive(t.gnu_long(b"n" * (16 << 20)), t.entry(b"f")), 1)


def _deep_path() -> bytes:
    return t.archive(t.gnu_long(b"d/" * 2500 + b"f"), t.entry(b"f"))


BOMBS: dict[str, tuple[Callable[[], bytes], Limits, str, Callable[[Path], bool]]] = {
    "gzip": (
        _gzip_bomb,
        Limits(ratio=100, ratio_floor=1 << 20),
        "expands more than",
        lambda p: (p / "zero").stat().st_size == 48 << 20,
    ),
    "zstd": (
        _zstd_bomb,
        Limits(ratio=100, ratio_floor=1 << 20),
        "expands more than",
        lambda p: (p / "zero").stat().st_size == 48 << 20,
    ),
    "sparse file": (_sparse_bomb, DEFAULT, "invalid sparse map", lambda p: (p / "huge").stat().st_size == 1 << 42),
    "many entries": (
        _many_entries,
        Limits(entries=1000),
        "more than 1000 entries",
        lambda p: len(os.listdir(p)) == 5_000,
    ),
    "long names": (_long_names, Limits(names=1 << 20), "names and attributes", lambda p: len(os.listdir(p)) == 300),
    "long attributes": (
        _long_attributes,
        Limits(names=1 << 20),
        "names and attributes",
        lambda p: len(os.listdir(p)) == 50,
    ),
    "huge pax header": (_huge_pax_header, DEFAULT, "larger than 1048576 bytes", lambda p: (p / "f").exists()),
    "huge GNU name": (_long_name, DEFAULT, "larger than 1048576 bytes", lambda p: False),
    "deep path": (_deep_path, DEFAULT, "more than 4095 bytes", lambda p: (p / "d/d/d").is_dir()),
}


def stored(place: Place, bomb: bytes, limits: Limits) -> None:
    fd = os.open(place.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_layer(decompressed(t.chunked(bomb), limits), fd, lower=NOTHING_BELOW, limits=limits)
    finally:
        os.close(fd)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_stopped_by_its_budget(place: Place, bomb: str) -> None:
    make, limits, text, _ = BOMBS[bomb]
    with pytest.raises(InvalidArgument, match=text):
        stored(place, make(), limits)
    used = sum(file.stat().st_blocks * 512 for file in place.layer.rglob("*"))
    assert used < 8 << 20


@pytest.mark.parametrize("bomb", [name for name in BOMBS if name != "huge GNU name"])
def test_twin_the_bomb_goes_off_without_the_budget(place: Place, bomb: str) -> None:
    make, _, _, went_off = BOMBS[bomb]
    stored(place, make(), UNLIMITED)
    assert went_off(place.layer)


def test_twin_a_huge_gnu_name_is_held_in_memory_without_the_budget() -> None:
    unlimited = Limits(path=1 << 30, header=1 << 30)
    (entry,) = TarReader(decompressed(t.chunked(_long_name()), unlimited), unlimited)
    assert len(entry.name) == 16 << 20


NULS: dict[str, tuple[dict[bytes, bytes], bytes]] = {
    "path": ({b"path": b"good\0evil/made"}, t.entry(b"x")),
    "linkpath": ({b"linkpath": b"good\0evil/f"}, t.hard_link(b"made", b"x")),
    "GNU.sparse.name": (
        {b"GNU.sparse.map": b"", b"GNU.sparse.size": b"0", b"GNU.sparse.name": b"good\0evil/made"},
        t.entry(b"x"),
    ),
}


def with_nul(key: str) -> bytes:
    """A name that is one thing to who reads it whole, and another to who stops at its NUL."""
    records, entry = NULS[key]
    return t.archive(t.directory(b"good"), t.entry(b"good/f"), t.pax(records), entry)


@pytest.mark.parametrize("key", NULS)
def test_a_name_with_nul_is_refused(place: Place, key: str) -> None:
    with pytest.raises(InvalidArgument, match="name with NUL"):
        unpack(place, with_nul(key))
    assert not list(place.layer.rglob("made"))


@pytest.mark.parametrize("key", NULS)
def test_twin_a_name_with_nul_ends_there_when_nobody_looks(place: Place, key: str) -> None:
    with weakened_corten.build(*weakened_corten.NUL) as weak:
        unpack(place, with_nul(key), apply=weak.modules("corten.core.unpack")[0].apply_layer)
    assert list(place.layer.rglob("made"))


# Attributes that the kernel would believe.


def redirect() -> bytes:
    """`redirect` makes overlayfs look for a directory somewhere else in the layers below."""
    return t.archive(t.pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/secret"}), t.directory(b"d"))


def test_an_archive_cannot_set_overlayfs_own_attributes(place: Place) -> None:
    unpack(place, redirect())
    assert os.listxattr(place.layer / "d") == []


def test_twin_without_the_list_the_attribute_is_set(place: Place) -> None:
    with weakened_corten.build(*weakened_corten.FOREIGN_XATTRS) as weak:
        unpack(place, redirect(), apply=weak.modules("corten.core.unpack")[0].apply_layer)
    assert os.getxattr(place.layer / "d", "trusted.overlay.redirect") == b"/secret"


# Content that is not what it says.

GOOD, EVIL = t.archive(t.entry(b"good")), t.archive(t.entry(b"evil"))
STORES = (
    *("corten.core.dataroot", "corten.core.metadata", "corten.core.journal", "corten.core.snapshots"),
    *("corten.core.content", "corten.core.images", "corten.core.archive"),
)


@dataclass(frozen=True, slots=True)
class Shop:
    """An image store of some build, and its `archive.load`."""

    store: Any
    load: Callable[[list[bytes], Any], Any]

    def is_empty(self) -> bool:
        store = self.store
        rest = [*store.list(), *store.overlay.all(), *store.overlay.directories(), *store.overlay.staged_directories()]
        return not rest and not list(store.content.blobs()) and not store.content.ingests()

    def names(self) -> set[str]:
        """Names in all layers."""
        root = Path(self.store.overlay.root)
        return {path.name for path in root.glob("*/fs/*")}


@contextmanager
def shop(place: Place, *edits: Edit) -> Iterator[Shop]:
    """The stores of Corten, or of a build without some step."""
    with ExitStack() as stack:
        modules = stack.enter_context(weakened_corten.build(*edits)).modules(*STORES) if edits else None
        dataroot, metadata, journal, snapshots, content, images, archive = modules or [
            importlib.import_module(name) for name in STORES
        ]
        root = dataroot.open_data_root(str(place.layer / "data"))
        stack.callback(root.close)
        database = metadata.Database(root.join("corten.db"))
        stack.callback(database.close)
        overlay = snapshots.Overlay(root.join("snapshots"), database, journal.Journal(database))
        store = images.ImageStore(database, content.ContentStore(root.join("content")), overlay)
        yield Shop(store, archive.load)


@dataclass(frozen=True, slots=True)
class Lie:
    """An archive that says one thing and holds another."""

    steps: tuple[Edit, ...]
    archive: bytes
    refusal: str
    twin_names: frozenset[str]
    """What the layers of the twin hold."""


MEMBERS = gzip.compress(GOOD) + gzip.compress(EVIL)

EVIL_BLOBS = {t.digest(blob)[7:]: blob for blob in (EVIL, t.image_config([EVIL]))}

LIES = {
    "a layer under another digest": Lie(
        weakened_corten.BLOB_NAMES + weakened_corten.DIFF_IDS,
        t.oci_archive([GOOD], replaced={t.digest(GOOD)[7:]: EVIL}),
        f"content has digest {t.digest(EVIL)}, not {t.digest(GOOD)}",
        frozenset({"evil"}),
    ),
    "a manifest under another digest": Lie(
        weakened_corten.DOCUMENT_NAMES,
        t.oci_archive([GOOD], replaced={t.digest(t.oci_manifest([GOOD]))[7:]: t.oci_manifest([EVIL]), **EVIL_BLOBS}),
        f"content has digest {t.digest(t.oci_manifest([EVIL]))}, not {t.digest(t.oci_manifest([GOOD]))}",
        frozenset({"evil"}),
    ),
    "a layer with another diff id": Lie(
        weakened_corten.DIFF_IDS,
        t.docker_archive([EVIL], config=t.image_config([GOOD])),
        f'layer 0: expected "{t.digest(GOOD)}", got "{t.digest(EVIL)}"',
        frozenset({"evil"}),
    ),
    # zlib and isal stop at the first member: what one program skips another may read
    "bytes behind a gzip member": Lie(
        weakened_corten.MEMBERS,
        t.docker_archive([MEMBERS], config=t.image_config([GOOD])),
        f'layer 0: expected "{t.digest(GOOD)}", got "{t.digest(GOOD + EVIL)}"',
        frozenset({"good"}),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_content_that_is_not_what_it_says_is_refused_and_nothing_stays(place: Place, lie: str) -> None:
    with shop(place) as own:
        with pytest.raises(InvalidArgument, match=re.escape(LIES[lie].refusal)):
            own.load([LIES[lie].archive], own.store)
        assert own.is_empty()


@pytest.mark.parametrize("lie", LIES)
def test_twin_without_the_comparison_the_lie_is_an_image(place: Place, lie: str) -> None:
    with shop(place, *LIES[lie].steps) as weak:
        (loaded,) = weak.load([LIES[lie].archive], weak.store)
        assert weak.store.get(loaded.image_id)
        assert weak.names() == LIES[lie].twin_names


def test_a_blob_with_another_digest_is_not_kept(place: Place) -> None:
    with shop(place) as own:
        with pytest.raises(InvalidArgument, match=f"content has digest {t.digest(EVIL)}, not {t.digest(GOOD)}"):
            own.store.content.ingest([EVIL], expected=t.digest(GOOD))
        assert own.is_empty()


def test_twin_a_blob_with_another_digest_is_believed(place: Place) -> None:
    with shop(place, *weakened_corten.DIGESTS) as weak:
        weak.store.content.ingest([EVIL], expected=t.digest(GOOD))
        with weak.store.content.open(t.digest(GOOD)) as file:
            assert file.read() == EVIL


def outside_digest(place: Place) -> str:
    return "sha256:" + "../" * 12 + str(place.outside / "victim").lstrip("/")


@pytest.mark.parametrize(
    "digest", ["", "sha256:" + "A" * 64, "../x:" + "0" * 64, "sha256:0", "sha256:" + "0" * 63 + "/"]
)
def test_a_digest_is_never_a_path(place: Place, digest: str) -> None:
    with shop(place) as own:
        content = own.store.content
        with pytest.raises((InvalidArgument, NotFound)):
            content.open(digest or outside_digest(place))
        with pytest.raises((InvalidArgument, NotFound)):
            content.delete(digest or outside_digest(place))
        with pytest.raises((InvalidArgument, NotFound)):
            content.ingest([b"x"], expected=digest or outside_digest(place))
    assert place.untouched()


def test_twin_a_digest_joined_to_a_path_leads_out(place: Place) -> None:
    with shop(place, *weakened_corten.DIGEST_FORM) as weak:
        with weak.store.content.open(outside_digest(place)) as file:
            assert file.read() == b"precious"
        weak.store.content.delete(outside_digest(place))
    assert not place.untouched()
