"""`docker save`: images as an archive that is a docker-archive and an OCI layout in one, as Docker's since 25.

    blobs/sha256/…    configurations, manifests and layers as they are kept: packed as they came
    index.json        what every name stands for: a manifest, or an index with those of its platforms that are here
    manifest.json     the docker-archive's table of contents; `repositories` for Dockers before 1.10
    oci-layout

Blobs are copied, never packed anew: who loads the archive has the manifests, and so the digests, that were here.  Every
blob is hashed on its way out, and one that the disk damaged ends the archive before its end.  The same images give the
same bytes: entries in order of their names, of 1970, of root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

import msgspec

from corten.core.images import Image, ImageStore
from corten.core.leases import CONTENT
from corten.core.streams import CHUNK, chunks_of
from corten.core.targets import Target
from corten.core.tarheader import Entry, Kind
from corten.core.tarwriter import END, header, padding
from corten.errors import Internal, NotFound
from corten.spec.image import (
    ANNOTATION_CONTAINERD_NAME,
    ANNOTATION_REF_NAME,
    OCI_INDEX,
    ArchiveEntry,
    Descriptor,
    Index,
    Manifest,
    Platform,
    annotated,
    encode,
    platform_text,
    runs_on,
)
from corten.spec.reference import Reference, parse_any

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_BLOBS = "blobs/sha256/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image of the archive and the names it gets there."""

    image: Image
    references: tuple[Reference, ...]
    only: Descriptor | None = None
    """Its manifest, when one platform of what the names stand for was asked for."""


@dataclass(frozen=True, slots=True)
class _File:
    """A member of the archive: a blob of the store, or `data`."""

    path: str
    size: int
    data: bytes | None = None


def resolve(images: ImageStore, names: Sequence[str], platform: Platform | None = None) -> list[Wanted]:
    """The images that a user means, in order, each once.

    A name without a tag means all its tags, an id means an image without a name, as with dockerd.
    Raises InvalidArgument (no possible name), NotFound, also when there is nothing for the platform.
    """
    found: dict[str, Wanted] = {}
    for name in names:
        for image, reference in _meant(images, name):
            wanted = (
                _of_platform(images, Wanted(image, ()), reference, name, platform) if platform else Wanted(image, ())
            )
            known = found.get(wanted.image.id, wanted)
            fresh = (reference,) if reference is not None and reference not in known.references else ()
            found[wanted.image.id] = replace(known, references=known.references + fresh)
    return list(found.values())


def _of_platform(
    images: ImageStore, wanted: Wanted, reference: Reference | None, name: str, platform: Platform
) -> Wanted:
    """The image of what a name stands for that runs on the platform.  Raises NotFound."""
    ref = reference.familiar if reference is not None else wanted.image.id
    for variant, image in images.platforms(ref):
        if image is not None and not image.damage and runs_on(image.platform, platform):
            return Wanted(image, (), variant.descriptor)
    shown = platform_text(platform)
    raise NotFound(f"image with reference {name} was found but does not provide the specified platform ({shown})")


def _meant(images: ImageStore, name: str) -> list[tuple[Image, Reference | None]]:
    parsed = parse_any(name)
    if not isinstance(parsed, Reference):
        return [(images.get(name), None)]
    if not parsed.tag and not parsed.digest:
        tagged = _tagged(images, parsed)
        if tagged:
            return list(tagged)
    image = _found(images, name, parsed)
    stored = parsed.stored()
    return [(image, stored if stored.tag and stored in image.references else None)]


def _found(images: ImageStore, name: str, parsed: Reference) -> Image:
    try:
        return images.get(name)
    except NotFound:
        # dockerd's words for a name, and those for a name with a tag or digest
        text = "reference does not exist" if parsed.tag or parsed.digest else f"No such image: {name}"
        raise NotFound(text) from None


def _tagged(images: ImageStore, name: Reference) -> Sequence[tuple[Image, Reference]]:
    """Every image with a tag of this name, by tag."""
    found = [(image, reference) for image in images.list() for reference in image.references]
    wanted = [(image, one) for image, one in found if one.tag and one.name == name.name]
    return sorted(wanted, key=lambda pair: pair[1].tag)


@contextmanager
def saved(images: ImageStore, wanted: Sequence[Wanted]) -> Iterator[Iterator[bytes]]:
    """The archive as chunks; what it needs is kept until the `with` is left.

    Raises NotFound when a blob is missing; from the chunks Internal when one is damaged.
    """
    with ExitStack() as stack:
        lease = stack.enter_context(images.leases.held())
        with images.lock:
            files = _files(images, [_now(images, one) for one in wanted], lease.id)
        yield stack.enter_context(closing(_chunks(images, files)))


