"""What names stand for: a manifest, or an index of manifests for several platforms.

    name's target       keeps as blobs                                          its images
    none                nothing                                                 the one that the name points to
    a manifest          the manifest, its configuration and layers              the same
    an index            the index and those in it; of its manifests those       the one that the name points to, and
                        whose image is here, with configuration and layers,     those that are here of its manifests
                        and attestations

An index is kept while a name stands for it (image-spec image-index.md).  It says what a stranger wrote: a digest in it
is looked up and never a path, and one that comes twice is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from corten.core.content import ContentStore
from corten.core.metadata import Database
from corten.errors import CortenError
from corten.spec.image import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_index,
    parse_manifest,
)
from corten.spec.reference import Reference, parse

_DEPTH_MAX = 4
_ATTESTATION = "vnd.docker.reference.type"


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether a manifest of an index says something of another and is no image, as buildkit marks them."""
    return _ATTESTATION in (descriptor.annotations or {})


@dataclass(frozen=True, slots=True)
class Target:
    """A name that stands for more than its image's own manifest."""

    reference: Reference
    image_id: str
    """That the name points to."""
    descriptor: Descriptor

    @property
    def is_index(self) -> bool:
        """Whether it stands for several manifests."""
        return self.descriptor.media_type in INDEXES


@dataclass(frozen=True, slots=True)
class Variant:
    """One manifest of an index, or the only one."""

    descriptor: Descriptor
    platform: Platform
    """As the index says it; of the configuration when it says nothing and that is here."""
    image_id: str
    """Digest of its configuration; '' when the manifest is not here."""
    parents: tuple[str, ...] = ()
    """Digests of the indexes on the way to it."""

    @property
    def is_attestation(self) -> bool:
        """Whether it says something of another manifest and is no image."""
        return is_attestation(self.descriptor)


class Targets:
    """The targets of one store's names.  Thread-safe.

    `read` gives a small blob, checked, and raises CortenError when it is missing or damaged.
    """

    def __init__(self, database: Database, content: ContentStore, read: Callable[[str], bytes]) -> None:
        self._database = database
        self._content = content
        self._read = read
        self._indexes: dict[str, Index] = {}
        self._configs: dict[str, str] = {}  # of a manifest
        self._reached: dict[str, tuple[Reference, ...]] | None = None
        self._changes = 0
        self.left: set[str] = set()
        """Blobs of what names stood for that now stand for something else; `gc.drop_blobs` looks at them again."""

    def all(self) -> Sequence[Target]:
        """Every name that has one."""
        rows = self._database.query(
            "SELECT reference, image, target_type, target, target_size FROM tags WHERE target != '' ORDER BY reference"
        )
        return [Target(parse(row[0]), row[1], Descriptor(row[2], row[3], row[4])) for row in rows]

    def of(self, reference: Reference) -> Target | None:
        """What a name stands for; None for its image's own manifest, or when there is no such name."""
        rows = self._database.query(
            "SELECT image, target_type, target, target_size FROM tags WHERE reference = ? AND target != ''",
            (str(reference.stored()),),
        )
        return Target(reference.stored(), rows[0][0], Descriptor(*rows[0][1:])) if rows else None

    def variants(self, descriptor: Descriptor) -> Sequence[Variant]:
        """The manifests behind a descriptor, in order, each once.

        Of an index inside that is not here its own descriptor is given.  Raises CortenError when a document is damaged.
        """
        return list(self._walk(descriptor, set(), (), self._content.has))

    def reached(self) -> dict[str, tuple[Reference, ...]]:
        """Images by id, with the names whose index has them though they point to another image.

        A damaged index reaches nothing; whoever removes blobs is told of it (`blobs`).
        """
        if (known := self._reached) is not None:
            return known
        changes = self._changes
        found = self._reach()
        if changes == self._changes:
            self._reached = found
        return found

    def changed(self) -> None:
        """Names or images are others than before."""
        self._changes += 1
        self._reached = None

    def leave(self, reference: Reference) -> None:
        """The name will stand for something else, or for nothing."""
        target = self.of(reference)
        if target is None:
            return
        self.left.add(target.descriptor.digest)
        with suppress(CortenError):  # a damaged index: `gc.collect` finds what only it knew
            self.left |= self.blobs(target)

    def blobs(self, target: Target) -> set[str]:
        """What a name keeps.  Raises CortenError when a document that says so is damaged."""
        kept = {target.descriptor.digest}
        known = {row[0] for row in self._database.query("SELECT id FROM images")}
        for variant in self.variants(target.descriptor):
            kept.update(variant.parents)
            if variant.descriptor.media_type in INDEXES or not variant.image_id:
                continue
            if variant.image_id in known or variant.is_attestation:
                manifest = self.manifest(variant.descriptor.digest)
                kept |= {variant.descriptor.digest, *(one.digest for one in (manifest.config, *manifest.layers))}
        return kept

    def manifest(self, digest: str) -> Manifest:
        """A manifest by its digest.  Raises CortenError when it is missing or damaged."""
        return parse_manifest(self._read(digest))

    # -- inside

    def _reach(self) -> dict[str, tuple[Reference, ...]]:
        found: dict[str, tuple[Reference, ...]] = {}
        indexes = [target for target in self.all() if target.is_index]
        here = self._content.digests() if indexes else frozenset()  # one listing: an index has a dozen manifests
        for target in indexes:
            try:
                variants = list(self._walk(target.descriptor, set(), (), here.__contains__))
                ids = {one.image_id for one in variants} - {"", target.image_id}
            except CortenError:
                continue
            for image_id in ids:
                found[image_id] = (*found.get(image_id, ()), target.reference)
        return found

    def _walk(
        self, descriptor: Descriptor, seen: set[str], parents: tuple[str, ...], has: Callable[[str], bool]
    ) -> Iterator[Variant]:
        if descriptor.digest in seen:
            return
        seen.add(descriptor.digest)
        if descriptor.media_type in INDEXES and len(parents) <= _DEPTH_MAX and has(descriptor.digest):
            for inner in self._index(descriptor.digest).manifests:
                yield from self._walk(inner, seen, (*parents, descriptor.digest), has)
        elif descriptor.media_type in MANIFESTS | INDEXES:
            is_here = descriptor.media_type in MANIFESTS and has(descriptor.digest)
            image_id = self._config_of(descriptor.digest) if is_here else ""
            yield Variant(descriptor, descriptor.platform or Platform(), image_id, parents)

    def _index(self, digest: str) -> Index:
        if digest not in self._indexes:
            self._indexes[digest] = parse_index(self._read(digest))
        return self._indexes[digest]

    def _config_of(self, digest: str) -> str:
        if digest not in self._configs:
            self._configs[digest] = self.manifest(digest).config.digest
        return self._configs[digest]
