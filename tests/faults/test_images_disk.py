"""A disk that fills up while an image is loaded or imported: the request fails in words and leaves nothing.

The disk is a small ext4 of its own.  What was there before runs on, and with room the same request succeeds.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support import images, imagestate, killpoints
from support.engine import CortenEngine
from support.faultlife import named
from support.leaks import Snapshot, Subject, expect_none
from support.loopdisk import MIB, LoopDisk
from support.warmup import warm_up

DISK_MIB = 160
NAME = "corten-test/large:1"
LAYERS, LAYER_BYTES, FILES = 3, 6 * MIB, 60
NEEDED = 2 * LAYERS * LAYER_BYTES  # blobs, and what is in them
NO_ROOM = re.compile("no space left on device|disk is full", re.I)


class SmallEngine(CortenEngine):
    """An engine with its data root on a disk of its own."""

    def __init__(self, disk: LoopDisk) -> None:
        self.disk = disk
        super().__init__()

    def start(self, prefix: Sequence[str] = ()) -> None:
        """On that disk."""
        self.data_root = self.disk.path / "root"
        super().start(prefix)


@pytest.fixture(scope="module")
def engine() -> Iterator[SmallEngine]:
    """With one image."""
    with LoopDisk(DISK_MIB) as disk:
        made = SmallEngine(disk)
        with made:
            made.docker("load", "-i", str(images.busybox()), check=True)
            warm_up(made)
            yield made


@pytest.fixture
def room(engine: SmallEngine) -> Iterator[LoopDisk]:
    """The engine's disk, which has room again after the test."""
    yield engine.disk
    engine.disk.empty()
    engine.docker("rmi", "-f", NAME)


def large_layers() -> list[bytes]:
    """Random bytes in many files each: they take on the disk what they take in the archive."""
    chance = random.Random(1)
    each = LAYER_BYTES // FILES
    return [
        images.layer(images.Entry(f"layer{number}/{index}", chance.randbytes(each)) for index in range(FILES))
        for number in range(LAYERS)
    ]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program over large layers."""
    path = tmp_path_factory.mktemp("archive") / "large.tar"
    path.write_bytes(images.docker_archive([NAME], [*images.busybox_layers(), *large_layers()], {"Cmd": ["true"]}))
    return path


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For an import."""
    path = tmp_path_factory.mktemp("rootfs") / "large.tar"
    path.write_bytes(large_layers()[0])
    return path


def judge(engine: SmallEngine, before: Snapshot) -> None:
    """Whole, nothing leaked, and at work, on the full disk and then with room."""
    imagestate.judge(engine)
    assert imagestate.tags(engine) == {images.BUSYBOX_REF}
    expect_none(before)
    engine.disk.empty()
    engine.docker("run", "--rm", "--network", "none", images.BUSYBOX_REF, "true", check=True)


def attempts(engine: SmallEngine, words: Sequence[str], needed: int, count: int) -> None:
    """The request on a disk that has room for less and less of it, from nearly all down to nothing."""
    chance = random.Random(killpoints.seed())
    before = Snapshot.take(Subject.of(engine))
    lefts = [0, needed * 3 // 5, *(chance.randrange(needed * 9 // 10) for _ in range(count - 2))]
    for left in lefts:
        with named(f"{words[0]} with room for {left} bytes of {needed}"):
            engine.disk.fill(leave=left)
            done = engine.docker(*words)
            assert done.returncode, "it succeeded"
            assert NO_ROOM.search(done.stderr), done.stderr
            judge(engine, before)
    engine.docker(*words, check=True)
    engine.docker("run", "--rm", "--network", "none", images.BUSYBOX_REF, "true", check=True)
    imagestate.judge(engine)
    engine.docker("rmi", NAME, check=True)
    expect_none(before)


def test_a_load_onto_a_disk_that_fills_up_fails_in_words_and_leaves_nothing(
    engine: SmallEngine, room: LoopDisk, archive: Path
) -> None:
    attempts(engine, ["load", "-i", str(archive)], NEEDED, 3)


def test_an_import_onto_a_disk_that_fills_up_fails_in_words_and_leaves_nothing(
    engine: SmallEngine, room: LoopDisk, rootfs: Path
) -> None:
    attempts(engine, ["import", str(rootfs), NAME], 2 * LAYER_BYTES, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_load_with_room_for_any_part_of_it_fails_in_words_and_leaves_nothing(
    engine: SmallEngine, room: LoopDisk, archive: Path
) -> None:
    attempts(engine, ["load", "-i", str(archive)], NEEDED, 40)


def test_an_image_is_removed_from_a_nearly_full_disk_and_gives_its_room_back(
    engine: SmallEngine, room: LoopDisk, archive: Path
) -> None:
    os.sync()  # what is allocated late counts too
    before = room.used
    engine.docker("load", "-i", str(archive), check=True)
    os.sync()
    taken = room.used - before
    assert taken >= NEEDED
    room.fill(leave=MIB)
    full = room.used
    engine.docker("rmi", NAME, check=True)
    imagestate.judge(engine)
    assert full - room.used >= taken * 9 // 10, f"{full - room.used} of {taken} bytes came back"


def test_a_removal_that_cannot_be_recorded_on_a_full_disk_is_refused_in_words_and_loses_nothing(
    engine: SmallEngine, room: LoopDisk, archive: Path
) -> None:
    engine.docker("load", "-i", str(archive), check=True)
    room.fill()
    done = engine.docker("rmi", NAME)
    if done.returncode:  # the log of the database may have room in itself
        assert NO_ROOM.search(done.stderr), done.stderr
        assert NAME in imagestate.tags(engine)
    imagestate.judge(engine)
    room.empty()
    engine.docker("rmi", "-f", NAME)
    imagestate.judge(engine)
