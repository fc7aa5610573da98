"""A registry that lies, and the whole engine: `docker pull` and `docker push`, from door to disk (D9, D12, D15).

After each lie nothing of it is to be seen: no image, no blob, no layer.  Then the registry tells the truth, and the
image comes and runs.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import images, lies, paths, pullimages
from support import tarballs as t
from support.engine import CortenEngine
from support.hostile import ESCAPES, Place, look
from support.lyingregistry import Exchange, Lie, LyingRegistry, Trap, on, wants_basic
from support.process import wait_for

CONTENTS = lies.contents()
# The client's own tests have all of them, with shorter pauses.
SHORT = {
    *("a manifest without an end", "a blob of chunks without an end", "a compressed blob", "a redirect to a file"),
    *("a manifest with a wrong bit", "a blob with a wrong bit", "another digest than the content's"),
    *("a digest that is a path", "an error with terminal commands", "a challenge with a file as realm"),
}
BUDGET = 64 << 20
MANY = 60


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """Which takes a line that breaks twice for a failure."""
    with CortenEngine(config={"max-download-attempts": 2}) as made:
        yield made
        assert "Traceback" not in made.log.read_text(errors="replace"), made.log_tail()


@pytest.fixture
def registry(engine: CortenEngine) -> Iterator[LyingRegistry]:
    """With the honest image; what was told to it is forgotten after each test."""
    with LyingRegistry(netns=engine.netns) as made:
        made.add(lies.honest(), lies.REPOSITORY, lies.TAG)
        yield made


def name_at(registry: LyingRegistry) -> str:
    """What is pulled."""
    return f"{registry.host}/{lies.REPOSITORY}:{lies.TAG}"


def refused(engine: CortenEngine, registry: LyingRegistry) -> str:
    """A pull fails, says why in bounded, printable words, and leaves nothing."""
    before = on_the_way(engine)
    done = engine.docker("pull", name_at(registry), timeout=90)
    told = done.stderr
    assert done.returncode != 0, done.stdout
    assert len(told) < 10_000, len(told)
    assert not {"\x1b", "\x07"} & set(told + done.stdout), told[:300]
    assert nothing_of(engine) == []
    assert on_the_way(engine) < before + (4 << 20)
    return told


def nothing_of(engine: CortenEngine) -> list[str]:
    """Images, blobs and layers.  What came of a blob is kept for who asks again: `on_the_way`."""
    found = engine.docker("images", "-aq", "--no-trunc", check=True).stdout.split()
    content, snapshots = engine.data_root / "content", engine.data_root / "snapshots"
    found += [f"blob {one.name}" for one in (content / "blobs/sha256").iterdir()]
    found += [f"ingest {one.name}" for one in (content / "ingest").iterdir()]
    wait_for(lambda: not any((snapshots / "trash").iterdir()), "empty trash")
    found += [f"staging {one.name}" for one in (snapshots / "staging").iterdir()]
    found += [f"layer {one.name}" for one in snapshots.iterdir() if one.name not in {"staging", "trash"}]
    return found


def on_the_way(engine: CortenEngine) -> int:
    """Bytes of blobs that are kept for the next pull of them."""
    files = [path for path in (engine.data_root / "content/partial").rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)


def comes_and_goes(engine: CortenEngine, registry: LyingRegistry) -> None:
    """The honest image is pulled, runs and is removed."""
    registry.lies.clear()
    registry.held.clear()
    reference = registry.add(lies.honest(), lies.REPOSITORY, lies.TAG)
    engine.docker("pull", reference, check=True)
    done = engine.docker("run", "--rm", "--network", "none", reference, "sha256sum", "/mine", check=True)
    assert done.stdout.split()[0] == images.digest(pullimages.noise(7, 300_000)).removeprefix("sha256:")
    engine.docker("rmi", reference, check=True)
    wait_for(lambda: nothing_of(engine) == [], "removal of what the image had")


def shortly(names: Iterable[str]) -> list[object]:
    """All of them; some in the short run."""
    return [pytest.param(one, marks=() if one in SHORT else pytest.mark.slow) for one in names]


@pytest.mark.parametrize("name", shortly(lies.PROTOCOL))
def test_a_lie_leaves_nothing(engine: CortenEngine, registry: LyingRegistry, name: str) -> None:
    registry.lies.append(lies.PROTOCOL[name])
    refused(engine, registry)
    assert registry.poured_out == 0
    assert registry.sent < BUDGET


# What is no lie but a burden, or something that every engine takes.
TAKEN = {"a configuration of an unknown kind", "a layer of an unknown kind", "keys that come twice"}


@pytest.mark.parametrize("name", CONTENTS)
def test_hostile_content_leaves_nothing(engine: CortenEngine, registry: LyingRegistry, name: str) -> None:
    CONTENTS[name].put(registry)
    if name in TAKEN and engine.docker("pull", name_at(registry)).returncode == 0:
        engine.docker("rmi", name_at(registry), check=True)
        assert nothing_of(engine) == []
        return
    refused(engine, registry)


def test_after_all_lies_the_truth_comes_and_runs(engine: CortenEngine, registry: LyingRegistry) -> None:
    comes_and_goes(engine, registry)


def test_no_lie_costs_memory_threads_or_descriptors(engine: CortenEngine, registry: LyingRegistry) -> None:
    """The largest lies again, and what cortend has afterwards."""
    comes_and_goes(engine, registry)
    wait_for(lambda: threads(engine) < 40, "threads of pulls to end")
    memory, open_files, running = resident(engine), descriptors(engine), threads(engine)
    names = (
        "a manifest without an end",
        "a blob of chunks without an end",
        "a compressed manifest",
        "a compressed blob",
    )
    for name in names:
        registry.add(lies.honest(), lies.REPOSITORY, lies.TAG)
        registry.lies[:] = [lies.PROTOCOL[name]]
        refused(engine, registry)
    registry.lies.clear()
    for name in ("nested deep", "a million layers", "a million machines", "a bomb"):
        CONTENTS[name].put(registry)
        refused(engine, registry)
    assert resident(engine) < memory + (100 << 20)
    wait_for(lambda: threads(engine) <= running + 4, "threads of pulls to end", timeout=90)
    wait_for(lambda: descriptors(engine) <= open_files + 8, "descriptors to be closed", timeout=90)


def resident(engine: CortenEngine) -> int:
    """The most bytes that cortend ever had."""
    text = Path(f"/proc/{engine.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) << 10


def descriptors(engine: CortenEngine) -> int:
    """Of cortend."""
    return len(os.listdir(f"/proc/{engine.pid}/fd"))


def test_a_name_keeps_what_it_stood_for_when_a_pull_fails(engine: CortenEngine, registry: LyingRegistry) -> None:
    engine.docker("pull", name_at(registry), check=True)
    before = engine.docker("image", "inspect", "-f", "{{.Id}}", name_at(registry), check=True).stdout
    CONTENTS["other content than the configuration says"].put(registry)
    assert engine.docker("pull", name_at(registry)).returncode != 0
    assert engine.docker("image", "inspect", "-f", "{{.Id}}", name_at(registry), check=True).stdout == before
    engine.docker("rmi", name_at(registry), check=True)
    assert nothing_of(engine) == []


@pytest.fixture
def place() -> Iterator[Place]:
    folder = paths.scratch("place")
    (folder / "outside").mkdir()
    (folder / "outside/victim").write_text("precious")
    yield Place(folder, folder / "outside", look(folder / "outside"))
    shutil.rmtree(folder)


def test_no_layer_of_a_pulled_image_leaves_its_directory(
    engine: CortenEngine, registry: LyingRegistry, place: Place
) -> None:
    base = t.archive(t.directory(b"bin"))
    for number, (name, escape) in enumerate(ESCAPES.items()):
        image = pullimages.image([base, escape.archive(place.outside)])
        reference = registry.add(image, "target/escape", str(number))
        if engine.docker("pull", reference).returncode == 0:
            engine.docker("rmi", reference, check=True)
        assert place.untouched(), name
    assert nothing_of(engine) == []


def test_a_digest_that_is_asked_for_is_the_one_that_comes(engine: CortenEngine, registry: LyingRegistry) -> None:
    other = pullimages.busybox()
    registry.add(other, lies.REPOSITORY, "2")
    held = registry.held[lies.REPOSITORY]
    asked = lies.honest().digest
    held.manifests[asked] = held.manifests[other.digest]
    done = engine.docker("pull", f"{registry.host}/{lies.REPOSITORY}@{asked}")
    assert done.returncode != 0
    assert nothing_of(engine) == []


# Who else is there.


def test_a_pull_that_hangs_does_not_hold_up_others(engine: CortenEngine, registry: LyingRegistry) -> None:
    registry.lies.append(on("blobs", lies.silence))
    hanging = threading.Thread(target=lambda: engine.docker("pull", name_at(registry), timeout=100))
    hanging.start()
    try:
        wait_for(lambda: any(one.kind == "blobs" for one in registry.asked), "request for a blob")
        with LyingRegistry(netns=engine.netns) as other:
            reference = other.add(pullimages.busybox(), "other/image", "1")
            engine.docker("pull", reference, check=True, timeout=30)
            engine.docker("rmi", reference, check=True)
    finally:
        registry.close()
        hanging.join(100)
    assert nothing_of(engine) == []


def test_many_pulls_that_hang_end_with_their_clients(engine: CortenEngine, registry: LyingRegistry) -> None:
    """Each of another image, asked for by a client that says nothing more."""
    registry.lies.append(on("blobs", lies.silence))
    before = threads(engine)
    with ExitStack() as stack:
        for number in range(MANY):
            registry.add(pullimages.image([images.layer([images.Entry(str(number))])]), "many/images", str(number))
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(engine.socket))
            image = f"{registry.host}/many/images".replace("/", "%2F").replace(":", "%3A")
            target = f"/images/create?fromImage={image}&tag={number}"
            client.sendall(f"POST {target} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
        wait_for(lambda: len({one.target for one in registry.asked if one.kind == "blobs"}) >= 3, "requests for blobs")
        with LyingRegistry(netns=engine.netns) as other:
            reference = other.add(pullimages.busybox(), "other/image", "1")
            engine.docker("pull", reference, check=True, timeout=60)
            engine.docker("rmi", reference, check=True)
    wait_for(lambda: threads(engine) <= before + 4, "threads of the pulls to end", timeout=60)
    wait_for(lambda: nothing_of(engine) == [], "nothing of them")


def test_a_wrong_size_for_a_layer_does_not_spoil_an_honest_pull_of_it(
    engine: CortenEngine, registry: LyingRegistry
) -> None:
    """Both have the same digest; the one that lies comes first."""
    own = images.layer([images.Entry("own", pullimages.noise(8, 100_000))])
    image = pullimages.image([*images.busybox_layers(), own])
    digest = image.layers[-1].digest
    registry.add(image, lies.REPOSITORY, lies.TAG)

    def drips(exchange: Exchange) -> bool:
        return exchange.reference == digest and lies.drip_blob(exchange)

    with LyingRegistry(drips, netns=engine.netns) as liar:
        lies.edited(lambda one: one["layers"][-1].update(size=one["layers"][-1]["size"] + 5), of=image).put(liar)
        first = threading.Thread(target=lambda: engine.docker("pull", name_at(liar), timeout=100))
        first.start()
        try:
            wait_for(lambda: any(one.reference == digest for one in liar.asked), "request for the layer")
            engine.docker("pull", name_at(registry), check=True, timeout=30)
        finally:
            liar.close()
            first.join(100)
    engine.docker("rmi", name_at(registry), check=True)
    assert nothing_of(engine) == []


def test_a_client_that_goes_away_ends_its_pull(engine: CortenEngine, registry: LyingRegistry) -> None:
    registry.lies.append(on("blobs", lies.drip_blob))
    before = threads(engine)
    with pytest.raises(TimeoutError):
        run_briefly(engine, "pull", name_at(registry))
    wait_for(lambda: threads(engine) <= before + 2, "threads of the pull to end", timeout=60)
    assert nothing_of(engine) == []


def run_briefly(engine: CortenEngine, *words: str) -> None:
    """The docker CLI for two seconds."""
    try:
        engine.docker(*words, timeout=2)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def threads(engine: CortenEngine) -> int:
    """Of cortend."""
    return len(os.listdir(f"/proc/{engine.pid}/task"))


# Credentials, by the engine's own rules.


def login(registry: LyingRegistry, folder: Path) -> None:
    """A config.json with the password for the registry."""
    auth = base64.b64encode(b"somebody:s3cret").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))


def docker_with(engine: CortenEngine, folder: Path, *words: str) -> int:
    """The docker CLI with that config.json: its exit status."""
    return engine.docker("--config", str(folder), *words).returncode


def test_credentials_of_a_user_stay_at_the_registry(
    engine: CortenEngine, registry: LyingRegistry, tmp_path: Path
) -> None:
    login(registry, tmp_path)
    with Trap(netns=engine.netns) as trap:
        trap.add(lies.honest(), lies.REPOSITORY, lies.TAG)
        redirecting: Lie = on("blobs", lambda one: one.reply(307, {"Location": f"{trap.url}{one.target}"}))
        registry.lies[:] = [wants_basic("somebody", "s3cret"), redirecting]
        assert docker_with(engine, tmp_path, "pull", name_at(registry)) == 0
        assert trap.asked
        assert trap.caught == []
        engine.docker("rmi", name_at(registry), check=True)
    assert "s3cret" not in engine.log.read_text(errors="replace")
    assert nothing_of(engine) == []


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_a_push_that_is_sent_elsewhere_takes_no_credentials_along(
    engine: CortenEngine, registry: LyingRegistry, tmp_path: Path, method: str
) -> None:
    login(registry, tmp_path)
    engine.docker("pull", name_at(registry), check=True)
    target = f"{registry.host}/target/pushed:1"
    engine.docker("tag", name_at(registry), target, check=True)
    with Trap(netns=engine.netns) as trap:
        redirecting = on("uploads", lies.redirect(f"{trap.url}/v2/x/blobs/uploads/here"), methods=(method,))
        registry.lies[:] = [wants_basic("somebody", "s3cret"), redirecting]
        docker_with(engine, tmp_path, "push", target)
        assert trap.caught == []
    engine.docker("rmi", name_at(registry), target, check=True)
    assert nothing_of(engine) == []
