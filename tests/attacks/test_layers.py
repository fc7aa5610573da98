"""Hostile layers.  Each attack has a twin: the same archive, unpacked with the defending step taken out, does its harm.

The harm is done in a temporary folder: `outside` stands for the host, `layer` for the directory of the layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import os
import shutil
import stat
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from corten.core import archive, dataroot
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.limits import DEFAULT, Limits
from corten.core.lower import LowerView
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.core.streams import chunks_of, decompressed
from corten.core.tarheader import Entry, Kind
from corten.core.tarreader import TarReader
from corten.core.trees import remove_entry
from corten.core.unpack import apply_layer
from corten.errors import CortenError, InvalidArgument, NotFound
from corten.sys.openat2 import RESOLVE_IN_ROOT, STRICT, openat2
from support import paths, summary
from support import tarballs as t

UNLIMITED = Limits(
    entries=1 << 60, path=1 << 30, header=1 << 40, apparent=1 << 62, ratio=1 << 60, xattrs=1 << 30, disk_reserve=0
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attack happens."""

    layer: Path
    outside: Path

    def untouched(self) -> bool:
        """Whether `outside` is as it was made."""
        names = sorted(os.listdir(self.outside))
        return names == ["victim"] and (self.outside / "victim").read_text() == "precious"


@pytest.fixture
def place() -> Iterator[Place]:
    folder = paths.scratch("attack")
    layer, outside = folder / "deep/layer", folder / "outside"
    layer.mkdir(parents=True)
    outside.mkdir()
    (outside / "victim").write_text("precious")
    yield Place(layer, outside)
    fd = os.open(folder.parent, os.O_RDONLY)
    remove_entry(fd, os.fsencode(folder.name))  # shutil's removal ends at the recursion limit
    os.close(fd)


def unpack(place: Place, data: bytes, limits: Limits = DEFAULT) -> None:
    fd = os.open(place.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_layer([data], fd, lower=LowerView([]), limits=limits)
    finally:
        os.close(fd)


def naive(place: Place, data: bytes, before: Callable[[Entry], None] = lambda _: None) -> None:
    """The twin: names of the archive joined to a path and given to the kernel, as `tar -P` or an old engine did."""
    reader = TarReader([data], UNLIMITED)
    for entry in reader:
        before(entry)
        path = os.path.join(os.fsencode(place.layer), entry.name)
        folder, base = os.path.split(path)
        if base.startswith(b".wh."):
            target = os.path.join(folder, base[4:])
            shutil.rmtree(target) if os.path.isdir(target) else os.unlink(target)
        elif entry.kind is Kind.DIRECTORY:
            os.makedirs(path, exist_ok=True)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, path)
        elif entry.kind is Kind.HARD_LINK:
            os.link(os.path.join(os.fsencode(place.layer), entry.link), path)
        elif entry.kind in (Kind.CHAR, Kind.BLOCK):
            os.mknod(path, stat.S_IFCHR | entry.mode, entry.device)
        else:
            os.makedirs(folder, exist_ok=True)
            with open(path, "wb") as file:
                file.writelines(reader.data())


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

    missed, swaps = race(place, lambda n: (strict(n), whole_layer(n))[0], 2000)
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

    hits, swaps = race(place, weak, 5000)
    summary.add("races", f"layer parent swapped for a link, twin: window hit {hits} of 5000, {swaps} swaps")
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


# Bombs: a budget stops each, and without the budget it goes off.


def _gzip_bomb() -> bytes:
    return gzip.compress(t.archive(t.entry(b"zero", data=bytes(48 << 20))), 9)


def _zstd_bomb() -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(t.archive(t.entry(b"zero", data=bytes(48 << 20))))


def _sparse_bomb() -> bytes:
    records = {b"GNU.sparse.map": b"0,1", b"GNU.sparse.size": str(1 << 42).encode()}
    return t.archive(t.pax(records), t.entry(b"huge", data=b"x"))


def _many_entries() -> bytes:
    return gzip.compress(t.archive(*(t.entry(b"f%d" % number) for number in range(20_000))), 1)


