"""Images: a configuration, its layers, and the names that point to it.

An image's id is the digest of its configuration, as Docker shows it.  Names are normalized references in a table of
their own; a name points to one image, an image has any number of names.  A name may stand for an index (`targets`):
other platforms of it that are here are images too, which have no name and are no garbage.  Lookups, tagging and texts
follow dockerd.  Removal is in `rmi`.

A disk may damage a configuration: such an image is not listed, and whoever asks for it is told to load it again.  With
a damaged manifest it can be listed and used, for its layers are unpacked; what needs the manifest goes without (`gc`,
`recovery`).  The log names either once.  A damaged image keeps its names, its layers and its blobs until it is loaded
again or removed.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from corten.core.content import ContentStore
from corten.core.events import Event
from corten.core.leases import Leases
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.core.targets import Targets, Variant
from corten.errors import CortenError, Internal, InvalidArgument, NotFound
from corten.spec.image import (
    ANNOTATION_CONTAINERD_NAME,
    ANNOTATION_REF_NAME,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    annotated,
    chain_ids,
    parse_config,
    parse_manifest,
    platform_text,
    runs_on,
)
from corten.spec.reference import Digest, Reference, parse, parse_any, parse_tag

log = logging.getLogger("corten.core")

Tell = Callable[[str, str, Mapping[str, str]], None]
"""Action, image id, attributes: an event that is published when the change has happened."""

# What a read says of a blob that is bad; any other error of the system (no descriptors, no memory) says nothing of it.
_DAMAGE = frozenset({errno.EIO, errno.ENODATA, errno.EUCLEAN, errno.EBADMSG, errno.EILSEQ, errno.EISDIR})

_COLUMNS = "id, manifest, media_type, manifest_size, chain, size, parent, added_ns, tagged_ns, used_ns, composed"


@dataclass(frozen=True, slots=True)
class Image:
    """One image.  Times are Unix nanoseconds, 0 when it never happened; sizes are bytes."""

    id: Digest
    manifest: Descriptor
    chain: str
    """Chain id of the top layer, the name of its snapshot; '' without layers."""
    size: int
    """All layers, unpacked: Docker's Size."""
    parent: str
    added_ns: int
    tagged_ns: int
    used_ns: int
    references: tuple[Reference, ...]
    config: ImageConfig
    """Empty when it is damaged."""
    chain_ids: tuple[Digest, ...]
    """Bottom first."""
    damage: str = ""
    """Why its configuration cannot be read."""
    reached_by: tuple[Reference, ...] = ()
    """Names that point to another image and stand for an index that has this one."""
    is_composed: bool = False
    """Whether its manifest was made here, and nobody was promised its digest."""

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        return Platform(self.config.architecture, self.config.os, self.config.variant)

    @property
    def repo_tags(self) -> list[str]:
        """`busybox:1`, as Docker shows tags."""
        return [reference.familiar for reference in self.references if not reference.is_canonical]

    @property
    def repo_digests(self) -> list[str]:
        """`busybox@sha256:…`, as Docker shows pinned names."""
        return [reference.familiar for reference in self.references if reference.is_canonical]

    @property
    def is_dangling(self) -> bool:
        """Whether no tag names it, nor an index that has it."""
        return all(reference.is_canonical for reference in (*self.references, *self.reached_by))


