"""Images as Docker's clients see them: lists, inspects, histories, and what they take on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from corten.core.content import ContentStore
from corten.core.history import history
from corten.core.images import Image
from corten.core.snapshots import Kind
from corten.core.targets import Variant
from corten.engine import times
from corten.engine.filters import Filters, check_keys, flags, labels_match, sift
from corten.engine.inspect import DRIVER
from corten.engine.parts import Parts
from corten.engine.patterns import PathPattern
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, InvalidArgument
from corten.spec.image import Descriptor, ImageConfig, Platform, RunConfig
from corten.spec.reference import Reference

Json = dict[str, Any]

_LIST_FILTERS: Final = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
_ATTESTS: Final = "vnd.docker.reference.digest"
LEGACY_KEY: Final = "Legacy"  # corten.docker.versions
OF_CONTAINERS: Final = (
    *(
        "Hostname",
        "Domainname",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "Image",
    ),
    "StopTimeout",
)
_EMPTY_CONFIG: Final[Json] = {  # printed also where the image says nothing
    "User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None,
    "Labels": None,
}  # fmt: skip


class ImageViews:
    """One engine's images, to look at.  What asks for many runs in a thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # Lists

    async def rows(self, all: bool, filters: Filters, shared_size: bool, manifests: bool) -> list[Json]:
        """Rows of `docker images`; of an image's names those that a `reference` filter asks for.

        Images without a name that others are built on, or that an index of a name has, are listed with `all` only; with
        `manifests` also those that have a digest for a name, for they stand below the tag.
        """
        check_keys(filters, _LIST_FILTERS)
        found = await sift(filters, lambda wanted: self._rows(wanted, all, shared_size), filters)
        return await in_own_thread("manifests", lambda: self._with_manifests(found, all)) if manifests else found

    def _rows(self, filters: Filters, all: bool, shared_size: bool) -> list[Json]:
        patterns = _patterns(filters)
        wanted = self.wanted(filters)
        every = self._parts.images.list()
        targets = {target.reference: target.descriptor for target in self._parts.images.targets.all()}
        users = Counter(one.record.image_id for one in self._parts.roster)
        found = []
        for image in every:
            shown = _named_as(image, patterns)
            if wanted(image) and self._is_listed(shown, filters, all):
                found.append((image, self._summary(shown, targets, users[image.id])))
        if shared_size:
            self._add_shared_sizes(found, every)
        return [row for _, row in found]

    def _is_listed(self, image: Image, filters: Filters, all: bool) -> bool:
        dangling = flags("dangling", filters)
        if image.references:
            return not (dangling and image.repo_tags)
        if dangling is False or filters.get("reference"):
            return False
        is_hidden = bool(image.reached_by) or bool(self._parts.images.children(image.id))
        return not is_hidden or (all and not (dangling and is_hidden))

    def wanted(self, filters: Filters) -> Callable[[Image], bool]:
        """Whether labels and times of an image are as the filters ask.  Raises InvalidArgument, NotFound."""
        before_ns = [self._created_ns(ref) for ref in filters.get("before", ())]
        since_ns = [self._created_ns(ref) for ref in filters.get("since", ())]
        until_ns = [times.parse_timestamp(text) for text in filters.get("until", ())]
        unwanted = filters.get("label!", ())

        def wanted(image: Image) -> bool:
            created, labels = created_ns(image), image.config.run.labels or {}
            return (
                labels_match(labels, filters.get("label", ()))
                and not (unwanted and labels_match(labels, unwanted))
                and (bool(created) or not (before_ns or since_ns or until_ns))
                and all(created < moment for moment in (*before_ns, *until_ns))
                and all(created > moment for moment in since_ns)
            )

        return wanted

    def _created_ns(self, ref: str) -> int:
        return created_ns(self._parts.images.get(ref))

    def _add_shared_sizes(self, found: Sequence[tuple[Image, Json]], every: Sequence[Image]) -> None:
        users = Counter(chain for image in every for chain in image.chain_ids)
        sizes = {one.key: one.size for one in self._parts.snapshots.all()}
        for image, row in found:
            row["SharedSize"] = sum(sizes.get(chain, 0) for chain in image.chain_ids if users[chain] > 1)

    def _summary(self, image: Image, targets: Mapping[Reference, Descriptor], users: int) -> Json:
        labels = image.config.run.labels
        target = next((targets[name] for name in image.references if name in targets), image.manifest)
        return {
            "Containers": users,
            "Created": created_ns(image) // times.SECOND_NS,
            "Descriptor": msgspec.to_builtins(target),
            "Id": image.id,
            "Labels": labels or None,
            "ParentId": image.parent,
            "RepoDigests": image.repo_digests,
            "RepoTags": image.repo_tags,
            "SharedSize": -1,
            "Size": image.size,
        }

    # Manifests behind a name

    def _with_manifests(self, rows: Sequence[Json], all: bool) -> list[Json]:
        reached = self._parts.images.targets.reached()
        below = {image_id for image_id, names in reached.items() if any(name.tag for name in names)}
        kept = [row for row in rows if all or row["RepoTags"] or row["Id"] not in below]
        return [{**row, "Manifests": self._manifests(msgspec.convert(row["Descriptor"], Descriptor))} for row in kept]

    def _manifests(self, target: Descriptor) -> list[Json]:
        """ImageManifestSummary of each manifest.  None of them when a document is damaged."""
        try:
            return [self._manifest(variant) for variant in self._parts.images.targets.variants(target)]
        except CortenError:
            return []

    def _manifest(self, variant: Variant) -> Json:
        images = self._parts.images
        image = images.find_id(variant.image_id) if variant.image_id and not variant.is_attestation else None
        sizes = [images.content.size(digest) for digest in self._blobs_here(variant)]
        content, unpacked = sum(sizes), image.size if image else 0
        out: Json = {
            "ID": variant.descriptor.digest,
            "Descriptor": msgspec.to_builtins(variant.descriptor),
            "Available": bool(image) or (variant.is_attestation and bool(sizes)),
            "Size": {"Content": content, "Total": content + unpacked},
        }
        if variant.is_attestation:
            said_of = (variant.descriptor.annotations or {}).get(_ATTESTS, "")
            return out | {"Kind": "attestation", "AttestationData": {"For": said_of}}
        platform = variant.platform if variant.platform != Platform() or image is None else image.platform
        users = [one.id for one in self._parts.roster if image is not None and one.record.image_id == image.id]
        data = {"Platform": platform_json(platform), "Containers": users, "Size": {"Unpacked": unpacked}}
        return out | {"Kind": "image", "ImageData": data}

    def _blobs_here(self, variant: Variant) -> list[str]:
        images = self._parts.images
        if not variant.image_id:
            return []
        manifest = images.targets.manifest(variant.descriptor.digest)
        digests = dict.fromkeys([variant.descriptor.digest, manifest.config.digest])
        digests |= dict.fromkeys(layer.digest for layer in manifest.layers)
        return [digest for digest in digests if images.content.has(digest)]

    # One image

    async def inspect(self, ref: str, platform: Platform | None = None, manifests: bool = False) -> Json:
        """ImageInspect's answer."""
        images = self._parts.images
        image = images.get(ref, platform)
        config = image.config
        out: Json = {
            "Id": image.id,
            "RepoTags": image.repo_tags,
            "RepoDigests": image.repo_digests,
            "Parent": image.parent,
            "Comment": config.comment or (config.history[-1].comment if config.history else ""),
            "Created": times.rfc3339(created_ns(image)) if config.created else "",
            "DockerVersion": config.docker_version,
            "Author": config.author,
            "Config": {**_EMPTY_CONFIG, **run_config(config.run)},
            "Architecture": config.architecture,
            "Os": config.os,
            "Size": image.size,
            "GraphDriver": {"Data": self._layers(image), "Name": DRIVER},
            "RootFS": {"Type": "layers", **({"Layers": list(config.diff_ids)} if config.diff_ids else {})},
            "Metadata": {"LastTagTime": times.rfc3339(image.tagged_ns)},
            LEGACY_KEY: _legacy(config),
        }
        if config.variant:
            out["Variant"] = config.variant
        if config.os_version:
            out["OsVersion"] = config.os_version
        target = images.target(ref) if platform is None else image.manifest
        out["Descriptor"] = msgspec.to_builtins(target)
        if manifests:
            out["Manifests"] = await in_own_thread("manifests", lambda: self._manifests(target))
        return out

    def _layers(self, image: Image) -> Json:
        """GraphDriver.Data: where the layers are."""
        overlay = self._parts.snapshots
        paths = [overlay.fs_path(overlay.stat(chain).id) for chain in reversed(image.chain_ids)]
        if not paths:
            return {}
        layer = paths[0].rpartition("/")[0]
        data = {"MergedDir": f"{layer}/merged", "UpperDir": paths[0], "WorkDir": f"{layer}/work"}
        return data | ({"LowerDir": ":".join(paths[1:])} if paths[1:] else {})

    async def history(self, ref: str, platform: Platform | None = None) -> list[Json]:
        """Newest first."""
        images = self._parts.images
        return [
            {
                "Comment": line.comment,
                "Created": _time_ns(line.created) // times.SECOND_NS,
                "CreatedBy": line.created_by,
                "Id": line.id,
                "Size": line.size,
                "Tags": list(line.tags) or None,
            }
            for line in history(images, images.get(ref, platform))
        ]

    # The disk

    async def usage(self) -> Json:
        """`system df` of images: rows, bytes of all unpacked layers, each once, and of the content store."""
        images = await self.rows(False, {}, True, False)
        layers = [one for one in self._parts.snapshots.all() if one.kind is Kind.COMMITTED]
        content = await in_own_thread("usage", lambda: _content_size(self._parts.images.content))
        return {"Images": images, "LayersSize": sum(one.size for one in layers), "ContentSize": content}


