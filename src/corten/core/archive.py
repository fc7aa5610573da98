"""`docker load`: images from an archive, as written by `docker save` (both forms), skopeo, umoci, podman, buildah.

    in the archive               form
    manifest.json                docker-archive: configuration, layers and names by path; layers in any packing
    manifest.json, index.json    the same since Docker 25, with OCI manifests to keep
    index.json                   OCI layout: manifests by digest; names in annotations

A name that stands for an index of several platforms stands for it here too, with those of its platforms that the
archive has; a nameless index gives the image for this machine.  The archive may be packed (gzip, zstd, bzip2, xz) and
is read once, as a stream; memory stays bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from corten.core import gc
from corten.core.images import Image, ImageStore
from corten.core.layers import Layer, layers_of, unpack
from corten.core.leases import SNAPSHOT
from corten.core.limits import DEFAULT, Limits
from corten.core.members import Members
from corten.core.streams import Compression, detect
from corten.core.targets import is_attestation
from corten.errors import CortenError, InvalidArgument, NotFound
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
    ImageConfig,
    Index,
    Manifest,
    Platform,
    chain_ids,
    digest_of,
    encode,
    parse_archive_manifest,
    parse_config,
    parse_index,
    parse_manifest,
    platform_text,
    runs_on,
    select_platform,
)
from corten.spec.reference import Reference, parse

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
Tell = Callable[[str, int, int], None]
"""Diff id of a layer, bytes of its blob that are unpacked, bytes in all; called from several threads."""

_INDEX_DEPTH = 4
_IMAGES_MAX = 1024
_NO_DIGEST = "refusing to create a tag with a digest reference"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One line of the answer: an image under one of its names, or without."""

    image_id: str
    reference: Reference | None
    replaced: str
    """Id of the image that had this name before; '' when none or the same."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """An image of the archive: its manifest's bytes, and the manifest."""

    data: bytes
    manifest: Manifest
    is_composed: bool = False
    """Whether the manifest is not the archive's but was made here."""


@dataclass(frozen=True, slots=True)
class _Group:
    """What names of the archive stand for: one image, or those of an index, the one that the names point to first."""

    images: tuple[_Planned, ...]
    references: tuple[Reference, ...]
    target: Descriptor | None = None
    """The index, or a manifest that somebody else made."""
    beside: tuple[str, ...] = ()
    """Digests of blobs that the index has besides images: indexes and attestations."""


@dataclass(frozen=True, slots=True)
class _Taking:
    """One load under way; `before` collects blobs that a name meant before."""

    members: Members
    images: ImageStore
    lease_id: str
    limits: Limits
    before: set[str]
    tell: Tell


@dataclass(frozen=True, slots=True)
class _Asked:
    """The platform to load, or, when nobody asked for one, this machine's for what has no name."""

    platform: Platform
    is_explicit: bool

    def admits(self, config: ImageConfig) -> bool:
        """Whether an image of this configuration is loaded."""
        return not self.is_explicit or runs_on(_platform_of(config), self.platform)


def host_platform() -> Platform:
    """What this machine runs."""
    machine = os.uname().machine
    return Platform(architecture=_MACHINES.get(machine, machine), os="linux")


def load(
    chunks: Iterable[bytes],
    images: ImageStore,
    *,
    platform: Platform | None = None,
    limits: Limits = DEFAULT,
    tell: Tell = lambda *_: None,
) -> list[Loaded]:
    """Takes in every image of an archive, or those for `platform` alone; `tell` hears how layers are unpacked.

    Raises:
        InvalidArgument: not an archive of images, damaged, or hostile.
        NotFound: it refers to something that it does not hold, or holds nothing for the platform.
        Unavailable: the disk is about to be full.
    """
    members = None
    before: set[str] = set()
    try:
        with gc.request(images) as lease:
            members = Members(images.content, images.leases, lease.id)
            members.collect(chunks, limits)
            loaded: list[Loaded] = []
            asked = _Asked(platform or host_platform(), platform is not None)
            taking = _Taking(members, images, lease.id, limits, before, tell)
            for group in _groups(members, asked):
                loaded += _take_in(group, taking)
            if platform is not None and not loaded:
                raise NotFound(f"archive holds no image for the requested platform ({platform_text(platform)})")
            return loaded
    finally:
        if members is not None:
            gc.drop_blobs(images, members.ingested | before)


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


def _groups(members: Members, asked: _Asked) -> Iterator[_Group]:
    is_layout = "index.json" in members
    index = parse_index(members.document("index.json")) if is_layout else Index(schema_version=2, manifests=[])
    _require_few(len(index.manifests))
    if "manifest.json" not in members:
        if not is_layout:
            raise InvalidArgument("archive holds no image: neither manifest.json nor index.json")
        yield from _oci_groups(index.manifests, members, asked)
        return
    entries = parse_archive_manifest(members.document("manifest.json"))
    _require_few(len(entries))
    several = [one for one in index.manifests if one.media_type in INDEXES and _names(one)]
    covered = {reference for one in several for reference in _names(one)}
    yield from _oci_groups(several, members, asked)
    kept = _kept_manifests(index, members)
    for entry in entries:
        references = tuple(_tagged(text) for text in entry.repo_tags or ())
        left = tuple(reference for reference in references if reference not in covered)
        if left or not references:
            yield from _docker_group(entry, left, members, kept, asked)