class ImageStore:
    """The images of one engine.  Thread-safe.

    `publish` receives an event for every change, in Docker's words.
    """

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        overlay: Overlay,
        publish: Callable[[Event], object] = lambda _: None,
    ) -> None:
        self.database = database
        self.content = content
        self.overlay = overlay
        self.leases = Leases(database)
        self._publish = publish
        self._configs: dict[str, ImageConfig] = {}
        self._told: set[str] = set()  # damaged documents that the log names already
        self.targets = Targets(database, content, self._document)
        self.lock = threading.RLock()
        """Held while images, their blobs and their snapshots are removed, or new ones are made from what is there."""
        self.leases.end_requests()
        self._write_index()

    # -- lookups

    def get(self, ref: str, platform: Platform | None = None) -> Image:
        """The image that a user means by a name, a digest, an id or a unique prefix of one.

        With `platform` it is the one for that: the name's own, or another one that is here of the name's index.
        Raises InvalidArgument (no possible name), NotFound, both in Docker's words; Internal when it is damaged.
        """
        image = self.find(ref)
        if platform is not None and (image.damage or not runs_on(image.platform, platform)):
            image = self._for_platform(ref, image, platform)
        if image.damage:
            raise Internal(_damaged(image))
        return image

    def target(self, ref: str) -> Descriptor:
        """What a name stands for, an index or a manifest; of an id the image's own manifest.  Raises as `get`."""
        image = self.find(ref)
        parsed = parse_any(ref)
        found = self.targets.of(parsed) if isinstance(parsed, Reference) else None
        return found.descriptor if found else image.manifest

    def platforms(self, ref: str) -> Sequence[tuple[Variant, Image | None]]:
        """The manifests behind a name in the index's order, each with its image when that is here; of an id its own.

        Raises as `find`; CortenError when a document is damaged.
        """
        return [self._with_image(variant) for variant in self.targets.variants(self.target(ref))]

    def find(self, ref: str) -> Image:
        """As `get`, a damaged one too."""
        parsed = parse_any(ref)
        if not isinstance(parsed, Reference):
            found = self._select("id = ?", (parsed,))
            if not found:
                raise NotFound(f"No such image: {parsed}")
            return found[0]
        named = self._select("id = (SELECT image FROM tags WHERE reference = ?)", (str(parsed.stored()),))
        if named:
            return named[0]
        by_prefix = self._by_prefix(ref)
        if len(by_prefix) != 1:
            raise NotFound(f"No such image: {parsed.tagged().familiar}")
        return by_prefix[0]

    def find_id(self, image_id: str) -> Image | None:
        """The image of a full id, a damaged one too."""
        return next(iter(self._select("id = ?", (image_id,))), None)

    def list(self) -> Sequence[Image]:
        """Every image that can be read, newest first by its own date; the log names the others, once each."""
        whole = []
        for image in self.all():
            if not image.damage:
                whole.append(image)
            else:
                self._tell_once(image.id, _damaged(image))
        return sorted(whole, key=lambda image: image.config.created or "", reverse=True)

    def all(self) -> Sequence[Image]:
        """Every image, the damaged ones too: what they stand on is needed."""
        return self._select("1", ())

    def references(self, image_id: str) -> tuple[Reference, ...]:
        """The names of an image, tags before digests, in order."""
        rows = self.database.query("SELECT reference FROM tags WHERE image = ? ORDER BY reference", (image_id,))
        found = [parse(row[0]) for row in rows]
        return tuple(sorted(found, key=lambda reference: reference.is_canonical))

    def children(self, image_id: str) -> Sequence[str]:
        """Ids of images built on this one."""
        return [row[0] for row in self.database.query("SELECT id FROM images WHERE parent = ?", (image_id,))]

    def config(self, image: Image) -> ImageConfig:
        """Its parsed configuration."""
        return image.config

    def config_bytes(self, image: Image) -> bytes:
        """Its configuration as it was made."""
        return self.content.read(image.id)

    def manifest(self, image: Image) -> Manifest:
        """Its manifest.  Raises CortenError when it is damaged."""
        return parse_manifest(self._document(image.manifest.digest))

    def layer_blobs(self, image: Image) -> Sequence[str]:
        """Digests of its layers' blobs, bottom first.  Raises CortenError when its manifest is damaged."""
        return [layer.digest for layer in self.manifest(image).layers]

    def tell_of_manifest(self, image: Image, error: CortenError) -> None:
        """Names in the log, once, an image whose manifest is damaged."""
        cannot = f"manifest of image {_named(image)} cannot be read: {error}: load it again, or remove it"
        self._tell_once(image.manifest.digest, f"{cannot}; until then no blob is removed")

    def tell_of_target(self, reference: Reference, digest: str, error: CortenError) -> None:
        """Names in the log, once, a name that stands for something damaged."""
        cannot = f"what {reference.familiar} stands for cannot be read: {error}: pull it again, or remove the name"
        self._tell_once(digest, f"{cannot}; until then no blob is removed")

    # -- changes

    @contextmanager
    def together(self) -> Iterator[Tell]:
        """Changes that happen all or not at all, and are on the disk at the end; then their events are published."""
        events: list[Event] = []
        with self.lock:
            try:
                with self.database.durable():
                    yield lambda *change: events.append(self._event(*change))
            except BaseException:
                self._write_index()
                raise
            for event in events:
                self._publish(event)

    def add(
        self, config_digest: str, manifest: Descriptor, *, size: int, parent: str = "", is_composed: bool = False
    ) -> Image:
        """Records an image whose blobs and snapshots are there; one that is known keeps what it has of it whole.

        `is_composed` says that the manifest was made here; it is so no more when somebody else brings the same one.
        """
        config = parse_config(self.content.read(config_digest))
        chain = chain_ids(config.diff_ids)
        row = (
            *(config_digest, manifest.digest, manifest.media_type, manifest.size),
            *(chain[-1] if chain else "", size, parent, time.time_ns(), is_composed),
        )
        with self.database.durable() as tx:
            tx.execute(
                "INSERT OR IGNORE INTO images (id, manifest, media_type, manifest_size, chain, size, parent, added_ns,"
                " composed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            kept = tx.execute("SELECT manifest FROM images WHERE id = ?", (config_digest,)).fetchone()[0]
            if kept != manifest.digest and not self._can_read(kept):
                self._change_manifest(tx, kept, manifest, is_composed=is_composed)
            elif kept == manifest.digest and not is_composed:
                tx.execute("UPDATE images SET composed = 0 WHERE id = ?", (config_digest,))
        self._told -= {config_digest, manifest.digest}
        self._write_index()
        return self._select("id = ?", (config_digest,))[0]

    def recompose(self, before: str, after: Descriptor) -> None:
        """The image whose manifest was composed here as `before` has another of the same configuration from now on.

        Its blobs are here and on a lease; those of the other one go with `gc.drop_blobs`.
        """
        with self.lock, self.database.durable() as tx:
            if tx.execute("SELECT 1 FROM images WHERE manifest = ? AND composed = 1", (before,)).fetchone():
                self._change_manifest(tx, before, after, is_composed=True)
        self._write_index()

    def tag(self, ref: str, repo: str, tag: str = "") -> Reference:
        """Points the name `repo[:tag]` to the image `ref`, wherever it pointed before; the name.

        The new name stands for what `ref` stands for.  Raises NotFound; InvalidArgument for a name that cannot be.
        """
        name = new_tag(repo, tag)
        with self.lock:
            image = self.get(ref)
            target = self.target(ref)
            self.point(name, image.id, target=None if target == image.manifest else target, is_tagged=True)
        self.publish("tag", image.id, {"name": name.familiar})
        return name

    def point(
        self, name: Reference, image_id: str, *, target: Descriptor | None = None, is_tagged: bool = False
    ) -> str:
        """Points a name to an image; the id that it pointed to before, or ''.

        `target` is the manifest or index that the name stands for when that is not the image's own manifest: its blob
        is here and on a lease.  What the name stood for before goes with the next `gc.drop_blobs`.  `is_tagged` notes
        the time, as dockerd does for tag and import, and not for load.
        """
        key = str(name.stored())
        self.targets.leave(name)
        stands_for = (target.digest, target.media_type, target.size) if target else ("", "", 0)
        with self.database.durable() as tx:
            before = tx.execute("SELECT image FROM tags WHERE reference = ?", (key,)).fetchone()
            tx.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", (key, image_id, *stands_for))
            if is_tagged:
                tx.execute("UPDATE images SET tagged_ns = ? WHERE id = ?", (time.time_ns(), image_id))
        self._write_index()
        return str(before[0]) if before else ""

    def unpoint(self, name: Reference) -> None:
        """Removes a name; raises NotFound."""
        self.targets.leave(name)
        with self.database.transaction() as tx:
            if not tx.execute("DELETE FROM tags WHERE reference = ?", (str(name.stored()),)).rowcount:
                raise NotFound(f"No such image: {name.tagged().familiar}")
        self._write_index()

    def touch(self, image_id: str) -> None:
        """Notes that a container uses the image now."""
        with self.database.transaction() as tx:
            tx.execute("UPDATE images SET used_ns = ? WHERE id = ?", (time.time_ns(), image_id))

    def forget(self, image_id: str) -> None:
        """Removes the record of an image without names; its blobs and snapshots are the caller's."""
        with self.database.transaction() as tx:
            tx.execute("DELETE FROM images WHERE id = ?", (image_id,))
        self._configs.pop(image_id, None)
        self._write_index()

    def publish(self, action: str, image_id: str, attributes: Mapping[str, str]) -> None:
        """Tells of a change; labels of the image are among the attributes, as with dockerd."""
        self._publish(self._event(action, image_id, attributes))

    # -- inside

    def _event(self, action: str, image_id: str, attributes: Mapping[str, str]) -> Event:
        config = self._configs.get(image_id)
        labels = (config.run.labels if config else None) or {}
        return Event(type="image", action=action, id=image_id, attributes={**labels, **attributes})

    def _by_prefix(self, ref: str) -> Sequence[Image]:
        hexadecimal = ref.removeprefix("sha256:")
        if not hexadecimal or set(hexadecimal) - set("0123456789abcdef"):
            return ()
        start = f"sha256:{hexadecimal}"
        return self._select("substr(id, 1, ?) = ?", (len(start), start))

    def _select(self, condition: str, parameters: Sequence[Any]) -> Sequence[Image]:
        rows = self.database.query(f"SELECT {_COLUMNS} FROM images WHERE {condition}", parameters)
        reached = self.targets.reached() if rows else {}
        return [image for row in rows if (image := self._image(row, reached.get(row[0], ()))) is not None]

    def _image(self, row: Sequence[Any], reached_by: tuple[Reference, ...]) -> Image | None:
        """The image of a row; None when it was removed since the row was read."""
        config, damage = ImageConfig(), ""
        try:
            config = self._config(row[0])
        except CortenError as error:
            if not self.database.query("SELECT 1 FROM images WHERE id = ?", (row[0],)):
                return None
            damage = error.text
        return Image(
            id=Digest(row[0]),
            manifest=Descriptor(media_type=row[2], digest=row[1], size=row[3]),
            chain=row[4],
            size=row[5],
            parent=row[6],
            added_ns=row[7],
            tagged_ns=row[8],
            used_ns=row[9],
            references=self.references(row[0]),
            config=config,
            chain_ids=self._chain_below(row[4]) if damage else chain_ids(config.diff_ids),
            damage=damage,
            reached_by=reached_by,
            is_composed=bool(row[10]),
        )

    def _with_image(self, variant: Variant) -> tuple[Variant, Image | None]:
        image = self.find_id(variant.image_id) if variant.image_id and not variant.is_attestation else None
        if image is not None and variant.platform == Platform():
            return replace(variant, platform=image.platform), image
        return variant, image

    def _for_platform(self, ref: str, other: Image, platform: Platform) -> Image:
        for _, image in self.platforms(ref):
            if image is not None and not image.damage and runs_on(image.platform, platform):
                return image
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform:"
            f" wanted {platform_text(platform)}, actual: {platform_text(other.platform)}"
        )

    @staticmethod
    def _change_manifest(tx: sqlite3.Connection, before: str, after: Descriptor, *, is_composed: bool) -> None:
        tx.execute(
            "UPDATE images SET manifest = ?, media_type = ?, manifest_size = ?, composed = ? WHERE manifest = ?",
            (after.digest, after.media_type, after.size, is_composed, before),
        )

    def _can_read(self, digest: str) -> bool:
        try:
            self._document(digest)
        except CortenError:
            return False
        return True

    def _document(self, digest: str) -> bytes:
        """A configuration or manifest.  Raises CortenError when it is damaged, OSError when something else is wrong."""
        try:
            return self.content.read(digest)
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            raise Internal(f"content {digest}: {error.strerror}") from error

    def _tell_once(self, digest: str, text: str) -> None:
        if digest not in self._told:
            self._told.add(digest)
            log.error("%s", text)

    def _chain_below(self, chain: str) -> tuple[Digest, ...]:
        """Chain ids down from the top one, as the snapshots have it; bottom first."""
        found: list[Digest] = []
        while chain and self.overlay.exists(chain):
            found.append(Digest(chain))
            chain = self.overlay.stat(chain).parent
        return tuple(reversed(found))

    def _config(self, image_id: str) -> ImageConfig:
        config = self._configs.get(image_id)
        if config is None:
            config = self._configs[image_id] = parse_config(self._document(image_id))
        return config

    def _write_index(self) -> None:
        """index.json says what the tables say: a descriptor per name, one without a name for a dangling image."""
        self.targets.changed()
        with self.lock:
            rows = self.database.query(
                "SELECT media_type, manifest, manifest_size, reference, target_type, target, target_size FROM images"
                " LEFT JOIN tags ON image = id ORDER BY reference, id"
            )
            described = [(Descriptor(*(row[4:] if row[5] else row[:3])), row[3] or "") for row in rows]
            self.content.write_index([_indexed(descriptor, name) for descriptor, name in described])


