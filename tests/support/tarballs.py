"""Tar archives written block by block, so that a test can write what no archiver would."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)
MTIME = 1_600_000_000

FILE, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


def octal(value: int, width: int) -> bytes:
    """A numeric field; base 256 when octal does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return f"{value:0{width - 1}o}".encode() + b"\0"
    return (value % (1 << (8 * width)) | 1 << (8 * width - 1)).to_bytes(width, "big")


def header(
    name: bytes,
    kind: bytes = FILE,
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int | None = None,
    gid: int | None = None,
    mtime: int = MTIME,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """One header block with a right checksum.  `tail` replaces the bytes from offset 345.  Owner: who runs the test."""
    block = bytearray(BLOCK)
    fields = (
        (0, name[:100]),
        (100, octal(mode, 8)),
        (108, octal(os.geteuid() if uid is None else uid, 8)),
        (116, octal(os.getegid() if gid is None else gid, 8)),
        (124, octal(size, 12)),
        (136, octal(mtime, 12)),
        (148, b" " * 8),
        (156, kind),
        (157, link[:100]),
        (257, magic),
        (329, octal(device[0], 8)),
        (337, octal(device[1], 8)),
        (345, tail or prefix),
    )
    for offset, value in fields:
        block[offset : offset + len(value)] = value
    block[148:156] = f"{sum(block):06o}".encode() + b"\0 "
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Data up to a full block."""
    return data + bytes(-len(data) % BLOCK)


def entry(name: bytes, kind: bytes = FILE, data: bytes = b"", **fields: Any) -> bytes:
    """A header and its data."""
    return header(name, kind, size=fields.pop("size", len(data)), **fields) + padded(data)


def directory(name: bytes, mode: int = 0o755, **fields: Any) -> bytes:
    """A directory."""
    return entry(name, DIRECTORY, mode=mode, **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    """A symbolic link."""
    return entry(name, SYMLINK, link=target, mode=0o777, **fields)


def hard_link(name: bytes, target: bytes, **fields: Any) -> bytes:
    """A hard link."""
    return entry(name, HARD_LINK, link=target, **fields)


def pax(records: Sequence[tuple[bytes, bytes]] | Mapping[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header; applies to the entry after it."""
    pairs = list(records.items()) if isinstance(records, Mapping) else records
    return entry(b"PaxHeaders/x", kind, b"".join(record(key, value) for key, value in pairs))


def record(key: bytes, value: bytes) -> bytes:
    """One record: its own length in decimal, key and value."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def gnu_long(value: bytes, kind: bytes = b"L") -> bytes:
    """GNU's long name (L) or long link target (K) for the entry after it."""
    return entry(b"././@LongLink", kind, value + b"\0", magic=b"ustar  \0")


def archive(*parts: bytes) -> bytes:
    """A whole archive."""
    return b"".join(parts) + END


def chunked(data: bytes, size: int = 64 << 10) -> list[bytes]:
    """Data as a stream of chunks."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def digest(data: bytes) -> str:
    """`sha256:` of data."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_config(layers: Sequence[bytes], **fields: Any) -> bytes:
    """An image configuration over uncompressed layers."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"made": "here"}},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        **fields,
    }
    return json.dumps(document).encode()


def docker_archive(
    layers: Sequence[bytes], tags: Sequence[str] = ("test:1",), *, config: bytes = b"", gzip_layers: bool = False
) -> bytes:
    """A docker-archive of one image; with `config` its diff ids may lie."""
    config = config or image_config(layers)
    name = digest(config)[7:] + ".json"
    packed = [gzip.compress(layer, 1, mtime=0) if gzip_layers else layer for layer in layers]
    paths = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
    parts = [entry(path.encode(), data=layer) for path, layer in zip(paths, packed, strict=True)]
    parts += [entry(name.encode(), data=config), entry(b"manifest.json", data=json.dumps(manifest).encode())]
    return archive(*parts)


def oci_archive(
    layers: Sequence[bytes], name: str = "docker.io/library/test:1", *, replaced: Mapping[str, bytes] | None = None
) -> bytes:
    """An OCI layout of one image; `replaced` maps a blob's hex digest to other bytes under its name."""
    config, manifest = image_config(layers), oci_manifest(layers)
    top = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    top["annotations"] = {"org.opencontainers.image.ref.name": name}
    index = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    blobs = {digest(data)[7:]: data for data in (*layers, config, manifest)} | dict(replaced or {})
    parts = [entry(f"blobs/sha256/{key}".encode(), data=data) for key, data in blobs.items()]
    parts += [entry(b"oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'), entry(b"index.json", data=index)]
    return archive(*parts)


def oci_manifest(layers: Sequence[bytes]) -> bytes:
    """The manifest of `oci_archive`."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", image_config(layers)),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers],
        }
    ).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}
