"""Blobs by digest, on disk as an OCI image layout that skopeo and umoci read.

    content/
      oci-layout  index.json
      blobs/sha256/<hex>       written once, never changed
      ingest/<random>          on its way; nothing of it outlives a start of the engine
      partial/                 on its way from a registry (corten.core.partials)

A blob appears under its digest only when all of it was written, synced and found to have that digest (image-spec
image-layout.md; field.md D15).  A digest is parsed before it becomes a file name (CVE-2024-3727).
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from corten.core.dataroot import sync_directory, write_durably
from corten.core.dbroom import is_no_room
from corten.core.partials import Partials
from corten.core.streams import Hashed, chunks_of
from corten.errors import InvalidArgument, NotFound
from corten.spec.image import DOCUMENT_SIZE_MAX, OCI_INDEX, Descriptor, Index, digest_of, encode
from corten.spec.reference import DIGEST_HEX_LENGTH, Digest, parse_digest

_ALGORITHM = "sha256"
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that is in the store."""

    digest: Digest
    size: int


class ContentStore:
    """The store at one directory.  Thread-safe: files appear and vanish by single system calls."""

    def __init__(self, root: str) -> None:
        """Opens or makes it, and empties `ingest`."""
        self.root = root
        self.lock = threading.RLock()
        """Held while a blob is put on a lease and appears, and while one is found to be on none and removed."""
        self._blobs = os.path.join(root, "blobs", _ALGORITHM)
        self._ingest = os.path.join(root, "ingest")
        os.makedirs(self._blobs, exist_ok=True)
        os.makedirs(self._ingest, 0o700, exist_ok=True)
        self.partials = Partials(os.path.join(root, "partial"))
        for name in self.ingests():
            os.unlink(os.path.join(self._ingest, name))
        if not os.path.exists(os.path.join(root, "oci-layout")):
            write_durably(os.path.join(root, "oci-layout"), _LAYOUT)
            self.write_index([])

    def ingest(
        self,
        chunks: Iterable[bytes],
        *,
        expected: str = "",
        size: int = _UNKNOWN,
        keep: Callable[[Digest], None] = lambda _: None,
    ) -> Blob:
        """Stores what `chunks` bring, after checking it against `expected` digest and `size` when they are given.

        `keep` is called with the digest before the blob appears: there it is put on a lease.

        Raises:
            InvalidArgument: another digest or size came; nothing is stored.
            OSError: of the filesystem.
        """
        if expected:
            self._path(expected)
        temporary = os.path.join(self._ingest, secrets.token_hex(8))
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            hashed = Hashed(_bounded(chunks, size) if size != _UNKNOWN else chunks)
            for chunk in hashed:
                _write_all(fd, chunk)
            _verify(hashed, expected, size)
            os.fsync(fd)
            with self.lock:
                keep(hashed.digest)
                self._appear(temporary, self._path(hashed.digest))
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        self.sync()
        return Blob(hashed.digest, hashed.size)

    def put(self, data: bytes, keep: Callable[[Digest], None] = lambda _: None) -> Blob:
        """Stores a document; does nothing but `keep` it when it is there and whole."""
        digest = digest_of(data)
        with self.lock:
            keep(digest)
            if self._holds(digest, data):
                return Blob(digest, len(data))
        return self.ingest([data], expected=digest)

    def take(self, path: str, digest: str, keep: Callable[[Digest], None]) -> None:
        """The file at `path` becomes a blob.  The caller has verified and synced it, and calls `sync` in the end.

        `keep` as in `ingest`.
        """
        with self.lock:
            keep(Digest(digest))
            self._appear(path, self._path(digest))

    def sync(self) -> None:
        """The names of all blobs reach the disk."""
        sync_directory(self._blobs)

    def open(self, digest: str) -> BinaryIO:
        """The blob as an unbuffered file; raises NotFound."""
        try:
            return open(self._path(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def chunks(self, digest: str) -> Generator[bytes, None, None]:
        """The blob piece by piece; raises NotFound when the first is asked for."""
        with self.open(digest) as file:
            yield from chunks_of(file)

    def read(self, digest: str) -> bytes:
        """A small blob, checked once more.  Raises NotFound; InvalidArgument when large or damaged."""
        with self.open(digest) as file:
            data = file.read(DOCUMENT_SIZE_MAX + 1)
        if len(data) > DOCUMENT_SIZE_MAX:
            raise InvalidArgument(f"content {digest}: larger than {DOCUMENT_SIZE_MAX} bytes")
        if digest_of(data) != digest:
            raise InvalidArgument(f"content {digest}: damaged on disk")
        return data

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        return os.path.exists(self._path(digest))

    def size(self, digest: str) -> int:
        """Bytes of the blob; raises NotFound."""
        try:
            return os.stat(self._path(digest)).st_size
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def delete(self, digest: str) -> None:
        """Removes the blob; raises NotFound."""
        try:
            os.unlink(self._path(digest))
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def digests(self) -> frozenset[str]:
        """Those of all blobs."""
        return frozenset(f"{_ALGORITHM}:{name}" for name in os.listdir(self._blobs))

    def blobs(self) -> Iterator[Blob]:
        """Every blob, in no order."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                if len(entry.name) == DIGEST_HEX_LENGTH[_ALGORITHM]:
                    yield Blob(Digest(f"{_ALGORITHM}:{entry.name}"), entry.stat().st_size)

    def ingests(self) -> list[str]:
        """Names of what is on its way."""
        return sorted(os.listdir(self._ingest))

    def write_index(self, manifests: Sequence[Descriptor]) -> None:
        """Writes index.json: what other tools find in this layout.

        Replaced whole, but not synced: the images' tables are the truth, and every start writes it again.  On a full
        disk it is written over the old one, if it is no longer: neither a removal nor a start needs room.
        """
        data = encode(Index(schema_version=2, manifests=list(manifests), media_type=OCI_INDEX))
        temporary = os.path.join(self._ingest, f"index.json.{secrets.token_hex(4)}")
        path = os.path.join(self.root, "index.json")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.rename(temporary, path)
        except OSError as error:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            if not is_no_room(error) or not _write_over(path, data):
                raise

    def _holds(self, digest: str, data: bytes) -> bool:
        """Whether the blob is there as it should be: a disk may have damaged it, or be unable to read it."""
        try:
            with self.open(digest) as file:
                return file.read(len(data) + 1) == data
        except (NotFound, OSError):
            return False

    @staticmethod
    def _appear(temporary: str, path: str) -> None:
        """The file instead of whatever there is: a damaged one, or a directory, which no blob can be."""
        try:
            os.rename(temporary, path)
        except IsADirectoryError:
            shutil.rmtree(path)
            os.rename(temporary, path)

    def _path(self, digest: str) -> str:
        algorithm, _, encoded = parse_digest(digest).partition(":")
        if algorithm != _ALGORITHM:
            raise InvalidArgument(f"content {digest}: digests of {algorithm} are not stored")
        return os.path.join(self._blobs, encoded)


def _bounded(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Chunks until more than `size` bytes came: what was promised small must not fill the disk."""
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise InvalidArgument(f"content has more than the {size} bytes it should have")
        yield chunk


def _verify(hashed: Hashed, expected: str, size: int) -> None:
    if expected and hashed.digest != expected:
        raise InvalidArgument(f"content has digest {hashed.digest}, not {expected}")
    if size not in (_UNKNOWN, hashed.size):
        raise InvalidArgument(f"content of {hashed.digest} has {hashed.size} bytes, not {size}")


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_over(path: str, data: bytes) -> bool:
    """Whether a file had room for it already."""
    with suppress(FileNotFoundError), open(path, "r+b", buffering=0) as file:
        if len(data) <= os.fstat(file.fileno()).st_size:
            file.write(data)
            file.truncate()
            return True
    return False
