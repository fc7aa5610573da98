"""Layers of images that Corten composed, packed as dockerd packs them for a registry.

A push makes a gzip blob of each plain layer, once, in the content store; the table says which blob that is, for other
images that have the same layer.  It is a hint: a blob is garbage like any other when no image has it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import msgspec

from corten.core.images import ImageStore
from corten.core.limits import DEFAULT, Limits, watched
from corten.core.streams import Hashed, gzipped
from corten.errors import InvalidArgument
from corten.registry.cancel import Cancel
from corten.registry.downloads import Claims
from corten.spec.image import OCI_LAYER_GZIP, Descriptor

Chunks = Generator[bytes, None, None]
Keep = Callable[[str], None]
"""Puts a digest on the lease of the push, whether its blob is there yet or not."""

SCHEMA = (
    (
        """CREATE TABLE packed_layers (
            plain TEXT PRIMARY KEY,             -- digest: the diff id
            packed TEXT NOT NULL,
            size INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
)


class Packer:
    """The table, and who fills it.  Thread-safe."""

    def __init__(self, images: ImageStore, *, limits: Limits = DEFAULT) -> None:
        self._content = images.content
        self._database = images.database
        self._limits = limits
        self._claims = Claims()
        self._database.migrate("packing", SCHEMA)

    def packed(self, layer: Descriptor, keep: Keep, *, cancel: Cancel, progress: Callable[[int], None]) -> Descriptor:
        """The gzip blob of a plain layer; `progress` hears how many of its bytes are packed.

        Two pushes that want the same one make it one after the other, and the second finds it done.
        Raises NotFound, InvalidArgument (the layer is not what its digest says), Unavailable (the disk is about to be
        full), OSError, Cancelled.
        """
        with self._claims.held([("layer", layer.digest)], cancel):
            return self._known(layer, keep) or self._made(layer, keep, cancel, progress)

    def sweep(self) -> None:
        """Forgets blobs that are not here any more."""
        known = self._database.query("SELECT plain, packed FROM packed_layers")
        gone = [(plain,) for plain, packed in known if not self._content.has(packed)]
        with self._database.transaction() as tx:
            tx.executemany("DELETE FROM packed_layers WHERE plain = ?", gone)

    def _known(self, layer: Descriptor, keep: Keep) -> Descriptor | None:
        rows = self._database.query("SELECT packed, size FROM packed_layers WHERE plain = ?", (layer.digest,))
        for digest, size in rows:
            with self._content.lock:  # nobody removes it between these two
                keep(digest)
                is_here = self._content.has(digest)
            if is_here and self._is_whole(digest):
                return _as_gzip(layer, digest, size)
        return None

    def _is_whole(self, digest: str) -> bool:
        """Whether the disk did it no harm: the plain layer, which may be sound, goes when this takes its place."""
        with closing(self._content.chunks(digest)) as chunks:
            hashed = Hashed(chunks)
            for _ in hashed:
                pass
        return hashed.digest == digest

    def _made(self, layer: Descriptor, keep: Keep, cancel: Cancel, progress: Callable[[int], None]) -> Descriptor:
        with closing(self._plain(layer, cancel, progress)) as plain:
            chunks = watched(gzipped(plain), self._content.root, cancel.check, self._limits)
            blob = self._content.ingest(chunks, keep=keep)
        with self._database.transaction() as tx:
            tx.execute("INSERT OR REPLACE INTO packed_layers VALUES (?, ?, ?)", (layer.digest, blob.digest, blob.size))
        return _as_gzip(layer, blob.digest, blob.size)

    def _plain(self, layer: Descriptor, cancel: Cancel, progress: Callable[[int], None]) -> Chunks:
        """The layer's bytes.  Raises before their end is packed when they are not those of its digest."""
        with closing(self._content.chunks(layer.digest)) as chunks:
            hashed = Hashed(chunks)
            for chunk in hashed:
                cancel.check()
                yield chunk
                progress(hashed.size)
        if hashed.digest != layer.digest:
            raise InvalidArgument(f"content {layer.digest}: damaged on disk")


def _as_gzip(layer: Descriptor, digest: str, size: int) -> Descriptor:
    return msgspec.structs.replace(layer, media_type=OCI_LAYER_GZIP, digest=digest, size=size)
