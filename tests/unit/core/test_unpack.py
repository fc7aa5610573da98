"""Unpacking a base layer, as anybody.  Whiteouts and what needs root: tests/system/test_core_layers.py."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.tree import LayerTree, components
from corten.core.unpack import Applied, apply_layer
from corten.errors import InvalidArgument, Unavailable
from support import tarballs as t


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "layer"
    path.mkdir(mode=0o700)
    yield path
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o700)


def unpack(root: Path, *parts: bytes, limits: Limits = DEFAULT) -> Applied:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return apply_layer(t.chunked(t.archive(*parts), 700), fd, lower=LowerView([]), limits=limits)
    finally:
        os.close(fd)


def test_components_take_dots_back_and_never_lead_out() -> None:
    assert components(b"./a//b/./c/") == [b"a", b"b", b"c"]
    assert components(b"/a/../../b") == [b"b"]
    assert components(b"../..") == components(b"") == []


def test_files_directories_and_links_with_mode_and_time(root: Path) -> None:
    applied = unpack(
        root,
        t.directory(b"d", 0o2750, mtime=5),
        t.pax({b"mtime": b"1600000000.123456789"}),
        t.entry(b"d/f", data=b"x" * 5000, mode=0o4711),
        t.pax({b"mtime": b"1600000000.123456789"}),
        t.hard_link(b"d/h", b"d/f", mode=0o4711),
        t.symlink(b"s", b"/nowhere/../else"),
        t.entry(b"pipe", t.FIFO, mode=0o622),
    )
    status = (root / "d/f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o4711, 1600000000123456789, 2)
    assert (root / "d/h").read_bytes() == b"x" * 5000
    directory = (root / "d").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_mtime_ns) == (0o2750, 5 * 10**9)
    assert os.readlink(root / "s") == "/nowhere/../else"
    assert (root / "s").lstat().st_mtime == t.MTIME
    pipe = (root / "pipe").lstat()
    assert stat.S_ISFIFO(pipe.st_mode)
    assert stat.S_IMODE(pipe.st_mode) == 0o622
    assert (applied.size, applied.entries) == (5000 + 16, 5)


def test_the_root_entry_sets_the_root(root: Path) -> None:
    unpack(root, t.directory(b"./", 0o711, mtime=7))
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert root.stat().st_mtime == 7
    with pytest.raises(InvalidArgument, match="the root is a file"):
        unpack(root, t.entry(b"."))


def test_a_directory_without_an_entry_is_made_open_to_all(root: Path) -> None:
    old = os.umask(0o077)
    try:
        unpack(root, t.entry(b"a/b/c", mode=0o666))
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "a/b/c").stat().st_mode) == 0o666


def test_a_read_only_directory_takes_its_files_first(root: Path) -> None:
    unpack(root, t.directory(b"d", 0o555), t.entry(b"d/f"), t.directory(b"d/e", 0o500), t.entry(b"d/e/g"))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o555
    assert stat.S_IMODE((root / "d/e").stat().st_mode) == 0o500


@pytest.mark.parametrize("first", ["file", "dir", "link", "fifo"])
@pytest.mark.parametrize("second", ["file", "dir", "link", "fifo", "hard"])
def test_a_later_entry_replaces_an_earlier_one(root: Path, first: str, second: str) -> None:
    entries = {
        "file": t.entry(b"x", data=b"12345"),
        "dir": t.directory(b"x") + t.entry(b"x/inner", data=b"123"),
        "link": t.symlink(b"x", b"target"),
        "fifo": t.entry(b"x", t.FIFO),
        "hard": t.hard_link(b"x", b"other"),
    }
    if second == "dir" and first not in ("dir",) and os.geteuid():
        pytest.skip("marks the directory opaque, which needs root")
    applied = unpack(root, t.entry(b"other", data=b"1"), entries[first], entries[second])
    status = (root / "x").lstat()
    kind = {
        "file": stat.S_ISREG,
        "dir": stat.S_ISDIR,
        "link": stat.S_ISLNK,
        "fifo": stat.S_ISFIFO,
        "hard": stat.S_ISREG,
    }
    assert kind[second](status.st_mode)
    sizes = {"file": 5, "dir": 3, "link": 6, "fifo": 0, "hard": 0}
    both = sizes["dir"] if first == second == "dir" else sizes[second]
    assert applied.size == 1 + both


def test_a_directory_twice_keeps_its_files_and_takes_the_last_attributes(root: Path) -> None:
    unpack(root, t.directory(b"d", 0o700), t.entry(b"d/f"), t.directory(b"d", 0o711))
    assert (root / "d/f").exists()
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o711


def test_a_replaced_directory_loses_the_attributes_that_were_waiting(root: Path) -> None:
    unpack(root, t.directory(b"d", 0o700), t.directory(b"d/e", 0o700), t.entry(b"d", data=b"file"), t.entry(b"g"))
    assert (root / "d").read_bytes() == b"file"


def test_links_inside_the_layer_are_followed_with_the_layer_as_root(root: Path) -> None:
    unpack(
        root,
        t.directory(b"usr"),
        t.symlink(b"abs", b"/usr"),
        t.symlink(b"usr/up", b"../../../usr/./"),
        t.entry(b"abs/one", data=b"1"),
        t.entry(b"usr/up/up/two", data=b"2"),
        t.hard_link(b"abs/three", b"usr/up/two"),
    )
    assert sorted(os.listdir(root / "usr")) == ["one", "three", "two", "up"]


def test_a_link_that_goes_round_in_circles_is_refused(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="too many levels"):
        unpack(root, t.symlink(b"a", b"b"), t.symlink(b"b", b"a"), t.entry(b"a/x"))


def test_names_lead_elsewhere_after_a_link_was_replaced(root: Path) -> None:
    unpack(
        root,
        t.directory(b"one"),
        t.directory(b"two"),
        t.symlink(b"l", b"one"),
        t.entry(b"l/a"),
        t.symlink(b"l", b"two"),
        t.entry(b"l/b"),
    )
    assert (os.listdir(root / "one"), os.listdir(root / "two")) == (["a"], ["b"])


def test_a_hard_link_to_a_link_is_a_link(root: Path) -> None:
    unpack(root, t.symlink(b"s", b"f"), t.entry(b"f"), t.hard_link(b"h", b"s"))
    assert (root / "h").is_symlink()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([t.entry(b"f"), t.entry(b"f/x")], "f: not a directory"),
        ([t.hard_link(b"h", b"missing")], "link /missing /h: no such file or directory"),
        ([t.directory(b"d"), t.hard_link(b"h", b"d")], "operation not permitted|Operation not permitted"),
        ([t.symlink(b"s", b"")], "without a target"),
        ([t.entry(b"n" * 90 + b"/" + b"n" * 9), t.gnu_long(b"n" * 256), t.entry(b"x")], "file name too long"),
        ([t.gnu_long(b"n" * 256 + b"/x"), t.entry(b"x")], "file name too long"),
    ],
)
def test_what_cannot_be_is_refused_by_name(root: Path, parts: list[bytes], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        unpack(root, *parts)


def test_holes_stay_holes(root: Path) -> None:
    records = {b"GNU.sparse.map": b"0,4,1048576,4", b"GNU.sparse.size": b"67108864"}
    unpack(root, t.pax(records), t.entry(b"holes", data=b"headtail"))
    status = (root / "holes").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (64 << 20, True)
    with (root / "holes").open("rb") as file:
        assert file.read(5) == b"head\0"
        file.seek(1048576)
        assert file.read(5) == b"tail\0"


def test_user_attributes_are_set_and_what_the_kernel_refuses_is_told(root: Path) -> None:
    records = {b"SCHILY.xattr.user.note": b"\0bytes\n", b"SCHILY.xattr.trusted.overlay.redirect": b"/etc"}
    unpack(root, t.pax(records), t.entry(b"f"), t.pax({b"SCHILY.xattr.user.k": b"v"}), t.directory(b"d"))
    assert os.getxattr(root / "f", "user.note") == b"\0bytes\n"
    assert os.getxattr(root / "d", "user.k") == b"v"
    assert os.listxattr(root / "f") == ["user.note"]
    (root / "f").unlink()
    applied = unpack(root, t.pax({b"SCHILY.xattr.user.k": b"v"}), t.symlink(b"s", b"x"))
    assert applied.ignored_xattrs == ("s: user.k",)


def test_more_directories_than_are_kept_open(root: Path) -> None:
    names = [b"d%d/e%d" % (number % 300, number) for number in range(900)]
    unpack(root, *(t.entry(name + b"/f", data=name) for name in names), t.hard_link(b"zz/h", b"d0/e0/f"))
    assert all((root / os.fsdecode(name) / "f").read_bytes() == name for name in names)
    assert (root / "zz/h").read_bytes() == b"d0/e0"


def test_a_base_layer_has_no_use_for_whiteouts(root: Path) -> None:
    applied = unpack(root, t.entry(b"d/.wh.gone"), t.entry(b"d/.wh..wh..opq"), t.entry(b".wh..wh.aufs"))
    assert os.listdir(root / "d") == []
    assert applied.whiteouts == ()


@pytest.mark.parametrize("name", [b"d/.wh.", b"d/.wh..", b"d/.wh..."])
def test_a_whiteout_of_a_directory_itself_or_its_parent_is_refused(root: Path, name: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid whiteout"):
        unpack(root, t.entry(name))


def test_a_disk_that_is_nearly_full_ends_the_unpacking(root: Path) -> None:
    parts = [t.entry(b"f%d" % number, data=bytes(1 << 20)) for number in range(80)]
    with pytest.raises(Unavailable, match="no space left for layers"):
        unpack(root, *parts, limits=Limits(disk_reserve=1 << 60))


@pytest.mark.parametrize(
    "replacement",
    [
        t.entry(b"a/b", data=b"new"),
        t.symlink(b"a/b", b"t"),
        t.hard_link(b"a/b", b"a/t"),
        t.entry(b"a/b", t.FIFO),
    ],
    ids=["file", "symlink", "hard link", "fifo"],
)
def test_a_directory_below_another_is_replaced_by_a_later_entry(root: Path, replacement: bytes) -> None:
    below = (t.directory(b"a/b"), t.directory(b"a/b/c"), t.entry(b"a/b/c/f", data=b"old"))
    unpack(root, t.directory(b"a"), t.entry(b"a/t", data=b"t"), *below, replacement, t.entry(b"a/z", data=b"z"))
    assert not stat.S_ISDIR((root / "a/b").lstat().st_mode)
    assert sorted(os.listdir(root / "a")) == ["b", "t", "z"]


def test_a_name_that_led_through_a_removed_directory_is_looked_up_again(root: Path) -> None:
    unpack(
        root,
        *(t.directory(b"z"), t.directory(b"a"), t.directory(b"a/b"), t.symlink(b"a/b/l", b"/z"), t.entry(b"a/b/l/f")),
        *(t.entry(b"a/b"), t.directory(b"a/b"), t.entry(b"a/b/l/f", data=b"here")),
    )
    assert (root / "z/f").read_bytes() == b""
    assert (root / "a/b/l/f").read_bytes() == b"here"


def test_a_hard_link_in_place_of_its_own_target_is_refused(root: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"link a/b/f a/b: No such file"):
        unpack(root, t.directory(b"a/b"), t.entry(b"a/b/f"), t.hard_link(b"a/b", b"a/b/f"))


def test_a_sparse_file_of_negative_size_is_refused(root: Path) -> None:
    block = bytearray(t.header(b"f", b"S"))
    block[483:495] = b"\xff" * 12  # base 256: -1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(InvalidArgument, match="invalid sparse map"):
        unpack(root, bytes(block))


def linked(root: Path, lower: Path, limits: Limits = DEFAULT) -> Applied:
    """A layer of one hard link to a file of the layer below."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (root, lower)]
    try:
        data = t.archive(t.hard_link(b"h", b"f"))
        return apply_layer([data], fds[0], lower=LowerView(fds[1:]), limits=limits)
    finally:
        for fd in fds:
            os.close(fd)


