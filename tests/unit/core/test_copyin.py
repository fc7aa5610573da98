"""An archive into a directory of a root: merged, replaced, refused; as anybody, with one's own ids."""

from __future__ import annotations

import gzip
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corten.core import copyin
from corten.core.copyin import Rules
from corten.core.limits import DEFAULT, Limits
from corten.errors import CortenError, InvalidArgument, Unavailable
from support import tarballs as t

PLAIN = Rules()
KEPT = Rules(keeps_kinds=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "f").write_text("old")
    (root / "other").mkdir()
    os.symlink("/other", root / "d" / "toother")
    os.symlink(str(tmp_path / "outside"), root / "d" / "tohost")
    return root


@pytest.fixture
def put(root: Path) -> Iterator[Callable[..., None]]:
    fd = os.open(root, os.O_PATH)

    def act(*parts: bytes, path: str = "/d", rules: Rules = PLAIN, limits: Limits = DEFAULT) -> None:
        with copyin.destination(fd, path) as trail:
            copyin.extract(t.chunked(t.archive(*parts), 700), fd, trail, rules, limits)

    before = len(os.listdir("/proc/self/fd"))
    yield act
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector
    os.close(fd)


Put = Callable[..., None]


def test_files_directories_and_links_are_made_with_mode_and_time(root: Path, put: Put) -> None:
    put(
        t.directory(b"new", mode=0o2750, mtime=5),
        t.entry(b"new/f", data=b"x" * 5000, mode=0o4711, mtime=7),
        t.symlink(b"new/s", b"/nowhere", mtime=9),
        t.hard_link(b"new/h", b"new/f"),
        t.entry(b"new/pipe", b"6"),
    )
    new = root / "d" / "new"
    assert stat.S_IMODE(new.stat().st_mode) == 0o2750
    assert (new.stat().st_mtime, (new / "f").stat().st_mtime) == (5, 7)
    assert (new / "f").stat().st_nlink == 2
    assert os.readlink(new / "s") == "/nowhere"
    assert stat.S_ISFIFO((new / "pipe").stat().st_mode)
    assert stat.S_IMODE((new / "f").stat().st_mode) == 0o4711


def test_directories_merge_and_everything_else_is_replaced(root: Path, put: Put) -> None:
    (root / "d" / "sub" / "kept").write_text("kept")
    put(t.directory(b"sub", mode=0o711), t.entry(b"f", data=b"new"), t.entry(b"toother", data=b"file now"))
    assert (root / "d" / "sub" / "kept").read_text() == "kept"
    assert stat.S_IMODE((root / "d" / "sub").stat().st_mode) == 0o711
    assert (root / "d" / "f").read_text() == "new"
    assert (root / "d" / "toother").read_text() == "file now"
    assert list((root / "other").iterdir()) == []


def test_a_directory_and_a_file_take_each_others_place_unless_told_otherwise(root: Path, put: Put) -> None:
    for part in (t.entry(b"sub"), t.directory(b"f")):
        with pytest.raises(InvalidArgument, match="cannot overwrite"):
            put(part, rules=KEPT)
    put(t.entry(b"sub", data=b"1"), t.directory(b"f"))
    assert (root / "d" / "sub").is_file()
    assert (root / "d" / "f").is_dir()


def test_a_name_after_its_directory_was_replaced_goes_to_the_new_one(root: Path, put: Put) -> None:
    put(t.entry(b"sub/a/x"), t.entry(b"sub/a"), t.directory(b"sub"), t.entry(b"sub/b/y"), t.entry(b"sub/b/z"))
    assert sorted(path.name for path in (root / "d" / "sub").iterdir()) == ["a", "b"]
    put(t.entry(b"sub/b/y"), t.entry(b"sub"), t.symlink(b"sub", b"/other"), t.entry(b"sub/b/y"))
    assert (root / "other" / "b" / "y").exists()


def test_links_on_the_way_are_followed_inside_the_root_alone(root: Path, put: Put, tmp_path: Path) -> None:
    put(t.entry(b"toother/x", data=b"1"))
    assert (root / "other" / "x").exists()
    with pytest.raises(FileNotFoundError):
        put(t.entry(b"tohost/x", data=b"1"))
    put(t.symlink(b"up", b"../../../other"), t.entry(b"up/y"))
    assert (root / "other" / "y").exists()
    put(t.entry(b"deep", data=b"1"), path="/d/toother/../other/./")
    assert (root / "other" / "deep").exists()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", [b"../x", b"a/../../x", b"..", b"../../../../x"])
def test_a_name_that_leads_out_of_the_directory_is_refused(root: Path, put: Put, name: bytes) -> None:
    with pytest.raises(InvalidArgument, match="is outside of"):
        put(t.entry(name))
    with pytest.raises(InvalidArgument, match="is outside of"):
        put(t.hard_link(b"h", name))
    assert not (root / "x").exists()


@pytest.mark.parametrize("name", [b"../foo../bar", b"../../foo../bar"])
def test_a_name_that_leads_out_of_the_root_stays_in_it_and_keeps_its_parts(root: Path, put: Put, name: bytes) -> None:
    put(t.entry(name, data=b"x"), path="/")
    assert (root / "foo.." / "bar").read_bytes() == b"x"


