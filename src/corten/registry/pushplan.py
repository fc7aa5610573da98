"""What a push has to bring: decided from the store and the registry's answers, before anything is sent.

    the name stands for                  pushed
    a manifest                           it
    a manifest that was made here        one with its plain layers packed (`packing`)
    an index, all of it here             the index
    an index, the rest at the registry   the index
    an index, one platform here          that platform's manifest, and the client is told so
    an index, several platforms here     nothing: the user has to choose (`--platform`)

So does Docker since 27 (moby daemon/containerd/image_push.go), but for the second line of an index: there a push of an
index that was pulled for one platform makes the tag lose all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from corten.core.images import ImageStore
from corten.core.targets import Variant
from corten.errors import Conflict, CortenError, NotFound
from corten.spec.image import (
    INDEXES,
    OCI_INDEX,
    OCI_LAYER,
    Descriptor,
    Manifest,
    Platform,
    parse_config,
    parse_index,
    parse_manifest,
)
from corten.spec.reference import Reference

_FOREIGN = ("nondistributable", "foreign")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer to bring; `subject` is what progress messages call it: 12 digits of its diff id."""

    descriptor: Descriptor
    subject: str
    is_to_pack: bool = False
    """Whether it is sent as gzip: a plain archive of an image that was composed here."""

    @property
    def is_foreign(self) -> bool:
        """Whether registries do not keep it: its manifest says where it is."""
        return any(word in self.descriptor.media_type for word in _FOREIGN)


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes to the registry for one tag."""

    target: Descriptor
    """What the tag stands for there, at the end."""
    documents: tuple[Descriptor, ...]
    """Manifests and indexes in `target`, those that others refer to first; without `target` itself."""
    layers: tuple[Layer, ...]
    """Each once, base first."""
    configs: tuple[Descriptor, ...]
    instead_of: Descriptor | None = None
    """The index that the name stands for, when only `target`, one manifest of it, is pushed."""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that is neither manifest nor index."""
        return (*self.configs, *(layer.descriptor for layer in self.layers if not layer.is_foreign))

    @property
    def to_replace(self) -> tuple[str, ...]:
        """Digests that the image needs no more when its layers are packed: its manifest and plain layers; or none."""
        plain = [layer.descriptor.digest for layer in self.layers if layer.is_to_pack]
        return (self.target.digest, *plain) if plain else ()

    def with_layers(self, layers: Sequence[Layer], target: Descriptor) -> Plan:
        """The plan with other layers in the same places, and the manifest that has them."""
        return replace(self, layers=tuple(layers), target=target)


def plan(
    images: ImageStore, name: Reference, platform: Platform | None, is_there: Callable[[Descriptor], bool]
) -> Plan:
    """The plan for a tag of this engine; `is_there` asks the registry for a manifest.

    Raises NotFound, Conflict in Docker's words; CortenError when a document is damaged.
    """
    with images.lock:  # the end of another push changes both
        target, own = images.target(name.familiar), images.find(name.familiar)
    is_ours = own.is_composed and own.manifest.digest == target.digest
    if platform is not None:
        image = images.get(name.familiar, platform)
        chosen = next((v.descriptor for v, one in images.platforms(name.familiar) if one and one.id == image.id), None)
        target = chosen or image.manifest
    elif target.media_type in INDEXES:
        return _of_index(images, target, is_there)
    decided = _of_manifests(images, target, [target])
    return _packing(images, decided) if is_ours else decided


def _packing(images: ImageStore, decided: Plan) -> Plan:
    """The plan for a manifest that was made here: its plain layers, those that are their own diff ids, are packed."""
    (config,) = decided.configs
    diff_ids = set(parse_config(images.content.read(config.digest)).diff_ids)
    layers = [
        replace(layer, is_to_pack=layer.descriptor.media_type == OCI_LAYER and layer.descriptor.digest in diff_ids)
        for layer in decided.layers
    ]
    return decided.with_layers(layers, decided.target)


def _of_index(images: ImageStore, index: Descriptor, is_there: Callable[[Descriptor], bool]) -> Plan:
    variants = images.targets.variants(index)
    here = [one for one in variants if _is_whole(images, one)]
    missing = [one for one in variants if one not in here]
    if all(is_there(one.descriptor) for one in missing):
        inner = [*dict.fromkeys(digest for one in variants for digest in reversed(one.parents))]
        indexes = [_stored_index(images, digest) for digest in inner if digest != index.digest]
        return _of_manifests(images, index, [one.descriptor for one in here], indexes)
    only = [one for one in here if not one.is_attestation]
    if len(only) == 1:
        return _of_manifests(images, only[0].descriptor, [only[0].descriptor], instead_of=index)
    if only:
        raise Conflict("multiple matching manifests found but no specific platform requested")
    raise NotFound(f"missing content: content {missing[0].descriptor.digest}: not found")


def _is_whole(images: ImageStore, variant: Variant) -> bool:
    if not variant.image_id or not images.content.has(variant.descriptor.digest):
        return False
    manifest = _manifest(images, variant.descriptor)
    needed = [manifest.config, *(layer for layer in manifest.layers if not Layer(layer, "").is_foreign)]
    return all(images.content.has(one.digest) for one in needed)


def _stored_index(images: ImageStore, digest: str) -> Descriptor:
    data = images.content.read(digest)
    return Descriptor(parse_index(data).media_type or OCI_INDEX, digest, len(data))


def _of_manifests(
    images: ImageStore,
    target: Descriptor,
    manifests: Sequence[Descriptor],
    indexes: Sequence[Descriptor] = (),
    *,
    instead_of: Descriptor | None = None,
) -> Plan:
    layers: dict[str, Layer] = {}
    configs: dict[str, Descriptor] = {}
    for descriptor in manifests:
        manifest = _manifest(images, descriptor)
        configs[manifest.config.digest] = manifest.config
        for layer, subject in zip(manifest.layers, _subjects(images, manifest), strict=True):
            layers.setdefault(layer.digest, Layer(layer, subject))
    documents = [one for one in (*manifests, *indexes) if one.digest != target.digest]
    return Plan(target, tuple(documents), tuple(layers.values()), tuple(configs.values()), instead_of)


def _manifest(images: ImageStore, descriptor: Descriptor) -> Manifest:
    return parse_manifest(images.content.read(descriptor.digest))


def _subjects(images: ImageStore, manifest: Manifest) -> list[str]:
    """12 digits of each layer's diff id; of its digest where the configuration is no image's (an attestation)."""
    digests = [layer.digest for layer in manifest.layers]
    try:
        diff_ids: list[str] = list(parse_config(images.content.read(manifest.config.digest)).diff_ids)
    except CortenError:
        diff_ids = []
    chosen = diff_ids if len(diff_ids) == len(digests) else digests
    return [one.partition(":")[2][:12] for one in chosen]
