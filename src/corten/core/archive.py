"""`docker load`: images from an archive, as written by `docker save` (both forms), skopeo, umoci, podman, buildah.

    in the archive               form
    manifest.json                docker-archive: configuration, layers and names by path; layers in any packing
    manifest.json, index.json    the same since Docker 25, with OCI manifests to keep
    index.json                   OCI layout: manifests by digest; names in annotations

The archive may be packed (gzip, zstd, bzip2, xz) and is read once, as a stream; memory stays bounded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from corten.core import gc
from corten.core.images import Image, ImageStore
from corten.core.layers import layers_of, unpack
from corten.core.leases import SNAPSHOT
from corten.core.limits import DEFAULT, Limits
from corten.core.members import Members
from corten.core.streams import Compression, detect
from corten.errors import InvalidArgument, NotFound
from corten.spec.image import (
    ANNOTATION_CONTAINERD_NAME,
    ANNOTATION_REF_NAME,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    ArchiveEntry,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    encode,
    parse_archive_manifest,
    parse_config,
    parse_index,
    parse_manifest,
    select_platform,
)
from corten.spec.reference import Reference, parse

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_INDEX_DEPTH = 4
_IMAGES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """One line of the answer: an image under one of its names, or without."""

    image_id: str
    reference: Reference | None
    replaced: str
    """Id of the image that had this name before; '' when none or the same."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """An image of the archive: its manifest's bytes, the manifest, its names."""

    data: bytes
    manifest: Manifest
    references: tuple[Reference, ...]


def host_platform() -> Platform:
    """What this machine runs."""
    machine = os.uname().machine
    return Platform(architecture=_MACHINES.get(machine, machine), os="linux")


def load(
    chunks: Iterable[bytes], images: ImageStore, *, platform: Platform | None = None, limits: Limits = DEFAULT
) -> list[Loaded]:
    """Takes in every image of an archive that runs on `platform` (this machine's).

    Raises:
        InvalidArgument: not an archive of images, damaged, hostile, or for other platforms.
        NotFound: it refers to something that it does not hold.
        Unavailable: the disk is about to be full.
    """
    members = None
    try:
        with images.leases.held() as lease:
            members = Members(images.content, images.leases, lease.id)
            members.collect(chunks, limits)
            loaded: list[Loaded] = []
            for planned in _plans(members, platform or host_platform(), limits):
                loaded += _take_in(planned, members, images, lease.id, limits)
            return loaded
    finally:
        if members is not None:
            gc.drop_blobs(images, members.ingested)


def messages(loaded: Sequence[Loaded]) -> list[str]:
    """The lines that Docker prints."""
    lines = []
    for one in loaded:
        if one.reference is None:
            lines.append(f"Loaded image ID: {one.image_id}\n")
            continue
        if one.replaced:
            lines.append(
                f"The image {one.reference.familiar} already exists, renaming the old one with ID {one.replaced}"
                " to empty string\n"
            )
        lines.append(f"Loaded image: {one.reference.familiar}\n")
    return lines


def _plans(members: Members, platform: Platform, limits: Limits) -> Iterator[_Planned]:
    if "manifest.json" in members:
        entries = parse_archive_manifest(members.document("manifest.json"))
        kept = _kept_manifests(members)
        _require_few(len(entries))
        for entry in entries:
            yield _docker_plan(entry, members, kept)
    elif "index.json" in members:
        index = parse_index(members.document("index.json"))
        _require_few(len(index.manifests))
        yield from _oci_plans(index, members, platform)
    else:
        raise InvalidArgument("archive holds no image: neither manifest.json nor index.json")


def _require_few(count: int) -> None:
    if count > _IMAGES_MAX:
        raise InvalidArgument(f"archive holds more than {_IMAGES_MAX} images")


# -- docker-archive


def _docker_plan(entry: ArchiveEntry, members: Members, kept: dict[str, bytes]) -> _Planned:
    config_data = members.document(entry.config)
    config = parse_config(config_data)
    if len(entry.layers) != len(config.diff_ids):
        counts = f"expected {len(entry.layers)}, got {len(config.diff_ids)}"
        raise InvalidArgument(f"invalid manifest, layers length mismatch: {counts}")
    config_blob = members.put(config_data)
    references = tuple(_tagged(text) for text in entry.repo_tags or ())
    if config_blob.digest in kept:
        data = kept[config_blob.digest]
        return _Planned(data, parse_manifest(data), references)
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=Descriptor(OCI_CONFIG, config_blob.digest, config_blob.size),
        layers=[_layer_descriptor(name, members) for name in entry.layers],
    )
    return _Planned(encode(manifest), manifest, references)