def _require_few(count: int) -> None:
    if count > _IMAGES_MAX:
        raise InvalidArgument(f"archive holds more than {_IMAGES_MAX} images")


# -- docker-archive


def _docker_group(
    entry: ArchiveEntry, references: tuple[Reference, ...], members: Members, kept: dict[str, bytes], asked: _Asked
) -> Iterator[_Group]:
    config_data = members.document(entry.config)
    config = parse_config(config_data)
    _require_layers(len(entry.layers), config)
    if not asked.admits(config):
        return
    config_blob = members.put(config_data)
    if config_blob.digest in kept:
        data = kept[config_blob.digest]
        manifest = parse_manifest(data)
        target = Descriptor(manifest.media_type or OCI_MANIFEST, digest_of(data), len(data))
        yield _Group((_Planned(data, manifest),), references, target)
        return
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=Descriptor(OCI_CONFIG, config_blob.digest, config_blob.size),
        layers=[_layer_descriptor(name, members) for name in entry.layers],
    )
    yield _Group((_Planned(encode(manifest), manifest, is_composed=True),), references)


def _require_layers(count: int, config: ImageConfig) -> None:
    if count != len(config.diff_ids):
        raise InvalidArgument(f"invalid manifest, layers length mismatch: expected {count}, got {len(config.diff_ids)}")
    if count > DEFAULT.layers:
        raise InvalidArgument(f"image has more than {DEFAULT.layers} layers")


def _tagged(text: str) -> Reference:
    reference = parse(text)
    if not reference.tag:
        raise InvalidArgument(f'invalid tag "{text}"')
    if reference.is_canonical:
        raise InvalidArgument(_NO_DIGEST)
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


def _kept_manifests(index: Index, members: Members) -> dict[str, bytes]:
    """Manifests that the archive holds besides manifest.json, by the digest of their configuration."""
    kept = {}
    for descriptor in index.manifests:
        if descriptor.media_type in MANIFESTS:
            data = members.document_by_digest(descriptor.digest)
            kept[parse_manifest(data).config.digest] = data
    return kept


# -- OCI layout


def _oci_groups(descriptors: Iterable[Descriptor], members: Members, asked: _Asked) -> Iterator[_Group]:
    for descriptor in descriptors:
        references = _names(descriptor)
        if descriptor.media_type in INDEXES and references:
            yield from _index_group(descriptor, references, members, asked)
        elif descriptor.media_type in MANIFESTS | INDEXES:
            chosen = _resolve(descriptor, members, asked.platform, depth=0)
            data = members.document_by_digest(chosen.digest)
            manifest = parse_manifest(data)
            if not asked.is_explicit or asked.admits(_config_of(manifest, members)):
                target = Descriptor(manifest.media_type or chosen.media_type, chosen.digest, len(data))
                yield _Group((_Planned(data, manifest),), references, target)


def _platform_of(config: ImageConfig) -> Platform:
    return Platform(config.architecture, config.os, config.variant)


def _config_of(manifest: Manifest, members: Members) -> ImageConfig:
    return parse_config(members.document_by_digest(manifest.config.digest))


def _index_group(
    top: Descriptor, references: tuple[Reference, ...], members: Members, asked: _Asked
) -> Iterator[_Group]:
    """All platforms of an index that the archive has."""
    beside: dict[str, None] = {}
    found: dict[str, Descriptor] = {}
    for descriptor in _inside(top, members, beside, 0):
        if members.has_blob(descriptor.digest):
            found.setdefault(descriptor.digest, descriptor)
    wanted, images = asked.platform, []
    for digest, descriptor in found.items():
        data = members.document_by_digest(digest)
        manifest = parse_manifest(data)
        if is_attestation(descriptor):
            beside |= dict.fromkeys([digest, *(one.digest for one in (manifest.config, *manifest.layers))])
            continue
        offered = descriptor.platform or _platform_of(_config_of(manifest, members))
        if not asked.is_explicit or runs_on(offered, wanted):
            images.append((offered, _Planned(data, manifest)))
    if images:
        images.sort(key=lambda one: not runs_on(one[0], wanted))  # stable: this machine's first, then in order
        target = Descriptor(top.media_type, top.digest, len(members.document_by_digest(top.digest)))
        yield _Group(tuple(image for _, image in images), references, target, tuple(beside))
    elif not asked.is_explicit:
        raise NotFound(f"no matching manifest for {platform_text(wanted)} in the manifest list entries")


