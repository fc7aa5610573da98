"""Images to pull and push, made offline: OCI or Docker manifests over gzip, zstd or bare layers, one platform or two.

The same image, byte for byte, on every run: a digest may be compared between registries, peers and machines.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from support import images, paths, peers
from support.registries import Registry

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
SCHEMA1 = f"{DOCKER}.distribution.manifest.v1+prettyjws"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = {"Cmd": ["sh"], "Env": [PATH]}


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with a media type."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """`sha256:…`."""
        return images.digest(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        """image-spec descriptor.md."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its blobs (the first is the configuration), or an index with its images."""

    manifest: Blob
    blobs: tuple[Blob, ...] = ()
    children: tuple[Image, ...] = ()
    architecture: str = "amd64"

    @property
    def digest(self) -> str:
        """Of the manifest or index."""
        return self.manifest.digest

    @property
    def config(self) -> Blob:
        """The configuration, whose digest is Docker's image id."""
        return self.blobs[0]

    @property
    def layers(self) -> tuple[Blob, ...]:
        """Lowest first."""
        return self.blobs[1:]

    def push(self, registry: Registry, repository: str, *tags: str) -> str:
        """Puts it there under tags, or under its digest alone.  Its reference (`<host>/<repository>:<tag>`)."""
        for child in self.children:
            child.push(registry, repository)
        for blob in self.blobs:
            registry.put_blob(repository, blob.digest, blob.data)
        for reference in tags or (self.digest,):
            registry.put_manifest(repository, reference, self.manifest.media_type, self.manifest.data)
        return f"{registry.host}/{repository}{':' + tags[0] if tags else '@' + self.digest}"


def image(
    layers: Sequence[bytes],
    config: Mapping[str, Any] | None = None,
    *,
    compression: str = "gzip",
    docker: bool = False,
    architecture: str = "amd64",
) -> Image:
    """An image of uncompressed `layers`; `compression` is gzip, zstd (OCI alone) or none."""
    document = json.loads(images.image_config(layers, SHELL if config is None else config))
    document["architecture"] = architecture
    kind = f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
    text = Blob(kind, json.dumps(document, sort_keys=True).encode())
    return of_blobs(text, [packed(data, compression, docker=docker) for data in layers], architecture=architecture)


def of_blobs(config: Blob, layers: Sequence[Blob], *, architecture: str = "amd64") -> Image:
    """An image of blobs that are made already; a Docker manifest where the configuration is Docker's."""
    is_docker = config.media_type.startswith(DOCKER)
    kind = f"{DOCKER}.distribution.manifest.v2+json" if is_docker else f"{OCI}.manifest.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": config.descriptor,
        "layers": [blob.descriptor for blob in layers],
    }
    manifest = Blob(kind, json.dumps(document).encode())
    return Image(manifest, (config, *layers), architecture=architecture)


def index(children: Sequence[Image], *, docker: bool = False) -> Image:
    """One name for images of several platforms."""
    kind = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json"
    manifests = [
        {**one.manifest.descriptor, "platform": {"architecture": one.architecture, "os": "linux"}} for one in children
    ]
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
    return Image(Blob(kind, json.dumps(document).encode()), children=tuple(children))


def packed(data: bytes, compression: str, *, docker: bool = False) -> Blob:
    """A layer's blob."""
    if compression == "zstd":
        return Blob(f"{OCI}.layer.v1.tar+zstd", zstandard.ZstdCompressor(level=1).compress(data))
    if compression == "none":
        return Blob(f"{DOCKER}.image.rootfs.diff.tar" if docker else f"{OCI}.layer.v1.tar", data)
    kind = f"{DOCKER}.image.rootfs.diff.tar.gzip" if docker else f"{OCI}.layer.v1.tar+gzip"
    return Blob(kind, gzip.compress(data, compresslevel=1, mtime=0))


# The images.


def busybox(*, compression: str = "gzip", docker: bool = False) -> Image:
    """A shell in one layer."""
    return image([_in_one(images.busybox_layers())], compression=compression, docker=docker)


def several(count: int = 5, *, compression: str = "gzip", docker: bool = False, size: int = 1000) -> Image:
    """busybox in two layers, others over it, `count` in all, each with `/layers/<n>` of `size` random bytes."""
    made = images.busybox_layers()
    for number in range(2, count):
        made.append(images.layer([images.directory("layers"), images.Entry(f"layers/{number}", noise(number, size))]))
    return image(made[:count], compression=compression, docker=docker)


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same for each seed."""
    return hashlib.shake_128(f"corten {seed}".encode()).digest(size)


def two_platforms(*, docker: bool = False) -> Image:
    """An index of busybox for amd64 and for arm64; the second from Debian's package for that machine."""
    return index([busybox(docker=docker), arm64_busybox(docker=docker)], docker=docker)


def arm64_busybox(*, docker: bool = False) -> Image:
    """It cannot run here, only be pulled, shown and refused."""
    program = images.Entry("bin/busybox", _arm64_program().read_bytes(), mode=0o755)
    data = images.layer([images.directory("bin"), program, images.symlink("bin/sh", "busybox")])
    return image([data], docker=docker, architecture="arm64")


def minbase() -> Image:
    """debootstrap's Debian in one layer of 100 MB."""
    with tarfile.open(images.minbase()) as archive:
        (name,) = [one for one in archive.getnames() if one.endswith("/layer.tar")]
        stream = archive.extractfile(name)
        assert stream is not None
        return image([stream.read()], {"Cmd": ["bash"], "Env": [PATH]})


