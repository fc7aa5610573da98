"""Hostile layers.  Each attack has a twin: the same archive, unpacked with the defending step taken out, does its harm.

The harm is done in a temporary folder: `outside` stands for the host, `layer` for the directory of the layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from corten.core import dataroot
from corten.core.journal import Journal
from corten.core.lower import LowerView
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.core.unpack import apply_layer
from corten.errors import CortenError, InvalidArgument
from corten.sys.openat2 import RESOLVE_IN_ROOT, STRICT, openat2
from support import summary
from support import tarballs as t
from support.hostile import Place, made_place, naive, unpack


@pytest.fixture
def place() -> Iterator[Place]:
    with made_place() as made:
        yield made


def outside_name(place: Place) -> bytes:
    return os.fsencode(place.outside)


# Ways out of the layer.

ESCAPES: dict[str, Callable[[Place], Sequence[bytes]]] = {
    "an absolute path": lambda p: [t.gnu_long(outside_name(p) + b"/made"), t.entry(b"x", data=b"evil")],
    "dot-dot": lambda _: [t.entry(b"../../outside/made", data=b"evil")],
    "dot-dot behind a directory": lambda _: [t.directory(b"a"), t.entry(b"a/../../../outside/made", data=b"evil")],
    "dot-dot in a pax record": lambda _: [t.pax({b"path": b"../../outside/made"}), t.entry(b"x", data=b"evil")],
    "an absolute link, then a file through it": lambda p: [
        t.symlink(b"way", outside_name(p)),
        t.entry(b"way/made", data=b"evil"),
    ],
    "a relative link, then a file through it": lambda _: [
        t.symlink(b"way", b"../../outside"),
        t.entry(b"way/made", data=b"evil"),
    ],
    "a chain of links": lambda _: [
        t.symlink(b"one", b".."),
        t.symlink(b"two", b"one/../outside"),
        t.entry(b"two/made", data=b"evil"),
    ],
    "a link in place of a directory": lambda _: [
        t.directory(b"d"),
        t.entry(b"d/f"),
        t.entry(b".wh.d"),
        t.symlink(b"d2", b"../../outside"),
        t.entry(b"d2/victim", data=b"evil"),
    ],
    "a file through a link of its own name": lambda _: [
        t.symlink(b"f", b"../../outside/victim"),
        t.entry(b"f", data=b"evil"),
    ],
    "a directory through a link": lambda _: [t.symlink(b"way", b"../../outside"), t.directory(b"way/made")],
    "a link through a link": lambda _: [t.symlink(b"way", b"../../outside"), t.symlink(b"way/made", b"x")],
    "a device through a link": lambda _: [
        t.symlink(b"way", b"../../outside"),
        t.entry(b"way/made", t.CHAR, device=(1, 3)),
    ],
    "a hard link to a file outside, then written": lambda _: [
        t.hard_link(b"h", b"../../outside/victim"),
        t.entry(b"h", data=b"evil"),
    ],
    "a hard link by absolute path, then written": lambda p: [
        t.gnu_long(outside_name(p) + b"/victim", b"K"),
        t.hard_link(b"h", b"x"),
        t.entry(b"h", data=b"evil"),
    ],
    "a hard link through a link, then written": lambda _: [
        t.symlink(b"way", b"../../outside"),
        t.hard_link(b"h", b"way/victim"),
        t.entry(b"h", data=b"evil"),
    ],
    "a whiteout outside": lambda _: [t.entry(b"../../outside/.wh.victim")],
    "a whiteout through a link": lambda _: [t.symlink(b"way", b"../../outside"), t.entry(b"way/.wh.victim")],
}


@pytest.mark.parametrize("attack", ESCAPES)
def test_nothing_leaves_the_layer(place: Place, attack: str) -> None:
    data = t.archive(*ESCAPES[attack](place))
    with contextlib.suppress(InvalidArgument):
        unpack(place, data)
    assert place.untouched()


@pytest.mark.parametrize("attack", ESCAPES)
def test_twin_the_same_archive_leaves_a_naive_unpacker(place: Place, attack: str) -> None:
    naive(place, t.archive(*ESCAPES[attack](place)))
    assert not place.untouched()


def test_a_whiteout_of_dot_dot_removes_nothing(place: Place) -> None:
    data = t.archive(t.directory(b"a"), t.entry(b"a/.wh..."))
    with pytest.raises(InvalidArgument, match="invalid whiteout"):
        unpack(place, data)
    assert place.layer.is_dir()


def test_twin_a_whiteout_of_dot_dot_removes_the_layer(place: Place) -> None:
    with pytest.raises(OSError, match="a/\\.\\."):  # rmdir of `..` itself fails, after all in it is gone
        naive(place, t.archive(t.entry(b"keep"), t.directory(b"a"), t.entry(b"a/.wh...")))
    assert not (place.layer / "keep").exists()


def test_a_device_node_stays_where_only_the_engine_gets(place: Place) -> None:
    """A layer may hold devices; the device cgroup keeps containers from them, modes above it keep users from them."""
    root = dataroot.open_data_root(str(place.layer / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    with overlay.stage() as staged:
        fd = staged.open()
        apply_layer([t.archive(t.entry(b"disk", t.BLOCK_DEVICE, device=(7, 200), mode=0o666))], fd, lower=LowerView([]))
        os.close(fd)
        node = os.path.join(staged.path, "fs", "disk")
        assert stat.S_ISBLK(os.lstat(node).st_mode)
        assert not readable_by_nobody(node)
        os.chmod(place.layer / "data", 0o755)  # the twin: the defending modes taken out
        os.chmod(root.join("snapshots"), 0o755)
        os.chmod(root.join("snapshots", "staging"), 0o755)
        os.chmod(staged.path, 0o755)
        assert readable_by_nobody(node)
    database.close()
    root.close()


def readable_by_nobody(path: str) -> bool:
    """Whether uid 65534 reaches the file; asked in a child."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if os.access(path, os.R_OK) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# A parent that changes into a link while the layer is unpacked.