def _huge_pax_header() -> bytes:
    return gzip.compress(t.archive(t.pax({b"comment": bytes(32 << 20)}), t.entry(b"f")), 1)


def _long_name() -> bytes:
    return gzip.compress(t.archive(t.gnu_long(b"n" * (16 << 20)), t.entry(b"f")), 1)


def _deep_path() -> bytes:
    return t.archive(t.gnu_long(b"d/" * 2500 + b"f"), t.entry(b"f"))


BOMBS: dict[str, tuple[Callable[[], bytes], Limits, str, Callable[[Path], bool]]] = {
    "gzip": (
        _gzip_bomb,
        Limits(ratio=100, ratio_floor=1 << 20),
        "expands more than",
        lambda p: (p / "zero").stat().st_size == 48 << 20,
    ),
    "zstd": (
        _zstd_bomb,
        Limits(ratio=100, ratio_floor=1 << 20),
        "expands more than",
        lambda p: (p / "zero").stat().st_size == 48 << 20,
    ),
    "sparse file": (_sparse_bomb, DEFAULT, "invalid sparse map", lambda p: (p / "huge").stat().st_size == 1 << 42),
    "many entries": (
        _many_entries,
        Limits(entries=1000),
        "more than 1000 entries",
        lambda p: len(os.listdir(p)) == 20_000,
    ),
    "huge pax header": (_huge_pax_header, DEFAULT, "larger than 1048576 bytes", lambda p: (p / "f").exists()),
    "huge GNU name": (_long_name, DEFAULT, "larger than 1048576 bytes", lambda p: False),
    "deep path": (_deep_path, DEFAULT, "more than 4095 bytes", lambda p: (p / "d/d/d").is_dir()),
}


def stored(place: Place, bomb: bytes, limits: Limits) -> None:
    fd = os.open(place.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_layer(decompressed(t.chunked(bomb), limits), fd, lower=LowerView([]), limits=limits)
    finally:
        os.close(fd)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_stopped_by_its_budget(place: Place, bomb: str) -> None:
    make, limits, text, _ = BOMBS[bomb]
    with pytest.raises(InvalidArgument, match=text):
        stored(place, make(), limits)
    used = sum(file.stat().st_blocks * 512 for file in place.layer.rglob("*"))
    assert used < 8 << 20


@pytest.mark.parametrize("bomb", [name for name in BOMBS if name != "huge GNU name"])
def test_twin_the_bomb_goes_off_without_the_budget(place: Place, bomb: str) -> None:
    make, _, _, went_off = BOMBS[bomb]
    stored(place, make(), UNLIMITED)
    assert went_off(place.layer)


def test_twin_a_huge_gnu_name_is_held_in_memory_without_the_budget() -> None:
    unlimited = Limits(path=1 << 30, header=1 << 30)
    (entry,) = TarReader(decompressed(t.chunked(_long_name()), unlimited), unlimited)
    assert len(entry.name) == 16 << 20


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"GNU.sparse.name"])
def test_a_name_with_nul_is_refused(place: Place, key: bytes) -> None:
    """A check that sees `a\\0/../../x` and a kernel that sees `a` would disagree."""
    records = {b"GNU.sparse.map": b"", b"GNU.sparse.size": b"0"} if key == b"GNU.sparse.name" else {}
    data = t.archive(t.pax({**records, key: b"good\0evil"}), t.entry(b"f", t.FILE))
    with pytest.raises(InvalidArgument, match="name with NUL"):
        unpack(place, data)
    assert os.listdir(place.layer) == []


