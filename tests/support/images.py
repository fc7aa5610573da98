"""Test images, made offline from Debian's packages, in the form that `docker save` writes.

`busybox` has a shell and 300 applets in two layers, `minbase` is a Debian of debootstrap.  Both are built once per
cache folder; the archive is the same, byte for byte, on every run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import paths, peers

BUSYBOX = Path("/bin/busybox")
EPOCH = "2024-01-01T00:00:00Z"
BUSYBOX_REF = "corten-test/busybox:1"
PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534::/home:/bin/false
user:x:1000:1000::/home/user:/bin/sh
"""
GROUP = b"""\
root:x:0:
staff:x:50:user
audio:x:29:user
user:x:1000:
nogroup:x:65534:
"""
MINBASE_REF = "corten-test/debian:bookworm"


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer."""

    name: str
    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)


def directory(name: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, mode=mode, kind=tarfile.DIRTYPE)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, mode=0o777, kind=tarfile.SYMTYPE, link=target)


def layer(entries: Iterable[Entry]) -> bytes:
    """An uncompressed layer with one time stamp for everything."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.size = len(entry.data) if entry.kind == tarfile.REGTYPE else 0
            info.mode, info.type, info.linkname = entry.mode, entry.kind, entry.link
            info.uid, info.gid, info.mtime = entry.uid, entry.gid, 1704067200
            info.devmajor, info.devminor = entry.device
            info.pax_headers = dict(entry.pax)
            archive.addfile(info, io.BytesIO(entry.data) if info.size else None)
    return buffer.getvalue()


def image_config(layers: Sequence[bytes], config: Mapping[str, Any], author: str = "corten tests") -> bytes:
    """The image configuration (image-spec config.md) of uncompressed `layers`."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": EPOCH,
        "author": author,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        "history": [{"created": EPOCH, "created_by": f"layer {index}"} for index in range(len(layers))],
    }
    return json.dumps(document, sort_keys=True).encode()


def docker_archive(refs: Sequence[str], layers: Sequence[bytes], config: Mapping[str, Any]) -> bytes:
    """What `docker save` writes: manifest.json, one configuration, one tar per layer."""
    text = image_config(layers, config)
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    files = {name: text}
    members = []
    for data in layers:
        members.append(f"{hashlib.sha256(data).hexdigest()}/layer.tar")
        files[members[-1]] = data
    manifest = [{"Config": name, "RepoTags": list(refs), "Layers": members}]
    files["manifest.json"] = json.dumps(manifest).encode()
    return layer(Entry(key, data) for key, data in files.items())


def digest(data: bytes) -> str:
    """`sha256:…` of data."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def busybox_layers() -> list[bytes]:
    """The program with its applets as links, then the files that a userland expects."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    program = Entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
    links = [symlink(f"bin/{name}", "busybox") for name in applets if name != "busybox"]
    names = ("dev", "etc", "home", "proc", "root", "sys", "usr", "var", "usr/bin", "var/tmp")
    folders = [directory(name) for name in names]
    files = [
        Entry("etc/passwd", PASSWD),
        Entry("etc/group", GROUP),
        Entry("home/user/.keep", mode=0o600, uid=1000, gid=1000),
        directory("tmp", 0o1777),
    ]
    return [layer([directory("bin"), program, *links]), layer([*folders, *files])]


def archive(name: str) -> Path:
    """A docker-archive of NAMES in the cache: built when missing or when this file has changed since."""
    folder = paths.cache("images")
    stamp = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    path = folder / f"{name}-{stamp}.tar"
    with peers.locked(folder):
        if not path.exists():
            for old in folder.glob(f"{name}-*.tar"):
                old.unlink()
            fresh = path.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(_BUILDERS[name]())
            fresh.rename(path)
    return path


def busybox() -> Path:
    """The archive of BUSYBOX_REF."""
    return archive("busybox")


def minbase() -> Path:
    """The archive of MINBASE_REF: debootstrap, variant minbase, in one layer of 100 MB."""
    return archive("minbase")


def _build_busybox() -> bytes:
    config = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return docker_archive([BUSYBOX_REF], busybox_layers(), config)


def _build_minbase() -> bytes:
    config = {"Cmd": ["bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return docker_archive([MINBASE_REF], [debootstrap_tar()], config)


def debootstrap_tar(include: Sequence[str] = ()) -> bytes:
    """A minimal Debian 12, as a tar; `include` are further packages."""
    target = paths.scratch("debootstrap")
    options = [f"--include={','.join(include)}"] if include else []
    try:
        subprocess.run(
            ["debootstrap", "--variant=minbase", *options, "bookworm", target / "root", peers.mirror()],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=600,
        )
        options = ["--sort=name", "--numeric-owner", "--exclude=./var/cache/apt/*.bin"]
        return subprocess.run(
            ["tar", *options, "-C", target / "root", "-c", "."], check=True, stdout=subprocess.PIPE
        ).stdout
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", target], check=True)


def gzipped(data: bytes) -> bytes:
    """gzip with no time stamp, at the fastest level."""
    return gzip.compress(data, compresslevel=1, mtime=0)


_BUILDERS = {"busybox": _build_busybox, "minbase": _build_minbase}
