"""`docker commit` of the same containers with dockerd 26.1: configuration, history and parent, field by field."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from clients.api import Api
from support import images, peers
from support.dockerd import DockerClient, Dockerd, client_environment
from support.engine import CortenEngine

pytestmark = pytest.mark.slow

RICH = (
    *("--hostname", "hh", "--domainname", "dd.example", "-e", "A=1", "-l", "x=y", "-u", "7", "-w", "/tmp"),
    *("--expose", "81", "-v", "/vol", "--stop-signal", "INT", "--stop-timeout", "3", "--health-cmd", "true"),
)
# Of the moment, of the layer's times, or of the engine: not compared.
OTHER = ("Id", "Created", "created", "GraphDriver", "Metadata", "RootFS", "rootfs", "DockerVersion", "docker_version")
OF_THE_CONTAINER = ("Container", "container")  # its id
VERSIONS = ("1.43", "1.45")


def raw_config(engine: DockerClient, ref: str) -> Any:
    """The image's configuration as it is saved."""
    argv = [str(peers.docker_cli()), "-H", engine.host, "save", ref]
    done = subprocess.run(argv, check=True, capture_output=True, env=client_environment())
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        config = archive.extractfile(json.load(manifest)[0]["Config"])
        assert config is not None
        return json.load(config)


def said(engine: DockerClient) -> dict[str, Any]:
    """Everything of six commits of two containers."""
    out: dict[str, Any] = {}
    engine.docker("load", "-i", str(images.busybox()), check=True)
    engine.docker("run", "--name", "rich", *RICH, images.BUSYBOX_REF, "touch", "/tmp/x", check=True)
    engine.docker("create", "-it", "--name", "plain", "--hostname", "plain", images.BUSYBOX_REF, "sh", check=True)
    for name in ("rich", "plain"):
        engine.docker("commit", name, f"{name}:1", check=True)
        more = ["-a", "me", "-m", "said", "-c", "ENV B=2", "-c", 'CMD ["true"]']
        engine.docker("commit", *more, name, f"{name}:2", check=True)
        body = {"Hostname": "given", "Env": ["Z=1"], "AttachStdout": True}
        Api(engine.socket, "1.45").ok("POST", f"/commit?container={name}&repo={name}&tag=3&comment=c", body)
        for tag in "123":
            ref = f"{name}:{tag}"
            out[f"{ref} saved"] = raw_config(engine, ref)
            for version in VERSIONS:
                out[f"{ref} {version}"] = Api(engine.socket, version).ok("GET", f"/images/{ref}/json")
            lines = Api(engine.socket, "1.45").ok("GET", f"/images/{ref}/history")
            out[f"{ref} history"] = {str(at): line for at, line in enumerate(lines)}
    return out


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with a value: what is empty, null or missing is one (Go writes the one where we write the other)."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in OF_THE_CONTAINER:
                yield f"{path}.{key}", bool(one)
            elif key not in OTHER:
                yield from flat(one, f"{path}.{key}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for at, one in enumerate(value):
            yield from flat(one, f"{path}.{at}")
    elif value not in (None, "", [], False):
        yield path, value


def test_a_committed_image_says_of_its_container_what_dockerd_s_says() -> None:
    with Dockerd() as dockerd:
        theirs = said(dockerd)
    with CortenEngine() as corten:
        ours = said(corten)
    assert list(ours) == list(theirs)
    different = {}
    for what, value in theirs.items():
        left, right = dict(flat(value)), dict(flat(ours[what]))
        for field in sorted(left.keys() | right.keys()):
            if left.get(field) != right.get(field):
                different[f"{what}{field}"] = (left.get(field), right.get(field))
    assert different == {}
