"""Makes a small image offline from Debian's busybox-static: a shell, its applets as links, /etc/passwd and /etc/group.

    python tools/mkimage.py --ref demo/busybox:1 --output busybox.tar [--format docker|docker-oci|oci] [--layers 1|2|3]
                            [--compress none|gzip]

The same bytes come out every time: entries are sorted, times fixed, nothing of the machine but its busybox goes in.
Standard library alone, no network.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSYBOX = "/bin/busybox"
# distribution reference: an optional host, names of small letters, an optional tag; no digest: nothing has it yet
REFERENCE = re.compile(
    r"(?:(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*(?::\w[\w.-]{0,127})?",
    re.ASCII,
)
EPOCH = 1704067200
CREATED = "2024-01-01T00:00:00Z"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
user:x:1000:1000:user:/home/user:/bin/sh
"""
GROUP = "root:x:0:\ndaemon:x:1:\naudio:x:29:user\nstaff:x:50:user\nuser:x:1000:\nnogroup:x:65534:\n"
DIRECTORIES = {
    **dict.fromkeys(("bin", "dev", "etc", "home", "lib", "proc", "run", "sbin", "sys", "usr", "usr/bin"), 0o755),
    **dict.fromkeys(("usr/sbin", "var", "var/log"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}


@dataclass(frozen=True, slots=True)
class File:
    """One entry of a layer."""

    name: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    data: bytes = b""
    link: str = ""
    uid: int = 0
    gid: int = 0


def layer(files: Iterable[File]) -> bytes:
    """The files as an uncompressed tar archive, in order of name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(files, key=lambda one: one.name):
            info = tarfile.TarInfo(file.name)
            info.type, info.mode, info.linkname = file.kind, file.mode, file.link
            info.uid, info.gid, info.mtime, info.size = file.uid, file.gid, EPOCH, len(file.data)
            archive.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


def busybox_layers(count: int, busybox: str) -> list[bytes]:
    """The root filesystem in 1 to 3 layers: the program, its links and files, a change of both.

    With 3 layers the last one removes a file of the second and replaces a directory (whiteout, opaque).
    """
    base = [File(name, tarfile.DIRTYPE, mode) for name, mode in DIRECTORIES.items()]
    base.append(File("bin/busybox", mode=0o755, data=Path(busybox).read_bytes()))
    userland = [File("etc/passwd", data=PASSWD.encode()), File("etc/group", data=GROUP.encode())]
    userland += [File("home/user", tarfile.DIRTYPE, 0o755, uid=1000, gid=1000)]
    userland += [File(name, tarfile.SYMTYPE, 0o777, link="/bin/busybox") for name in _applets(busybox)]
    if count == 1:
        return [layer([*base, *userland])]
    parents = [
        File(name, tarfile.DIRTYPE, 0o755) for name in ("bin", "etc", "home", "sbin", "usr", "usr/bin", "usr/sbin")
    ]
    if count == 2:
        return [layer(base), layer([*parents, *userland])]
    extra = [File("etc/removed", data=b"hidden by the layer above\n"), File("opt", tarfile.DIRTYPE, 0o755)]
    extra += [File("opt/old", data=b"hidden by the layer above\n")]
    change = [File("etc", tarfile.DIRTYPE, 0o755), File("etc/.wh.removed"), File("opt", tarfile.DIRTYPE, 0o755)]
    change += [File("opt/.wh..wh..opq"), File("opt/new", data=b"new\n")]
    return [layer(base), layer([*parents, *userland, *extra]), layer(change)]


def _applets(busybox: str) -> list[str]:
    done = subprocess.run([busybox, "--list-full"], check=True, stdout=subprocess.PIPE, text=True)
    names = {name for name in done.stdout.split() if name.split("/")[0] in ("bin", "sbin", "usr")}
    return sorted(names - {"bin/busybox"})


def config(layers: Sequence[bytes], *, cmd: Sequence[str] = ("sh",), architecture: str = "") -> bytes:
    """The image configuration of uncompressed `layers` (image-spec config.md)."""
    document = {
        "architecture": architecture or ARCHITECTURES.get(_machine(), _machine()),
        "config": {"Cmd": list(cmd), "Env": [f"PATH={PATH}"]},
        "created": CREATED,
        "history": [{"created": CREATED, "created_by": f"mkimage layer {n + 1}"} for n in range(len(layers))],
        "os": "linux",
        "rootfs": {"diff_ids": [digest(data) for data in layers], "type": "layers"},
    }
    return compact(document)


def _machine() -> str:
    return os.uname().machine


def docker_archive(ref: str, layers: Sequence[bytes], config_data: bytes) -> bytes:
    """The form of `docker save` before Docker 25: <id>/layer.tar."""
    files = {f"{digest(data)[7:]}/layer.tar": data for data in layers}
    manifest = [{"Config": f"{digest(config_data)[7:]}.json", "Layers": list(files), "RepoTags": [ref]}]
    files[f"{digest(config_data)[7:]}.json"] = config_data
    return layer(File(name, data=data) for name, data in {**files, "manifest.json": compact(manifest)}.items())


def oci_archive(ref: str, layers: Sequence[bytes], config_data: bytes, *, is_gzip: bool, with_docker: bool) -> bytes:
    """An OCI layout in a tar; `with_docker` adds the manifest.json of `docker save` since Docker 25."""
    packed = [gzip.compress(data, 6, mtime=0) for data in layers] if is_gzip else list(layers)
    suffix = "+gzip" if is_gzip else ""
    manifest = compact(
        {
            "config": descriptor("application/vnd.oci.image.config.v1+json", config_data),
            "layers": [descriptor(f"application/vnd.oci.image.layer.v1.tar{suffix}", data) for data in packed],
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "schemaVersion": 2,
        }
    )
    top = descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    name = _normalized(ref)
    top["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    blobs = {f"blobs/sha256/{digest(data)[7:]}": data for data in (*packed, config_data, manifest)}
    files = {
        **blobs,
        "index.json": compact({"manifests": [top], "schemaVersion": 2}),
        "oci-layout": compact({"imageLayoutVersion": "1.0.0"}),
    }
    if with_docker:
        names = [f"blobs/sha256/{digest(data)[7:]}" for data in packed]
        config_name = f"blobs/sha256/{digest(config_data)[7:]}"
        files["manifest.json"] = compact([{"Config": config_name, "Layers": names, "RepoTags": [ref]}])
    return layer(File(name, data=data) for name, data in files.items())


def _normalized(ref: str) -> str:
    first = ref.partition("/")[0]
    if "/" not in ref:
        return f"docker.io/library/{ref}"
    return ref if "." in first or ":" in first or first == "localhost" else f"docker.io/{ref}"


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """A content descriptor."""
    return {"digest": digest(data), "mediaType": media_type, "size": len(data)}


def digest(data: bytes) -> str:
    """`sha256:` of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compact(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """JSON, the same bytes for the same document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def make(ref: str, *, form: str = "docker", layers: int = 2, is_gzip: bool = False, busybox: str = BUSYBOX) -> bytes:
    """The archive of a busybox image named `ref`."""
    parts = busybox_layers(layers, busybox)
    config_data = config(parts)
    if form == "docker":
        return docker_archive(ref, parts, config_data)
    return oci_archive(ref, parts, config_data, is_gzip=is_gzip, with_docker=form == "docker-oci")


def main(argv: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Make a busybox image offline.")
    parser.add_argument("--ref", required=True, help="name and tag of the image")
    parser.add_argument("--output", required=True, type=Path, help="file to write")
    parser.add_argument("--format", choices=("docker", "docker-oci", "oci"), default="docker")
    parser.add_argument("--layers", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--compress", choices=("none", "gzip"), default="none", help="of the layers, in the OCI forms")
    parser.add_argument("--busybox", default=BUSYBOX)
    options = parser.parse_args(argv)
    if not REFERENCE.fullmatch(options.ref):
        parser.error(
            f"--ref {options.ref}: invalid reference format: give [host[:port]/]name[:tag], name in small letters"
        )
    ref = options.ref if ":" in options.ref.rpartition("/")[2] else f"{options.ref}:latest"
    is_gzip = options.compress == "gzip"
    try:
        data = make(ref, form=options.format, layers=options.layers, is_gzip=is_gzip, busybox=options.busybox)
        options.output.write_bytes(data)
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error.filename}: {(error.strerror or '').lower()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
