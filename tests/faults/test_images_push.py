"""Pushes over lines that are cut, to a registry that is killed, by a cortend that is killed in an upload.

A name appears in the registry when all of its image is there, under the same digest whatever happened before.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, imagestate, killpoints
from support.cutting import CuttingProxy
from support.engine import CortenEngine
from support.faultlife import named
from support.imagekills import IDLE, NAME, clear, client
from support.leaks import ALLOWED, Snapshot, Subject, expect_none
from support.registries import Registry

MIB = 1 << 20
LAYERS, LAYER_BYTES = 4, 8 * MIB
REPOSITORY = "faults/pushed"
TIMEOUT_S = 100


@pytest.fixture(scope="module")
def engine(warm_engine: CortenEngine) -> CortenEngine:
    """With one image, which is never touched."""
    return warm_engine


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with layers that gzip makes no smaller."""
    chance = random.Random(7)
    layers = [images.layer([images.Entry(f"noise{n}", chance.randbytes(LAYER_BYTES))]) for n in range(LAYERS)]
    path = tmp_path_factory.mktemp("archive") / "pushed.tar"
    path.write_bytes(images.docker_archive([NAME], [*images.busybox_layers(), *layers], {"Cmd": ["true"]}))
    return path


@pytest.fixture
def registry(engine: CortenEngine) -> Iterator[Registry]:
    """An empty one, on the engine's loopback."""
    with Registry(netns=engine.netns) as made:
        yield made


@pytest.fixture
def line(engine: CortenEngine, registry: Registry, archive: Path) -> Iterator[CuttingProxy]:
    """Before the registry; the engine has the image under the name with which it is pushed."""
    with CuttingProxy(registry.port, netns=engine.netns, uploads=True) as made:
        engine.docker("load", "-i", str(archive), check=True)
        engine.docker("tag", NAME, f"{made.host}/{REPOSITORY}:1", check=True)
        yield made
        clear(engine)


def judge(registry: Registry, tag: str = "1") -> str:
    """What the registry has under the tag is whole; its digest, '' when there is nothing."""
    found = registry.get_manifest(REPOSITORY, tag)
    if found.status != 200:
        return ""
    document = json.loads(found.body)
    for one in (document["config"], *document["layers"]):
        assert registry.has_blob(REPOSITORY, one["digest"]), f"{one} is missing in what has a name"
    return found.headers["docker-content-digest"]


def push(engine: CortenEngine, line: CuttingProxy, registry: Registry) -> str:
    """A push that succeeds; the digest."""
    reference = f"{line.host}/{REPOSITORY}:1"
    engine.docker("push", "-q", reference, timeout=TIMEOUT_S, check=True)
    digest = judge(registry)
    assert digest
    said = engine.docker("inspect", "-f", "{{json .RepoDigests}}", reference, check=True).stdout
    assert f"{line.host}/{REPOSITORY}@{digest}" in json.loads(said), said
    return digest


def cuts(engine: CortenEngine, line: CuttingProxy, registry: Registry, rounds: int) -> None:
    """Pushes over a line that breaks twice, each at other bytes, into new repositories."""
    chance, size = random.Random(killpoints.seed()), LAYERS * LAYER_BYTES
    whole = f"{registry.host}/{REPOSITORY}:whole"  # the first push packs the layers, and the image has others then
    for words in (("tag", NAME, whole), ("push", "-q", whole), ("rmi", whole)):
        engine.docker(*words, timeout=TIMEOUT_S, check=True)
    before = Snapshot.take(Subject.of(engine))
    for number in range(rounds):
        marks = [chance.randrange(size) for _ in range(2)]
        reference, other = f"{line.host}/{REPOSITORY}:1", f"{line.host}/{REPOSITORY}{number}:1"
        engine.docker("tag", reference, other, check=True)
        line.resets = bool(number % 2)
        with named(f"{'reset' if line.resets else 'cut'} after {marks} of {size} bytes"):
            broken = line.cuts
            line.cut_at(*(line.count + mark for mark in marks))
            engine.docker("push", "-q", other, timeout=TIMEOUT_S, check=True)
            assert line.cuts > broken
            found = registry.get_manifest(f"{REPOSITORY}{number}", "1")
            assert found.status == 200
            for one in json.loads(found.body)["layers"]:
                assert registry.has_blob(f"{REPOSITORY}{number}", one["digest"]), one
            engine.docker("rmi", other, check=True)
            imagestate.judge(engine)
            expect_none(before, allowed=(*ALLOWED, IDLE))
        registry.kill()  # and it forgets: the next round would have the layers mounted from this one's repository
        shutil.rmtree(registry.storage)
        registry.start()


def test_a_push_over_a_line_that_is_cut_at_random_bytes_succeeds(
    engine: CortenEngine, line: CuttingProxy, registry: Registry
) -> None:
    cuts(engine, line, registry, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_pushes_over_a_line_that_is_cut_at_random_bytes_succeed(
    engine: CortenEngine, line: CuttingProxy, registry: Registry
) -> None:
    cuts(engine, line, registry, 30)


def test_a_registry_that_is_killed_in_the_middle_of_an_upload_and_comes_back_gets_the_rest(
    engine: CortenEngine, line: CuttingProxy, registry: Registry
) -> None:
    line.hold_at(LAYERS * LAYER_BYTES // 3)
    running = client(engine, ["push", "-q", f"{line.host}/{REPOSITORY}:1"])
    line.wait_held()
    registry.kill()
    line.go_on()
    registry.start()
    assert running.wait(TIMEOUT_S) == 0
    assert judge(registry)
    imagestate.judge(engine)


def test_a_cortend_that_is_killed_in_the_middle_of_an_upload_pushes_the_same_digest_afterwards(
    engine: CortenEngine, line: CuttingProxy, registry: Registry
) -> None:
    line.hold_at(LAYERS * LAYER_BYTES // 3)
    running = client(engine, ["push", "-q", f"{line.host}/{REPOSITORY}:1"])
    line.wait_held()
    engine.kill9()
    line.go_on()
    assert running.wait(TIMEOUT_S) != 0
    engine.start()
    imagestate.judge(engine)
    assert judge(registry) == ""
    digest = push(engine, line, registry)
    assert push(engine, line, registry) == digest
