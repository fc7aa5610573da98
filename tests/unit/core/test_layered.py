"""Trees of layers: merged, archived and compared.  The same tree is the same archive, however it was made."""

from __future__ import annotations

import io
import os
import random
import socket
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from corten.core import diff, layered, treetar
from corten.core.limits import Limits
from corten.core.lower import LowerView
from corten.core.unpack import apply_layer
from corten.errors import InvalidArgument

EPOCH_S = 1704067200
Open = Callable[..., list[int]]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Descriptors of directories, closed after the test."""
    with ExitStack() as stack:

        def run(*paths: Path) -> list[int]:
            fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in paths]
            for fd in fds:
                stack.callback(os.close, fd)
            return fds

        yield run


def tree(root: Path, files: dict[str, Any], *, order: int | None = None) -> Path:
    """`d/`: a directory, None: a whiteout, `-> x`: a link, `= x`: a hard link, else content; all of one time."""
    root.mkdir(exist_ok=True)
    folders = [name for name in files if name.endswith("/")]
    rest = [name for name in files if not name.endswith("/")]
    if order is not None:
        random.Random(order).shuffle(rest)
    rest.sort(key=lambda name: str(files[name]).startswith("= "))
    for name in (*folders, *rest):
        path, what = root / name, files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif what is None:
            os.mknod(path, 0o20000, 0)
        elif what.startswith("-> "):
            os.symlink(what[3:], path)
        elif what.startswith("= "):
            os.link(root / what[2:], path)
        else:
            path.write_text(what)
    for folder, names, leaves in os.walk(root):
        for name in (*names, *leaves, "."):
            os.utime(os.path.join(folder, name), (EPOCH_S, EPOCH_S), follow_symlinks=False)
    return root


def shown(fds: Sequence[int]) -> dict[str, tuple[int, ...]]:
    return {node.path.decode(): tuple(fds.index(fd) for fd in node.layers) for node in layered.merged(fds)}


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: one for one in archive}


def layer(fd: int, *lower: int, limits: Limits | None = None) -> bytes:
    return b"".join(treetar.layer(layered.upper(fd), LowerView(lower), limits or Limits()))


def test_the_first_layer_that_has_a_name_decides_and_directories_merge(tmp_path: Path, opened: Open) -> None:
    top = tree(tmp_path / "2", {"d/new": "2", "gone": None, "was-dir": "file", "d/sub/gone": None, "z/": ""})
    mid = tree(tmp_path / "1", {"d/sub/one": "1", "d/old": "1", "was-dir/x": "1", "hidden": None})
    low = tree(tmp_path / "0", {"d/sub/gone": "0", "d/sub/zero": "0", "gone/x": "0", "hidden/x": "0", "d/old": "0"})
    assert shown(opened(top, mid, low)) == {
        "d": (0, 1, 2),
        "d/new": (0,),
        "d/old": (1,),
        "d/sub": (0, 1, 2),
        "d/sub/one": (1,),
        "d/sub/zero": (2,),
        "was-dir": (0,),
        "z": (0,),
    }


def test_a_link_in_place_of_a_directory_is_never_followed(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/host").write_text("secret")
    top = tree(tmp_path / "1", {"d": f"-> {tmp_path}/secret", "up": "-> ../../..", "f": f"-> {tmp_path}/secret/host"})
    low = tree(tmp_path / "0", {"d/x": "0"})
    fds = opened(top, low)
    assert list(shown(fds)) == ["d", "f", "up"]
    data = b"".join(treetar.plain(layered.merged(fds)))
    assert b"secret" not in data.replace(f"{tmp_path}/secret".encode(), b"")
    assert members(data)["f"].issym()


def test_a_whiteout_hides_and_one_over_nothing_is_left_out(tmp_path: Path, opened: Open) -> None:
    top = tree(tmp_path / "1", {"d/gone": None, "d/never": None, "new": "n"})
    low = tree(tmp_path / "0", {"d/gone": "0", "d/kept": "0"})
    found = members(layer(*opened(top, low)))
    assert list(found) == ["d", "d/.wh.gone", "new"]
    assert (found["d/.wh.gone"].size, found["d/.wh.gone"].mtime) == (0, 0)


def test_a_name_that_would_be_a_whiteout_is_no_part_of_a_layer_but_of_an_export(tmp_path: Path, opened: Open) -> None:
    (fd,) = opened(tree(tmp_path / "1", {".wh.etc": "x", "d/.wh..wh..opq": "x", "a": "x", ".wh.d/x": "x"}))
    assert list(members(layer(fd))) == ["a", "d"]
    assert len(members(b"".join(treetar.plain(layered.merged([fd]))))) == 6


FILES = {
    **{f"many/{number:03d}": str(number) for number in range(60)},
    **{"d/": "", "d/e/": "", "d/e/f": "deep", "link": "-> d/e", "dangling": "-> nowhere", "empty": ""},
    **{"a": "one file", "b": "= a", "d/c": "= a", "ünïcode": "u", "x" * 200: "long"},
}


def test_the_same_tree_is_the_same_layer_however_it_was_made(tmp_path: Path, opened: Open) -> None:
    """Other inodes, another order of making, other access times, other umask, other holes."""
    first = tree(tmp_path / "1", FILES, order=1)
    second = tree(tmp_path / "2", FILES, order=2)
    for name in ("a", "many/001"):
        os.utime(second / name, ns=(1, EPOCH_S * 10**9 + 999))
    (first / "hole").write_bytes(bytes(1 << 20))
    with open(second / "hole", "wb") as file:
        file.truncate(1 << 20)
    for path in (first, second):
        os.utime(path / "hole", (EPOCH_S, EPOCH_S))
    one, two = opened(first, second)
    assert layer(one) == layer(two)
    assert layer(one) == b"".join(treetar.plain(layered.merged([one])))


def test_a_tree_archived_unpacked_and_archived_again_is_the_same(tmp_path: Path, opened: Open) -> None:
    data = layer(*opened(tree(tmp_path / "1", FILES)))
    (tmp_path / "2").mkdir()
    (fd,) = opened(tmp_path / "2")
    apply_layer([data], fd, lower=LowerView(()))
    assert layer(fd) == data


def test_hard_links_name_the_first_of_theirs(tmp_path: Path, opened: Open) -> None:
    found = members(layer(*opened(tree(tmp_path / "1", FILES))))
    assert found["a"].isfile()
    assert [found[name].linkname for name in ("b", "d/c")] == ["a", "a"]
    assert [found[name].size for name in ("b", "d/c")] == [0, 0]


def test_sockets_stay_out_and_fifos_are_not_opened(tmp_path: Path, opened: Open) -> None:
    root = tree(tmp_path / "1", {"a": "x"})
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
    os.mkfifo(root / "pipe")
    found = members(layer(*opened(root)))
    assert list(found) == ["a", "pipe"]
    assert found["pipe"].isfifo()


def test_attributes_go_in_except_the_hosts(tmp_path: Path, opened: Open) -> None:
    root = tree(tmp_path / "1", {"a": "x"})
    try:
        os.setxattr(root / "a", "user.b", b"2")
        os.setxattr(root / "a", "user.a", b"\0\xff")
        os.setxattr(root / "a", "user.x=y", b"no archive holds this name")
        os.setxattr(root / "a", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("the file system of the temporary folder has no user attributes")
    pax = members(layer(*opened(root)))["a"].pax_headers
    assert list(pax) == ["SCHILY.xattr.user.a", "SCHILY.xattr.user.b"]


def test_a_file_that_shrinks_or_vanishes_meanwhile_leaves_the_archive_whole(tmp_path: Path, opened: Open) -> None:
    root = tree(tmp_path / "1", {"a": "x" * 5000, "b": "y" * 3000, "c": "z", "d": "end"})
    (fd,) = opened(root)
    chunks: list[bytes] = []
    for chunk in treetar.plain(layered.merged([fd])):
        if not chunks:
            os.truncate(root / "a", 100)
            (root / "b").unlink()
            (root / "c").unlink()
            (root / "c").mkdir()
        chunks.append(chunk)
    found = members(b"".join(chunks))
    assert list(found) == ["a", "d"]
    assert found["a"].size == 5000


def test_a_layer_beyond_the_limits_is_refused(tmp_path: Path, opened: Open) -> None:
    root = tree(tmp_path / "1", {"a": "x", "b": "y"})
    (fd,) = opened(root)
    with pytest.raises(InvalidArgument, match="more than 1 files"):
        layer(fd, limits=Limits(entries=1))
    os.truncate(root / "a", 1 << 40)
    with pytest.raises(InvalidArgument, match="larger than"):
        layer(fd, limits=Limits(apparent=1 << 39))


def changed(top: int, *lower: int) -> list[str]:
    found = diff.changes(layered.upper(top), LowerView(lower))
    return [f"{'CAD'[one.kind]} {one.path.decode()}" for one in found]


def test_changes_are_told_with_the_directories_above(tmp_path: Path, opened: Open) -> None:
    low = tree(tmp_path / "0", {"d/e/old": "0", "d/e/same": "0", "d/e/mode": "0", "t/x": "0", "z": "0", "gone/a": "0"})
    top = tree(
        tmp_path / "1",
        {"d/e/old": "longer", "d/e/same": "0", "d/e/mode": "0", "new/sub/x": "1", "z": None, "gone": None, "no": None},
    )
    (top / "d/e/mode").chmod(0o4711)
    tree(top, {"t/": "", "untouched": "1"})
    assert changed(*opened(top, low)) == [
        *("C /d", "C /d/e", "C /d/e/mode", "C /d/e/old"),
        *("D /gone", "A /new", "A /new/sub", "A /new/sub/x", "A /untouched", "D /z"),
    ]


def test_times_count_of_files_and_fractions_only_when_both_have_them(tmp_path: Path, opened: Open) -> None:
    low = tree(tmp_path / "0", {"a": "0", "b": "0", "c": "0", "d/": ""})
    top = tree(tmp_path / "1", {"a": "0", "b": "0", "c": "0", "d/": ""})
    for path, ns in ((top / "a", 5), (low / "b", 7), (top / "b", 9), (top / "c", 10**9), (top / "d", 10**9)):
        os.utime(path, ns=(0, EPOCH_S * 10**9 + ns))
    assert changed(*opened(top, low)) == ["C /b", "C /c"]
