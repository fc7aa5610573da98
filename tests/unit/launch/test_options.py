"""Mount options, sorted into attributes, propagation and data."""

from __future__ import annotations

import pytest

from corten.errors import InvalidArgument
from corten.launch.mountops import (
    MOUNT_ATTR_ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MS_REC,
    MS_SHARED,
)
from corten.launch.options import MountOptions, is_long


def options(*words: str) -> MountOptions:
    return MountOptions(words, "mounts[0]")


def test_words_of_the_kernel_become_attributes_and_the_rest_data() -> None:
    found = options("ro", "nosuid", "mode=755", "size=64k", "defaults", "")
    assert found.attr_set == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    assert found.data == ("mode=755", "size=64k")


def test_later_word_takes_back_an_earlier_one() -> None:
    found = options("ro", "nodev", "rw", "dev")
    assert found.attr_set == 0
    assert found.attr_clear == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV


def test_access_time_replaces_the_whole_field() -> None:
    found = options("strictatime", "noatime")
    assert found.attr_set & MOUNT_ATTR_ATIME == MOUNT_ATTR_NOATIME
    assert found.attr_clear & MOUNT_ATTR_ATIME == MOUNT_ATTR_ATIME


def test_leading_r_means_the_mounts_below_too() -> None:
    found = options("rbind", "rro", "rshared")
    assert (found.is_bind, found.recursive) == (True, True)
    assert (found.all_set, found.attr_set) == (MOUNT_ATTR_RDONLY, 0)
    assert found.propagation == MS_SHARED | MS_REC


def test_data_on_a_bind_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="size=1"):
        options("bind", "size=1")


def test_word_of_the_file_system_is_data_of_a_new_mount_and_nothing_to_a_bind() -> None:
    assert options("sync", "silent", "acl", "size=1m").data == ("sync", "size=1m")
    assert options("bind", "sync", "lazytime", "loud").data == ()


def test_bind_by_type_alone_refuses_data_too() -> None:
    with pytest.raises(InvalidArgument, match="size=1"):
        MountOptions(("size=1",), "mounts[0]", is_bind=True)


def test_order_of_bind_and_rbind_does_not_matter() -> None:
    assert options("bind", "rbind").recursive
    assert options("rbind", "bind").recursive


def test_remount_takes_away_what_it_does_not_name_but_times() -> None:
    set_, clear = options("remount", "ro", "nosuid").replacing()
    assert set_ == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    assert clear == MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW
    assert options("remount", "noatime").replacing()[1] & MOUNT_ATTR_ATIME == MOUNT_ATTR_ATIME


def test_idmap_is_of_the_mount_and_ridmap_of_those_below_too() -> None:
    assert (options("bind", "idmap").id_mapped, options("bind", "idmap").maps_below) == (True, False)
    assert (options("bind", "ridmap").id_mapped, options("bind", "ridmap").maps_below) == (True, True)


def test_option_that_is_not_supported_is_an_error_and_not_ignored() -> None:
    with pytest.raises(InvalidArgument, match="'copy-symlink' is not supported yet"):
        options("copy-symlink")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("source=" + "s" * 255, False),
        ("source=" + "s" * 256, True),
        ("source=" + "=" * 256, True),
        ("k" * 255, False),
        ("k" * 256, True),
        ("k" * 256 + "=v", True),
        ("k=" + "é" * 127, False),
        ("k=" + "é" * 128, True),
        ("k=" + "\udcff" * 255, False),
        ("k=" + "\udcff" * 256, True),
    ],
)
def test_a_word_is_long_from_256_bytes_of_key_or_value_on(word: str, found: bool) -> None:
    assert is_long(("size=1m", word, "ro")) is found
