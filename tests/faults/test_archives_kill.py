"""kill -9 of cortend while it commits, imports, loads an index and saves: the image is there whole, or not at all.

As `test_images_kill`, of the same campaign; and a container that a commit froze goes on under the next cortend.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.test_images_kill import GATE_CALLS, GATE_MOMENTS, SLOW_CALLS, SLOW_MOMENTS
from support import images, imagestate, peers
from support import tarballs as t
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.imagekills import NAME, Request, campaign, client
from support.process import wait_for
from support.warmup import warm_up

FILES = "for i in $(seq 200); do echo $i > /etc/$i; done; dd if=/dev/zero of=/large bs=1M count=4; rm /etc/passwd"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CortenEngine]:
    """With one image, which is never touched, and a container that has ended."""
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(made)
        made.docker("run", "--name", "box", "--network", "none", images.BUSYBOX_REF, "sh", "-c", FILES, check=True)
        yield made


@pytest.fixture(scope="module")
def folder(engine: CortenEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is imported, loaded and written to."""
    made = tmp_path_factory.mktemp("archives")
    engine.docker("export", "-o", str(made / "rootfs.tar"), "box", check=True)
    (made / "index.tar").write_bytes(two_platforms())
    return made


def two_platforms() -> bytes:
    """A layout of an index: busybox for this machine, and the same files for another."""
    layers = images.busybox_layers()
    blobs: dict[str, bytes] = {}

    def blob(media_type: str, data: bytes) -> dict[str, object]:
        blobs[t.digest(data)[7:]] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": t.digest(data), "size": len(data)}

    def document(value: object) -> bytes:
        return json.dumps(value).encode()

    def manifest(architecture: str) -> dict[str, object]:
        config = blob("config.v1+json", t.image_config(layers, architecture=architecture, config={"Cmd": ["true"]}))
        listed = [blob("layer.v1.tar", layer) for layer in layers]
        whole = document({"schemaVersion": 2, "config": config, "layers": listed})
        return {**blob("manifest.v1+json", whole), "platform": {"os": "linux", "architecture": architecture}}

    inner = document({"schemaVersion": 2, "manifests": [manifest("arm64"), manifest("amd64")]})
    top = {**blob("index.v1+json", inner), "annotations": {"io.containerd.image.name": f"docker.io/{NAME}"}}
    parts = [t.entry(f"blobs/sha256/{key}".encode(), data=data) for key, data in blobs.items()]
    return t.archive(*parts, t.entry(b"index.json", data=document({"schemaVersion": 2, "manifests": [top]})))


def requests(folder: Path) -> dict[str, Request]:
    """By name."""
    load = ("load", "-i", str(folder / "index.tar"))
    return {
        "commit": Request(("commit", "-c", 'CMD ["true"]', "box", NAME)),
        "commit in place of another": Request(("commit", "-c", 'CMD ["true"]', "box", NAME), (load,), nameless=2),
        "import": Request(("import", "-c", 'CMD ["/bin/true"]', str(folder / "rootfs.tar"), NAME)),
        # the image for the other platform has no name of its own, and is listed with -a
        "load an index": Request(load, nameless=1),
        "save": Request(("save", "-o", str(folder / "saved.tar"), NAME), (load,), nameless=1),
    }


GATE_NAMES = ("commit", "load an index")


@pytest.mark.parametrize("name", GATE_NAMES)
def test_cortend_killed_while_an_image_is_made_leaves_nothing_half_made(
    engine: CortenEngine, folder: Path, name: str
) -> None:
    campaign(engine, name, requests(folder)[name], calls=GATE_CALLS, moments=GATE_MOMENTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["commit", "commit in place of another", "import", "load an index", "save"])
def test_cortend_killed_at_many_points_while_an_image_is_made_leaves_nothing_half_made(
    engine: CortenEngine, folder: Path, name: str
) -> None:
    campaign(engine, name, requests(folder)[name], calls=SLOW_CALLS, moments=SLOW_MOMENTS)


def status(engine: CortenEngine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.State.Status}}", name, check=True).stdout.strip()


def test_a_container_that_a_commit_froze_goes_on_when_cortend_is_killed(engine: CortenEngine) -> None:
    script = "dd if=/dev/zero of=/large bs=1M count=200; while :; do echo tick; sleep 0.1; done"
    engine.docker(
        "run", "-d", "--name", "live", "--network", "none", images.BUSYBOX_REF, "sh", "-c", script, check=True
    )
    try:
        wait_for(lambda: "tick" in engine.docker("logs", "live").stdout, "ticks")
        running = client(engine, ("commit", "live", NAME))
        wait_for(lambda: status(engine, "live") == "paused", "pause of the commit")
        engine.kill9()
        running.wait(30)
        engine.start()
        assert status(engine, "live") == "running"
        before = engine.docker("logs", "live").stdout.count("tick")
        wait_for(lambda: engine.docker("logs", "live").stdout.count("tick") > before, "further ticks")
        assert imagestate.tags(engine) <= {images.BUSYBOX_REF, NAME}
        engine.docker("rmi", NAME)
        imagestate.judge(engine)
    finally:
        engine.docker("rm", "-f", "live")


def test_a_users_pause_outlives_cortend_and_a_commit(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "live", "--network", "none", images.BUSYBOX_REF, "sleep", "1000", check=True)
    try:
        engine.docker("pause", "live", check=True)
        engine.docker("commit", "live", NAME, check=True)
        assert status(engine, "live") == "paused"
        engine.kill9()
        engine.start()
        assert status(engine, "live") == "paused"
        engine.docker("rmi", NAME, check=True)
    finally:
        engine.docker("rm", "-f", "live")


def test_a_client_that_goes_away_leaves_nothing_of_a_save(engine: CortenEngine) -> None:
    argv = ["sh", "-c", f'"$0" -H {engine.host} save {images.BUSYBOX_REF} | head -c 100000 | wc -c']
    done = subprocess.run(
        [*argv, str(peers.docker_cli())], capture_output=True, text=True, check=False, env=client_environment()
    )
    assert done.stdout == "100000\n"
    wait_for(lambda: is_quiet(engine), "end of the lease")


def is_quiet(engine: CortenEngine) -> bool:
    try:
        imagestate.judge(engine)
    except AssertionError:
        return False
    return True


def test_the_archive_of_a_save_after_a_kill_is_whole(engine: CortenEngine, folder: Path) -> None:
    engine.kill9()
    engine.start()
    path = folder / "whole.tar"
    engine.docker("save", "-o", str(path), images.BUSYBOX_REF, check=True)
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        assert "manifest.json" in archive.getnames()
