"""From a name to an image, with a registry in memory."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corten.core import dataroot
from corten.core.content import ContentStore
from corten.core.events import EventBus
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.errors import CortenError, Internal, InvalidArgument, NotFound, Unavailable
from corten.registry.cancel import Cancel, Cancelled
from corten.registry.downloads import Claims, Downloads
from corten.registry.pull import Shared, pull
from corten.spec.image import Descriptor, Platform
from corten.spec.reference import parse
from support import tarballs as t
from support.fakerepository import FakeRepository
from support.pullimages import Blob, Image, image, index, of_blobs


def noise(seed: int, size: int = 200_000) -> bytes:
    return random.Random(seed).randbytes(size)


BASE = t.archive(t.directory(b"bin"), t.entry(b"bin/sh", data=noise(1)))
MIDDLE = t.archive(t.entry(b"bin/tool", data=noise(2)))
TOP = t.archive(t.entry(b"etc/name", data=b"top"), t.entry(b"bin/more", data=noise(3)))
ONE = image([BASE, MIDDLE, TOP])
NAME = parse("reg.example/test:1")


class Lab:
    """An image store and what was told."""

    def __init__(self, folder: Path) -> None:
        self.root = dataroot.open_data_root(str(folder / "data"))
        self.database = Database(self.root.join("corten.db"))
        self.bus = EventBus()
        self.open()

    def open(self, concurrent: int = 3) -> None:
        """As a start of the engine does."""
        content = ContentStore(self.root.join("content"))
        overlay = Overlay(self.root.join("snapshots"), self.database, Journal(self.database))
        self.images = ImageStore(self.database, content, overlay, self.bus.publish)
        self.shared = Shared(self.images, Downloads(content, concurrent=lambda: concurrent), Claims())

    def pull(self, repository: FakeRepository, name: str = str(NAME), platform: Platform | None = None) -> list[str]:
        """What is told, as `id: status`, without bars."""
        told: list[dict[str, Any]] = []
        cancel = repository.registry.cancel if not repository.registry.cancel.is_set else Cancel()
        repository.registry.cancel = cancel
        pull(self.shared, parse(name), repository, tell=told.append, cancel=cancel, platform=platform)
        return [": ".join(filter(None, (one.get("id"), one["status"]))) for one in told if not one.get("progress")]

    def left(self) -> list[object]:
        """What a failed pull may not leave."""
        images = self.images
        staged = images.overlay.staged_directories()
        return [*images.all(), *images.content.blobs(), *images.overlay.all(), *images.leases.list(), *staged]

    def files(self, image_id: str) -> list[str]:
        chain = self.images.get(image_id).chain_ids
        places = [Path(self.images.overlay.fs_path(self.images.overlay.stat(one).id)) for one in chain]
        return sorted(str(path.relative_to(place)) for place in places for path in place.rglob("*") if path.is_file())


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def short(blob: Blob) -> str:
    return blob.digest[7:19]


def test_an_image_is_pulled_and_every_layer_told_of(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    told = lab.pull(repository)
    assert told[0] == "1: Pulling from test"
    assert [line for line in told if "Pulling fs" in line] == [
        f"{short(blob)}: Pulling fs layer" for blob in ONE.layers
    ]
    assert told[-2:] == [f"Digest: {ONE.digest}", f"Status: Downloaded newer image for {NAME}"]
    complete = [line for line in told if line.endswith("Pull complete")]
    assert complete == [f"{short(blob)}: Pull complete" for blob in ONE.layers]
    found = lab.images.get(str(NAME))
    assert found.id == ONE.config.digest
    assert lab.files(found.id) == ["bin/more", "bin/sh", "bin/tool", "etc/name"]
    assert {blob.digest for blob in lab.images.content.blobs()} == {ONE.digest, *(blob.digest for blob in ONE.blobs)}
    assert not lab.images.leases.list()
    assert not lab.images.content.partials.sizes()


def test_the_event_names_the_reference_and_carries_the_labels(lab: Lab) -> None:
    labelled = image([BASE], {"Labels": {"made": "here"}})
    lab.pull(FakeRepository(("1", labelled)))
    with lab.bus.subscribe(since_ns=0) as events:
        (event,) = events.drain()
    assert (event.action, event.id) == ("pull", "reg.example/test:1")
    assert event.attributes == {"made": "here", "name": "reg.example/test"}


def test_the_same_image_again_is_up_to_date_and_nothing_is_fetched(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    lab.pull(repository)
    repository.fetched.clear()
    repository.documents.clear()
    assert lab.pull(repository) == [
        "1: Pulling from test",
        f"Digest: {ONE.digest}",
        f"Status: Image is up to date for {NAME}",
    ]
    assert not [*repository.fetched, *repository.documents]


@pytest.mark.parametrize("document", [ONE.config.digest, ONE.digest])
def test_a_document_that_the_disk_has_damaged_comes_again(lab: Lab, document: str) -> None:
    repository = FakeRepository(("1", ONE))
    lab.pull(repository)
    whole = lab.images.content.read(document)
    Path(lab.images.content.root, "blobs", *document.split(":")).write_bytes(b"{")
    lab.pull(repository)
    assert lab.images.content.read(document) == whole


def test_layers_that_are_here_are_not_fetched_again(lab: Lab) -> None:
    lab.pull(FakeRepository(("1", image([BASE, MIDDLE]))))
    repository = FakeRepository(("2", ONE))
    told = lab.pull(repository, "reg.example/test:2")
    assert told[1:3] == [f"{short(blob)}: Already exists" for blob in ONE.layers[:2]]
    assert [digest for digest, _ in repository.fetched] == [ONE.config.digest, ONE.layers[2].digest]


def test_a_layer_that_comes_twice_is_fetched_once(lab: Lab) -> None:
    twice = image([BASE, MIDDLE, MIDDLE])
    repository = FakeRepository(("1", twice))
    lab.pull(repository)
    assert [digest for digest, _ in repository.fetched].count(twice.layers[1].digest) == 1
    assert len(lab.images.get(str(NAME)).chain_ids) == 3


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_may_be_packed_in_any_way(lab: Lab, compression: str) -> None:
    lab.pull(FakeRepository(("1", image([BASE, TOP], compression=compression))))
    assert "bin/sh" in lab.files(lab.images.get(str(NAME)).id)


def test_a_layer_that_leans_on_one_below_is_unpacked_over_it(lab: Lab) -> None:
    linking = t.archive(t.hard_link(b"bin/second", b"bin/sh"))
    lab.pull(FakeRepository(("1", image([BASE, linking]))))
    assert "bin/second" in lab.files(lab.images.get(str(NAME)).id)


def test_what_came_before_a_line_was_cut_is_not_fetched_again_even_after_a_restart(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    cut = ONE.layers[1].digest
    repository.cuts[cut] = 100_000
    with pytest.raises(CortenError):
        lab.pull(repository)
    assert not lab.left()
    lab.open()
    repository.fetched.clear()
    lab.pull(repository)
    (offset,) = [offset for digest, offset in repository.fetched if digest == cut]
    assert 100_000 <= offset < 110_000
    assert lab.images.get(str(NAME)).id == ONE.config.digest


@pytest.mark.parametrize("where", [0, 90_000])
def test_wrong_bytes_that_an_earlier_attempt_left_come_anew(lab: Lab, where: int) -> None:
    repository, layer = FakeRepository(("1", ONE)), ONE.layers[1]
    repository.cuts[layer.digest] = 100_000
    repository.lies[layer.digest] = layer.data[:where] + noise(9, len(layer.data))[where:]
    with pytest.raises(CortenError):
        lab.pull(repository)
    wait_for(lambda: not lab.shared.downloads.digests())
    repository.lies.clear()
    lab.pull(repository)
    assert lab.images.get(str(NAME)).id == ONE.config.digest
    wait_for(lambda: not lab.images.content.partials.sizes())


def test_what_a_failed_pull_left_can_be_dropped_but_not_what_is_on_its_way(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    repository.cuts[ONE.layers[1].digest] = 100_000
    with pytest.raises(CortenError):
        lab.pull(repository)
    downloads = lab.shared.downloads
    wait_for(lambda: not downloads.digests())
    left = downloads.idle_size()
    assert left > 100_000
    repository.gate.clear()
    (thread,) = together(lambda: lab.pull(repository))
    wait_for(lambda: bool(downloads.digests()))
    assert downloads.idle_size() < left
    downloads.drop_idle()
    repository.gate.set()
    thread.join(30)
    assert lab.images.get(str(NAME)).id == ONE.config.digest
    assert not lab.images.content.partials.sizes()


def test_a_layer_with_other_bytes_is_refused_and_leaves_nothing(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    liar = ONE.layers[1]
    repository.lies[liar.digest] = noise(9, len(liar.data))
    with pytest.raises(InvalidArgument):
        lab.pull(repository)
    assert not lab.left()
    assert liar.digest not in lab.images.content.partials.sizes()
    repository.lies.clear()
    lab.pull(repository)


def test_a_layer_with_another_diff_id_is_refused_and_leaves_nothing(lab: Lab) -> None:
    document = json.loads(ONE.config.data)
    document["rootfs"]["diff_ids"][1] = t.digest(b"other")
    config = replace(ONE.config, data=json.dumps(document).encode())
    with pytest.raises(InvalidArgument, match=r"^layers from manifest don't match image configuration$"):
        lab.pull(FakeRepository(("1", of_blobs(config, ONE.layers))))
    assert not lab.left()


def test_a_configuration_with_other_bytes_is_refused(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    repository.lies[ONE.config.digest] = ONE.config.data.replace(b"linux", b"linuX")
    with pytest.raises(InvalidArgument, match=r"^error pulling image configuration: image config verification failed"):
        lab.pull(repository)
    assert not lab.left()


def test_a_layer_that_the_registry_lost_ends_the_pull(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    del repository.blobs[ONE.layers[2].digest]
    with pytest.raises(Internal, match=r"^unknown blob$"):
        lab.pull(repository)
    assert not lab.left()


def test_an_unknown_tag_is_told_before_anything_else(lab: Lab) -> None:
    told: list[dict[str, Any]] = []
    with pytest.raises(
        NotFound, match=r"^manifest for reg.example/test:2 not found: manifest unknown: manifest unknown"
    ):
        pull(lab.shared, parse("reg.example/test:2"), FakeRepository(("1", ONE)), tell=told.append, cancel=Cancel())
    assert not told


ARM = image([BASE, TOP], architecture="arm64")
BOTH = index([ONE, ARM])


def test_of_an_index_the_manifest_for_the_platform_is_taken_and_the_index_kept(lab: Lab) -> None:
    told = lab.pull(FakeRepository(("1", BOTH)), platform=Platform("arm64", "linux"))
    assert f"Digest: {BOTH.digest}" in told
    assert lab.images.get(str(NAME)).config.architecture == "arm64"
    assert lab.images.target(str(NAME)).digest == BOTH.digest
    assert {BOTH.digest, ARM.digest} <= {blob.digest for blob in lab.images.content.blobs()}


def test_both_platforms_of_an_index_can_be_here(lab: Lab) -> None:
    repository = FakeRepository(("1", BOTH))
    for architecture in ("amd64", "arm64"):
        lab.pull(repository, platform=Platform(architecture, "linux"))
    assert {one.config.architecture for one in lab.images.list()} == {"amd64", "arm64"}


def test_an_index_without_the_platform_is_refused(lab: Lab) -> None:
    with pytest.raises(NotFound, match=r"^no matching manifest for linux/s390x in the manifest list entries$"):
        lab.pull(FakeRepository(("1", BOTH)), platform=Platform("s390x", "linux"))
    assert not lab.left()


def test_a_single_image_for_another_platform_is_taken_and_complained_of(lab: Lab) -> None:
    wanted = "wanted linux/amd64, actual: linux/arm64"
    text = f"image with reference {NAME} was found but does not match the specified platform: {wanted}"
    with pytest.raises(NotFound, match=f"^{text}$"):
        lab.pull(FakeRepository(("1", ARM)), platform=Platform("amd64", "linux"))
    assert lab.images.get(str(NAME)).id == ARM.config.digest


def test_an_image_is_pulled_by_its_digest(lab: Lab) -> None:
    name = f"reg.example/test@{ONE.digest}"
    told = lab.pull(FakeRepository(("1", ONE)), name)
    assert told[0] == f"{name}: Pulling from test"
    assert told[-1] == f"Status: Downloaded newer image for {name}"
    assert lab.images.get(name).id == ONE.config.digest


def test_without_a_tag_all_tags_are_pulled(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE), ("2", image([BASE])))
    told = lab.pull(repository, "reg.example/test")
    assert [line for line in told if "Pulling from" in line] == [
        "1: Pulling from test",
        "2: Pulling from test",
    ]
    assert told[-1] == "Status: Downloaded newer image for reg.example/test"
    assert len(lab.images.list()) == 2
    with lab.bus.subscribe(since_ns=0) as events:
        assert [event.id for event in events.drain()] == ["reg.example/test"]


def together(*work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    return threads


def test_two_pulls_of_the_same_layers_fetch_each_once(lab: Lab) -> None:
    repositories = [FakeRepository(("1", ONE)) for _ in range(2)]
    for repository in repositories:
        repository.gate.clear()
    told: list[list[str]] = []
    threads = together(*(lambda one=one: told.append(lab.pull(one)) for one in repositories))
    wait_for(lambda: sum(len(one.fetched) for one in repositories) >= 5)
    for repository in repositories:
        repository.gate.set()
    for thread in threads:
        thread.join(30)
    fetched = [digest for one in repositories for digest, _ in one.fetched if digest != ONE.config.digest]
    assert sorted(fetched) == sorted(blob.digest for blob in ONE.layers)
    for one in told:
        assert sorted(line for line in one if "Pull complete" in line) == sorted(
            f"{short(blob)}: Pull complete" for blob in ONE.layers
        )
    assert len(told) == 2
    assert lab.images.get(str(NAME)).id == ONE.config.digest
    assert len(lab.images.overlay.all()) == 3


def test_a_registry_that_lies_of_a_layer_is_joined_by_nobody_of_another(lab: Lab) -> None:
    liar, honest = FakeRepository(("1", ONE)), FakeRepository(("1", ONE))
    liar.gate.clear()
    refused: list[BaseException] = []

    def pull_of_the_liar() -> None:
        try:
            lab.pull(liar, "liar.example/test:1")
        except Cancelled as error:
            refused.append(error)

    (thread,) = together(pull_of_the_liar)
    wait_for(lambda: len(liar.fetched) > 1)
    assert lab.pull(honest)[-1] == f"Status: Downloaded newer image for {NAME}"
    liar.registry.cancel.cancel()
    thread.join(30)
    assert refused


def test_a_pull_goes_on_when_the_one_that_fetched_for_it_goes_away(lab: Lab) -> None:
    first, second = FakeRepository(("1", ONE)), FakeRepository(("1", ONE))
    first.gate.clear()
    gone: list[BaseException] = []

    def leave() -> None:
        try:
            lab.pull(first)
        except Cancelled as error:
            gone.append(error)

    threads = together(leave)
    wait_for(lambda: len(first.fetched) > 1)
    told: list[list[str]] = []
    threads += together(lambda: told.append(lab.pull(second)))
    wait_for(lambda: bool(second.fetched))
    first.registry.cancel.cancel()
    for thread in threads:
        thread.join(30)
    assert gone
    assert told[0][-1] == f"Status: Downloaded newer image for {NAME}"


def test_a_pull_that_is_given_up_ends_and_leaves_what_came(lab: Lab) -> None:
    repository = FakeRepository(("1", ONE))
    repository.gate.clear()
    gone: list[BaseException] = []

    def leave() -> None:
        try:
            lab.pull(repository)
        except Cancelled as error:
            gone.append(error)

    (thread,) = together(leave)
    wait_for(lambda: len(repository.fetched) > 1)
    repository.registry.cancel.cancel()
    thread.join(30)
    assert gone
    assert not lab.left()
    wait_for(lambda: not lab.shared.downloads.digests())


def test_no_more_blobs_come_at_once_than_allowed(lab: Lab) -> None:
    lab.open(concurrent=1)
    repository = FakeRepository(("1", ONE))
    told = lab.pull(repository)
    assert [line for line in told if line.endswith("Waiting")]
    assert [digest for digest, _ in repository.fetched[1:]] == [blob.digest for blob in ONE.layers]


def test_a_download_for_which_the_system_has_no_thread_fails_and_holds_up_no_other(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    repository = FakeRepository(("1", ONE))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        blob = Descriptor(ONE.layers[0].media_type, ONE.layers[0].digest, len(ONE.layers[0].data))
        fetch = lambda offset, on_retry: repository.blob(blob, offset)  # noqa: E731
        with lab.shared.downloads.joined("reg.example", blob, fetch, lambda stage, number: None) as partial:
            assert partial is not None
            with pytest.raises(Unavailable, match="no thread for a download"):
                partial.wait()
    assert not lab.shared.downloads.digests()
    lab.pull(repository)


def wait_for(is_so: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if is_so():
            return
        pause.wait(0.01)
    raise AssertionError("never came")


def test_an_image_of_many_layers_is_pulled(lab: Lab) -> None:
    layers: Sequence[bytes] = [t.archive(t.entry(b"f%d" % number, data=b"x")) for number in range(60)]
    many: Image = image(layers)
    lab.pull(FakeRepository(("1", many)))
    assert len(lab.files(lab.images.get(str(NAME)).id)) == 60
    assert hashlib.sha256(many.config.data).hexdigest() == many.config.digest[7:]