def _tagged(text: str) -> Reference:
    reference = parse(text)
    if not reference.tag:
        raise InvalidArgument(f'invalid tag "{text}"')
    return reference


LAYER_TYPES = {
    Compression.NONE: OCI_LAYER,
    Compression.GZIP: OCI_LAYER_GZIP,
    Compression.ZSTD: OCI_LAYER_ZSTD,
}


def _layer_descriptor(name: str, members: Members) -> Descriptor:
    blob = members.blob(name)
    compression = detect(members.start(blob))
    if compression not in LAYER_TYPES:
        raise InvalidArgument(f"{name}: layers packed with {compression.value} are not supported")
    return Descriptor(LAYER_TYPES[compression], blob.digest, blob.size)


def _kept_manifests(members: Members) -> dict[str, bytes]:
    """Manifests that the archive holds besides manifest.json, by the digest of their configuration."""
    if "index.json" not in members:
        return {}
    kept = {}
    for descriptor in parse_index(members.document("index.json")).manifests[:_IMAGES_MAX]:
        if descriptor.media_type in MANIFESTS:
            data = members.document_by_digest(descriptor.digest)
            kept[parse_manifest(data).config.digest] = data
    return kept


# -- OCI layout


def _oci_plans(index: Index, members: Members, platform: Platform) -> Iterator[_Planned]:
    for descriptor in index.manifests:
        if descriptor.media_type not in MANIFESTS | INDEXES:
            continue
        chosen = _resolve(descriptor, members, platform, depth=0)
        data = members.document_by_digest(chosen.digest)
        yield _Planned(data, parse_manifest(data), _names(descriptor))


def _resolve(descriptor: Descriptor, members: Members, platform: Platform, depth: int) -> Descriptor:
    """The manifest for this platform behind an index, or the manifest itself."""
    if descriptor.media_type in MANIFESTS:
        return descriptor
    found = select_platform(parse_index(members.document_by_digest(descriptor.digest)), platform)
    if found is None or depth >= _INDEX_DEPTH:
        wanted = f"{platform.os}/{platform.architecture}"
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    return _resolve(found, members, platform, depth + 1)


def _names(descriptor: Descriptor) -> tuple[Reference, ...]:
    """The name in a descriptor's annotations.  `ref.name` alone is often only a tag, which names nothing."""
    annotations = descriptor.annotations or {}
    text = annotations.get(ANNOTATION_CONTAINERD_NAME) or annotations.get(ANNOTATION_REF_NAME, "")
    if ":" not in text and "/" not in text:
        return ()
    return (parse(text).tagged(),)


# -- taking in


def _take_in(planned: _Planned, members: Members, images: ImageStore, lease_id: str, limits: Limits) -> list[Loaded]:
    manifest = planned.manifest
    config_blob = members.known(manifest.config.digest)
    config = parse_config(images.content.read(config_blob.digest))
    if len(manifest.layers) != len(config.diff_ids):
        counts = f"expected {len(manifest.layers)}, got {len(config.diff_ids)}"
        raise InvalidArgument(f"invalid manifest, layers length mismatch: {counts}")
    for layer in manifest.layers:
        blob = members.known(layer.digest)
        if blob.size != layer.size:
            raise InvalidArgument(f"content of {layer.digest} has {blob.size} bytes, not {layer.size}")
    with images.lock:
        for chain_id in chain_ids(config.diff_ids):
            images.leases.add(lease_id, SNAPSHOT, chain_id)
    layers = layers_of([layer.digest for layer in manifest.layers], config.diff_ids)
    chain = unpack(layers, images.content, images.overlay, limits)
    manifest_blob = members.put(planned.data)
    size = sum(images.overlay.stat(chain_id).size for chain_id in chain)
    descriptor = Descriptor(manifest.media_type or OCI_MANIFEST, manifest_blob.digest, manifest_blob.size)
    with images.together() as tell:  # an image that is known may be on its way out
        image = images.add(config_blob.digest, descriptor, size=size)
        tell("load", image.id, {"name": image.id})
        return _name(image, planned.references, images)


def _name(image: Image, references: Sequence[Reference], images: ImageStore) -> list[Loaded]:
    if not references:
        return [Loaded(image.id, None, "")]
    loaded = []
    for reference in references:
        before = images.point(reference, image.id)
        loaded.append(Loaded(image.id, reference, before if before != image.id else ""))
    return loaded
