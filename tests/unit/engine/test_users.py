"""Digits are numbers, names come from the rootfs alone, and its files are read with care."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from corten.engine.users import Accounts, lookup, read_accounts
from corten.errors import Internal, InvalidArgument

ACCOUNTS = Accounts(
    b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n1234:x:7:7::/:/bin/sh\n",
    b"root:x:0:\naudio:x:29:web\nweb:x:1000:\nextra:x:2000:web,root\n",
)


def test_no_user_is_root_with_its_groups() -> None:
    user = lookup("", ACCOUNTS)
    assert (user.uid, user.gid, user.groups) == (0, 0, (0, 2000))


def test_a_name_has_its_groups() -> None:
    user = lookup("web", ACCOUNTS)
    assert (user.uid, user.gid, user.groups) == (1000, 1000, (1000, 29, 2000))


def test_a_group_of_ones_own_is_the_only_one() -> None:
    assert lookup("web:audio", ACCOUNTS).groups == (29,)
    assert lookup("1000:42", ACCOUNTS).groups == (42,)


def test_digits_are_a_number_and_never_a_name() -> None:
    assert lookup("1234", ACCOUNTS).uid == 1234


def test_a_known_number_has_the_group_of_its_entry_and_an_unknown_one_has_root() -> None:
    assert lookup("1000", ACCOUNTS).gid == 1000
    assert lookup("4000", ACCOUNTS).gid == 0


@pytest.mark.parametrize("text", ["4294967295", "4294967296", "99999999999", "-1", "+5"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="range"):
        lookup(text, ACCOUNTS)
    with pytest.raises(InvalidArgument, match="range"):
        lookup(f"web:{text}", ACCOUNTS)


def test_unknown_names_are_refused_in_dockers_words() -> None:
    with pytest.raises(Internal, match=r"^unable to find user nosuch: no matching entries in passwd file$"):
        lookup("nosuch", ACCOUNTS)
    with pytest.raises(Internal, match=r"^Unable to find group nosuch: no matching entries in group file$"):
        lookup("web", ACCOUNTS, ["nosuch"])


def test_added_groups_come_last_by_name_or_number() -> None:
    assert lookup("web", ACCOUNTS, ["root", "77"]).groups == (1000, 29, 2000, 0, 77)


def test_broken_lines_are_passed_over() -> None:
    broken = Accounts(b"half:x\n:x:1:1::/:\nbig:x:99999999999:1::/:\n\xff\xfe:x:5:6::/:\nok:x:8:9::/:\n", b"g:x:\n")
    assert lookup("ok", broken).uid == 8
    with pytest.raises(Internal):
        lookup("big", broken)


def test_a_line_of_megabytes_is_passed_over() -> None:
    members = b",".join(b"u%d" % number for number in range(50_000))
    huge = Accounts(b"web:x:1:1::/:\n", b"huge:x:5:" + members + b"\nsmall:x:6:web\n")
    assert lookup("web", huge).groups == (1, 6)


def test_a_link_out_of_the_root_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/outside")
    (tmp_path / "outside").write_bytes(b"web:x:5:5::/:\n")
    root_fd = os.open(tmp_path, os.O_PATH)
    try:
        assert read_accounts(root_fd).passwd == b"web:x:5:5::/:\n"
    finally:
        os.close(root_fd)


def test_a_fifo_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    root_fd = os.open(tmp_path, os.O_PATH)
    try:
        assert read_accounts(root_fd) == Accounts(b"", b"")
    finally:
        os.close(root_fd)


def test_a_number_is_found_with_leading_zeros_and_brings_its_name_s_groups() -> None:
    accounts = Accounts(b"other:x:10007:1::/:\nweb:x:007:5::/:\n", b"a:x:8:webx\nb:x:9: web \n7:x:30:\n")
    assert lookup("7", accounts) == (7, 5, (5, 9))
    assert lookup("7", accounts, ["a"]).groups == (5, 9, 8)


def test_hostile_files_cost_little_for_who_is_not_in_them() -> None:
    hostile = Accounts(b"", b"x:x:1:a,b,c,d\n" * 70_000)
    began = time.process_time()
    assert lookup("1000", hostile, ["42"]).groups == (0, 42)
    assert time.process_time() - began < 0.5
