"""From an image of the store to a registry in memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from corten.errors import Conflict, InvalidArgument, NotFound
from corten.registry.cancel import Cancelled
from corten.registry.errors import ConnectionFailed, RegistryDenied, RegistryError, coded
from corten.spec.image import Descriptor, Platform
from corten.spec.reference import parse
from support.pullimages import Blob, Image, index, of_blobs, several
from support.pushlab import NAME, FakeTarget, Lab, statuses

THREE = several(3)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_blobs_go_first_then_the_manifest_and_it_is_the_same(lab: Lab) -> None:
    lab.have(THREE)
    target = FakeTarget()
    told = lab.push(target)
    assert target.manifests["1"] == THREE.manifest.data
    assert target.blobs == {blob.digest: blob.data for blob in THREE.blobs}
    assert target.order[-1] == "1"
    assert set(statuses(told).values()) == {"Pushed"}
    assert told[-2]["status"] == f"1: digest: {THREE.digest} size: {len(THREE.manifest.data)}"
    assert told[-1]["aux"] == {"Tag": "1", "Digest": THREE.digest, "Size": len(THREE.manifest.data)}
    assert not lab.images.leases.list()


def test_layers_are_announced_from_the_top(lab: Lab) -> None:
    lab.have(THREE)
    first = [one["id"] for one in lab.push(FakeTarget()) if one.get("status") == "Preparing"]
    diff_ids = lab.images.get(str(NAME)).config.diff_ids
    assert first == [one[7:19] for one in reversed(diff_ids)]


def test_what_the_registry_has_is_not_sent(lab: Lab) -> None:
    lab.have(THREE)
    target = FakeTarget()
    lab.push(target)
    target.order.clear()
    assert set(statuses(lab.push(target)).values()) == {"Layer already exists"}
    assert target.order == ["1"]


def test_a_blob_is_mounted_from_where_it_was_seen_and_sent_where_that_fails(lab: Lab) -> None:
    lab.have(THREE)
    digests = [blob.digest for blob in THREE.layers]
    lab.sources.add(parse("reg.example/other"), digests)
    lab.sources.add(parse("elsewhere.example/more"), digests)
    target = FakeTarget(shared={"other": set(digests[:2])})
    said = statuses(lab.push(target))
    assert sorted(said.values()) == ["Mounted from other", "Mounted from other", "Pushed"]
    assert lab.sources.repositories(digests[2], parse("reg.example/third")) == ["test"], "the wrong hint is forgotten"


def test_refusal_of_a_mount_is_no_refusal_of_the_push(lab: Lab) -> None:
    lab.have(THREE)
    lab.sources.add(parse("reg.example/secret"), [blob.digest for blob in THREE.layers])
    target = FakeTarget()

    def refuse(digest: str, *, from_repository: str) -> bool:
        raise RegistryDenied("denied: requested access to the resource is denied", code="DENIED")

    target.mount = refuse  # type: ignore[method-assign]
    assert set(statuses(lab.push(target)).values()) == {"Pushed"}


def test_first_failure_ends_the_push_without_a_tag(lab: Lab) -> None:
    lab.have(THREE)
    target = FakeTarget()

    def break_off(descriptor: Descriptor) -> None:
        if descriptor.digest == THREE.layers[1].digest:
            raise coded("DENIED", 403)

    target.on_upload = break_off
    with pytest.raises(RegistryDenied):
        lab.push(target)
    assert target.manifests == {}
    assert not lab.images.leases.list()
    assert lab.cancel.is_set


def test_client_that_goes_away_ends_the_push(lab: Lab) -> None:
    lab.have(THREE)
    target = FakeTarget()
    target.on_upload = lambda _: lab.cancel.cancel()
    with pytest.raises(Cancelled):
        lab.push(target)
    assert target.manifests == {}


def test_no_more_uploads_than_slots_at_once(lab: Lab) -> None:
    lab.have(THREE)
    target, lock, now, most = FakeTarget(), threading.Lock(), [0], [0]

    def count(descriptor: Descriptor) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.02)
        with lock:
            now[0] -= 1

    target.on_upload = lambda one: count(one) if one.digest != THREE.config.digest else None
    told = lab.push(target, slots=1)
    assert most == [1]
    assert [one.get("status") for one in told].count("Waiting") >= 1


@pytest.mark.parametrize(
    ("refusal", "heard"), [(coded("UNAUTHORIZED", 401), 3), (ConnectionFailed("connection refused"), 0)]
)
def test_client_hears_of_layers_when_there_is_a_registry(lab: Lab, refusal: RegistryError, heard: int) -> None:
    lab.have(THREE)
    target, told = FakeTarget(), list[Any]()
    target.refuses = refusal
    lab.on_told = told.append
    with pytest.raises(type(refusal)):
        lab.push(target)
    assert [one["status"] for one in told] == ["Preparing"] * heard


def test_names_that_cannot_be_pushed_are_refused_in_docker_s_words(lab: Lab) -> None:
    lab.have(THREE)
    for name, text in (
        ("reg.example/nosuch:1", "An image does not exist locally with the tag: reg.example/nosuch"),
        ("reg.example/test:2", "tag does not exist: reg.example/test:2"),
    ):
        with pytest.raises(NotFound, match=text):
            lab.push(FakeTarget(), name)
    with pytest.raises(InvalidArgument, match="cannot push a digest reference"):
        lab.push(FakeTarget(), f"reg.example/test@{THREE.digest}")
    lab.images.unpoint(NAME)
    with pytest.raises(NotFound, match=r"no tags to push for reg\.example/test"):
        lab.push(FakeTarget(), "reg.example/test")


def test_all_tags_are_pushed_and_the_event_names_the_repository(lab: Lab) -> None:
    lab.have(THREE)
    lab.images.tag(str(NAME), "reg.example/test", "0")
    target = FakeTarget()
    lab.push(target, "reg.example/test")
    assert [one for one in target.order if ":" not in one] == ["0", "1"]
    event = lab.events[-1]
    assert (event.action, event.id, event.attributes) == ("push", "reg.example/test", {"name": "reg.example/test"})


# -- indexes

AMD = several(1)


def another(count: int, architecture: str) -> Image:
    """An image for another machine."""
    made = several(count)
    config = Blob(made.config.media_type, made.config.data.replace(b"amd64", architecture.encode()))
    return of_blobs(config, made.layers, architecture=architecture)


ARM = another(2, "arm64")
BOTH = index([AMD, ARM])


def test_index_of_which_one_platform_is_here_is_pushed_as_that_and_says_so(lab: Lab) -> None:
    lab.have(BOTH)
    target = FakeTarget()
    told = lab.push(target)
    assert target.manifests["1"] == AMD.manifest.data
    (note,) = [one["aux"] for one in told if "manifestPushedInsteadOfIndex" in one.get("aux", {})]
    assert (note["originalIndex"]["digest"], note["selectedManifest"]["digest"]) == (BOTH.digest, AMD.digest)


def test_index_whose_other_platforms_are_at_the_registry_is_pushed_whole(lab: Lab) -> None:
    lab.have(BOTH)
    target = FakeTarget()
    target.manifests[ARM.digest] = ARM.manifest.data
    lab.push(target)
    assert target.manifests["1"] == BOTH.manifest.data
    assert ARM.config.digest not in target.blobs


def test_platform_that_is_asked_for_is_pushed_alone(lab: Lab) -> None:
    lab.have(BOTH)
    target = FakeTarget()
    lab.push(target, platform=Platform("amd64", "linux"))
    assert target.manifests["1"] == AMD.manifest.data
    with pytest.raises(NotFound, match="does not match the specified platform"):
        lab.push(target, platform=Platform("s390x", "linux"))


def test_index_of_which_all_is_here_is_pushed_whole(lab: Lab) -> None:
    lab.have(BOTH)
    lab.have(BOTH, platform=Platform("arm64", "linux"))
    target = FakeTarget()
    lab.push(target)
    assert target.manifests["1"] == BOTH.manifest.data
    assert {AMD.digest, ARM.digest, "1"} <= set(target.manifests)
    assert target.order[-1] == "1"


def test_index_with_several_platforms_here_and_others_nowhere_needs_a_choice(lab: Lab) -> None:
    three = index([AMD, ARM, another(4, "riscv64")])
    lab.have(three)
    lab.have(three, platform=Platform("arm64", "linux"))
    with pytest.raises(Conflict, match="multiple matching manifests found"):
        lab.push(FakeTarget())
