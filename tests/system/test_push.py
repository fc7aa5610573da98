"""Pushes of a whole engine to real registries."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, pullimages, tarballs
from support.engine import CortenEngine
from support.pushers import Skopeo
from support.registries import PASSWORD, USER, Registry

LAYERS = ["8874212ea119", "98ab4490514f"]  # of images.BUSYBOX_REF, top first


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


@pytest.fixture
def registry(engine: CortenEngine) -> Iterator[Registry]:
    with Registry(netns=engine.netns) as made:
        yield made


def _tagged(engine: CortenEngine, registry: Registry, path: str) -> str:
    name = f"{registry.host}/{path}"
    engine.docker("tag", images.BUSYBOX_REF, name, check=True)
    return name


def _said(output: str) -> dict[str, str]:
    """Layer: the last that was said of it."""
    rows = [line.partition(": ") for line in output.splitlines()]
    return {subject: text for subject, _, text in rows if subject in LAYERS}


def _digest(output: str) -> str:
    return output.split("digest: ")[1].split(maxsplit=1)[0]


def test_what_was_pushed_is_at_the_registry_under_its_digest(engine: CortenEngine, registry: Registry) -> None:
    name = _tagged(engine, registry, "a/b:1")
    done = engine.docker("push", name, check=True)
    assert done.stdout.startswith(f"The push refers to repository [{registry.host}/a/b]\n")
    assert _said(done.stdout) == dict.fromkeys(LAYERS, "Pushed")
    assert registry.digest("a/b", "1") == _digest(done.stdout)
    manifest = registry.get_manifest("a/b", "1").json()
    assert manifest["config"]["digest"] == json.loads(engine.docker("inspect", name, check=True).stdout)[0]["Id"]
    pinned = f"{registry.host}/a/b@{_digest(done.stdout)}"
    assert pinned in json.loads(engine.docker("inspect", name, check=True).stdout)[0]["RepoDigests"]


def test_what_is_there_is_not_sent_again_and_what_is_next_door_is_mounted(
    engine: CortenEngine, registry: Registry
) -> None:
    first = engine.docker("push", _tagged(engine, registry, "a/b:1"), check=True).stdout
    again = engine.docker("push", _tagged(engine, registry, "a/b:2"), check=True).stdout
    other = engine.docker("push", _tagged(engine, registry, "c/d:1"), check=True).stdout
    assert _said(again) == dict.fromkeys(LAYERS, "Layer already exists")
    assert _said(other) == dict.fromkeys(LAYERS, "Mounted from a/b")
    assert _digest(first) == _digest(again) == _digest(other) == registry.digest("c/d", "1")


def test_repository_that_lost_its_blobs_is_no_hindrance(engine: CortenEngine, registry: Registry) -> None:
    engine.docker("push", _tagged(engine, registry, "lost/one:1"), check=True)
    manifest = registry.get_manifest("lost/one", "1").json()
    for layer in manifest["layers"]:
        assert registry.request("DELETE", f"/v2/lost/one/blobs/{layer['digest']}").status == 202
    done = engine.docker("push", _tagged(engine, registry, "found/one:1"), check=True)
    assert _said(done.stdout) == dict.fromkeys(LAYERS, "Pushed")


def test_all_tags_of_a_repository_are_pushed_in_order(engine: CortenEngine, registry: Registry) -> None:
    for tag in ("b", "a", "c"):
        _tagged(engine, registry, f"x/y:{tag}")
    done = engine.corten("push", "-a", f"{registry.host}/x/y", check=True)
    tags = [line.partition(":")[0] for line in done.stdout.splitlines() if ": digest: " in line]
    assert tags == ["a", "b", "c"]
    assert sorted(registry.request("GET", "/v2/x/y/tags/list").json()["tags"]) == ["a", "b", "c"]


def test_push_needs_the_registry_s_credentials(engine: CortenEngine) -> None:
    with Registry(netns=engine.netns, users={USER: PASSWORD}) as registry:
        name = _tagged(engine, registry, "a/b:1")
        assert engine.docker("push", name).stderr == "no basic auth credentials\n"
        engine.docker("login", "-u", USER, "--password-stdin", registry.host, stdin=PASSWORD, check=True)
        try:
            for push in (engine.docker, engine.corten):
                assert push("push", name).returncode == 0
            assert registry.digest("a/b", "1")
        finally:
            engine.docker("logout", registry.host, check=True)
        assert engine.corten("push", name).stderr == "no basic auth credentials\n"


def test_push_goes_on_when_the_registry_comes_back(engine: CortenEngine, registry: Registry) -> None:
    name = _tagged(engine, registry, "a/b:1")
    registry.kill()
    refused = engine.docker("push", name)
    assert refused.returncode == 1
    assert "connection refused" in refused.stderr
    registry.start()
    engine.docker("push", name, check=True)


def test_distribution_says_what_the_registry_has(engine: CortenEngine, registry: Registry) -> None:
    name = _tagged(engine, registry, "a/b:1")
    pushed = _digest(engine.docker("push", name, check=True).stdout)
    with contextlib.closing(engine.client()) as client:
        found = client.api.inspect_distribution(name)
    assert found["Descriptor"]["digest"] == pushed
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]


def test_event_of_a_push_names_the_tag(engine: CortenEngine, registry: Registry) -> None:
    since = str(time.time() - 1)
    name = _tagged(engine, registry, "e/v:1")
    engine.docker("push", name, check=True)
    until = str(time.time() + 1)
    words = ["events", "--since", since, "--until", until, "--filter", "event=push", "--format", "{{json .Actor}}"]
    actors = [json.loads(line) for line in engine.docker(*words, check=True).stdout.splitlines()]
    assert {"ID": name, "Attributes": {"name": name.rpartition(":")[0]}} in actors


def test_index_that_was_pulled_for_one_platform_stays_whole_where_the_rest_is(
    engine: CortenEngine, registry: Registry
) -> None:
    both = pullimages.two_platforms()
    reference = both.push(registry, "two/here", "1")
    engine.docker("pull", "-q", reference, check=True)
    near, far = f"{registry.host}/two/here:2", f"{registry.host}/two/there:1"
    for name in (near, far):
        engine.docker("tag", reference, name, check=True)
    assert _digest(engine.docker("push", near, check=True).stdout) == both.digest == registry.digest("two/here", "2")
    done = engine.corten("push", far, check=True)
    assert registry.digest("two/there", "1") == both.children[0].digest == _digest(done.stdout)
    assert f"{both.digest} -> {both.children[0].digest}" in done.stderr


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_what_was_pulled_is_pushed_with_every_bit_as_it_came(
    engine: CortenEngine, registry: Registry, compression: str
) -> None:
    image = pullimages.several(3, compression=compression)
    reference = image.push(registry, f"came/{compression}", "1")
    engine.docker("pull", "-q", reference, check=True)
    with Registry(netns=engine.netns) as other:
        name = f"{other.host}/goes/{compression}:1"
        engine.docker("tag", reference, name, check=True)
        engine.docker("push", "-q", name, check=True)
        assert other.get_manifest(f"goes/{compression}", "1").body == image.manifest.data
        for blob in image.blobs:
            assert other.request("GET", f"/v2/goes/{compression}/blobs/{blob.digest}").body == blob.data


def test_image_that_was_composed_here_is_pushed_with_packed_layers(
    engine: CortenEngine, registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.host}/packed/one:1"
    layers = [*images.busybox_layers(), images.layer([images.Entry("own", b"packed" * 1000)])]
    (tmp_path / "archive").write_bytes(images.docker_archive([name], layers, {"Cmd": ["sh"]}))
    engine.docker("load", "-i", str(tmp_path / "archive"), check=True)
    first = engine.docker("push", name, check=True).stdout
    manifest = registry.get_manifest("packed/one", "1").json()
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    blobs = [registry.request("GET", f"/v2/packed/one/blobs/{one['digest']}").body for one in manifest["layers"]]
    assert [gzip.decompress(one) for one in blobs] == layers
    again = engine.corten("push", name, check=True).stdout
    assert again.count("Layer already exists") == 3
    assert _digest(again) == _digest(first)
    assert _digest(first) in engine.docker("images", "--digests", f"{registry.host}/packed/one", check=True).stdout
    inspected = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    with contextlib.closing(Skopeo(engine.netns)) as skopeo:
        seen = skopeo.pull(name)
    assert (seen.digest, seen.config) == (_digest(first), inspected["Id"])
    assert list(seen.diff_ids) == inspected["RootFS"]["Layers"]
    engine.docker("rmi", name, check=True)
    engine.docker("pull", name, check=True)
    assert json.loads(engine.docker("inspect", name, check=True).stdout)[0]["Id"] == inspected["Id"]


def test_commit_is_pushed_packed_over_the_layers_of_its_image(engine: CortenEngine, registry: Registry) -> None:
    name = f"{registry.host}/packed/commit:1"
    engine.docker("run", "--name", "changed", "--network", "none", images.BUSYBOX_REF, "touch", "/new", check=True)
    engine.docker("commit", "changed", name, check=True)
    engine.docker("rm", "changed", check=True)
    engine.docker("push", "-q", name, check=True)
    manifest = registry.get_manifest("packed/commit", "1").json()
    assert [one["mediaType"].rpartition(".")[2] for one in manifest["layers"]] == ["tar+gzip"] * 3
    engine.docker("rmi", name, check=True)
    engine.docker("run", "--rm", "--network", "none", name, "test", "-e", "/new", check=True)


def test_oci_layout_with_plain_layers_is_pushed_as_it_came(
    engine: CortenEngine, registry: Registry, tmp_path: Path
) -> None:
    name, layers = f"{registry.host}/packed/layout:1", [images.layer([images.Entry("plain", b"plain" * 1000)])]
    (tmp_path / "layout").write_bytes(tarballs.oci_archive(layers, name))
    engine.docker("load", "-i", str(tmp_path / "layout"), check=True)
    engine.docker("push", "-q", name, check=True)
    assert registry.get_manifest("packed/layout", "1").body == tarballs.oci_manifest(layers)
