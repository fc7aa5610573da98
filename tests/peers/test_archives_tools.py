"""Archives between Corten and skopeo, podman, umoci: the same digests, and the same files, both ways.

The image has a layer that a container made (`docker commit`), with everything that a layer can have.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import images
from support.engine import CortenEngine
from support.podman import Podman
from support.pushers import Skopeo, Umoci

NAME = "corten-test/made:1"
CHANGES = (
    "mkdir -p /a/b; echo hi >/a/b/f; ln /a/b/f /a/link; ln -s b/f /a/s; mkfifo /a/p; mknod /a/null c 1 3;"
    " chmod 4711 /a/b/f; chown 5:6 /a; rm /bin/awk; rm -r /home/user; mkdir /home/user; touch /home/user/new;"
    f" touch '/a/ü n'; mkdir -p /{'long/' * 50}x"
)


@dataclass(frozen=True, slots=True)
class Made:
    """A committed image and its archive."""

    archive: Path
    image_id: str
    manifest: str
    diff_ids: list[str]
    exported: Path
    """The files of a container of it."""


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


@pytest.fixture(scope="module")
def made(engine: CortenEngine, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    engine.docker("run", "--name", "box", "--network", "none", images.BUSYBOX_REF, "sh", "-c", CHANGES, check=True)
    engine.docker("commit", "box", NAME, check=True)
    engine.docker("save", "-o", str(folder / "saved.tar"), NAME, check=True)
    engine.docker("create", "--name", "of", NAME, "true", check=True)
    engine.docker("export", "-o", str(folder / "exported.tar"), "of", check=True)
    engine.docker("rm", "box", "of", check=True)
    with tarfile.open(folder / "saved.tar") as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
    (found,) = json.loads(engine.docker("image", "inspect", NAME, check=True).stdout)
    manifest = index["manifests"][0]["digest"]
    return Made(folder / "saved.tar", found["Id"], manifest, found["RootFS"]["Layers"], folder / "exported.tar")


@pytest.fixture
def skopeo(engine: CortenEngine) -> Iterator[Skopeo]:
    made = Skopeo(engine.netns)
    yield made
    made.close()


@pytest.fixture
def umoci(engine: CortenEngine) -> Iterator[Umoci]:
    made = Umoci(engine.netns)
    yield made
    made.close()


def loaded(engine: CortenEngine, path: Path, name: str = NAME) -> tuple[str, list[str]]:
    """Id and layers of what the archive brings; the image is removed first."""
    engine.docker("rmi", "-f", NAME)
    engine.docker("load", "-i", str(path), check=True)
    (found,) = json.loads(engine.docker("image", "inspect", name, check=True).stdout)
    return found["Id"], found["RootFS"]["Layers"]


def listing(files: Path) -> dict[str, tuple[object, ...]]:
    """A tree, or an archive of one, by name: without times, and without what every container gets."""
    if files.is_dir():
        argv = ["tar", "--sort=name", "--numeric-owner", "-C", str(files), "-cf", str(files.parent / "tree.tar"), "."]
        subprocess.run(argv, check=True)
        files = files.parent / "tree.tar"
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(files) as archive:
        for one in archive:
            name = os.path.normpath(one.name)
            kind = "file" if one.isreg() or one.islnk() else one.type
            size = 0 if one.islnk() else one.size
            found[name] = (kind, one.mode, one.uid, one.gid, one.linkname if one.issym() else "", size)
    given = (".", ".dockerenv", "dev", "etc", "proc", "sys", "run")
    return {name: what for name, what in found.items() if name.split("/")[0] not in given}


def test_skopeo_reads_the_archive_in_both_forms(made: Made, skopeo: Skopeo) -> None:
    shown = json.loads(skopeo.run("list-tags", f"docker-archive:{made.archive}"))
    assert shown["Tags"] == [NAME]
    config = skopeo.run("inspect", "--config", "--raw", f"docker-archive:{made.archive}:docker.io/{NAME}")
    assert json.loads(config)["rootfs"]["diff_ids"] == made.diff_ids
    assert json.loads(skopeo.run("inspect", f"oci-archive:{made.archive}:1"))["Digest"] == made.manifest


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("docker-archive", "docker-archive"),
        ("oci-archive", "oci"),
        pytest.param("docker-archive", "oci", marks=pytest.mark.slow),
        pytest.param("docker-archive", "oci-archive", marks=pytest.mark.slow),
        pytest.param("oci-archive", "docker-archive", marks=pytest.mark.slow),
        pytest.param("oci-archive", "oci-archive", marks=pytest.mark.slow),
    ],
)
def test_what_skopeo_carries_from_here_comes_back_the_same(
    engine: CortenEngine, made: Made, skopeo: Skopeo, source: str, target: str
) -> None:
    place = skopeo.folder / "carried"
    tag = f"docker.io/{NAME}"
    skopeo.copy(f"{source}:{made.archive}" + (":1" if source == "oci-archive" else ""), f"{target}:{place}:{tag}")
    if target == "oci":
        subprocess.run(["tar", "-C", str(place), "-cf", f"{place}.tar", "."], check=True)
        place = Path(f"{place}.tar")
    image_id, diff_ids = loaded(engine, place)
    assert diff_ids == made.diff_ids
    # from Docker's form to OCI's skopeo writes the configuration anew, less what OCI does not have
    assert (image_id == made.image_id) is (source == "oci-archive" or target == "docker-archive")
    look = "cat /a/link; ls /home/user; ls /bin/awk"
    done = engine.docker("run", "--rm", "--network", "none", NAME, "sh", "-c", look)
    assert done.stdout == "hi\nnew\n"


def test_umoci_unpacks_the_files_that_a_container_sees(made: Made, umoci: Umoci) -> None:
    layout, bundle = umoci.folder / "layout", umoci.folder / "bundle"
    layout.mkdir()
    subprocess.run(["tar", "-C", str(layout), "-xf", str(made.archive)], check=True)
    umoci.umoci("unpack", "--image", f"{layout}:1", str(bundle))
    assert listing(bundle / "rootfs") == listing(made.exported)


def test_an_image_of_umocis_is_loaded_and_runs(engine: CortenEngine, made: Made, umoci: Umoci) -> None:
    layout = umoci.folder / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-C", str(layout), "-xf", str(made.archive)], check=True)
    own = umoci.folder / "own"
    own.write_text("of umoci\n")
    umoci.umoci("insert", "--image", f"{layout}:1", str(own), "/own")
    for name in ("manifest.json", "repositories"):  # which umoci does not know, and leaves as they were
        (layout / name).unlink()
    index = layout / "index.json"
    document = json.loads(index.read_text())
    for one in document["manifests"]:
        one["annotations"]["org.opencontainers.image.ref.name"] = f"docker.io/{NAME}"
    index.write_text(json.dumps(document))
    subprocess.run(["tar", "-C", str(layout), "-cf", f"{layout}.tar", "."], check=True)
    _, layers = loaded(engine, Path(f"{layout}.tar"))
    assert layers[:-1] == made.diff_ids
    done = engine.docker("run", "--rm", "--network", "none", NAME, "cat", "/own", "/a/link")
    assert done.stdout == "of umoci\nhi\n"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_loads_and_saves_the_same_image(engine: CortenEngine, made: Made, form: str) -> None:
    with Podman() as podman:
        podman("runc", "load", "-i", str(made.archive), check=True)
        (found,) = json.loads(podman("runc", "image", "inspect", NAME, check=True).stdout)
        assert (f"sha256:{found['Id']}", found["RootFS"]["Layers"]) == (made.image_id, made.diff_ids)
        path = podman.folder / "saved.tar"
        podman("runc", "save", "--format", form, "-o", str(path), NAME, check=True)
        assert loaded(engine, path) == (made.image_id, made.diff_ids)


def test_podman_imports_what_was_exported(made: Made) -> None:
    with Podman() as podman:
        podman("runc", "import", str(made.exported), "imported:1", check=True)
        (found,) = json.loads(podman("runc", "image", "inspect", "imported:1", check=True).stdout)
        assert len(found["RootFS"]["Layers"]) == 1


def test_docker_py_saves_loads_exports_and_commits(engine: CortenEngine, made: Made) -> None:
    client = engine.client()
    try:
        image = client.images.get(loaded(engine, made.archive)[0])
        data = b"".join(image.save(named=True))
        client.images.remove(NAME)
        (again,) = client.images.load(data)
        assert again.id == made.image_id
        container = client.containers.create(NAME, ["true"])
        assert container.diff() in (None, [])
        assert b"".join(container.export())[257:262] == b"ustar"
        committed = container.commit("corten-test/py", "1", message="said", author="me", conf={"Cmd": ["x"]})
        assert (committed.attrs["Config"]["Cmd"], committed.attrs["Comment"]) == (["x"], "said")
        container.remove()
        client.images.remove("corten-test/py:1")
    finally:
        client.close()


def test_the_same_files_are_the_same_layer_on_another_engine_at_another_time(engine: CortenEngine, made: Made) -> None:
    """Made in another order, and touched in between: inodes, access times and the engine's paths are others."""
    stamp = "find /m -exec touch -h -d '2001-02-03 04:05:06' {} +; touch -d '2001-02-03 04:05:06' /m"
    orders = ("1 2 3 4 5 6 7 8 9", "9 4 1 8 2 7 3 6 5")
    found = []
    with CortenEngine() as other:
        other.docker("load", "-i", str(images.busybox()), check=True)
        for one, order in zip((engine, other), orders, strict=True):
            make = f"mkdir -p /m; for i in {order}; do echo $i > /m/$i; mkdir /m/d$i; ln -s x /m/s$i; done; cat /m/1"
            command = (images.BUSYBOX_REF, "sh", "-c", f"{make}; {stamp}")
            one.docker("run", "--name", "same", "--network", "none", *command, check=True)
            one.docker("commit", "same", "corten-test/same:1", check=True)
            form = ("image", "inspect", "-f", "{{json .RootFS.Layers}}", "corten-test/same:1")
            found.append(one.docker(*form, check=True).stdout)
            one.docker("rm", "same", check=True)
            one.docker("rmi", "corten-test/same:1", check=True)
    assert found[0] == found[1]
