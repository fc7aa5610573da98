"""Image configuration, manifests and indexes, as frozen values.

Documents: image-spec config.md, manifest.md, image-index.md, descriptor.md; Docker's Image Manifest V2 Schema 2
and the fields that Docker adds to the configuration (Healthcheck, OnBuild, Shell, ArgsEscaped, parent).
Everything here is data of a stranger (field.md D11): parsed once, never control.  No I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from corten.errors import InvalidArgument
from corten.spec.reference import Digest, parse_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD = f"{OCI_LAYER}+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = f"{DOCKER_LAYER}.gzip"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
LAYERS = frozenset(
    {
        *(OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP),
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)

DOCUMENT_SIZE_MAX = 8 << 20
"""Bytes of a manifest, index or configuration that anybody reads into memory (field.md D12)."""

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_CONTAINERD_NAME = "io.containerd.image.name"

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_PLAIN_VARIANTS = frozenset({("amd64", "v1"), ("arm64", "v8"), ("arm64", "8")})

Empty = dict[str, Any]
_DESCRIPTOR_NAMES = {"media_type": "mediaType", "artifact_type": "artifactType"}
_DOCUMENT_NAMES = {"media_type": "mediaType", "schema_version": "schemaVersion", "fs_layers": "fsLayers"}
_T = TypeVar("_T")


Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # what Go reads it into


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Docker's extension of the configuration; times are nanoseconds."""

    test: list[str] | None = None
    interval: Int64 = 0
    timeout: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0
    retries: Int64 = 0


class RunConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The object `config` of an image: what a container of it runs by default.  None is Go's nil."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    # of a container, and in an image as the trace of the one that it was committed from
    attach_stdin: bool | None = False
    attach_stdout: bool | None = False
    attach_stderr: bool | None = False
    tty: bool | None = False
    open_stdin: bool | None = False
    stdin_once: bool | None = False
    image: str | None = ""
    exposed_ports: dict[str, Empty] | None = None
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    shell: list[str] | None = None


class HistoryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of `docker history`, oldest first in the configuration."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True):
    """The layers, base first, by the digests of their uncompressed archives."""

    type: str = "layers"
    diff_ids: list[str] | None = None


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The configuration of an image; its digest is the image's id."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] | None = msgspec.field(name="os.features", default=None)
    created: str | None = None
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    container: str = ""
    container_config: RunConfig | None = None  # of the container that it was committed from
    parent: str = ""
    config: RunConfig | None = None
    rootfs: RootFS = RootFS()
    history: list[HistoryEntry] | None = None

    @property
    def run(self) -> RunConfig:
        """`config`, empty when the image has none."""
        return self.config or RunConfig()

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The layers' diff ids, base first."""
        return tuple(Digest(value) for value in self.rootfs.diff_ids or ())


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a manifest of an index runs on."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename=_DESCRIPTOR_NAMES):
    """A typed, sized, digested pointer to content (image-spec descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename=_DOCUMENT_NAMES):
    """One image: its configuration and layers, base first.  Fields in Go's order: the same image, the same digest."""

    schema_version: int
    media_type: str = ""
    config: Descriptor
    layers: list[Descriptor]
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename=_DOCUMENT_NAMES):
    """Several manifests: platforms of one image, or the entry document of an OCI layout."""

    schema_version: int
    media_type: str = ""
    manifests: list[Descriptor]
    annotations: dict[str, str] | None = None


