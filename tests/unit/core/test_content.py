"""The content store: digests, sizes, what stays after a failure."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, cast

import pytest

from corten.core.content import Blob, ContentStore
from corten.errors import InvalidArgument, NotFound
from corten.spec.image import OCI_MANIFEST, Descriptor
from support.tarballs import digest


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


def test_a_blob_is_found_under_its_digest(store: ContentStore) -> None:
    blob = store.ingest([b"he", b"llo"])
    assert blob == Blob(digest(b"hello"), 5)  # type: ignore[arg-type]
    assert Path(store.root, "blobs/sha256", blob.digest[7:]).read_bytes() == b"hello"
    assert store.has(blob.digest)
    assert (store.size(blob.digest), store.read(blob.digest)) == (5, b"hello")
    assert b"".join(store.chunks(blob.digest)) == b"hello"
    assert list(store.blobs()) == [blob]
    store.delete(blob.digest)
    assert not store.has(blob.digest)


def test_an_index_that_cannot_be_written_leaves_nothing(store: ContentStore) -> None:
    path = Path(store.root, "index.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        store.write_index([])
    assert store.ingests() == []
    assert {one.name for one in Path(store.root).iterdir()} == {
        "blobs",
        "index.json",
        "ingest",
        "oci-layout",
        "partial",
    }


@pytest.mark.parametrize("damage", [b"", b"hellx", b"hello and more"])
def test_a_document_that_the_disk_damaged_is_stored_again(store: ContentStore, damage: bytes) -> None:
    blob = store.put(b"hello")
    Path(store.root, "blobs/sha256", blob.digest[7:]).write_bytes(damage)
    with pytest.raises(InvalidArgument, match="damaged on disk"):
        store.read(blob.digest)
    assert store.put(b"hello") == blob
    assert store.read(blob.digest) == b"hello"


class Unreadable(ContentStore):
    """Its disk has a bad block beneath every blob."""

    def open(self, digest: str) -> BinaryIO:
        super().open(digest).close()
        return cast(BinaryIO, contextlib.closing(SimpleNamespace(read=self._read, close=lambda: None)))

    def _read(self, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_a_document_that_cannot_be_read_is_stored_again(tmp_path: Path) -> None:
    store = Unreadable(str(tmp_path / "content"))
    path = Path(store.root, "blobs/sha256", store.put(b"hello").digest[7:])
    before = path.stat().st_ino
    assert store.put(b"hello").size == 5
    assert (path.stat().st_ino != before, path.read_bytes()) == (True, b"hello")


def test_a_directory_in_the_place_of_a_blob_gives_way_to_it(store: ContentStore) -> None:
    blob = store.put(b"hello")
    path = Path(store.root, "blobs/sha256", blob.digest[7:])
    path.unlink()
    (path / "stray").mkdir(parents=True)
    assert store.put(b"hello") == blob
    assert store.read(blob.digest) == b"hello"


@pytest.mark.parametrize(
    ("expected", "size", "text"),
    [
        (digest(b"other"), -1, "content has digest .* not"),
        ("", 4, "content has more than the 4 bytes"),
        ("", 6, "has 5 bytes, not 6"),
        ("sha256:../../../etc/passwd", -1, "digest"),
        ("sha512:" + "0" * 128, -1, "digests of sha512 are not stored"),
    ],
)
def test_what_is_not_as_promised_leaves_nothing(store: ContentStore, expected: str, size: int, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        store.ingest([b"hel", b"lo"], expected=expected, size=size)
    assert list(store.blobs()) == []
    assert store.ingests() == []


def test_a_source_that_fails_leaves_nothing(store: ContentStore) -> None:
    def source() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.ingest(source())
    assert store.ingests() == []


def test_an_endless_source_is_cut_at_the_promised_size(store: ContentStore) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    with pytest.raises(InvalidArgument, match="more than the 10000 bytes"):
        store.ingest(endless(), size=10_000)


def test_what_is_not_there_is_not_found(store: ContentStore) -> None:
    missing = digest(b"missing")
    for call in (store.open, store.size, store.delete, store.read, lambda digest: next(store.chunks(digest))):
        with pytest.raises(NotFound, match=f"content {missing}: not found"):
            call(missing)


def test_a_document_is_checked_again_when_it_is_read(store: ContentStore) -> None:
    blob = store.put(b"document")
    Path(store.root, "blobs/sha256", blob.digest[7:]).write_bytes(b"changed")
    with pytest.raises(InvalidArgument, match="damaged on disk"):
        store.read(blob.digest)


def test_a_large_blob_is_no_document(store: ContentStore) -> None:
    blob = store.ingest([bytes(1 << 20)] * 9)
    with pytest.raises(InvalidArgument, match="larger than"):
        store.read(blob.digest)


def test_a_blob_is_kept_before_it_appears(store: ContentStore) -> None:
    seen: list[tuple[str, bool]] = []
    for _ in range(2):
        store.put(b"x", lambda found: seen.append((found, store.has(found))))
    store.ingest([b"y"], keep=lambda found: seen.append((found, store.has(found))))
    assert (digest(b"y"), False) in seen
    assert (digest(b"x"), False) in seen
    assert (digest(b"x"), True) in seen


def test_the_same_blob_from_many_threads(store: ContentStore) -> None:
    threads = [threading.Thread(target=store.ingest, args=([b"same"] * 100,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.blobs())) == 1
    assert store.ingests() == []


def test_it_is_an_oci_layout(store: ContentStore) -> None:
    store.write_index([Descriptor(OCI_MANIFEST, digest(b"m"), 1, annotations={"k": "v"})])
    assert json.loads(Path(store.root, "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(Path(store.root, "index.json").read_text())
    assert (index["schemaVersion"], index["manifests"][0]["annotations"]) == (2, {"k": "v"})


def test_opening_again_empties_what_was_on_its_way_and_keeps_the_rest(store: ContentStore) -> None:
    blob = store.put(b"kept")
    store.write_index([Descriptor(OCI_MANIFEST, digest(b"m"), 1)])
    Path(store.root, "ingest/leftover").write_bytes(b"half")
    again = ContentStore(store.root)
    assert again.ingests() == []
    assert again.has(blob.digest)
    assert b"manifest" in Path(store.root, "index.json").read_bytes()


def test_on_a_full_disk_an_index_that_is_no_longer_than_the_old_one_is_written_over_it(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    path = Path(store.root, "index.json")
    one, two = (Descriptor(OCI_MANIFEST, digest(name), 1) for name in (b"1", b"2"))
    store.write_index([one, two])
    inode = path.stat().st_ino
    monkeypatch.setattr(os, "rename", no_room)
    store.write_index([two])
    assert (path.stat().st_ino, len(json.loads(path.read_text())["manifests"])) == (inode, 1)
    with pytest.raises(OSError, match="no room"):
        store.write_index([one, two])
    assert [entry["digest"] for entry in json.loads(path.read_text())["manifests"]] == [digest(b"2")]
    assert store.ingests() == []
