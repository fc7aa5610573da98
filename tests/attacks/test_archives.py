"""Containers against whoever reads their files: export, commit and diff, while the container changes what is read.

A client that stops reading stops the engine's reader at a place that the container knows.  Twins: the same against an
engine whose openat2 has no rules.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from corten.cli.transport import SocketConnection, connect
from support import images, paths, weakened_corten
from support.engine import CortenEngine

SLOW = pytest.mark.slow
SECRET = b"the host's own"
BIG = "dd if=/dev/zero of=/d/0big bs=1M count=48 2>/dev/null; mkdir /d/sub; echo own > /d/sub/x; echo own > /d/secret"

# what the container does once the reader has listed /d and is busy with /d/0big
SWAPS = {
    "the directory becomes a link to the host": "mv /d /e; ln -s {outside} /d",
    "a directory in it becomes a link to the host": "mv /d/sub /e; ln -s {outside} /d/sub",
    "the file becomes a link to the host": "rm /d/secret; ln -s {outside}/secret /d/secret",
    "the file becomes a link through /proc": "rm /d/secret; ln -s /proc/1/root{outside}/secret /d/secret",
}


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory of the host that no container was given."""
    folder = paths.scratch("outside")
    (folder / "secret").write_bytes(SECRET)
    (folder / "x").write_bytes(SECRET)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def loaded() -> Iterator[CortenEngine]:
    """An engine with one image."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


@pytest.fixture
def target(loaded: CortenEngine) -> Iterator[CortenEngine]:
    """The same without the container of the test before."""
    yield loaded
    loaded.docker("rm", "-f", "box")
    loaded.docker("rmi", "made:1")


def inside(engine: CortenEngine, script: str) -> None:
    engine.docker("exec", "box", "sh", "-c", script, check=True)


@contextmanager
def export(engine: CortenEngine) -> Iterator[tuple[HTTPResponse, bytes]]:
    """An export of a new container that has come to the large file, and waits; what came so far."""
    command = ("sh", "-c", f"mkdir /d; {BIG}; sleep 1000")
    engine.docker("run", "-d", "--name", "box", "--network", "none", images.BUSYBOX_REF, *command, check=True)
    inside(engine, "until [ -e /d/secret ]; do sleep 0.05; done")
    with closing(SocketConnection(connect(engine.host))) as connection:
        connection.request("GET", "/containers/box/export")
        with connection.getresponse() as response:
            data = b""
            while b"d/0big" not in data:
                data += response.read(1 << 16)
            yield response, data


def exported(response: HTTPResponse, data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data + response.read())) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isreg()}  # type: ignore[union-attr]


def attack(engine: CortenEngine, script: str) -> dict[str, bytes]:
    with export(engine) as (response, data):
        inside(engine, script)
        return exported(response, data)


@pytest.mark.parametrize("script", SWAPS.values(), ids=SWAPS)
def test_what_is_swapped_while_it_is_exported_shows_nothing_of_the_host(
    target: CortenEngine, outside: Path, script: str
) -> None:
    found = attack(target, script.format(outside=outside))
    assert len(found["d/0big"]) == 48 << 20
    assert SECRET not in found.values()


TWINS = [pytest.param(name, marks=SLOW if number != 1 else ()) for number, name in enumerate(SWAPS)][:3]


@pytest.mark.parametrize("name", TWINS)
def test_twin_without_rules_the_host_is_exported(outside: Path, name: str) -> None:
    with (
        weakened_corten.build(*weakened_corten.LINKS) as build,
        CortenEngine(commands=build.commands) as engine,
    ):
        engine.docker("load", "-i", str(images.busybox()), check=True)
        assert SECRET in attack(engine, SWAPS[name].format(outside=outside)).values()


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(target: CortenEngine) -> None:
    found = attack(target, "rm /d/secret; mkfifo /d/secret")
    assert "d/secret" not in found


def test_a_container_that_is_removed_ends_its_export_before_the_end(target: CortenEngine) -> None:
    with export(target) as (response, data):
        target.docker("rm", "-f", "box", check=True)
        with pytest.raises((IncompleteRead, tarfile.ReadError)):
            exported(response, data)


HOSTILE = {
    # by cd, since no path is that long
    "a tree beyond PATH_MAX": "mkdir /n; cd /n; n=dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd;"
    " for i in $(seq 90); do mkdir $n && cd $n; done; touch deepest",
    "a file of terabytes": "truncate -s 9T /huge || dd if=/dev/zero of=/huge bs=1 count=1 seek=9000000000000",
    "a sparse file larger than the disk": "truncate -s 800G /huge",
    "a name that is no text": "touch $(printf '/\\377\\376\\n\\033[31m')",
    "whiteouts by hand": "mknod /w c 0 0; touch /.wh.bin /.wh..wh..opq; mkdir /.wh.d; mknod /bin/.wh.x c 0 0",
    "ten thousand links to one file": "mkdir /l; touch /l/a; for i in $(seq 2000); do ln /l/a /l/$i; done",
}


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_tree_is_committed_whole_or_refused_in_a_sentence(target: CortenEngine, script: str) -> None:
    target.docker("run", "--name", "box", "--network", "none", images.BUSYBOX_REF, "sh", "-c", script)
    done = target.docker("commit", "box", "made:1", timeout=60)
    if done.returncode:
        assert done.stderr.startswith("Error response from daemon: ")
        assert any(text in done.stderr for text in ("File name too long", "larger than", "no space left")), done.stderr
        assert "made" not in target.docker("images").stdout
    else:
        ran = target.docker("run", "--rm", "--network", "none", "made:1", "ls", "/bin/busybox")
        assert ran.stdout == "/bin/busybox\n"
    assert target.docker("diff", "box").returncode in (0, 1)
    assert target.answers()