def _content_size(content: ContentStore) -> int:
    """Bytes of every blob, those that are on their way too."""
    return sum(blob.size for blob in content.blobs()) + sum(content.partials.sizes().values())


def run_config(run: RunConfig) -> Json:
    """An image's Config: what it has, as dockerd prints it since 1.50."""
    out = msgspec.to_builtins(run)
    return {name: value for name, value in out.items() if name not in OF_CONTAINERS}


def _legacy(config: ImageConfig) -> Json:
    """What versions before 1.50 say of the container that an image was committed from."""
    run = msgspec.to_builtins(config.run)
    out: Json = {"Config": {name: run[name] for name in OF_CONTAINERS if run.get(name) is not None}}
    if config.container:
        out["Container"] = config.container
    if config.container_config is not None:
        out["ContainerConfig"] = msgspec.to_builtins(config.container_config)
    return out


def created_ns(image: Image) -> int:
    """When it was made, 0 when it does not say."""
    return _time_ns(image.config.created)


def _time_ns(text: str | None) -> int:
    """A stranger's time; 0 for none, and for what is none."""
    try:
        return times.from_rfc3339(text) if text else 0
    except InvalidArgument:
        return 0


def platform_json(platform: Platform) -> Json:
    """As the API has it."""
    out = {"architecture": platform.architecture, "os": platform.os}
    return out | ({"variant": platform.variant} if platform.variant else {})


def _patterns(filters: Filters) -> list[PathPattern]:
    """Of `reference=busy*`: found in the familiar name, with or without its tag."""
    return [PathPattern(text) for text in filters.get("reference", ())]


def _named_as(image: Image, patterns: Sequence[PathPattern]) -> Image:
    """The image with only those of its names that match; with all of them when there are no patterns."""
    if not patterns:
        return image
    kept = tuple(one for one in image.references if any(_is_named(one, pattern) for pattern in patterns))
    return replace(image, references=kept)


def _is_named(reference: Reference, pattern: PathPattern) -> bool:
    return pattern.match(reference.familiar) or pattern.match(reference.familiar_name)