def test_a_hard_link_goes_to_files_of_the_directory_alone(root: Path, put: Put, tmp_path: Path) -> None:
    (tmp_path / "outside" / "secret").write_text("of the host")
    for target in (b"tohost/secret", b"nothere", str(tmp_path / "outside" / "secret").encode()):
        with pytest.raises(InvalidArgument, match=r"^link "):
            put(t.hard_link(b"h", target))
    put(t.symlink(b"l", b"/outside/secret"), t.hard_link(b"h", b"l"))
    assert os.readlink(root / "d" / "h") == "/outside/secret"


def test_missing_directories_are_made(root: Path, put: Put) -> None:
    put(t.entry(b"a/b/c", data=b"1"))
    assert stat.S_IMODE((root / "d" / "a" / "b").stat().st_mode) == 0o755


def test_whiteouts_are_files_like_others(root: Path, put: Put) -> None:
    put(t.entry(b".wh.f"), t.entry(b".wh..wh..opq"))
    assert sorted(path.name for path in (root / "d").iterdir() if path.name.startswith(".wh")) == [
        ".wh..wh..opq",
        ".wh.f",
    ]
    assert (root / "d" / "f").exists()


def test_the_directory_itself_takes_a_mode_by_its_whole_name_alone(root: Path, put: Put) -> None:
    put(t.directory(b".", mode=0o700))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o755
    put(t.directory(b"/", mode=0o711))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o711


def test_what_is_no_directory_takes_no_archive(put: Put) -> None:
    with pytest.raises(InvalidArgument, match="extraction point is not a directory"):
        put(path="/d/f")
    with pytest.raises(FileNotFoundError):
        put(path="/nope")


def test_a_packed_archive_is_unpacked(root: Path) -> None:
    fd = os.open(root, os.O_PATH)
    with copyin.destination(fd, "d") as trail:
        copyin.extract([gzip.compress(t.archive(t.entry(b"z", data=b"1")))], fd, trail, Rules())
    os.close(fd)
    assert (root / "d" / "z").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("parts", "limits", "kind"),
    [
        ((b"garbage" * 200,), DEFAULT, InvalidArgument),
        ((t.entry(b"a"), t.entry(b"b")), Limits(entries=1), InvalidArgument),
        ((t.entry(b"a", data=b"x" * 5000),), Limits(apparent=1000), InvalidArgument),
        ((t.entry(b"a", data=b"x"),), Limits(disk_reserve=1 << 60), Unavailable),
        ((t.pax({b"path": b"x" * 300}), t.entry(b"a")), DEFAULT, InvalidArgument),
    ],
)
def test_what_is_damaged_or_too_much_is_refused(
    put: Put, parts: tuple[bytes, ...], limits: Limits, kind: type[CortenError]
) -> None:
    with pytest.raises(kind):
        put(*parts, limits=limits)


def test_archives_with_random_damage_are_unpacked_or_refused_and_stay_inside(root: Path, tmp_path: Path) -> None:
    good = t.archive(
        t.directory(b"a", mode=0o755),
        t.pax({b"path": b"a/" + b"n" * 150, b"mtime": b"1.5"}),
        t.entry(b"x", data=b"x" * 700),
        t.symlink(b"a/l", b"../../../other"),
        t.entry(b"a/l/y", data=b"y"),
        t.hard_link(b"a/h", b"a/l/y"),
        t.gnu_long(b"z" * 200),
        t.entry(b"z", data=b"z"),
    )
    damage, refused = random.Random(5), 0
    fd = os.open(root, os.O_PATH)
    for _ in range(400):
        data = bytearray(good)
        for _ in range(damage.randrange(1, 6)):
            at = damage.randrange(len(data))
            data[at] = damage.choice(b"\0/.\xff0157xL")
            start = at - at % 512
            if data[start + 257 : start + 262] == b"ustar" and at - start != 156:  # a header that looks right
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = f"{sum(data[start : start + 512]):06o}".encode() + b"\0 "
        with copyin.destination(fd, "/d") as trail:
            try:
                copyin.extract(t.chunked(bytes(data), 300), fd, trail, PLAIN)
            except (CortenError, OSError):
                refused += 1
    os.close(fd)
    assert 20 < refused < 400
    assert list((tmp_path / "outside").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]


@pytest.mark.parametrize("made", ["mkdir", "touch"])
def test_what_the_container_makes_in_the_same_moment_is_treated_as_one_before(
    root: Path, put: Put, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    mkdir, seen = os.mkdir, list[bytes]()

    def late(name: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if name == b"new" and not seen:
            seen.append(name)
            getattr(root / "d" / "new", made)()
        mkdir(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", late)
    put(t.directory(b"new", mode=0o750), t.entry(b"new/f", data=b"1"))
    assert seen
    assert (root / "d" / "new" / "f").read_text() == "1"
    assert stat.S_IMODE((root / "d" / "new").stat().st_mode) == 0o750
