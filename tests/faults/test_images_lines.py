"""Lines cut at random bytes, a registry and a daemon killed in the middle of a layer: a pull goes on where it was.

Between the engine and a real registry stands a proxy that counts; a blob that is fetched from its start again shows in
what it counted.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator

import pytest

from support import images, imagestate, killpoints, peers, pullimages
from support.cutting import CuttingProxy
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.faultlife import named
from support.leaks import ALLOWED, Allowed, Snapshot, Subject, expect_none
from support.process import wait_for
from support.pullimages import Image
from support.registries import Registry

pytestmark = pytest.mark.usefixtures("the_doctor_agrees")

MIB = 1 << 20
LAYERS, LAYER_BYTES = 5, 8 * MIB  # two of them are busybox
REPOSITORY = "faults/lines"
TIMEOUT_S = 100
PATIENT_ENOUGH = {"max-download-attempts": 2}
IDLE = Allowed(
    r"descriptor, cortend: tcp socket, port \d+", "kept for the next request to the registry, for a minute", 8
)
BUFFERED = 6 * MIB  # what the kernel has of a connection that is reset: lost
AGAIN = MIB  # bytes that may come twice: heads, manifests, what was under way when a line broke


@pytest.fixture(scope="module")
def engine(warm_engine: CortenEngine) -> CortenEngine:
    """An engine with one image."""
    return warm_engine


@pytest.fixture(scope="module")
def image() -> Image:
    """With layers that gzip makes no smaller."""
    return pullimages.several(LAYERS, size=LAYER_BYTES)


@pytest.fixture(scope="module")
def registry(engine: CortenEngine, image: Image) -> Iterator[Registry]:
    """With the image, on the engine's loopback."""
    with Registry(netns=engine.netns) as made:
        image.push(made, REPOSITORY, "1")
        yield made


@pytest.fixture
def line(engine: CortenEngine, registry: Registry) -> Iterator[CuttingProxy]:
    """Before the registry; afterwards the image goes."""
    with CuttingProxy(registry.port, netns=engine.netns) as made:
        yield made
    engine.docker("rmi", "-f", f"{made.host}/{REPOSITORY}:1")


def reference(line: CuttingProxy) -> str:
    """The image, through the line."""
    return f"{line.host}/{REPOSITORY}:1"


def blob_bytes(image: Image) -> int:
    """What a pull has to fetch."""
    return sum(len(blob.data) for blob in image.blobs)


def stored(engine: CortenEngine) -> int:
    """Bytes of all blobs, whole and unfinished."""
    return sum(path.stat().st_size for path in (engine.data_root / "content").rglob("*") if path.is_file())