def test_holes_of_a_file_below_stay_holes_in_a_link_to_it(root: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    with open(lower / "f", "wb") as file:
        os.pwrite(file.fileno(), b"start", 0)
        os.pwrite(file.fileno(), b"middle", 9 << 20)
        os.ftruncate(file.fileno(), 32 << 20)
    linked(root, lower)
    assert (root / "h").read_bytes() == (lower / "f").read_bytes()
    assert (root / "h").stat().st_blocks <= (lower / "f").stat().st_blocks


def test_a_link_to_a_file_below_does_not_fill_the_disk(root: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    (lower / "f").write_bytes(b"x" * (65 << 20))
    with pytest.raises(Unavailable, match="no space left for layers"):
        linked(root, lower, Limits(disk_reserve=1 << 60))


def test_attributes_that_nobody_took_are_told_to_a_number(root: Path) -> None:
    applied = unpack(root, *(t.pax({b"SCHILY.xattr.nobody.x": b"1"}) + t.entry(b"f%d" % n) for n in range(200)))
    assert applied.ignored_xattrs[:2] == ("f0: nobody.x", "f1: nobody.x")
    assert len(applied.ignored_xattrs) == 64


class Unlisted(set[bytes]):
    """A set that is asked and never gone through: it may be as large as the layer."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("listed")


def test_a_tree_is_as_quick_and_as_small_with_many_names(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with LayerTree(fd, None, DEFAULT) as tree:
            assert {tree.directory(b"d/" + b"./" * number).path for number in range(9000)} == {b"d"}
            assert len(tree._names) <= 4096
            tree.opaque = Unlisted([b"a/b", b"c"])
            found = {path: tree.is_hidden(path) for path in (b"a", b"a/b", b"a/b/c/d", b"a/bc", b"c/x", b"d")}
            assert [path for path, is_hidden in found.items() if is_hidden] == [b"a/b/c/d", b"c/x"]
            tree.opaque = Unlisted([b""])
            assert tree.is_hidden(b"x")
    finally:
        os.close(fd)


def test_a_replaced_directory_takes_what_was_known_of_it_along_and_no_more_is_looked_at(root: Path) -> None:
    parts = [t.directory(b"kept%d" % n, 0o700) for n in range(3)]
    parts += [t.directory(b"x", 0o700), t.directory(b"x/y", 0o700), t.entry(b"x/y/z/f"), t.directory(b"xy", 0o711)]
    parts += [t.entry(b"x"), t.directory(b"x", 0o750), t.entry(b"x/y/f")]
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        applied = apply_layer([t.archive(*parts)], fd, lower=None)
        with LayerTree(fd, None, DEFAULT) as tree:
            assert sorted(tree.below_here(b"x")) == [b"x", b"x/y", b"x/y/f"]
            tree.opaque = Unlisted([b"x/y", b"kept0"])
            tree.forget_below(b"x", [b"x", b"x/y"])
            assert b"kept0" in tree.opaque
            assert len(tree.opaque) == 1
    finally:
        os.close(fd)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (root / "x", root / "x/y", root / "xy")}
    assert modes == {"x": 0o750, "y": 0o755, "xy": 0o711}
    assert not applied.implied
    assert applied.opaque == {b"x"}
