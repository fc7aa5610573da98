"""cp beside dockerd 26.1 and docker's CLI: the same stats, archives, texts and files.

What differs on purpose is listed: TEXTS and STATUS (an archive that is wrong is the client's mistake, 400; dockerd says
500, and 404 for the destination when a hard link's target is missing), LOOSER (what dockerd refuses without need).
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import images, paths, peers
from support import tarballs as t
from support.copying import Answer, call, tree
from support.dockerd import DockerClient, Dockerd, client_environment
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
SETUP = (
    "mkdir -p /d/sub /d/empty; echo hi >/d/f; ln /d/f /d/hard; ln -s f /d/sym; ln -s /nowhere /d/broken; ln -s /d /tod;"
    " ln -s ../../../etc /d/up; ln -s loop /loop; mkfifo /d/p; mknod /d/null c 1 3; chmod 4751 /d/f;"
    " chmod 1777 /d/empty; chown 5:6 /d/sub; touch -d '2001-02-03 04:05:06' /d/f /d/sub /d; echo v >/vol/inv;"
    " ln -s /vol /tovol; ln -s ../vol/inv /d/tov; mkdir /srv/n; echo n >/srv/n/n"
)
SLOW = pytest.mark.slow
CONTAINERS = ("live", pytest.param("done", marks=SLOW), pytest.param("fresh", marks=SLOW))
PATHS = (
    *("/d", "/d/", "/d/.", "d", "/d/../d", "/d/f", "/d/f/", "/d/f/.", "/d/f/x", "/d/sym", "/d/broken", "/d/up"),
    *("/d/up/", "/tod", "/tod/", "/tod/.", "/loop/x", "/nope", "/nope/x", "/vol", "/vol/", "/vol/inv", "/tovol"),
    *("/tovol/inv", "/d/tov", "/dev", "/etc/hosts", "/etc/hostname", "/ro", "/ro/x", "/d/p", "/d/null", "/d/empty"),
    *("/d/./f", "//d//f", "/d/sub/..", "/d/hard", "/proc/1", "d/sub"),
)
HEADS = (*PATHS, "/", "/.", "..", "../..", "/proc", "/sys")

Engines = tuple[Dockerd, CortenEngine]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Two engines with the same containers: one runs, one has ended, one was never started."""
    with Dockerd() as theirs, CortenEngine() as ours:
        for engine in (theirs, ours):
            engine.docker("load", "-i", str(images.busybox()), check=True)
            fill(engine, tmp_path_factory.mktemp("bound"))
        yield theirs, ours


def fill(engine: DockerClient, folder: Path) -> None:
    for name in ("vol", "ro"):
        (folder / name).mkdir()
    (folder / "ro" / "x").write_text("x")
    mounts = ("-v", f"{folder}/vol:/vol", "-v", f"{folder}/ro:/ro:ro")
    script = f"mkdir -p /srv; {SETUP}"
    engine.docker("run", "--name", "done", *mounts, IMAGE, "sh", "-c", script, check=True)
    live = ("run", "-d", "--name", "live", *mounts, IMAGE)
    engine.docker(*live, "sh", "-c", f"{script}; touch /ready; exec sleep 1000", check=True)
    engine.docker("run", "-d", "--name", "strict", "--read-only", *mounts, IMAGE, "sleep", "1000", check=True)
    engine.docker("create", "--name", "fresh", "-v", f"{folder}/vol:/new/vol", IMAGE, "true", check=True)
    wait_for(lambda: call(engine.socket, "HEAD", "live", "/ready").status == 200, "ready")


def seen(answer: Answer) -> tuple[Any, ...]:
    """What is compared: no times, which are those of this run."""
    found = {key: value for key, value in answer.stat.items() if key != "mtime"} if answer.stat else None
    inside: Any = answer.message if answer.status >= 300 else (answer.entries if answer.body else None)
    return answer.status, found, inside, answer.media_type


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("path", [*HEADS[:8], *(pytest.param(path, marks=SLOW) for path in HEADS[8:])])
def test_a_path_is_told_alike(both: Engines, container: str, path: str) -> None:
    theirs, ours = (call(engine.socket, "HEAD", container, path) for engine in both)
    assert seen(ours)[:2] == seen(theirs)[:2]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("path", PATHS)
def test_an_archive_of_a_path_is_the_same(both: Engines, container: str, path: str) -> None:
    theirs, ours = (call(engine.socket, "GET", container, path) for engine in both)
    assert seen(ours) == seen(theirs)
    if path == "/d/f" and container != "fresh":
        assert ours.stat["mtime"] == theirs.stat["mtime"].replace("+00:00", "Z")