def redis(*, compression: str = "gzip") -> Image:
    """Debian's redis-server over busybox and its libraries: five layers; says PONG at port 6379."""
    config = {"Cmd": ["redis-server", "--save", "", "--protected-mode", "no"], "ExposedPorts": {"6379/tcp": {}}}
    layers = _of_packages("redis", ("redis-server", "redis-tools"))
    return image(layers, {**config, "Env": [PATH], "WorkingDir": "/tmp"}, compression=compression)


def nginx(*, compression: str = "gzip") -> Image:
    """Debian's nginx-light over busybox and its libraries: six layers; serves /var/www/html at port 80."""
    config = {"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}
    # what the packages' scripts would do
    made = [
        images.directory("run"),
        images.Entry("etc/passwd", images.PASSWD + b"www-data:x:33:33::/var/www:/bin/false\n"),
        images.Entry("etc/group", images.GROUP + b"www-data:x:33:\n"),
        images.Entry("etc/nginx/conf.d/site.conf", b"server { listen 80; root /var/www/html; }\n"),
        images.Entry("var/www/html/index.html", b"Welcome to nginx\n"),
    ]
    layers = [*_of_packages("nginx", ("nginx-light", "nginx-common", "nginx")), images.layer(made)]
    return image(layers, {**config, "Env": [PATH]}, compression=compression)


def archive(made: Image, *references: str) -> bytes:
    """What `docker save` writes of an image of one platform, its layers as they are packed."""
    files = {"config.json": made.config.data, **{f"{n}/layer.tar": one.data for n, one in enumerate(made.layers)}}
    names = list(files)
    manifest = [{"Config": names[0], "RepoTags": list(references), "Layers": names[1:]}]
    files["manifest.json"] = json.dumps(manifest).encode()
    return images.layer(images.Entry(name, data) for name, data in files.items())


def schema1(repository: str, tag: str) -> bytes:
    """A manifest of schema 1 with a signature that signs nothing: every engine of today refuses its media type."""
    history = [{"v1Compatibility": json.dumps({"id": "0" * 64, "os": "linux"})}]
    signature = [{"header": {"alg": "ES256"}, "signature": "AA", "protected": "AA"}]
    layers = [{"blobSum": images.digest(b"")}]
    document = {"schemaVersion": 1, "name": repository, "tag": tag, "architecture": "amd64"}
    return json.dumps({**document, "fsLayers": layers, "history": history, "signatures": signature}).encode()


# How they are made.


def _in_one(layers: Sequence[bytes]) -> bytes:
    """One archive of several that share no name: all but the last without its end."""
    return b"".join(_members(data) for data in layers[:-1]) + layers[-1]


def _members(data: bytes) -> bytes:
    """A tar without the zeros at its end; tarfile.Error where the archive is not whole."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        last = archive.getmembers()[-1]
    return data[: last.offset_data + -(-last.size // 512) * 512]


def _cached(name: str, build: Callable[[], bytes]) -> Path:
    """A file in the cache: built when missing or when this file has changed since."""
    folder = paths.cache("images")
    stamp = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    path = folder / f"{name}-{stamp}"
    with peers.locked(folder):
        if not path.exists():
            for old in folder.glob(f"{name}-*"):
                old.unlink()
            fresh = path.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(build())
            fresh.rename(path)
    return path


def _arm64_program() -> Path:
    def build() -> bytes:
        folder = paths.scratch("arm64")
        try:
            peers.download_packages("bookworm", ["busybox-static"], folder, architecture="arm64")
            (package,) = folder.glob("busybox-static_*_arm64.deb")
            subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
            return next(folder.glob("root/*bin/busybox")).read_bytes()
        finally:
            shutil.rmtree(folder)

    return _cached("busybox-arm64", build)


def _of_packages(name: str, own: Sequence[str]) -> list[bytes]:
    """busybox in two layers, libraries, the rest of what the packages need, the packages themselves."""
    parts = ("libraries", "needs", "own")
    with peers.locked(paths.cache("images", "packages")):
        files = {part: paths.cache("images") / f"{name}-{part}-1.tar" for part in parts}
        if not all(path.exists() for path in files.values()):
            _unpack_packages(own, files)
    return [*images.busybox_layers(), *(files[part].read_bytes() for part in parts)]


def _unpack_packages(own: Sequence[str], files: Mapping[str, Path]) -> None:
    folder = paths.scratch("packages")
    try:
        for package in peers.download_with_dependencies("bookworm", own[:1], folder / "deb"):
            name = package.name.partition("_")[0]
            part = "own" if name in own else "libraries" if name.startswith("lib") else "needs"
            subprocess.run(["dpkg-deb", "-x", package, folder / part], check=True)
        for part, path in files.items():
            (folder / part).mkdir(exist_ok=True)
            for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(folder / part / unused, ignore_errors=True)
            same = ["--sort=name", "--mtime=@1704067200", "--numeric-owner", "--owner=0", "--group=0"]
            made = path.with_suffix(f".{os.getpid()}")
            subprocess.run(["tar", *same, "-C", folder / part, "-c", "-f", made, "."], check=True)
            made.rename(path)
    finally:
        shutil.rmtree(folder)
