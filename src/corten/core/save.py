"""`docker save`: images as an archive that is a docker-archive and an OCI layout in one, as Docker's since 25.

    blobs/sha256/…    configurations, manifests and layers as they are kept: packed as they came
    index.json        every manifest under every name
    manifest.json     the docker-archive's table of contents; `repositories` for Dockers before 1.10
    oci-layout

Blobs are copied, never packed anew: who loads the archive has the manifests, and so the digests, that were here.  Every
blob is hashed on its way out, and one that the disk damaged ends the archive before its end.  The same images give the
same bytes: entries in order of their names, of 1970, of root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from corten.core.images import Image, ImageStore
from corten.core.leases import CONTENT
from corten.core.streams import CHUNK, chunks_of
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
    Platform,
    annotated,
    encode,
)
from corten.spec.reference import Reference, parse_any

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_BLOBS = "blobs/sha256/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image of the archive and the names it gets there."""

    image: Image
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """A member of the archive: a blob of the store, or `data`."""

    path: str
    size: int
    data: bytes | None = None


def resolve(images: ImageStore, names: Sequence[str], platform: Platform | None = None) -> list[Wanted]:
    """The images that a user means, in order, each once.

    A name without a tag means all its tags, an id means an image without a name, as with dockerd.
    Raises InvalidArgument (no possible name), NotFound.
    """
    found: dict[str, Wanted] = {}
    for name in names:
        for image, reference in _meant(images, name):
            _require_platform(image, name, platform)
            known = found.get(image.id, Wanted(image, ())).references
            fresh = (reference,) if reference is not None and reference not in known else ()
            found[image.id] = Wanted(image, known + fresh)
    return list(found.values())


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


def _require_platform(image: Image, name: str, wanted: Platform | None) -> None:
    config = image.config
    if wanted is None:
        return
    is_same = (config.os, config.architecture) == (wanted.os, wanted.architecture)
    if is_same and (not wanted.variant or wanted.variant == config.variant):
        return
    shown = "/".join(part for part in (wanted.os, wanted.architecture, wanted.variant) if part)
    raise NotFound(f"image with reference {name} was found but does not provide the specified platform ({shown})")


@contextmanager
def saved(images: ImageStore, wanted: Sequence[Wanted]) -> Iterator[Iterator[bytes]]:
    """The archive as chunks; what it needs is kept until the `with` is left.

    Raises NotFound when a blob is missing; from the chunks Internal when one is damaged.
    """
    with ExitStack() as stack:
        lease = stack.enter_context(images.leases.held())
        files = _files(images, wanted, lease.id)
        yield _chunks(images, files)


def _files(images: ImageStore, wanted: Sequence[Wanted], lease_id: str) -> list[_File]:
    files: dict[str, _File] = {}

    def keep(descriptor: Descriptor) -> None:
        with images.content.lock:
            images.leases.add(lease_id, CONTENT, descriptor.digest)
            path = _blob_path(descriptor.digest)
            files[path] = _File(path, images.content.size(descriptor.digest))

    entries: list[ArchiveEntry] = []
    listed: list[Descriptor] = []
    repositories: dict[str, dict[str, str]] = {}
    for one in wanted:
        manifest = images.manifest(one.image)
        for descriptor in (one.image.manifest, manifest.config, *manifest.layers):
            keep(descriptor)
        layers = [_blob_path(layer.digest) for layer in manifest.layers]
        names = [reference.familiar for reference in one.references]
        entries.append(ArchiveEntry(_blob_path(manifest.config.digest), layers, names or None))
        listed += _listed(one)
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


def _listed(one: Wanted) -> list[Descriptor]:
    """What index.json says of an image: as Docker's, `ref.name` is the tag alone."""
    if not one.references:
        return [one.image.manifest]
    return [
        annotated(one.image.manifest, {ANNOTATION_CONTAINERD_NAME: str(reference), ANNOTATION_REF_NAME: reference.tag})
        for reference in one.references
    ]


def _blob_path(digest: str) -> str:
    return _BLOBS + digest.partition(":")[2]


def _chunks(images: ImageStore, files: Sequence[_File]) -> Iterator[bytes]:
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
