"""Layers that are too much, or not what they say.  Each attack has a twin, as in test_layers."""

from __future__ import annotations

import ctypes
import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from corten.core import archive, dataroot
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.core.streams import chunks_of, decompressed
from corten.core.tarreader import TarReader
from corten.core.unpack import apply_layer
from corten.errors import InvalidArgument, NotFound
from support import tarballs as t
from support.hostile import UNLIMITED, Place, made_place, naive, unpack


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
    "huge pax header": (_huge_pax_header, DEFAULT, "larger than 1048576 bytes", lambda p: (p / "f").exists()),
    "huge GNU name": (_long_name, DEFAULT, "larger than 1048576 bytes", lambda p: False),
    "deep path": (_deep_path, DEFAULT, "more than 4095 bytes", lambda p: (p / "d/d/d").is_dir()),
}


def stored(place: Place, bomb: bytes, limits: Limits) -> None:
    fd = os.open(place.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_layer(decompressed(t.chunked(bomb), limits), fd, lower=LowerView([]), limits=limits)
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


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"GNU.sparse.name"])
def test_a_name_with_nul_is_refused(place: Place, key: bytes) -> None:
    """A check that sees `a\\0/../../x` and a kernel that sees `a` would disagree."""
    records = {b"GNU.sparse.map": b"", b"GNU.sparse.size": b"0"} if key == b"GNU.sparse.name" else {}
    data = t.archive(t.pax({**records, key: b"good\0evil"}), t.entry(b"f", t.FILE))
    with pytest.raises(InvalidArgument, match="name with NUL"):
        unpack(place, data)
    assert os.listdir(place.layer) == []


def test_twin_a_name_with_nul_means_something_else_to_a_c_program(place: Place) -> None:
    """What openat2(2) would get from a wrapper that does not look: the name ends at the NUL."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.open(ctypes.c_char_p(os.fsencode(place.layer / "good") + b"\0evil"), os.O_CREAT | os.O_WRONLY, 0o600)
    os.close(fd)
    assert os.listdir(place.layer) == ["good"]


# Attributes that the kernel would believe.


def test_an_archive_cannot_set_overlayfs_own_attributes(place: Place) -> None:
    """`redirect` makes overlayfs look for a directory somewhere else in the layers below."""
    unpack(place, t.archive(t.pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/secret"}), t.directory(b"d")))
    assert os.listxattr(place.layer / "d") == []


def test_twin_the_attribute_would_be_set(place: Place) -> None:
    (place.layer / "d").mkdir()
    (entry,) = TarReader(
        [t.archive(t.pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/secret"}), t.directory(b"d"))], DEFAULT
    )
    for name, value in entry.xattrs:
        os.setxattr(place.layer / "d", name, value)
    assert os.getxattr(place.layer / "d", "trusted.overlay.redirect") == b"/secret"


# Content that is not what it says.


@pytest.fixture
def store(place: Place) -> Iterator[ImageStore]:
    root = dataroot.open_data_root(str(place.layer / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    yield ImageStore(database, ContentStore(root.join("content")), overlay)
    database.close()
    root.close()


GOOD, EVIL = t.archive(t.entry(b"good")), t.archive(t.entry(b"evil"))


def is_empty(store: ImageStore) -> bool:
    rest = [*store.list(), *store.overlay.all(), *store.overlay.directories(), *store.overlay.staged_directories()]
    return not rest and not list(store.content.blobs()) and not store.content.ingests()


def test_a_blob_with_another_digest_is_refused_and_nothing_stays(store: ImageStore) -> None:
    hostile = t.oci_archive([GOOD], replaced={t.digest(GOOD)[7:]: EVIL})
    with pytest.raises(InvalidArgument, match=f"content has digest {t.digest(EVIL)}, not {t.digest(GOOD)}"):
        archive.load([hostile], store)
    assert is_empty(store)


def test_twin_the_name_of_the_blob_would_be_believed(place: Place) -> None:
    """The same archive laid out as it says: under the digest lies something else."""
    naive(place, t.oci_archive([GOOD], replaced={t.digest(GOOD)[7:]: EVIL}))
    assert (place.layer / "blobs/sha256" / t.digest(GOOD)[7:]).read_bytes() == EVIL


def test_a_layer_with_another_diff_id_is_refused_and_nothing_stays(store: ImageStore) -> None:
    hostile = t.docker_archive([EVIL], config=t.image_config([GOOD]))
    with pytest.raises(InvalidArgument, match=f'layer 0: expected "{t.digest(GOOD)}", got "{t.digest(EVIL)}"'):
        archive.load([hostile], store)
    assert is_empty(store)


def test_twin_without_the_comparison_the_layer_is_there(place: Place) -> None:
    unpack(place, EVIL)
    assert os.listdir(place.layer) == ["evil"]


def test_bytes_behind_a_gzip_member_cannot_hide(store: ImageStore) -> None:
    """zlib and isal stop at the first member: what one program skips another may read."""
    packed = gzip.compress(GOOD) + gzip.compress(EVIL)
    assert b"".join(decompressed([packed], DEFAULT)) == GOOD + EVIL
    hostile = t.oci_archive([packed])
    with pytest.raises(InvalidArgument, match="invalid diffID for layer 0"):
        archive.load([hostile], store)
    assert is_empty(store)


def test_twin_one_call_of_the_library_sees_the_first_member_alone() -> None:
    decompressor = zlib.decompressobj(31)
    assert decompressor.decompress(gzip.compress(GOOD) + gzip.compress(EVIL)) == GOOD
    assert decompressor.unused_data


@pytest.mark.parametrize(
    "digest", ["sha256:../../../outside/victim", "sha256:" + "A" * 64, "../x:" + "0" * 64, "sha256:0"]
)
def test_a_digest_is_never_a_path(store: ImageStore, digest: str) -> None:
    with pytest.raises((InvalidArgument, NotFound)):
        store.content.open(digest)
    with pytest.raises((InvalidArgument, NotFound)):
        store.content.ingest([b"x"], expected=digest)


def test_twin_a_digest_joined_to_a_path_leads_out(place: Place, store: ImageStore) -> None:
    encoded = "../../../../../../outside/victim"
    with open(os.path.join(store.content.root, "blobs/sha256", encoded), "rb") as file:
        assert b"".join(chunks_of(file)) == b"precious"
