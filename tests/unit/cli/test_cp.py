"""The client's half of `cp`: what its words mean, and archives of strangers unpacked here."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from corten.cli import copypath, untar
from corten.cli.command import Failure
from corten.cli.copypath import End, Way
from support import tarballs as t


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("box:/a", "box", "/a"), ("box:a:b", "box", "a:b"), ("/box:a", "", "/box:a"), ("./box:a", "", "./box:a"),
        ("..:a", "", "..:a"), ("file", "", "file"), ("-", "", "-"), ("box:", "box", ""), (":a", "", "a"),
    ],
)  # fmt: skip
def test_an_argument_is_a_container_and_a_path_or_a_local_path(text: str, container: str, path: str) -> None:
    assert copypath.split_argument(text) == (container, path)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/a/b", ("/a", "b")), ("/a/b/", ("/a", "b")), ("/a/b/.", ("/a/b", ".")), ("/", ("/", "/")), ("a", (".", "a")),
        ("/a", ("/", "a")), ("/.", ("/", ".")), (".", (".", ".")),
    ],
)  # fmt: skip
def test_a_path_has_a_directory_and_a_name(path: str, parts: tuple[str, str]) -> None:
    assert copypath.split(path) == parts


FILE, FOLDER = End("/s/file", exists=True), End("/s/dir", exists=True, is_directory=True)
CONTENTS = End("/s/dir/.", exists=True, is_directory=True)
THERE, INTO = End("/d/file", exists=True), End("/d/dir", exists=True, is_directory=True)


@pytest.mark.parametrize(
    ("source", "destination", "way"),
    [
        (FILE, INTO, Way("/d/dir")),
        (FOLDER, INTO, Way("/d/dir")),
        (CONTENTS, INTO, Way("/d/dir")),
        (FILE, THERE, Way("/d", "file", "file")),
        (FILE, End("/d/new"), Way("/d", "file", "new")),
        (FOLDER, End("/d/new"), Way("/d", "dir", "new")),
        (FOLDER, End("/d/new/"), Way("/d", "dir", "new")),
        (CONTENTS, End("/d/new"), Way("/d", ".", "new")),
        (End("/", exists=True, is_directory=True), End("/d/new"), Way("/d", "", "new")),
        (End("/s/x", exists=True, rebase="link"), End("/d/new"), Way("/d", "link", "new")),
        (FOLDER, THERE, "cannot copy directory"),
        (FILE, End("/d/new/"), "no such directory"),
        (FILE, End("/d/new/."), "no such directory"),
    ],
)
def test_two_ends_make_a_way_or_no_sense(source: End, destination: End, way: Way | str) -> None:
    if isinstance(way, Way):
        assert copypath.way(source, destination) == way
    else:
        with pytest.raises(Failure, match=way):
            copypath.way(source, destination)


def test_names_are_changed_at_their_beginning() -> None:
    assert Way("", "dir", "new").renamed("dir/dir") == "new/dir"
    assert Way("", ".", "new").renamed("./a.b") == "new/a.b"
    assert Way("", "", "new").renamed("/etc") == "new/etc"
    assert Way("").renamed("x") == "x"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def unpack(folder: Path, *parts: bytes) -> None:
    untar.unpack(io.BytesIO(t.archive(*parts)), str(folder), lambda name: name)


def test_files_are_unpacked_with_mode_and_time(folder: Path) -> None:
    unpack(
        folder,
        t.directory(b"d", mode=0o750, mtime=5),
        t.entry(b"d/f", data=b"x" * 3000, mode=0o4711, mtime=7),
        t.symlink(b"d/s", b"/nowhere"),
        t.hard_link(b"d/h", b"d/f"),
        t.entry(b"d/pipe", b"6"),
        t.entry(b"more/deep/f", data=b"1"),
    )
    assert (folder / "d" / "f").read_bytes() == b"x" * 3000
    assert (folder / "d" / "f").stat().st_nlink == 2
    assert ((folder / "d").stat().st_mtime, (folder / "d" / "f").stat().st_mtime) == (5, 7)
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o750
    assert os.readlink(folder / "d" / "s") == "/nowhere"
    assert stat.S_ISFIFO((folder / "d" / "pipe").stat().st_mode)
    assert (folder / "more" / "deep" / "f").exists()


HOSTILE = {
    "name above": (t.entry(b"../outside/new", data=b"1"),),
    "name far above": (t.entry(b"a/../../outside/new", data=b"1"),),
    "through a link of the archive": (t.symlink(b"l", b"../outside"), t.entry(b"l/new", data=b"1")),
    "through an absolute link": (t.symlink(b"l", b"{outside}"), t.entry(b"l/new", data=b"1")),
    "over a link of the archive": (t.symlink(b"l", b"{outside}/kept"), t.entry(b"l", data=b"1")),
    "directory over a link": (t.symlink(b"l", b"{outside}"), t.directory(b"l", mode=0o777)),
    "hard link out": (t.hard_link(b"h", b"../outside/kept"), t.entry(b"h", data=b"1")),
    "hard link through a link": (t.symlink(b"l", b"../outside"), t.hard_link(b"h", b"l/kept")),
    "through a link that was there": (t.entry(b"there/new", data=b"1"),),
    "directory over a link that was there": (t.directory(b"there", mode=0o700), t.entry(b"there/new", data=b"1")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_is_unpacked_outside_of_the_directory(folder: Path, what: str) -> None:
    outside = folder.parent / "outside"
    os.symlink(outside, folder / "there")
    parts = [part.replace(b"{outside}", str(outside).encode()) if b"{" in part else part for part in HOSTILE[what]]
    if b"{outside}" in b"".join(HOSTILE[what]):
        parts = [t.symlink(b"l", str(outside).encode()), *HOSTILE[what][1:]]
    before = (outside.stat().st_mode, sorted(os.listdir(outside)), (outside / "kept").read_text())
    if what == "over a link of the archive":
        unpack(folder, *parts)
    else:
        with pytest.raises((Failure, OSError)):
            unpack(folder, *parts)
    assert (outside.stat().st_mode, sorted(os.listdir(outside)), (outside / "kept").read_text()) == before
    assert (outside / "kept").stat().st_nlink == 1


def test_an_archive_that_is_cut_is_an_error(folder: Path) -> None:
    with pytest.raises(Failure, match="unexpected EOF"):
        untar.unpack(io.BytesIO(t.archive(t.entry(b"f", data=b"x" * 9000))[:5000]), str(folder), lambda name: name)


def test_what_is_packed_is_unpacked_the_same(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "f").write_bytes(b"x" * 5000)
    os.link(source / "f", source / "sub" / "h")
    os.symlink("f", source / "s")
    os.mkfifo(source / "p")
    (source / "sub" / ("long" * 40)).write_text("long")
    data = b"".join(untar.pack(str(source), "source", lambda name: name.replace("source", "new", 1)))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames()[0] == "new"
        assert archive.getmember("new/sub/h").linkname == "new/f"
    untar.unpack(io.BytesIO(data), str(folder), lambda name: name)
    assert sorted(os.listdir(folder / "new")) == sorted(os.listdir(source))
    assert (folder / "new" / "sub" / "h").read_bytes() == b"x" * 5000
    assert (folder / "new" / "sub" / ("long" * 40)).read_text() == "long"