def arrive(engine: CortenEngine, line: CuttingProxy) -> None:
    """Returns when what came through the line is on the engine's disk."""
    line.wait_held()
    wait_for(lambda: stored(engine) >= line.count - AGAIN // 2, f"{line.count} bytes in the content store")


def pulling(engine: CortenEngine, line: CuttingProxy) -> subprocess.Popen[str]:
    """`docker pull`, running."""
    argv = [str(peers.docker_cli()), "-H", engine.host, "pull", reference(line)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=client_environment())


def pull(engine: CortenEngine, line: CuttingProxy) -> None:
    """A pull that succeeds, of an image that runs."""
    engine.docker("pull", "-q", reference(line), timeout=TIMEOUT_S, check=True)
    whole(engine, line)


def whole(engine: CortenEngine, line: CuttingProxy) -> None:
    """The image is there and runs."""
    command = ["sh", "-c", "cat /layers/* | wc -c"]
    said = engine.docker("run", "--rm", "--network", "none", reference(line), *command, check=True).stdout
    assert int(said) == (LAYERS - 2) * LAYER_BYTES
    imagestate.judge(engine)


def cuts(engine: CortenEngine, line: CuttingProxy, image: Image, rounds: int) -> None:
    """Pulls over a line that breaks three times, each at other bytes."""
    chance, size = random.Random(killpoints.seed()), blob_bytes(image)
    before = Snapshot.take(Subject.of(engine))
    for number in range(rounds):
        marks = [chance.randrange(size) for _ in range(3)]
        line.resets = bool(number % 2)
        with named(f"{'reset' if line.resets else 'cut'} after {marks} of {size} bytes"):
            start, broken = line.count, line.cuts
            line.cut_at(*(start + mark for mark in marks))
            pull(engine, line)
            assert line.cuts - broken == len(set(marks))
            again = 3 * (BUFFERED if line.resets else AGAIN)
            assert line.count - start < size + again, f"{line.count - start} bytes for {size}"
            engine.docker("rmi", reference(line), check=True)
            expect_none(before, allowed=(*ALLOWED, IDLE))


def test_a_pull_over_a_line_that_is_cut_at_random_bytes_succeeds_and_fetches_little_twice(
    engine: CortenEngine, line: CuttingProxy, image: Image
) -> None:
    cuts(engine, line, image, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_pulls_over_a_line_that_is_cut_at_random_bytes_succeed_and_fetch_little_twice(
    engine: CortenEngine, line: CuttingProxy, image: Image
) -> None:
    cuts(engine, line, image, 40)


def test_a_registry_that_is_killed_in_the_middle_of_layers_and_comes_back_is_pulled_from_on(
    engine: CortenEngine, line: CuttingProxy, registry: Registry, image: Image
) -> None:
    size = blob_bytes(image)
    line.hold_at(size // 4)
    client = pulling(engine, line)
    arrive(engine, line)
    registry.kill()
    line.go_on()
    registry.start()
    output, errors = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == 0, output + errors
    whole(engine, line)
    assert line.count < size + 3 * AGAIN, f"{line.count} bytes for {size}"


def test_a_registry_that_stays_away_fails_the_pull_in_words_and_the_next_pull_goes_on_where_it_was(
    image: Image,
) -> None:
    size = blob_bytes(image)
    with (
        CortenEngine(config=PATIENT_ENOUGH) as engine,
        Registry(netns=engine.netns) as registry,
        CuttingProxy(registry.port, netns=engine.netns) as line,
    ):
        image.push(registry, REPOSITORY, "1")
        line.hold_at(size // 4)
        client = pulling(engine, line)
        arrive(engine, line)
        registry.kill()
        line.go_on()
        output, errors = client.communicate(timeout=TIMEOUT_S)
        registry.start()
        assert client.returncode != 0, output
        assert errors.strip(), output
        imagestate.judge(engine, partials=True)
        assert not imagestate.tags(engine)
        assert sum(imagestate.unfinished(engine).values()) > size // 5
        pull(engine, line)
        assert line.count < size + 3 * AGAIN, f"{line.count} bytes for {size}"


def test_a_cortend_that_is_killed_in_the_middle_of_layers_pulls_on_where_it_was(
    engine: CortenEngine, line: CuttingProxy, image: Image
) -> None:
    size = blob_bytes(image)
    line.hold_at(size * 2 // 3)
    client = pulling(engine, line)
    arrive(engine, line)
    engine.kill9()
    line.go_on()
    assert client.wait(TIMEOUT_S) != 0
    client.communicate()
    engine.start()
    imagestate.judge(engine, partials=True)
    assert imagestate.tags(engine) == {images.BUSYBOX_REF}
    pull(engine, line)
    assert line.count < size + 3 * AGAIN, f"{line.count} bytes for {size}"


def test_a_pull_whose_client_goes_away_ends_and_leaves_what_the_next_one_uses(
    engine: CortenEngine, line: CuttingProxy, image: Image
) -> None:
    size, before = blob_bytes(image), stored(engine)
    line.hold_at(size * 2 // 3)
    client = pulling(engine, line)
    arrive(engine, line)
    client.kill()
    client.communicate()
    line.go_on()
    wait_for(lambda: not list((engine.data_root / "snapshots/staging").iterdir()), "end of the pull")
    imagestate.judge(engine, partials=True)
    assert imagestate.tags(engine) == {images.BUSYBOX_REF}
    kept, start = stored(engine) - before, line.count
    assert kept > size // 2, f"{kept} of {size} bytes were kept"
    pull(engine, line)
    assert line.count - start < size - kept + AGAIN, f"{line.count - start} bytes for {size - kept}"
