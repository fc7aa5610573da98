"""Paths inside a root, by descriptor: nothing leads out, `..` and links are as in a chroot."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from corten.core.inside import Trail, find, follow_broken, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder beside it that nothing may lead to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("of the host")
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("file")
    for name, target in (
        ("abs", "/a/b"),
        ("rel", "a/../a/b"),
        ("up", "../../../../../a"),
        ("out", "../outside"),
        ("host", str(tmp_path / "outside")),
        ("loop", "loop"),
        ("broken", "a/missing/more"),
        ("magic", "/proc/self/root"),
        ("a/tofile", "file"),
    ):
        os.symlink(target, root / name)
    return root


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("", "/"), ("/", "/"), (".", "/"), ("..", "/"), ("../../a", "/a"), ("/a/b/", "/a/b"), ("a//./b", "/a/b"),
        ("a/b/../file", "/a/file"), ("abs", "/a/b"), ("abs/..", "/a"), ("rel", "/a/b"), ("up/file", "/a/file"),
        ("up/b/../../abs/../tofile", "/a/file"), ("a/tofile", "/a/file"),
    ],
)  # fmt: skip
def test_a_path_means_what_it_would_in_a_chroot(root_fd: int, path: str, meant: str) -> None:
    with find(root_fd, path.encode()) as trail:
        assert trail.path == meant.encode()


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing", errno.ENOENT), ("out/secret", errno.ENOENT), ("host/secret", errno.ENOENT), ("loop", errno.ELOOP),
        ("broken", errno.ENOENT), ("a/file/x", errno.ENOTDIR), ("a/file/", errno.ENOTDIR), ("a/file/.", errno.ENOTDIR),
        ("a/file/..", errno.ENOTDIR), ("magic/etc", errno.ENOENT), ("x" * 300, errno.ENAMETOOLONG),
        ("a/b/../b/" * 60 + "../../" * 3 + "missing", errno.ENOENT),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_the_kernels_error(root_fd: int, path: str, number: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        find(root_fd, path.encode())
    assert caught.value.errno == number
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


def test_the_last_link_is_looked_at_when_asked_for(root_fd: int) -> None:
    with find(root_fd, b"abs", follows_last=False) as trail:
        assert (trail.path, trail.is_directory) == (b"/abs", False)
    with find(root_fd, b"abs/", follows_last=False) as trail:
        assert trail.path == b"/a/b"


def test_more_links_than_the_kernel_follows_are_refused(root: Path, root_fd: int) -> None:
    for number in range(41):
        os.symlink(f"l{number + 1}", root / f"l{number}")
    (root / "l41").mkdir()
    with pytest.raises(OSError, match="symbolic links"):
        find(root_fd, b"l0")
    with find(root_fd, b"l1") as trail:
        assert trail.path == b"/l41"


def test_depth_has_a_bound(root_fd: int, root: Path) -> None:
    (root / "/".join(["d"] * 300)).mkdir(parents=True)
    with pytest.raises(OSError, match="too long"):
        find(root_fd, b"/".join([b"d"] * 300))


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("abs", "/a/b"), ("broken", "/a/missing/more"), ("up", "/a"), ("out", "/outside"), ("a/tofile", "/a/file"),
        ("magic", "/proc/self/root"), ("abs/x/../y", "/a/b/y"),
    ],
)  # fmt: skip
def test_a_broken_link_is_followed_as_far_as_there_is_something(root_fd: int, path: str, meant: str) -> None:
    assert follow_broken(root_fd, path.encode()) == meant.encode()


def test_a_broken_link_that_runs_in_a_ring_is_refused(root_fd: int) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        follow_broken(root_fd, b"loop")


def test_a_copy_of_a_trail_has_descriptors_of_its_own(root_fd: int) -> None:
    with find(root_fd, b"a/b") as trail:
        other = trail.copy()
    with other:
        other.walk(b"../file")
        assert other.path == b"/a/file"
        assert os.fstat(other.fd).st_size == 4


def test_a_directory_is_made_through_links_and_not_over_files(root: Path, root_fd: int) -> None:
    with Trail(root_fd) as trail:
        trail.make_directory(b"abs", 0o755)
        trail.make_directory(b"new", 0o750)
        assert trail.path == b"/a/b/new"
    assert (root / "a/b/new").stat().st_mode & 0o777 == 0o750
    with find(root_fd, b"a") as trail, pytest.raises(NotADirectoryError):
        trail.make_directory(b"file", 0o755)
    with Trail(root_fd) as trail, pytest.raises(FileNotFoundError):
        trail.make_directory(b"broken", 0o755)


def test_everything_below_a_directory_is_walked_in_order_and_links_are_not(root: Path, root_fd: int) -> None:
    with find(root_fd, b"a") as trail:
        assert list(walk(trail.fd)) == [b"b", b"file", b"tofile"]
    assert [path for path in walk(root_fd) if path.startswith((b"abs", b"out", b"host"))] == [b"abs", b"host", b"out"]


def test_a_tree_deeper_than_the_longest_path_is_walked_to_there(root: Path, root_fd: int) -> None:
    name = "d" * 200
    fds = [os.open(root / "a" / "b", os.O_RDONLY)]
    for _ in range(30):
        os.mkdir(name, dir_fd=fds[-1])
        fds.append(os.open(name, os.O_RDONLY, dir_fd=fds[-1]))
    deepest = max(walk(root_fd), key=len)
    assert 3800 < len(deepest) < 4300
    for fd in fds[-2::-1]:
        os.rmdir(name, dir_fd=fd)
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_is_put_in_the_place_of_a_new_directory_keeps_its_mode(
    root: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    theirs = root / "theirs"
    if kind == "directory":
        theirs.mkdir(mode=0o700)
        (theirs / "private").write_text("")
    elif kind == "file":
        theirs.touch(0o600)
    else:
        theirs.symlink_to(root.parent / "outside")
    before, outside, make = os.lstat(theirs).st_mode, os.stat(root.parent / "outside").st_mode, os.mkdir

    def swapped(name: bytes, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.rename("theirs", name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", swapped)
    with Trail(root_fd) as trail, pytest.raises(OSError, match="Stale") if kind != "directory" else nullcontext():
        trail.make_directory(b"new", 0o755)
    assert os.lstat(root / "new").st_mode == before
    assert os.stat(root.parent / "outside").st_mode == outside


def test_a_new_directory_has_its_mode_whatever_the_umask(root: Path, root_fd: int) -> None:
    old = os.umask(0o077)
    try:
        with Trail(root_fd) as trail:
            trail.make_directory(b"new", 0o755)
    finally:
        os.umask(old)
    assert os.stat(root / "new").st_mode & 0o7777 == 0o755
