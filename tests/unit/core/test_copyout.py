"""A file or directory as the archive of `docker cp`, and the stat of it, as anybody."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core import copyout


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    root = tmp_path / "root"
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "f").write_text("hello")
    os.link(root / "d" / "f", root / "d" / "g")
    os.symlink("f", root / "d" / "s")
    os.mkfifo(root / "d" / "pipe")
    os.utime(root / "d" / "f", ns=(0, 1_600_000_000_123_456_789))
    fd = os.open(root, os.O_PATH)
    yield root, fd
    os.close(fd)


def packed(fd: int, path: str) -> bytes:
    _, trail = copyout.look(fd, path)
    with trail:
        return b"".join(copyout.archive(trail, path))


def look(fd: int, path: str) -> copyout.PathStat:
    found, trail = copyout.look(fd, path)
    trail.close()
    return found


def names(fd: int, path: str) -> list[str]:
    data = packed(fd, path)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [one.name for one in archive]


def test_a_link_to_a_name_that_is_no_text_is_told_of_as_well_as_it_can_be(root: tuple[Path, int]) -> None:
    os.symlink(b"\xff/x", os.fsencode(root[0]) + b"/odd")
    assert look(root[1], "/odd").link_target == "/\ufffd/x"


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/a", "/a"), ("a", "/a"), ("/a/", "/a/"), ("/a/.", "/a/."), ("/a/./", "/a/."), ("/", "/"), ("/.", "/"),
        ("..", "/"), ("//a//b", "/a/b"), ("/a/../b", "/b"), ("/a/..", "/"), (".", "/"),
    ],
)  # fmt: skip
def test_a_path_keeps_what_asks_for_a_directory(path: str, cleaned: str) -> None:
    assert copyout.absolute(path) == cleaned


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [("/d", "d", "d/f"), ("/d/", "d", "d/f"), ("/d/.", ".", "./f"), ("/", "", "/d")],
)
def test_entries_are_named_as_the_client_named_the_directory(
    root: tuple[Path, int], path: str, first: str, second: str
) -> None:
    assert names(root[1], path)[:2] == [first, second]


def test_an_archive_has_every_kind_of_file_in_order(root: tuple[Path, int]) -> None:
    data = packed(root[1], "/d")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(one.name, one.type, one.linkname) for one in archive]
        kept = archive.extractfile("d/f")
        assert kept is not None
        assert kept.read() == b"hello"
        assert archive.getmember("d/f").mtime == 1_600_000_000
    assert found == [
        ("d", tarfile.DIRTYPE, ""),
        ("d/f", tarfile.REGTYPE, ""),
        ("d/g", tarfile.LNKTYPE, "d/f"),
        ("d/pipe", tarfile.FIFOTYPE, ""),
        ("d/s", tarfile.SYMTYPE, "f"),
        ("d/sub", tarfile.DIRTYPE, ""),
    ]


def test_a_link_is_copied_as_one_and_followed_with_a_slash(root: tuple[Path, int]) -> None:
    os.symlink("d", root[0] / "tod")
    assert names(root[1], "/tod") == ["tod"]
    assert names(root[1], "/tod/")[1] == "tod/f"


def test_a_file_that_shrinks_leaves_a_whole_archive(root: tuple[Path, int]) -> None:
    (root[0] / "big").write_bytes(b"x" * 3_000_000)
    _, trail = copyout.look(root[1], "/big")
    chunks = copyout.archive(trail, "/big")
    data = [next(chunks), next(chunks)]
    os.truncate(root[0] / "big", 10)
    data += chunks
    trail.close()
    with tarfile.open(fileobj=io.BytesIO(b"".join(data))) as archive:
        assert archive.getmember("big").size == 3_000_000


def test_an_archive_leaves_no_descriptor_open_however_it_ends(root: tuple[Path, int]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _, trail = copyout.look(root[1], "/d")
    chunks = copyout.archive(trail, "/d")
    next(chunks)
    chunks.close()
    trail.close()
    packed(root[1], "/d")
    with pytest.raises(FileNotFoundError):
        packed(root[1], "/nope")
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


def test_a_stat_has_gos_modes_and_where_links_end(root: tuple[Path, int]) -> None:
    path, fd = root
    os.chmod(path / "d" / "f", 0o6751)
    assert look(fd, "/d").mode == 1 << 31 | 0o755
    found = look(fd, "/d/f")
    assert (found.name, found.size, found.mtime_ns) == ("f", 5, 1_600_000_000_123_456_789)
    assert found.mode == 1 << 23 | 1 << 22 | 0o751
    assert look(fd, "/d/s").link_target == "/d/f"
    assert look(fd, "/").name == "/"
    for kind, bits in ((stat.S_IFCHR, 1 << 26 | 1 << 21), (stat.S_IFBLK, 1 << 26), (stat.S_IFSOCK, 1 << 24)):
        assert copyout.go_mode(kind | stat.S_ISVTX | 0o600) == bits | 1 << 20 | 0o600