def new_tag(repo: str, tag: str) -> Reference:
    """The name `repo[:tag]` for an image of this engine.  Raises InvalidArgument in Docker's words."""
    name = parse(repo)
    if name.is_canonical:
        raise InvalidArgument("cannot import digest reference")
    if tag:
        name = Reference(name.domain, name.path, parse_tag(tag))
    if name.familiar_name == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return name.tagged()


def _damaged(image: Image) -> str:
    """One line: which image, why, and the way out."""
    return f"image {_named(image)} cannot be read: {image.damage}: load it again, or remove it"


def _named(image: Image) -> str:
    names = ", ".join(reference.familiar for reference in image.references)
    return f"{names} ({short_id(image.id)})" if names else short_id(image.id)


def _indexed(manifest: Descriptor, reference: str) -> Descriptor:
    if not reference:
        return manifest
    return annotated(manifest, {ANNOTATION_REF_NAME: reference, ANNOTATION_CONTAINERD_NAME: reference})


def is_id_prefix(image_id: str, ref: str) -> bool:
    """Whether a user who wrote `ref` meant the id and not a name."""
    hexadecimal = ref.removeprefix("sha256:")
    return bool(hexadecimal) and image_id.removeprefix("sha256:").startswith(hexadecimal)


def short_id(object_id: str) -> str:
    """12 hexadecimal digits, as Docker shows ids in texts."""
    return object_id.rpartition(":")[2][:12]
