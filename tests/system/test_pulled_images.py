"""Images of Debian's packages, pulled from a real registry, do what they are made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support import pullimages
from support.engine import CortenEngine
from support.process import wait_for
from support.registries import Registry


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        yield made


@pytest.fixture(scope="module")
def registry(engine: CortenEngine) -> Iterator[Registry]:
    with Registry(netns=engine.netns) as made:
        yield made


def says(engine: CortenEngine, container: str, *words: str) -> str:
    """What a command in it prints once it succeeds."""
    printed: list[str] = []

    def is_done() -> bool:
        done = engine.docker("exec", container, *words)
        printed[:] = [done.stdout]
        return done.returncode == 0

    wait_for(is_done, f"answer in {container}")
    return printed[0]


def test_redis_of_five_layers_answers(engine: CortenEngine, registry: Registry) -> None:
    reference = pullimages.redis().push(registry, "debian/redis", "7")
    engine.docker("pull", reference, check=True)
    engine.docker("run", "-d", "--name", "redis", reference, check=True)
    assert says(engine, "redis", "redis-cli", "ping") == "PONG\n"
    assert says(engine, "redis", "redis-cli", "set", "a", "1") == "OK\n"
    engine.docker("rm", "-f", "redis", check=True)
    engine.docker("rmi", reference, check=True)


@pytest.mark.slow
def test_nginx_of_six_layers_serves_and_stops_by_its_own_signal(engine: CortenEngine, registry: Registry) -> None:
    reference = pullimages.nginx().push(registry, "debian/nginx", "1")
    engine.docker("run", "-d", "--name", "nginx", reference, check=True)
    assert "Welcome to nginx" in says(engine, "nginx", "wget", "-qO-", "http://127.0.0.1/")
    engine.docker("stop", "nginx", check=True)
    state = engine.docker("inspect", "-f", "{{.State.ExitCode}} {{.Config.StopSignal}}", "nginx", check=True)
    assert state.stdout == "0 SIGQUIT\n"
    engine.docker("rm", "nginx", check=True)
    engine.docker("rmi", reference, check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_debian_of_debootstrap_knows_its_packages(engine: CortenEngine, registry: Registry) -> None:
    reference = pullimages.minbase().push(registry, "debian/debian", "bookworm")
    listed = engine.docker("run", "--rm", reference, "dpkg-query", "-W", "-f", "${Package} ", check=True, timeout=100)
    assert {"bash", "dpkg", "libc6"} <= set(listed.stdout.split())
    engine.docker("rmi", reference, check=True)


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker"])
def test_each_platform_of_an_index_is_pulled_by_name(engine: CortenEngine, registry: Registry, docker: bool) -> None:
    image = pullimages.two_platforms(docker=docker)
    reference = image.push(registry, f"debian/two-{docker}".lower(), "1")
    for child in image.children:
        engine.docker("pull", "--platform", f"linux/{child.architecture}", reference, check=True)
        found = engine.docker("image", "inspect", "-f", "{{.Architecture}} {{.Id}}", child.config.digest, check=True)
        assert found.stdout.split() == [child.architecture, child.config.digest]
    engine.docker("rmi", reference, check=True)


@pytest.mark.parametrize(
    "make",
    [
        pullimages.busybox,
        lambda: pullimages.several(compression="zstd"),
        lambda: pullimages.several(compression="none", docker=True),
    ],
    ids=["one layer", "zstd", "bare"],
)
def test_what_was_pulled_runs(engine: CortenEngine, registry: Registry, make: Callable[[], pullimages.Image]) -> None:
    reference = make().push(registry, "some/image", "1")
    assert engine.docker("run", "--rm", reference, "echo", "here", check=True).stdout == "here\n"
    engine.docker("rmi", reference, check=True)
