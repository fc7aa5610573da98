"""Removing and measuring whole trees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.trees import Usage, remove_entry, usage, walk


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def make_deep(top: Path, levels: int) -> None:
    """A chain of directories deeper than PATH_MAX and the recursion limit, with a file in each."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("directory", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_a_tree_deeper_than_any_limit_is_removed(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "top").mkdir()
    make_deep(tmp_path / "top", 3000)
    before = len(os.listdir("/proc/self/fd"))
    remove_entry(root_fd, b"top")
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector


def test_removal_takes_links_not_their_targets_and_counts_bytes(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_text("x")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(tmp_path / "keep")
    (tmp_path / "top/data").write_bytes(bytes(100))
    (tmp_path / "lonely").symlink_to("keep")
    assert remove_entry(root_fd, b"top") == 100 + len(str(tmp_path / "keep"))
    remove_entry(root_fd, b"lonely")
    assert remove_entry(root_fd, b"missing") == 0
    assert os.listdir(tmp_path) == ["keep"]
    assert (tmp_path / "keep/file").exists()


def test_usage_counts_an_inode_once(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(bytes(10))
    os.link(tmp_path / "d/f", tmp_path / "g")
    (tmp_path / "l").symlink_to("12345")
    assert usage(root_fd) == Usage(15, 3)


def test_usage_of_a_tree_beyond_path_max_ends(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "top").mkdir()
    make_deep(tmp_path / "top", 600)
    assert usage(root_fd).inodes > 400
    remove_entry(root_fd, b"top")


def test_a_strangers_name_is_never_in_the_way_of_a_deep_branch(tmp_path: Path, root_fd: int) -> None:
    top = tmp_path / "top"
    for number in range(1, 9):  # in whichever order a listing has them
        (top / f".corten-folded-{number}" / "x").mkdir(parents=True)
        (top / f"deep{number}").mkdir()
        make_deep(top / f"deep{number}", 80)
    remove_entry(root_fd, b"top")
    assert os.listdir(tmp_path) == []


def test_what_vanishes_under_a_walk_is_left_out(tmp_path: Path, root_fd: int) -> None:
    for number in range(10):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/f").touch()
    found = walk(root_fd)
    next(found)
    for number in range(10):
        (tmp_path / f"d{number}/f").unlink()
        (tmp_path / f"d{number}").rmdir()
    (tmp_path / "d9").symlink_to("d8")
    (tmp_path / "d8").touch()
    assert len(list(found)) < 10