def _inside(descriptor: Descriptor, members: Members, beside: dict[str, None], depth: int) -> Iterator[Descriptor]:
    """The manifests below an index, which is noted in `beside`.  One that comes again is not looked into again."""
    if descriptor.media_type in MANIFESTS:
        yield descriptor
    elif descriptor.media_type in INDEXES and descriptor.digest not in beside and depth <= _INDEX_DEPTH:
        if depth and not members.has_blob(descriptor.digest):
            return
        index = parse_index(members.document_by_digest(descriptor.digest))
        beside[descriptor.digest] = None
        _require_few(len(index.manifests))
        for inner in index.manifests:
            yield from _inside(inner, members, beside, depth + 1)


def _resolve(descriptor: Descriptor, members: Members, platform: Platform, depth: int) -> Descriptor:
    """The manifest for this platform behind an index, or the manifest itself."""
    if descriptor.media_type in MANIFESTS:
        return descriptor
    found = select_platform(parse_index(members.document_by_digest(descriptor.digest)), platform)
    if found is None or depth >= _INDEX_DEPTH:
        raise NotFound(f"no matching manifest for {platform_text(platform)} in the manifest list entries")
    return _resolve(found, members, platform, depth + 1)


def _names(descriptor: Descriptor) -> tuple[Reference, ...]:
    """The name in a descriptor's annotations.  `ref.name` alone is often only a tag, which names nothing.

    Raises InvalidArgument for one with a digest that is not the descriptor's: whoever asks for that would get this.
    """
    annotations = descriptor.annotations or {}
    text = annotations.get(ANNOTATION_CONTAINERD_NAME) or annotations.get(ANNOTATION_REF_NAME, "")
    if ":" not in text and "/" not in text:
        return ()
    reference = parse(text).tagged()
    if reference.is_canonical and reference.digest != descriptor.digest:
        raise InvalidArgument(_NO_DIGEST)
    return (reference,)


# -- taking in


class _Told:
    """The blobs of layers, whose reading is told of."""

    def __init__(self, taking: _Taking, layers: Sequence[Layer]) -> None:
        self._taking = taking
        size = taking.images.content.size
        self._layers = {layer.blob: (layer.diff_id, size(layer.blob)) for layer in layers}

    def chunks(self, digest: str) -> Generator[bytes, None, None]:
        """The blob piece by piece."""
        diff_id, size = self._layers[digest]
        done = 0
        with closing(self._taking.images.content.chunks(digest)) as chunks:
            for chunk in chunks:
                yield chunk
                done += len(chunk)
                self._taking.tell(diff_id, done, size)


def _take_in(group: _Group, taking: _Taking) -> list[Loaded]:
    """All of a group or nothing."""
    images = taking.images
    prepared = [_prepare(planned, taking) for planned in group.images]
    for digest in group.beside:
        taking.members.known(digest)
    with images.together() as tell:  # an image that is known may be on its way out
        made = [
            images.add(config, manifest, size=size, is_composed=planned.is_composed)
            for planned, (config, manifest, size) in zip(group.images, prepared, strict=True)
        ]
        for image in made:
            tell("load", image.id, {"name": image.id})
        return _name(made[0], group, images, taking.before)


def _prepare(planned: _Planned, taking: _Taking) -> tuple[str, Descriptor, int]:
    """Digest of the configuration, manifest and size of an image whose blobs and layers are there now."""
    manifest, members, images = planned.manifest, taking.members, taking.images
    config_blob = members.known(manifest.config.digest)
    config = parse_config(images.content.read(config_blob.digest))
    _require_layers(len(manifest.layers), config)
    for layer in manifest.layers:
        blob = members.known(layer.digest)
        if blob.size != layer.size:
            raise InvalidArgument(f"content of {layer.digest} has {blob.size} bytes, not {layer.size}")
    with images.lock:
        for chain_id in chain_ids(config.diff_ids):
            images.leases.add(taking.lease_id, SNAPSHOT, chain_id)
    layers = layers_of([layer.digest for layer in manifest.layers], config.diff_ids)
    chain = unpack(layers, _Told(taking, layers), images.overlay, taking.limits)
    manifest_blob = members.put(planned.data)
    size = sum(images.overlay.stat(chain_id).size for chain_id in chain)
    descriptor = Descriptor(manifest.media_type or OCI_MANIFEST, manifest_blob.digest, manifest_blob.size)
    return config_blob.digest, descriptor, size


def _name(image: Image, group: _Group, images: ImageStore, before: set[str]) -> list[Loaded]:
    if not group.references:
        return [Loaded(image.id, None, "")]
    target = None if group.target is None or group.target.digest == image.manifest.digest else group.target
    loaded = []
    for reference in group.references:
        if (old := images.targets.of(reference)) is not None:
            with suppress(CortenError):  # a damaged one keeps what it has until it is collected
                before |= images.targets.blobs(old)
        replaced = images.point(reference, image.id, target=target)
        loaded.append(Loaded(image.id, reference, replaced if replaced != image.id else ""))
    return loaded