def test_twin_a_name_with_nul_means_something_else_to_a_c_program(place: Place) -> None:
    """What openat2(2) would get from a wrapper that does not look: the name ends at the NUL."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.open(ctypes.c_char_p(os.fsencode(place.layer / "good") + b"\0evil"), os.O_CREAT | os.O_WRONLY, 0o600)
    os.close(fd)
    assert os.listdir(place.layer) == ["good"]


# Attributes that the kernel would believe.


def test_an_archive_cannot_set_overlayfs_own_attributes(place: Place) -> None:
    """`redirect` makes overlayfs look for a directory somewhere else in the layers below."""
    unpack(place, t.archive(t.pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/secret"}), t.directory(b"d")))
    assert os.listxattr(place.layer / "d") == []


def test_twin_the_attribute_would_be_set(place: Place) -> None:
    (place.layer / "d").mkdir()
    (entry,) = TarReader(
        [t.archive(t.pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/secret"}), t.directory(b"d"))], DEFAULT
    )
    for name, value in entry.xattrs:
        os.setxattr(place.layer / "d", name, value)
    assert os.getxattr(place.layer / "d", "trusted.overlay.redirect") == b"/secret"


# Content that is not what it says.


@pytest.fixture
def store(place: Place) -> Iterator[ImageStore]:
    root = dataroot.open_data_root(str(place.layer / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    yield ImageStore(database, ContentStore(root.join("content")), overlay)
    database.close()
    root.close()


GOOD, EVIL = t.archive(t.entry(b"good")), t.archive(t.entry(b"evil"))


def is_empty(store: ImageStore) -> bool:
    rest = [*store.list(), *store.overlay.all(), *store.overlay.directories(), *store.overlay.staged_directories()]
    return not rest and not list(store.content.blobs()) and not store.content.ingests()


def test_a_blob_with_another_digest_is_refused_and_nothing_stays(store: ImageStore) -> None:
    hostile = t.oci_archive([GOOD], **{t.digest(GOOD)[7:]: EVIL})
    with pytest.raises(InvalidArgument, match=f"content has digest {t.digest(EVIL)}, not {t.digest(GOOD)}"):
        archive.load([hostile], store)
    assert is_empty(store)


def test_twin_the_name_of_the_blob_would_be_believed(place: Place) -> None:
    """The same archive laid out as it says: under the digest lies something else."""
    naive(place, t.oci_archive([GOOD], **{t.digest(GOOD)[7:]: EVIL}))
    assert (place.layer / "blobs/sha256" / t.digest(GOOD)[7:]).read_bytes() == EVIL


def test_a_layer_with_another_diff_id_is_refused_and_nothing_stays(store: ImageStore) -> None:
    hostile = t.docker_archive([EVIL], config=t.image_config([GOOD]))
    with pytest.raises(InvalidArgument, match=f"has diff id {t.digest(EVIL)}, not {t.digest(GOOD)}"):
        archive.load([hostile], store)
    assert is_empty(store)


def test_twin_without_the_comparison_the_layer_is_there(place: Place) -> None:
    unpack(place, EVIL)
    assert os.listdir(place.layer) == ["evil"]


def test_bytes_behind_a_gzip_member_cannot_hide(store: ImageStore) -> None:
    """zlib and isal stop at the first member: what one program skips another may read."""
    packed = gzip.compress(GOOD) + gzip.compress(EVIL)
    assert b"".join(decompressed([packed], DEFAULT)) == GOOD + EVIL
    hostile = t.oci_archive([packed])
    with pytest.raises(InvalidArgument, match="diff id"):
        archive.load([hostile], store)
    assert is_empty(store)


def test_twin_one_call_of_the_library_sees_the_first_member_alone() -> None:
    decompressor = zlib.decompressobj(31)
    assert decompressor.decompress(gzip.compress(GOOD) + gzip.compress(EVIL)) == GOOD
    assert decompressor.unused_data


@pytest.mark.parametrize(
    "digest", ["sha256:../../../outside/victim", "sha256:" + "A" * 64, "../x:" + "0" * 64, "sha256:0"]
)
def test_a_digest_is_never_a_path(store: ImageStore, digest: str) -> None:
    with pytest.raises((InvalidArgument, NotFound)):
        store.content.open(digest)
    with pytest.raises((InvalidArgument, NotFound)):
        store.content.ingest([b"x"], expected=digest)


def test_twin_a_digest_joined_to_a_path_leads_out(place: Place, store: ImageStore) -> None:
    encoded = "../../../../../../outside/victim"
    with open(os.path.join(store.content.root, "blobs/sha256", encoded), "rb") as file:
        assert b"".join(chunks_of(file)) == b"precious"