class ArchiveEntry(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of a docker-archive's manifest.json: paths inside the archive."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class _Probe(msgspec.Struct, frozen=True, rename=_DOCUMENT_NAMES):
    config: Any = None
    layers: Any = None
    manifests: Any = None
    fs_layers: Any = None


def parse_config(data: bytes) -> ImageConfig:
    """The configuration in `data`; diff ids are checked digests.  Raises InvalidArgument."""
    config = _decode(data, ImageConfig, "image configuration")
    if config.rootfs.type != "layers":
        raise InvalidArgument(f"invalid image configuration: unknown rootfs type {config.rootfs.type!r}")
    for diff_id in config.diff_ids:
        parse_digest(diff_id)
    return config


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in `data`.  Raises InvalidArgument, also when it is an index too (CVE-2021-41190)."""
    probe = _decode(data, _Probe, "image manifest")
    if probe.manifests is not None or probe.fs_layers is not None:
        raise InvalidArgument("invalid image manifest: ambiguous, with 'manifests' or 'fsLayers'")
    manifest = _decode(data, Manifest, "image manifest")
    if manifest.media_type and manifest.media_type not in MANIFESTS:
        raise InvalidArgument(f"invalid image manifest: media type {manifest.media_type!r}")
    for descriptor in (manifest.config, *manifest.layers):
        check_descriptor(descriptor)
    return manifest


def parse_index(data: bytes) -> Index:
    """The index in `data`.  Raises InvalidArgument, also when it could be read as a manifest too."""
    probe = _decode(data, _Probe, "image index")
    if probe.config is not None or probe.layers is not None:
        raise InvalidArgument("invalid image index: ambiguous, with 'config' or 'layers'")
    index = _decode(data, Index, "image index")
    if index.media_type and index.media_type not in INDEXES:
        raise InvalidArgument(f"invalid image index: media type {index.media_type!r}")
    for descriptor in index.manifests:
        check_descriptor(descriptor)
    return index


def parse_archive_manifest(data: bytes) -> list[ArchiveEntry]:
    """The manifest.json of a docker-archive.  Raises InvalidArgument."""
    return _decode(data, list[ArchiveEntry], "manifest.json")


def check_descriptor(descriptor: Descriptor) -> None:
    """Raises InvalidArgument unless digest and size can be true."""
    parse_digest(descriptor.digest)
    if descriptor.size < 0:
        raise InvalidArgument(f"invalid descriptor {descriptor.digest}: negative size")


def digest_of(data: bytes) -> Digest:
    """`sha256:` of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_ids(diff_ids: Sequence[str]) -> tuple[Digest, ...]:
    """The chain id after each layer, base first (image-spec config.md, "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else Digest(diff_id))
    return tuple(chain)


def select_platform(index: Index, wanted: Platform) -> Descriptor | None:
    """The manifest of `index` that runs best on `wanted`, else the first that names no platform."""
    known = [one for one in index.manifests if one.media_type in MANIFESTS or one.media_type in INDEXES]
    for accepted in _runnable(_exact(wanted)):
        for descriptor in known:
            if descriptor.platform is not None and _exact(descriptor.platform) == accepted:
                return descriptor
    return next((one for one in known if one.platform is None), None)


def _exact(platform: Platform) -> Platform:
    """Normalized, with the variant that `arm` alone means."""
    found = normalized(platform)
    return Platform("arm", found.os, "v7") if (found.architecture, found.variant) == ("arm", "") else found


def _runnable(wanted: Platform) -> list[Platform]:
    """What a normalized platform runs, best first (containerd platforms/compare.go, platformVector)."""
    architecture, system = wanted.architecture, wanted.os
    found = [wanted]
    version = wanted.variant.removeprefix("v")
    lower = int(version) - 1 if version.isdecimal() and len(version) < 3 else 0
    if architecture == "amd64":
        found += [normalized(Platform("amd64", system, f"v{number}")) for number in range(lower, 0, -1)]
        found.append(Platform("386", system))
    elif architecture == "arm":
        found += [Platform("arm", system, f"v{number}") for number in range(lower, 4, -1)]
    elif architecture == "arm64":
        found += _runnable(Platform("arm", system, wanted.variant or "v8"))
    return found


def normalized(platform: Platform) -> Platform:
    """`arm64` for `aarch64` and `arm64/v8`, `arm/v7` for `armhf` (containerd platforms/database.go)."""
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    architecture, default = _ARCHITECTURES.get(architecture, (architecture, variant))
    variant = variant or default
    if (architecture, variant) in _PLAIN_VARIANTS:
        variant = ""
    return Platform(architecture, platform.os.lower(), variant)


def runs_on(offered: Platform, wanted: Platform) -> bool:
    """Whether what is made for `offered` is what a user of `wanted` means; a variant that is not named fits any."""
    offered, wanted = normalized(offered), normalized(wanted)
    same = (offered.os, offered.architecture) == (wanted.os, wanted.architecture)
    return same and (not wanted.variant or not offered.variant or offered.variant == wanted.variant)


def platform_text(platform: Platform) -> str:
    """`linux/arm64/v8`; `unknown` for what it does not say."""
    parts = [platform.os or "unknown", platform.architecture, platform.variant]
    return "/".join(part for part in parts if part)


def encode(value: msgspec.Struct) -> bytes:
    """`value` as JSON, the same bytes for the same value."""
    return msgspec.json.encode(value)


def annotated(descriptor: Descriptor, annotations: Mapping[str, str]) -> Descriptor:
    """`descriptor` with `annotations` in place of its own."""
    return msgspec.structs.replace(descriptor, annotations=dict(annotations) or None)


def _decode(data: bytes, shape: type[_T], what: str) -> _T:
    if len(data) > DOCUMENT_SIZE_MAX:
        raise InvalidArgument(f"invalid {what}: larger than {DOCUMENT_SIZE_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid {what}: {error}") from error
