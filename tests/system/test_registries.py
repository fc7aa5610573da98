"""The registries that other tests lean on: each form asks for what it says, and skopeo reads the images there."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import peers, pullimages
from support.certificates import Authority
from support.netns import NetNs
from support.registries import PASSWORD, USER, Registry
from support.tokenserver import TokenServer


@pytest.fixture(scope="module")
def net() -> Iterator[NetNs]:
    with NetNs() as made:
        yield made


def skopeo(registry: Registry, command: str, reference: str, folder: Path, *options: str) -> str:
    """What it prints, run where the registry is, with the registry's certificate and first user."""
    registry.docker_auth(folder / "auth.json")
    if registry.authority is not None:
        registry.trust(folder / "certs.d")
    trusted = ["--cert-dir", str(folder / "certs.d" / registry.host)] if registry.authority is not None else []
    insecure = [] if registry.authority is not None else ["--tls-verify=false"]
    enter = [] if registry.netns is None else registry.netns.enter
    words = ["--authfile", str(folder / "auth.json"), *trusted, *insecure, *options, f"docker://{reference}"]
    argv = [*enter, str(peers.binary("skopeo")), command, *words]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("users", [{}, {USER: PASSWORD}], ids=["open", "basic"])
def test_a_registry_serves_an_index_after_it_was_killed(
    net: NetNs, tmp_path: Path, tls: bool, users: dict[str, str]
) -> None:
    with Registry(netns=net, tls=tls, users=users) as registry:
        image = pullimages.two_platforms()
        reference = image.push(registry, "some/where", "1")
        registry.kill()
        registry.start()
        assert registry.digest("some/where", "1") == image.digest
        assert skopeo(registry, "inspect", reference, tmp_path, "--raw").encode() == image.manifest.data
        assert registry.request("GET", "/v2/", credentials=None).status == (401 if users else 200)


def test_a_token_is_asked_for_and_trusted(net: NetNs, tmp_path: Path) -> None:
    with (
        TokenServer(Authority(tmp_path), {USER: PASSWORD}, netns=net) as tokens,
        Registry(netns=net, tokens=tokens) as registry,
    ):
        reference = pullimages.busybox().push(registry, "some/where", "1")
        tokens.asked.clear()
        skopeo(registry, "inspect", reference, tmp_path, "--raw")
        assert [(one.account, one.scopes) for one in tokens.asked] == [(USER, ("repository:some/where:pull",))]
        assert registry.request("GET", "/v2/some/where/tags/list", credentials=None).status == 401


def test_a_client_without_a_certificate_is_turned_away(tmp_path: Path) -> None:
    with Registry(tls=True, client_certs=True) as registry:
        registry.trust(tmp_path, registry.client_pair())
        assert registry.request("GET", "/v2/").status == 200
        with pytest.raises(ssl.SSLError):
            registry.request("GET", "/v2/", credentials=None)


def test_a_mirror_serves_what_its_upstream_has() -> None:
    with Registry() as upstream, Registry(proxied=upstream.url) as mirror:
        image = pullimages.busybox(docker=True)
        image.push(upstream, "library/busybox", "1")
        assert mirror.digest("library/busybox", "1") == image.digest


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_an_image_is_the_same_each_time(compression: str) -> None:
    first, second = (pullimages.several(compression=compression) for _ in range(2))
    assert first == second
    assert len(first.layers) == 5
