"""The files of an image archive, taken from a stream once: large ones go to the content store, small ones stay here.

Nothing of the archive becomes a file name on this host: members are found by the names they have inside (links between
members followed), data is kept by digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from corten.core.content import Blob, ContentStore
from corten.core.leases import CONTENT, Leases
from corten.core.limits import DEFAULT, Limits, with_room
from corten.core.streams import decompressed
from corten.core.tarheader import Kind
from corten.core.tarreader import TarReader
from corten.core.tree import components
from corten.errors import InvalidArgument, NotFound
from corten.spec.image import digest_of
from corten.spec.reference import Digest, parse_digest

_SMALL = 1 << 20
_SMALL_SUM = 64 << 20
_NAMES_SUM = 64 << 20
_ENTRIES_MAX = 1 << 16  # each may become a synced file; `docker save` of 500 images has fewer


class Members:
    """Files of one archive by path.  `ingested` are the digests that it put into the content store."""

    def __init__(self, content: ContentStore, leases: Leases, lease_id: str) -> None:
        self._content = content
        self._leases = leases
        self._lease_id = lease_id
        self._small: dict[bytes, bytes] = {}
        self._small_sum = 0
        self._large: dict[bytes, Blob] = {}
        self._links: dict[bytes, bytes] = {}
        self.ingested: set[str] = set()

    def collect(self, chunks: Iterable[bytes], limits: Limits) -> None:
        """Reads the whole archive, compressed or not.

        Raises InvalidArgument; Unavailable (the disk is about to be full); OSError of the disk.
        """
        names = min(limits.names, _NAMES_SUM)
        limits = replace(limits, entries=min(limits.entries, _ENTRIES_MAX), names=names)
        reader = TarReader(with_room(decompressed(chunks, limits), self._content.root, limits), limits)
        for entry in reader:
            path = b"/".join(components(entry.name))
            if entry.kind is Kind.SYMLINK:
                self._links[path] = _joined(path, entry.link)
            elif entry.kind is Kind.HARD_LINK:
                self._links[path] = b"/".join(components(entry.link))
            elif entry.kind is Kind.FILE:
                if entry.segments is not None:
                    raise InvalidArgument(f"{path.decode(errors='replace')}: sparse file in an image archive")
                self._keep(path, entry.size, reader)
        reader.drain()

    def _keep(self, path: bytes, size: int, reader: TarReader) -> None:
        if size <= _SMALL and self._small_sum + size <= _SMALL_SUM:
            self._small[path] = reader.read_all()
            self._small_sum += size
        else:
            self._large[path] = self._ingest(bytes(piece) for piece in reader.data())

    def _ingest(self, chunks: Iterator[bytes]) -> Blob:
        blob = self._content.ingest(chunks, keep=self.lease)
        self.ingested.add(blob.digest)
        return blob

    def lease(self, digest: str) -> None:
        """Keeps a blob until the request ends."""
        self._leases.add(self._lease_id, CONTENT, digest)

    def __contains__(self, name: str) -> bool:
        path = self._resolved(name)
        return path in self._small or path in self._large

    def document(self, name: str) -> bytes:
        """The content of a small member; raises NotFound, InvalidArgument."""
        path = self._resolved(name)
        if path in self._small:
            return self._small[path]
        return self._content.read(self.blob(name).digest)

    def blob(self, name: str) -> Blob:
        """The member, in the content store; raises NotFound."""
        path = self._resolved(name)
        if path in self._large:
            return self._large[path]
        if path not in self._small:
            raise NotFound(f"{name}: no such file in the archive")
        return self.put(self._small[path])

    def put(self, data: bytes) -> Blob:
        """Puts a document into the content store."""
        blob = self._content.put(data, self.lease)
        self.ingested.add(blob.digest)
        return blob

    def known(self, digest: str) -> Blob:
        """The blob of a digest: of the archive as an OCI layout has it, or in the content store already.

        Raises NotFound; InvalidArgument when the archive has something else under this digest.
        """
        name = _blob_name(digest)
        if name in self:
            blob = self.blob(name)
            if blob.digest != digest:
                raise InvalidArgument(f"content has digest {blob.digest}, not {digest}")
            return blob
        with self._content.lock:
            self.lease(digest)
            return Blob(Digest(digest), self._content.size(digest))

    def has_blob(self, digest: str) -> bool:
        """Whether the archive has something under this digest, as an OCI layout has it."""
        return _blob_name(digest) in self

    def start(self, blob: Blob) -> bytes:
        """Its first bytes."""
        with self._content.open(blob.digest) as file:
            return file.read(16)

    def document_by_digest(self, digest: str) -> bytes:
        """The content of a small member that an OCI layout has under a digest; raises as `known`."""
        data = self.document(_blob_name(digest))
        if digest_of(data) != digest:
            raise InvalidArgument(f"content has digest {digest_of(data)}, not {digest}")
        return data

    def _resolved(self, name: str) -> bytes:
        path = b"/".join(components(name.encode()))
        for _ in range(DEFAULT.links + 1):
            if path not in self._links:
                return path
            path = self._links[path]
        raise InvalidArgument(f"{name}: too many levels of links in the archive")


def _blob_name(digest: str) -> str:
    algorithm, _, encoded = parse_digest(digest).partition(":")
    return f"blobs/{algorithm}/{encoded}"


def _joined(path: bytes, target: bytes) -> bytes:
    """Where a link at `path` leads, inside the archive."""
    start = b"" if target.startswith(b"/") else path.rpartition(b"/")[0] + b"/"
    return b"/".join(components(start + target))
