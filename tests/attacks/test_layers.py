"""Hostile layers.

Each attack has a twin: the same archive, unpacked by a build of Corten with the defending step taken out, does harm.

The harm is done in a temporary folder: `outside` stands for the host, `layer` for the directory of the layer.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from corten.core.lower import LowerView
from corten.core.unpack import NeedsLower, apply_layer
from corten.errors import InvalidArgument
from corten.sys.openat2 import RESOLVE_IN_ROOT, STRICT, openat2
from support import races, summary, weakened_corten
from support import tarballs as t
from support.hostile import ESCAPES, NOTHING_BELOW, Place, made_place, swapping, unpack
from support.races import Race, Wanted
from support.weakened import Edit


@pytest.fixture
def place() -> Iterator[Place]:
    with made_place() as made:
        yield made


Apply = Callable[..., object]
Without = Callable[[tuple[Edit, ...]], Apply]


@pytest.fixture(scope="module")
def without() -> Iterator[Without]:
    """`apply_layer` of a build without some step; each is built once."""
    made: dict[tuple[Edit, ...], Apply] = {}
    with ExitStack() as stack:

        def get(step: tuple[Edit, ...]) -> Apply:
            if step not in made:
                (module,) = stack.enter_context(weakened_corten.build(*step)).modules("corten.core.unpack")
                made[step] = module.apply_layer
            return made[step]

        yield get


# Ways out of the layer.


@pytest.mark.parametrize("attack", ESCAPES)
@pytest.mark.parametrize("lower", [NOTHING_BELOW, None], ids=["base", "upper"])
def test_nothing_leaves_the_layer(place: Place, attack: str, lower: LowerView | None) -> None:
    with contextlib.suppress(InvalidArgument, NeedsLower):
        unpack(place, ESCAPES[attack].archive(place.outside), lower=lower)
    assert place.untouched()


@pytest.mark.parametrize("attack", ESCAPES)
def test_twin_the_same_archive_leaves_an_unpacking_without_the_step(
    place: Place, attack: str, without: Without
) -> None:
    apply = without(ESCAPES[attack].step)
    with contextlib.suppress(OSError, InvalidArgument):  # the harm may be done before it stumbles
        unpack(place, ESCAPES[attack].archive(place.outside), apply=apply, lower=None)
    assert not place.untouched()


def dot_dot_whiteout() -> bytes:
    """A whiteout of the layer's own root: what lies below would be gone from sight."""
    return t.archive(t.directory(b"a"), t.entry(b"a/.wh..."))


def test_a_whiteout_of_dot_dot_hides_nothing(place: Place) -> None:
    with pytest.raises(InvalidArgument, match="invalid whiteout"):
        unpack(place, dot_dot_whiteout(), lower=None)
    assert os.listxattr(place.layer) == []


def test_twin_a_whiteout_of_dot_dot_hides_all_that_lies_below(place: Place, without: Without) -> None:
    unpack(place, dot_dot_whiteout(), apply=without(weakened_corten.WHITEOUT_NAMES), lower=None)
    assert os.listxattr(place.layer) == ["trusted.overlay.opaque"]


STORES = ("corten.core.dataroot", "corten.core.metadata", "corten.core.journal", "corten.core.snapshots")


@contextmanager
def unpacked_disk(place: Place, modules: Sequence[Any]) -> Iterator[str]:
    """A block device with mode 0666 in a layer of a data root of its own."""
    dataroot, metadata, journal, snapshots = modules
    root = dataroot.open_data_root(str(place.layer / "data"))
    database = metadata.Database(root.join("corten.db"))
    try:
        overlay = snapshots.Overlay(root.join("snapshots"), database, journal.Journal(database))
        with overlay.stage() as staged:
            fd = staged.open()
            layer = t.archive(t.entry(b"disk", t.BLOCK_DEVICE, device=(7, 200), mode=0o666))
            apply_layer([layer], fd, lower=NOTHING_BELOW)
            os.close(fd)
            node = os.path.join(staged.path, "fs", "disk")
            assert stat.S_ISBLK(os.lstat(node).st_mode)
            yield node
    finally:
        database.close()
        root.close()


def test_a_device_node_stays_where_only_the_engine_gets(place: Place) -> None:
    """A layer may hold devices; the device cgroup keeps containers from them, modes above it keep users from them."""
    with unpacked_disk(place, [importlib.import_module(name) for name in STORES]) as node:
        assert not readable_by_nobody(node)


def test_twin_a_device_node_below_open_folders_is_everybody_s(place: Place) -> None:
    with (
        weakened_corten.build(*weakened_corten.OPEN_FOLDERS) as weak,
        unpacked_disk(place, weak.modules(*STORES)) as node,
    ):
        assert readable_by_nobody(node)


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


def raced(title: str, place: Place, apply: Apply, seconds: float, wanted: Wanted = "met") -> Race:
    """Unpacks `d/gN` again and again, while another process exchanges `d` with a link to outside without a pause.

    The link was met where the file landed where it points, seen from the layer's root.
    """
    (place.layer / "d").mkdir()
    (place.layer / "link").symlink_to(place.outside)
    inside = place.layer / str(place.outside).lstrip("/")
    found = Race()
    with swapping(place.layer / "d", place.layer / "link"):
        for number in found.until(1, wanted, seconds=seconds):
            name = f"g{number}"
            with contextlib.suppress(OSError, InvalidArgument):
                unpack(place, t.archive(t.entry(b"d/" + name.encode())), apply=apply)
            found.escaped += (place.outside / name).exists()
            found.met += (inside / name).exists()
    text = f"link met in {found.met}, {found.escaped} files outside, of {found.rounds} layers"
    summary.add("races", f"layer's directory swapped for a link{title}: {text}")
    return found


def without_a_way_out(place: Place, seconds: float) -> None:
    found = raced("", place, apply_layer, seconds)
    assert found.escaped == 0
    assert place.untouched()
    assert found.met > 0, races.NEVER


@races.TIMEOUT
def test_a_directory_swapped_for_a_link_is_never_followed(place: Place) -> None:
    without_a_way_out(place, 2)


@pytest.mark.slow
@races.TIMEOUT
def test_a_directory_swapped_for_a_link_is_never_followed_in_a_long_race(place: Place) -> None:
    without_a_way_out(place, 60)


@races.TIMEOUT
def test_twin_a_link_looked_for_before_and_not_while_opening_is_followed(place: Place, without: Without) -> None:
    """The window is the moment between lstat(2) and open(2)."""
    found = raced(", twin", place, without(weakened_corten.LOOKED_FOR), 2, "escaped")
    assert found.escaped > 0, races.NEVER


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