RENAME_EXCHANGE = 2


class Swapper:
    """Exchanges `<layer>/d` with a link to outside, again and again: at every moment it is one or the other."""

    def __init__(self, place: Place) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._paths = [ctypes.c_char_p(os.fsencode(place.layer / name)) for name in ("d", "link")]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swaps = 0

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            assert self._libc.renameat2(-100, self._paths[0], -100, self._paths[1], RENAME_EXCHANGE) == 0
            self.swaps += 1


def race(place: Place, writer: Callable[[int], None], rounds: int) -> tuple[int, int]:
    """(files that landed outside, swaps)."""
    (place.layer / "d").mkdir()
    (place.layer / "link").symlink_to(place.outside)
    with Swapper(place) as swapper:
        for number in range(rounds):
            try:
                writer(number)
            except (OSError, CortenError):
                continue
    return len(os.listdir(place.outside)) - 1, swapper.swaps


def test_a_parent_swapped_for_a_link_is_never_followed(place: Place) -> None:
    def strict(number: int) -> None:
        fd = os.open(place.layer, os.O_PATH)
        try:
            os.close(openat2(fd, b"d/f%d" % number, os.O_CREAT | os.O_WRONLY, mode=0o600, resolve=STRICT))
        finally:
            os.close(fd)

    def whole_layer(number: int) -> None:
        unpack(place, t.archive(t.entry(b"d/g%d" % number, data=b"x")))

    def both(number: int) -> None:
        with contextlib.suppress(OSError):
            strict(number)
        whole_layer(number)

    missed, swaps = race(place, both, 1000)
    assert missed == 0
    assert swaps > 0
    summary.add("races", f"layer parent swapped for a link: {swaps} swaps, 0 files outside")


def test_twin_a_parent_swapped_for_a_link_is_followed_without_the_resolver(place: Place) -> None:
    def weak(number: int) -> None:
        fd = os.open(place.layer, os.O_PATH)
        try:
            os.close(openat2(fd, b"d/f%d" % number, os.O_CREAT | os.O_WRONLY, mode=0o600, resolve=0))
        finally:
            os.close(fd)

    hits, swaps = race(place, weak, 1500)
    summary.add("races", f"layer parent swapped for a link, twin: window hit {hits} of 1500, {swaps} swaps")
    assert hits > 0


def test_the_resolver_forbids_what_its_flags_say(place: Place) -> None:
    """The strict lookup refuses a link; as a root it is followed inside; without flags it leads out."""
    (place.layer / "way").symlink_to(place.outside)
    fd = os.open(place.layer, os.O_PATH)
    try:
        with pytest.raises(OSError, match="symbolic links"):
            openat2(fd, b"way/victim", os.O_RDONLY, resolve=STRICT)
        with pytest.raises(FileNotFoundError):
            openat2(fd, b"way/victim", os.O_RDONLY, resolve=RESOLVE_IN_ROOT)
        with pytest.raises(OSError, match="null byte"):
            openat2(fd, b"a\0b", os.O_RDONLY)
        twin = openat2(fd, b"way/victim", os.O_RDONLY, resolve=0)
        assert os.read(twin, 100) == b"precious"
        os.close(twin)
    finally:
        os.close(fd)
