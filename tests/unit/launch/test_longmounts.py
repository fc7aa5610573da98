"""File systems with options for mount(2): flags, data, and what is too long for a page."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.launch.longmounts import long_mount, super_flags
from corten.launch.mountops import (
    MOUNT_ATTR_ATIME,
    MOUNT_ATTR_NODEV,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_PRIVATE,
    MS_RDONLY,
    MS_SYNCHRONOUS,
    MountDetached,
    MountSetattr,
)
from corten.launch.options import SUPERBLOCK, MountOptions


@pytest.mark.parametrize(
    ("words", "flags", "data"),
    [
        (("ro", "size=1m", "sync", "mode=755"), MS_RDONLY | MS_SYNCHRONOUS, "size=1m,mode=755"),
        (("ro", "rw"), 0, ""),
        (("sync", "async", "dirsync"), MS_DIRSYNC, ""),
        (("lazytime", "mand"), MS_LAZYTIME | MS_MANDLOCK, ""),
        (("lazytime", "nolazytime", "mand", "nomand", "userxattr"), 0, "userxattr"),
    ],
)
def test_words_of_the_file_system_become_flags_and_the_rest_data(words: tuple[str, ...], flags: int, data: str) -> None:
    assert super_flags(words) == (flags, data)


@pytest.mark.parametrize("word", SUPERBLOCK)
def test_no_word_of_the_file_system_is_left_to_mount_2(word: str) -> None:
    assert super_flags(MountOptions((word,), "mounts[0]").data)[1] == ""


def test_attributes_come_behind_the_mount_with_access_times_whole() -> None:
    made, changed = long_mount("m", "tmpfs", "s", ("ro",), MOUNT_ATTR_NODEV, magic=7, on="/data")
    assert made == MountDetached("m", "tmpfs", "s", MS_RDONLY, "", magic=7, on="/data")
    assert changed == MountSetattr("m", MOUNT_ATTR_NODEV, MOUNT_ATTR_ATIME, MS_PRIVATE, 0, on="/data")


@pytest.mark.parametrize(("source", "word"), [("s" * 4096, "x"), ("s", "k=" + "x" * 4094), ("s", "é" * 2048)])
def test_more_than_a_page_is_refused_by_name(source: str, word: str) -> None:
    with pytest.raises(InvalidArgument, match="mount overlay on /data: its source or its options are longer than"):
        long_mount("m", "overlay", source, (word,), 0, magic=0, on="/data")


def test_a_page_with_its_nul_is_taken() -> None:
    made, _ = long_mount("m", "overlay", "s" * 4095, ("k=" + "x" * 4093,), 0, magic=0, on="/data")
    assert (len(made.source), len(made.data)) == (4095, 4095)
