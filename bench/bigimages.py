"""Two large images, made of a seed: 300 MB in 15 000 files and 5 layers, and 60 layers; the same bytes every time.

Each is an OCI layout with packed layers, to be put into a registry, and a docker-archive with plain ones, to be loaded.
Beside the image itself the layout has one of its lower half alone, `…-base`, of which the other half is then missing.
Sizes are those of packages: many small files, few large ones; text that gzip makes about three times smaller.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EPOCH = 1704067200
CREATED = "2024-01-01T00:00:00Z"
_SEED = 20240101
_POOL_BYTES = 16 << 20
_PER_FOLDER = 40
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Shape:
    """What an image is like; `size` is the bytes of all its files."""

    name: str
    layers: int
    files: int
    size: int

    def text(self) -> str:
        """As in a row's name."""
        return f"{self.layers} layers, {self.files} files, {self.size // 1_000_000} MB"


LARGE = Shape("large", layers=5, files=15_000, size=300_000_000)
DEEP = Shape("deep", layers=60, files=1_800, size=30_000_000)


@dataclass(frozen=True, slots=True)
class Made:
    """An image on disk: `layout` with the tags `1` and `base`, `archive` with the name `reference`."""

    shape: Shape
    layout: Path
    archive: Path
    reference: str


@dataclass(frozen=True, slots=True)
class _Layer:
    diff_id: str
    digest: str
    size: int
    plain: Path


def make(shape: Shape, folder: Path) -> Made:
    """Writes the image below `folder`, which must be there."""
    layout = folder / f"{shape.name}-layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    pool = _pool()
    layers = [_layer(shape, number, pool, blobs, folder) for number in range(shape.layers)]
    reference = f"corten-bench/{shape.name}:1"
    archive = folder / f"{shape.name}.tar"
    _write_archive(archive, reference, layers)
    for layer in layers:
        layer.plain.unlink()
    whole, half = (_manifest(chosen, blobs) for chosen in (layers, layers[: len(layers) // 2]))
    _write_layout(layout, {"1": whole, "base": half})
    return Made(shape, layout, archive, reference)


def _pool() -> bytes:
    """Text of made-up words: longer than gzip looks back, so slices of it do not find each other."""
    chance = random.Random(_SEED)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 14))) for _ in range(20_000)]
    parts: list[str] = []
    length = 0
    while length < _POOL_BYTES:
        parts.append(" ".join(chance.choices(words, k=4000)))
        length += len(parts[-1])
    return "\n".join(parts).encode()


def _layer(shape: Shape, number: int, pool: bytes, blobs: Path, folder: Path) -> _Layer:
    """One layer, plain in `folder` and packed among the blobs."""
    plain, packed = folder / f"{shape.name}-{number}.tar", folder / f"{shape.name}-{number}.gz"
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in _files(shape, number, pool):
            info = tarfile.TarInfo(name)
            info.mtime = EPOCH
            info.type, info.mode = (tarfile.REGTYPE, 0o644) if data is not None else (tarfile.DIRTYPE, 0o755)
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    with plain.open("rb") as source, packed.open("wb") as out, gzip.GzipFile("", "wb", 1, out, mtime=0) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    digest = _digest(packed)
    size = packed.stat().st_size
    packed.rename(blobs / digest)
    return _Layer(f"sha256:{_digest(plain)}", f"sha256:{digest}", size, plain)


def _files(shape: Shape, number: int, pool: bytes) -> Iterator[tuple[str, bytes | None]]:
    """(name, content) in the order of the archive; None for a directory."""
    chance = random.Random(_SEED + number)
    count = shape.files // shape.layers
    weights = [chance.lognormvariate(0, 1.5) for _ in range(count)]
    scale = shape.size / shape.layers / sum(weights)
    top = f"{shape.name}{number}"
    yield f"{top}/", None
    for index, weight in enumerate(weights):
        folder = f"{top}/d{index // _PER_FOLDER}"
        if index % _PER_FOLDER == 0:
            yield f"{folder}/", None
        size = min(int(weight * scale), len(pool) // 2)
        start = chance.randrange(len(pool) - size)
        yield f"{folder}/file{index}", f"{number} {index}\n".encode() + pool[start : start + size]


def _write_archive(archive: Path, reference: str, layers: list[_Layer]) -> None:
    """As `docker save` wrote it until release 24."""
    config = _config(layers)
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    members = [f"{layer.diff_id.removeprefix('sha256:')}/layer.tar" for layer in layers]
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": members}]
    with tarfile.open(archive, "w") as out:
        for member, layer in zip(members, layers, strict=True):
            info = tarfile.TarInfo(member)
            info.size, info.mtime = layer.plain.stat().st_size, EPOCH
            with layer.plain.open("rb") as source:
                out.addfile(info, source)
        for member, data in ((name, config), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(member)
            info.size, info.mtime = len(data), EPOCH
            out.addfile(info, io.BytesIO(data))


def _config(layers: list[_Layer]) -> bytes:
    return _document(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": CREATED,
            "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": CREATED, "created_by": "bench"} for _ in layers],
        }
    )


def _manifest(layers: list[_Layer], blobs: Path) -> dict[str, Any]:
    """The descriptor of the manifest, which is written with its configuration."""
    config = _put(_config(layers), f"{_OCI}.config.v1+json", blobs)
    rows = [{"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size} for layer in layers]
    document = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": config, "layers": rows}
    return _put(_document(document), f"{_OCI}.manifest.v1+json", blobs)


def _write_layout(layout: Path, manifests: dict[str, dict[str, Any]]) -> None:
    named = [
        {**manifest, "annotations": {"org.opencontainers.image.ref.name": tag}} for tag, manifest in manifests.items()
    ]
    (layout / "oci-layout").write_bytes(_document({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_bytes(_document({"schemaVersion": 2, "manifests": named}))


def _put(data: bytes, media_type: str, blobs: Path) -> dict[str, Any]:
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


def _document(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