def _now(images: ImageStore, one: Wanted) -> Wanted:
    """The same with the manifest that the image has now: a push may have packed its layers since it was found."""
    image = images.find_id(one.image.id) or one.image
    if image.manifest == one.image.manifest:
        return one
    is_own = one.only is not None and one.only.digest == one.image.manifest.digest
    return replace(one, image=image, only=image.manifest if is_own else one.only)


def _files(images: ImageStore, wanted: Sequence[Wanted], lease_id: str) -> list[_File]:
    files: dict[str, _File] = {}

    def keep(digest: str) -> None:
        with images.content.lock:
            images.leases.add(lease_id, CONTENT, digest)
            path = _blob_path(digest)
            files[path] = _File(path, images.content.size(digest))

    entries: list[ArchiveEntry] = []
    listed: list[Descriptor] = []
    repositories: dict[str, dict[str, str]] = {}
    for one in wanted:
        targets = _targets(images, one)
        manifest = _manifest(images, one, targets)
        for digest in _needed(images, one, manifest, targets):
            keep(digest)
        layers = [_blob_path(layer.digest) for layer in manifest.layers]
        names = [reference.familiar for reference in one.references]
        entries.append(ArchiveEntry(_blob_path(manifest.config.digest), layers, names or None))
        listed += [_named(target) for target in targets] or [one.only or one.image.manifest]
        for reference in one.references if layers else ():
            repositories.setdefault(reference.familiar_name, {})[reference.tag] = layers[-1].removeprefix(_BLOBS)
    documents = {
        "index.json": encode(Index(schema_version=2, manifests=listed, media_type=OCI_INDEX)),
        "manifest.json": msgspec.json.encode(entries),
        "oci-layout": _LAYOUT,
    }
    if repositories:
        documents["repositories"] = msgspec.json.encode(repositories, order="sorted")
    files |= {path: _File(path, len(data), data) for path, data in documents.items()}
    return [files[path] for path in sorted(files)]


def _targets(images: ImageStore, one: Wanted) -> list[Target]:
    """What each name stands for in the archive."""
    own = one.only or one.image.manifest
    known = [None if one.only else images.targets.of(reference) for reference in one.references]
    return [
        target or Target(reference, one.image.id, own) for reference, target in zip(one.references, known, strict=True)
    ]


def _manifest(images: ImageStore, one: Wanted, targets: Sequence[Target]) -> Manifest:
    """The manifest whose layers manifest.json lists: the one that the first name means, of an index this image's."""
    own = one.only or one.image.manifest
    for target in targets[:1]:
        for variant in images.targets.variants(target.descriptor):
            if variant.image_id == one.image.id:
                own = variant.descriptor
    return images.targets.manifest(own.digest)


def _needed(images: ImageStore, one: Wanted, manifest: Manifest, targets: Sequence[Target]) -> set[str]:
    """Digests of all blobs that the names, and so the archive, have."""
    needed = {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
    if not targets:
        needed.add((one.only or one.image.manifest).digest)
    for target in targets:
        needed |= images.targets.blobs(target)
    return needed


def _named(target: Target) -> Descriptor:
    """What index.json says of a name: as Docker's, `ref.name` is the tag alone."""
    reference = target.reference
    names = {ANNOTATION_CONTAINERD_NAME: str(reference), ANNOTATION_REF_NAME: reference.tag}
    return annotated(target.descriptor, names)


def _blob_path(digest: str) -> str:
    return _BLOBS + digest.partition(":")[2]


def _chunks(images: ImageStore, files: Sequence[_File]) -> Generator[bytes, None, None]:
    yield _header(Kind.DIRECTORY, "blobs") + _header(Kind.DIRECTORY, _BLOBS.rstrip("/"))
    for file in files:
        yield _header(Kind.FILE, file.path, file.size)
        if file.data is not None:
            yield file.data
        else:
            yield from _blob(images, file)
        yield padding(file.size)
    yield END


def _header(kind: Kind, path: str, size: int = 0) -> bytes:
    mode = 0o755 if kind is Kind.DIRECTORY else 0o644
    return header(Entry(kind, path.encode(), b"", mode, 0, 0, size, 0, 0, (), None))


def _blob(images: ImageStore, file: _File) -> Iterator[bytes]:
    digest = "sha256:" + file.path.removeprefix(_BLOBS)
    hashed, left = hashlib.sha256(), file.size
    with images.content.open(digest) as source:
        for chunk in chunks_of(source, CHUNK):
            hashed.update(chunk)
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    if left or hashed.hexdigest() != file.path.removeprefix(_BLOBS):
        raise Internal(f"content {digest}: damaged on disk")
