"""Two platforms of one name, pulled from a registry: both are kept, listed, selected and removed by docker's CLI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from clients.api import Api
from support import pullimages
from support.engine import CortenEngine
from support.registries import Registry

AMD64, ARM64 = "linux/amd64", "linux/arm64"


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """An engine of its own."""
    with CortenEngine() as started:
        yield started


@pytest.fixture(scope="module")
def image() -> pullimages.Image:
    return pullimages.two_platforms()


@pytest.fixture
def name(engine: CortenEngine, image: pullimages.Image) -> Iterator[str]:
    """The name, pulled for both platforms, this machine's last."""
    with Registry(netns=engine.netns) as registry:
        reference = image.push(registry, "two/platforms", "1")
        for platform in (ARM64, AMD64):
            engine.docker("pull", "--platform", platform, reference, check=True)
    yield reference
    for image_id in engine.docker("images", "-aq", "--no-trunc").stdout.split():
        engine.docker("rmi", "-f", image_id)
    assert list((engine.data_root / "content/blobs/sha256").iterdir()) == []


def rows(engine: CortenEngine, query: str = "") -> Any:
    return Api(engine.socket).ok("GET", f"/images/json{query}")


def ids(image: pullimages.Image) -> list[str]:
    return [child.config.digest for child in image.children]


def test_both_platforms_stand_under_one_name(engine: CortenEngine, image: pullimages.Image, name: str) -> None:
    (row,) = rows(engine, "?manifests=1")
    assert row["RepoTags"] == [name]
    digests = [
        one for each in rows(engine) for one in each["RepoDigests"]
    ]  # of the first that was pulled, as in dockerd
    assert digests == [f"{name.rpartition(':')[0]}@{image.digest}"]
    assert row["Descriptor"]["digest"] == image.digest
    found = [(one["ImageData"]["Platform"]["architecture"], one["Available"], one["Kind"]) for one in row["Manifests"]]
    assert found == [("amd64", True, "image"), ("arm64", True, "image")]
    for one in row["Manifests"]:
        assert one["Size"]["Total"] == one["Size"]["Content"] + one["ImageData"]["Size"]["Unpacked"] > 0
    for cli in (engine.docker, engine.corten):
        tree = cli("images", "--tree").stdout
        assert (f"├─ {AMD64} " in tree, f"└─ {ARM64} " in tree) == (True, True)


def test_each_platform_can_be_asked_for(engine: CortenEngine, image: pullimages.Image, name: str) -> None:
    amd64, arm64 = ids(image)
    shown = ("image", "inspect", "-f", "{{.Id}} {{.Architecture}}")
    assert engine.docker(*shown, name).stdout == f"{amd64} amd64\n"
    assert engine.docker(*shown, "--platform", ARM64, name).stdout == f"{arm64} arm64\n"
    assert engine.corten(*shown, "--platform", ARM64, name).stdout == f"{arm64} arm64\n"
    refused = engine.docker(*shown, "--platform", "linux/s390x", name)
    assert "wanted linux/s390x, actual: linux/amd64" in refused.stderr
    assert engine.docker("history", "-q", "--platform", ARM64, name).stdout.startswith(arm64[7:19])
    document = Api(engine.socket).ok("GET", f"/images/{name}/json?manifests=1")
    assert [one["ID"] for one in document["Manifests"]] == [child.digest for child in image.children]


def test_prune_leaves_platforms_of_a_name_and_removes_them_with_it(engine: CortenEngine, name: str) -> None:
    assert engine.docker("image", "prune", "-f").stdout == "Total reclaimed space: 0B\n"
    removed = engine.docker("image", "prune", "-a", "-f").stdout
    assert f"untagged: {name}" in removed
    assert rows(engine, "?all=1") == []


def test_rmi_of_a_platform_leaves_the_other(engine: CortenEngine, image: pullimages.Image, name: str) -> None:
    amd64, arm64 = ids(image)
    removed = engine.docker("rmi", "--platform", AMD64, name, check=True).stdout
    assert f"Deleted: {amd64}" in removed
    assert "Untagged" not in removed
    assert [row["Id"] for row in rows(engine, "?all=1")] == [arm64]
    assert engine.docker("image", "inspect", "-f", "{{.Architecture}}", name).stdout == "arm64\n"
    (row,) = rows(engine, "?manifests=1")
    assert [one["Available"] for one in row["Manifests"]] == [False, True]


def test_rmi_of_the_name_leaves_what_has_the_digest_to_prune(
    engine: CortenEngine, image: pullimages.Image, name: str
) -> None:
    amd64, arm64 = ids(image)
    removed = engine.docker("rmi", name, check=True).stdout.splitlines()
    assert removed[:2] == [f"Untagged: {name}", f"Deleted: {amd64}"]
    pruned = engine.docker("image", "prune", "-f").stdout.splitlines()
    assert {f"untagged: {name.rpartition(':')[0]}@{image.digest}", f"deleted: {arm64}"} <= set(pruned)


def test_a_start_of_the_engine_keeps_both(engine: CortenEngine, name: str) -> None:
    before = rows(engine, "?all=1&manifests=1")
    engine.kill9()
    engine.start()
    assert rows(engine, "?all=1&manifests=1") == before


def test_the_store_is_a_layout_that_names_the_index(engine: CortenEngine, image: pullimages.Image, name: str) -> None:
    entries = json.loads((engine.data_root / "content/index.json").read_text())["manifests"]
    named = {one["annotations"]["io.containerd.image.name"]: one["digest"] for one in entries if "annotations" in one}
    assert named[name] == image.digest