@pytest.mark.parametrize(("container", "path"), [("nobody", "/d"), ("live", None), ("live", "")])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_that_makes_no_sense_is_refused_alike(
    both: Engines, method: str, container: str, path: str | None
) -> None:
    theirs, ours = (
        call(engine.socket, method, container, path, body=b"" if method == "PUT" else None) for engine in both
    )
    assert seen(ours) == seen(theirs)


def file(name: bytes, **fields: Any) -> bytes:
    return t.entry(name, data=b"1", uid=7, gid=8, mtime=1000, **fields)


ONE = t.archive(file(b"one"))
# (path, archive, query)
PUTS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "plain": ("/d", ONE, {}),
    "slash": ("/d/", ONE, {}),
    "relative": ("d", ONE, {}),
    "missing": ("/nope", ONE, {}),
    "through a link": ("/tod", ONE, {}),
    "broken link": ("/d/broken", ONE, {}),
    "volume": ("/vol", ONE, {}),
    "link to a volume": ("/tovol", ONE, {}),
    "mounted file": ("/etc", t.archive(file(b"hosts")), {}),
    "empty body": ("/d", b"", {}),
    "gzip": ("/d", gzip.compress(ONE), {}),
    "bzip2": ("/d", bz2.compress(ONE), {}),
    "xz": ("/d", lzma.compress(ONE), {}),
    "absolute name": ("/d", t.archive(file(b"/abs")), {}),
    "above the root": ("/", t.archive(file(b"../srv/out")), {}),
    "directories on the way": ("/d", t.archive(file(b"new/deep/f")), {}),
    "link in the archive": ("/d", t.archive(t.symlink(b"tosrv", b"/srv"), file(b"tosrv/through")), {}),
    "hard link": ("/d", t.archive(file(b"ha"), t.hard_link(b"hb", b"ha", uid=7, gid=8)), {}),
    "nodes": ("/d", t.archive(t.entry(b"dev", b"3", device=(1, 5)), t.entry(b"pp", b"6")), {}),
    "directory kept": ("/d", t.archive(file(b"empty")), {"noOverwriteDirNonDir": "true"}),
    "file kept": ("/d", t.archive(t.directory(b"f")), {"noOverwriteDirNonDir": "1"}),
    "link kept": ("/d", t.archive(t.directory(b"sym")), {"noOverwriteDirNonDir": "1"}),
    "directory replaced": ("/d", t.archive(file(b"empty")), {}),
    "file replaced": ("/d", t.archive(t.directory(b"f", mode=0o700)), {}),
    "link replaced": ("/d", t.archive(file(b"sym")), {}),
    "itself": ("/d", t.archive(t.directory(b".", mode=0o700), file(b"./q")), {}),
    "root of the archive": ("/d", t.archive(t.directory(b"/", mode=0o711)), {}),
    "a file on the way": ("/d", t.archive(file(b"one/x")), {}),
    "whiteout": ("/d", t.archive(file(b".wh.zz"), file(b".wh..wh..opq")), {}),
    "merged": ("/", t.archive(t.directory(b"etc"), file(b"etc/zz")), {}),
    "owner": ("/d", ONE, {"copyUIDGID": "true"}),
}
# where it ends, when not below /d
ELSEWHERE = {
    "volume": "/vol",
    "link to a volume": "/vol",
    "mounted file": "/etc",
    "above the root": "/srv",
    "link in the archive": "/srv",
    "merged": "/etc",
}
REFUSED: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    "a file": ("live", "/d/null", ONE, {}),
    "read-only volume": ("live", "/ro", ONE, {}),
    "read-only root": ("strict", "/tmp", ONE, {}),
    "read-only volume of a read-only root": ("strict", "/ro", ONE, {}),
    "garbage": ("live", "/d", b"garbage" * 100, {}),
    "cut": ("live", "/d", t.archive(t.entry(b"one", data=b"x" * 2000))[:1200], {}),
    "way out": ("live", "/d", t.archive(file(b"../out")), {}),
}
STATUS = {500: 400}  # dockerd's → ours


@pytest.mark.parametrize("what", PUTS)
@pytest.mark.parametrize("container", [pytest.param("live", marks=SLOW), "done"])
def test_an_archive_is_unpacked_alike(both: Engines, container: str, what: str) -> None:
    path, body, query = PUTS[what]
    theirs, ours = (call(engine.socket, "PUT", container, path, body=body, **query) for engine in both)
    if what in ("directory kept", "file kept", "link kept"):
        assert (STATUS[theirs.status], theirs.message) == (ours.status, ours.message)
    elif what == "a file on the way":
        assert (theirs.status, ours.status) == (500, 500)
    else:
        assert seen(ours) == seen(theirs)
    for place in {"/d", ELSEWHERE.get(what, "/d")}:
        after = [seen(call(engine.socket, "GET", container, place))[2] for engine in both]
        assert after[1] == after[0]


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_unpacked_is_refused_with_the_same_text(both: Engines, what: str) -> None:
    container, path, body, query = REFUSED[what]
    theirs, ours = (call(engine.socket, "PUT", container, path, body=body, **query) for engine in both)
    assert (ours.status, ours.message) == (STATUS[theirs.status], theirs.message)


