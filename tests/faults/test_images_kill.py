"""kill -9 of cortend at random calls and moments while it loads, removes and prunes images, and while it starts again.

After each kill the engine starts, tables and disk say the same, every image that is listed runs; then what was asked
for is asked for again, and in the end nothing is left of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, killpoints, paths, process
from support.engine import CortenEngine
from support.faultlife import named
from support.imagekills import CALLS, NAME, Request, at_call, campaign, clear, judge
from support.leaks import Snapshot, Subject, expect_none
from support.process import wait_for
from support.warmup import warm_up

GATE_CALLS, GATE_MOMENTS = 2, 1
SLOW_CALLS, SLOW_MOMENTS = 60, 20
OTHER = "corten-test/mine:2"
SIZE = 3 << 20


def archive(folder: Path, name: str, whose: str) -> Path:
    """Four layers: one that is large, one of this image alone, two that busybox has too."""
    chance = random.Random(whose)
    layers = [
        images.layer([images.Entry("large", chance.randbytes(SIZE))]),
        images.layer(
            [images.directory(f"d{number}") for number in range(50)] + [images.Entry("whose", whose.encode())]
        ),
        *images.busybox_layers(),
    ]
    path = folder / f"{whose}.tar"
    path.write_bytes(images.docker_archive([name], layers, {"Cmd": ["cat", "/whose"]}))
    return path


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """With one image, which is never touched."""
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        warm_up(made)
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives."""
    made = tmp_path_factory.mktemp("archives")
    archive(made, NAME, "first")
    archive(made, NAME, "second")
    return made


def requests(folder: Path) -> dict[str, Request]:
    """By name."""
    first, second = (("load", "-i", str(folder / f"{whose}.tar")) for whose in ("first", "second"))
    return {
        "load": Request(first),
        "load in place of another": Request(second, (first,), nameless=1),
        "rmi": Request(("rmi", NAME), (first,)),
        "rmi of one name of two": Request(("rmi", "-f", NAME), (first, ("tag", NAME, OTHER)), frozenset({NAME, OTHER})),
        "image prune": Request(("image", "prune", "-f"), (first, second), nameless=1),
    }


GATE_NAMES = ("load in place of another", "rmi")
NAMES = ("load", "load in place of another", "rmi", "rmi of one name of two", "image prune")


@pytest.mark.parametrize("name", GATE_NAMES)
def test_cortend_killed_in_a_request_for_images_leaves_nothing_half_made(
    engine: CortenEngine, folder: Path, name: str
) -> None:
    campaign(engine, name, requests(folder)[name], calls=GATE_CALLS, moments=GATE_MOMENTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_cortend_killed_at_many_points_of_a_request_for_images_leaves_nothing_half_made(
    engine: CortenEngine, folder: Path, name: str
) -> None:
    campaign(engine, name, requests(folder)[name], calls=SLOW_CALLS, moments=SLOW_MOMENTS)


def start_killed(engine: CortenEngine, point: tuple[str, int]) -> bool:
    """A start that dies at a call; whether it did."""
    log = paths.scratch("strace") / "log"
    inject = f"inject={point[0]}:signal=KILL:when={point[1]}"
    try:
        engine.start(["strace", "-D", "-f", "-o", str(log), "-e", f"trace={','.join(CALLS)}", "-e", inject])
    except process.NotReady:
        return True
    finally:
        engine.kill9()
        wait_for(lambda: not list(process.processes(str(log))), "end of strace")
        log.unlink(missing_ok=True)
        log.parent.rmdir()
    return False


def broken_load(engine: CortenEngine, folder: Path) -> None:
    """A load that died when its layers were in place and not recorded, and half of a removal: garbage of each kind."""
    request = requests(folder)["load"]
    assert at_call(("syncfs", 1))(engine, request)
    engine.kill9()
    (engine.data_root / "snapshots/9999/fs").mkdir(parents=True)
    (engine.data_root / "snapshots/staging/left/fs").mkdir(parents=True)
    (engine.data_root / "content/ingest/left").write_bytes(b"half")
    (engine.data_root / "content/blobs/sha256" / ("0" * 64)).write_bytes(b"nobody's")


def starts(engine: CortenEngine, folder: Path, most: int) -> None:
    """Starts after a crash are killed, each at another call, until one is let be."""
    before = Snapshot.take(Subject.of(engine))
    points = [(name, number) for name in ("unlink", "unlinkat", "rename", "pwrite64", "rmdir") for number in (1, 2, 5)]

    def kill(point: tuple[str, int]) -> bool:
        with named(f"start: {point[0]} {point[1]}"):
            broken_load(engine, folder)
            landed = start_killed(engine, point)
            engine.start()
            judge(engine, Request(("rmi", NAME)))
            clear(engine)
            expect_none(before)
            return landed

    hit = killpoints.hits(killpoints.sample(points, most), kill, least=1)
    killpoints.report("images, garbage collected by a start", hit, len(points))


def test_a_start_that_is_killed_while_it_collects_garbage_is_made_good_by_the_next(
    engine: CortenEngine, folder: Path
) -> None:
    starts(engine, folder, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_starts_that_are_killed_at_every_call_of_a_kind_are_made_good_by_the_next(
    engine: CortenEngine, folder: Path
) -> None:
    starts(engine, folder, 15)
