"""A disk that fills up while an image is loaded, imported or pulled: the request fails in words and leaves nothing.

The disk is a small ext4 of its own.  What was there before runs on, and with room the same request succeeds.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support import imagekills, images, imagestate, killpoints, pullimages
from support.cutting import CuttingProxy
from support.faultlife import named
from support.imagekills import IDLE
from support.leaks import ALLOWED, Allowed, Snapshot, Subject, expect_none
from support.loopdisk import MIB, LoopDisk
from support.pullimages import Image
from support.registries import Registry
from support.smallengine import SmallEngine
from support.warmup import warm_up

DISK_MIB = 1024  # a pull wants 512 of them free
REPOSITORY = "faults/large"
NAME = "corten-test/large:1"
LAYERS, LAYER_BYTES, FILES = 3, 6 * MIB, 60
NEEDED = 2 * LAYERS * LAYER_BYTES  # blobs, and what is in them
UNFINISHED = Allowed(r"file, under data-root: content/partial/.*", "what the next pull goes on with", 20)
NO_ROOM = re.compile("no space left on device|disk is full", re.I)


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
    """The engine's disk, which has room again after the test; what a test left that failed halfway goes."""
    yield engine.disk
    engine.disk.empty()
    for name in imagestate.tags(engine) - {images.BUSYBOX_REF}:
        engine.docker("rmi", "-f", name, check=True)
    engine.docker("image", "prune", "-f", check=True)  # takes what came of blobs along
    imagestate.judge(engine)


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
    imagestate.judge(engine, partials=True)
    assert imagestate.tags(engine) == {images.BUSYBOX_REF}
    expect_none(before, allowed=(*ALLOWED, IDLE, UNFINISHED))
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


@pytest.fixture(scope="module")
def image() -> Image:
    """It takes as much as the archive."""
    return pullimages.image([*images.busybox_layers(), *large_layers()])


@pytest.fixture
def line(engine: SmallEngine, image: Image) -> Iterator[CuttingProxy]:
    """Before a registry that has the image."""
    with (
        Registry(netns=engine.netns) as registry,
        CuttingProxy(registry.port, netns=engine.netns) as made,
    ):
        image.push(registry, REPOSITORY, "1")
        yield made
        engine.docker("rmi", "-f", f"{made.host}/{REPOSITORY}:1")


def pull_into_full_disk(engine: SmallEngine, line: CuttingProxy, size: int) -> None:
    """A pull during which the disk fills up when `size` bytes have come."""
    reference = f"{line.host}/{REPOSITORY}:1"
    line.hold_at(line.count + size)
    client = imagekills.client(engine, ["pull", "-q", reference])
    line.wait_held()
    engine.disk.fill()
    line.go_on()
    assert client.wait(60) != 0, "it succeeded"


def pulls(engine: SmallEngine, line: CuttingProxy, size: int, count: int) -> None:
    """Pulls onto a disk that fills up at different bytes of `size`."""
    chance = random.Random(killpoints.seed())
    before = Snapshot.take(Subject.of(engine))
    reference = f"{line.host}/{REPOSITORY}:1"
    for _ in range(count):
        part = chance.randrange(size // 2)
        with named(f"full after {part} of {size} bytes"):
            pull_into_full_disk(engine, line, part)
            judge(engine, before)
            engine.docker("pull", "-q", reference, check=True)
            engine.docker("run", "--rm", "--network", "none", reference, "true", check=True)
            imagestate.judge(engine)
            engine.docker("rmi", reference, check=True)
            expect_none(before, allowed=(*ALLOWED, IDLE))


def test_a_disk_that_fills_up_in_the_middle_of_a_pull_fails_it_and_the_next_one_succeeds(
    engine: SmallEngine, room: LoopDisk, line: CuttingProxy, image: Image
) -> None:
    pulls(engine, line, sum(len(blob.data) for blob in image.blobs), 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_disk_that_fills_up_at_any_byte_of_a_pull_fails_it_and_the_next_one_succeeds(
    engine: SmallEngine, room: LoopDisk, line: CuttingProxy, image: Image
) -> None:
    pulls(engine, line, sum(len(blob.data) for blob in image.blobs), 30)


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


def test_an_image_is_removed_from_a_full_disk_and_loaded_again_when_there_is_room(
    engine: SmallEngine, room: LoopDisk, archive: Path
) -> None:
    engine.docker("load", "-i", str(archive), check=True)
    room.fill()
    engine.docker("rmi", NAME, check=True)
    imagestate.judge(engine)
    room.empty()
    engine.docker("load", "-i", str(archive), check=True)
    imagestate.judge(engine)