def test_a_volume_of_a_container_that_was_never_started_takes_files(both: Engines) -> None:
    for engine in both:
        assert call(engine.socket, "PUT", "fresh", "/new/vol", body=ONE).status == 200
        assert call(engine.socket, "HEAD", "live", "/vol/one").status == 200


# docker's CLI against both, and ours

SOURCES = ("file", "folder", "folder/", "folder/.", "link", "tofolder", "tofolder/", "missing")
DESTINATIONS = ("there", "there/", "folder", "folder/", "new", "new/", "new/deep", "link", "tofolder", "broken")
OPTIONS = ((), ("-L",), ("-a",))


def furnish(folder: Path) -> None:
    """One of everything."""
    (folder / "folder" / "sub").mkdir(parents=True)
    (folder / "folder" / "one").write_text("1")
    (folder / "folder" / "sub" / "two").write_text("22")
    os.symlink("one", folder / "folder" / "toone")
    (folder / "file").write_text("file")
    (folder / "there").write_text("there")
    os.chmod(folder / "file", 0o4750)
    os.symlink("file", folder / "link")
    os.symlink("folder", folder / "tofolder")
    os.symlink("nowhere", folder / "broken")
    for path in (folder / "file", folder / "folder" / "one"):
        os.chown(path, 12, 34)


def run(argv: Sequence[str], cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, cwd=cwd, env=client_environment()
    )
    lines = done.stderr.replace(str(cwd), "HERE").splitlines()  # docker's CLI may log that its own pipe is closed
    return done.returncode, "\n".join(line for line in lines if not line.startswith("time="))


SHORT = (
    *(("file", "there"), ("file", "new/"), ("folder", "new"), ("folder/.", "folder"), ("folder", "there")),
    *(("tofolder", "folder"), ("file", "broken")),
)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_pair_of_ends_is_copied_alike(both: Engines, tmp_path: Path, direction: str) -> None:
    check_pairs(both, tmp_path, direction, (), SHORT)


@SLOW
@pytest.mark.parametrize("options", OPTIONS, ids=lambda words: " ".join(words) or "plain")
@pytest.mark.parametrize("direction", ["in", "out"])
def test_every_pair_of_ends_is_copied_alike(
    both: Engines, tmp_path: Path, direction: str, options: tuple[str, ...]
) -> None:
    check_pairs(both, tmp_path, direction, options, tuple(itertools.product(SOURCES, DESTINATIONS)))


def check_pairs(
    both: Engines, tmp_path: Path, direction: str, options: tuple[str, ...], pairs: Sequence[tuple[str, str]]
) -> None:
    """docker's CLI and dockerd, docker's CLI and cortend, corten and cortend: three times the same."""
    theirs, ours = both
    docker, corten = str(peers.docker_cli()), str(paths.COMMANDS / "corten")
    ways = {"dockerd": (docker, theirs), "docker": (docker, ours), "corten": (corten, ours)}
    wrong = []
    for source, destination in pairs:
        ends = {
            name: copied(program, engine, tmp_path / name, (direction, source, destination), options)
            for name, (program, engine) in ways.items()
        }
        if not ends["dockerd"] == ends["docker"] == ends["corten"]:
            wrong.append((source, destination, ends))
    assert wrong == []


def copied(
    program: str, engine: DockerClient, folder: Path, ends: tuple[str, str, str], options: tuple[str, ...]
) -> tuple[Any, ...]:
    """How one copy ends: exit code, text and what is there then."""
    direction, source, destination = ends
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "from").mkdir(parents=True)
    (folder / "to").mkdir()
    for name in ("from", "to"):
        furnish(folder / name)
    inside = folder / ("from" if direction == "out" else "to")
    call(engine.socket, "PUT", "live", "/", body=t.archive(t.entry(b"box", data=b"")))  # what the last copy left
    call(engine.socket, "PUT", "live", "/", body=packed(inside))
    words = [f"from/{source}", f"to/{destination}"]
    where = 0 if direction == "out" else 1
    words[where] = f"live:/box/{words[where].partition('/')[2]}"
    code, text = run([program, "-H", engine.host, "cp", *options, *words], folder)
    if direction == "out":
        return code, text, tree(folder / "to")
    call(engine.socket, "GET", "live", "/box")
    return code, text, seen(call(engine.socket, "GET", "live", "/box"))[2]


def packed(folder: Path) -> bytes:
    done = subprocess.run(
        ["tar", "-C", str(folder), "--transform", "s,^\\.,box,", "-c", "."], check=True, capture_output=True
    )
    return done.stdout
