"""save, export and diff beside dockerd 26.1: the same container ends as the same archive and the same list."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
# every kind of file and of change; of what a mount covers, what lies below it
CHANGES = (
    "mkdir -p /a/b/c; echo hi >/a/b/c/f; ln /a/b/c/f /a/link; ln -s f /a/b/c/s; mkfifo /a/p; mknod /a/null c 1 3;"
    " chmod 4755 /a/b/c/f; rm -r /bin/awk /home/user; mkdir /home/user; touch /home/user/new;"
    " touch -d '2001-02-03 04:05:06' /a/b/c/f /a/b; chown 5:6 /a; rm /etc/passwd; echo x > /etc/group;"
    " mv /usr/bin /usr/moved; echo 1 > /etc/hostname2; rm -f /.dockerenv; touch /tmp/.wh.x; mkdir /bin/awk;"
    f" mkdir -p /{'long/' * 40}x"
)
CONTAINERS = ("done", "live", "fresh")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dockerd, CortenEngine]]:
    """Two engines with the same containers."""
    bound = tmp_path_factory.mktemp("bound")
    (bound / "inside").write_text("not the container's")
    with Dockerd() as theirs, CortenEngine() as ours:
        for engine in (theirs, ours):
            engine.docker("load", "-i", str(images.busybox()), check=True)
            mounts = ("-v", f"{bound}:/vol", "-v", f"{bound}/inside:/etc/bound", "--tmpfs", "/tt")
            engine.docker("run", "--name", "done", *mounts, IMAGE, "sh", "-c", CHANGES, check=True)
            script = f"{CHANGES}; touch /tt/x; exec sleep 1000"
            engine.docker("run", "-d", "--name", "live", *mounts, IMAGE, "sh", "-c", script, check=True)
            engine.docker("create", "--name", "fresh", IMAGE, "true", check=True)
        yield theirs, ours


def exported(engine: DockerClient, name: str, folder: Path) -> bytes:
    path = folder / "exported.tar"
    engine.docker("export", "-o", str(path), name, check=True)
    return path.read_bytes()


def listed(data: bytes) -> list[tuple[object, ...]]:
    """Every member in order, without the times, which are those of this run."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [
            (one.name, one.type, one.mode, one.uid, one.gid, one.size, one.linkname, one.devmajor, one.devminor)
            for one in archive
        ]


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_exported_container_has_the_same_files(
    both: tuple[Dockerd, CortenEngine], tmp_path: Path, name: str
) -> None:
    theirs, ours = (exported(engine, name, tmp_path) for engine in both)
    assert listed(ours) == listed(theirs)
    assert b"not the container's" not in ours


def test_what_is_exported_can_be_imported_by_the_other(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    theirs, ours = both
    path = tmp_path / "exported.tar"
    for source, sink in ((theirs, ours), (ours, theirs)):
        path.write_bytes(exported(source, "done", tmp_path))
        sink.docker("import", str(path), "imported:1", check=True)
        assert sink.docker("run", "--rm", "--network", "none", "imported:1", "/bin/cat", "/a/link").stdout == "hi\n"


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_changes_of_a_container_are_the_same(both: tuple[Dockerd, CortenEngine], name: str) -> None:
    theirs, ours = (sorted(engine.docker("diff", name, check=True).stdout.splitlines()) for engine in both)
    assert ours == theirs
    assert both[1].docker("diff", name).stdout == both[1].corten("diff", name).stdout


def test_an_archive_of_either_is_loaded_by_the_other(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    theirs, ours = both
    path = tmp_path / "saved.tar"
    for source, sink, tag in ((theirs, ours, "by-dockerd"), (ours, theirs, "by-corten")):
        names = [f"saved/{tag}:1", f"saved/{tag}:2"]
        for name in names:
            source.docker("tag", IMAGE, name, check=True)
        source.docker("save", "-o", str(path), f"saved/{tag}", check=True)
        assert sink.docker("load", "-i", str(path)).stdout == "".join(f"Loaded image: {name}\n" for name in names)
        form = ("image", "inspect", "-f", "{{.Id}} {{json .RootFS.Layers}}", names[1])
        assert sink.docker(*form).stdout == source.docker(*form).stdout


def test_both_make_the_same_manifest_of_an_image(both: tuple[Dockerd, CortenEngine], tmp_path: Path) -> None:
    indexes = []
    for engine in both:
        path = tmp_path / "saved.tar"
        engine.docker("save", "-o", str(path), IMAGE, check=True)
        with tarfile.open(path) as archive:
            indexes.append(archive.extractfile("index.json").read())  # type: ignore[union-attr]
    assert indexes[0] == indexes[1]


TEXTS = """\
save nothing
save corten-test/busybox:9
save nothing@sha256:0000000000000000000000000000000000000000000000000000000000000000
save UPPER
save corten-test/busybox:1 nothing:1
save -o /nowhere/x corten-test/busybox:1
save -o /dev/null corten-test/busybox:1
save -o /tmp corten-test/busybox:1
save -o /etc/passwd/x corten-test/busybox:1
export nothing
export -o /nowhere/x done
diff nothing
"""


@pytest.mark.parametrize("command", TEXTS.splitlines())
def test_refusals_are_worded_alike(both: tuple[Dockerd, CortenEngine], command: str) -> None:
    theirs, ours = (engine.docker(*shlex.split(command)) for engine in both)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    own = both[1].corten(*shlex.split(command))
    assert re.sub("docker", "corten", ours.stderr).strip() == own.stderr.strip()
