"""cortend in the namespace of a dockerd 26.1 that made the host a router, and drops what is forwarded."""

from __future__ import annotations

import json

import pytest

from support import images, process
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.netlab import Node, TcpServer, ask_tcp
from support.networld import CLIENT, HOST, World

SILENT_S = 0.3


def address(engine: Dockerd | CortenEngine, name: str) -> str:
    found = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return str(found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


def test_both_engines_serve_and_neither_reaches_the_others_containers() -> None:
    with World() as world, world.dockerd() as dockerd:
        docker = world.container("-p", "9090:80", name="docker")
        before = world.host.run(["iptables", "-S"])
        assert "-P FORWARD DROP" in before
        with world.corten() as corten:
            web = world.container("-p", "8080:80", name="web")
            place = world.host.run(["iptables", "-S", "DOCKER-USER"])
            assert f"corten-{(corten.data_root / 'engine-id').read_text().strip()}" in place
            serves(world, {"web": (web, 8080), "docker": (docker, 9090)})
            with TcpServer(docker, 81), TcpServer(web, 80):  # dockerd 26.1 lets everybody to a port that is published
                assert ask_tcp(web, address(dockerd, "docker"), 81, SILENT_S) == "silence"
                assert ask_tcp(docker, address(corten, "web"), 80, SILENT_S) == "silence"
            corten.docker("network", "create", "second", check=True)
            second = world.container("--network", "second", "-p", "8081:80", name="second")
            serves(world, {"second": (second, 8081)})
            for name in ("second", "web"):
                world.remove(name)
        assert world.host.run(["iptables", "-S"]) == before, "nothing of ours is left in docker's chains"
        world.engine = dockerd
        assert dockerd.docker("run", "--rm", images.BUSYBOX_REF, "true").returncode == 0


@pytest.mark.slow
def test_a_dockerd_that_starts_later_serves_as_well() -> None:
    """It finds a host that forwards already, and our drop of what is not ours: its bridges are its own to route."""
    with World() as world, world.corten():
        web = world.container("-p", "8080:80", name="web")
        corten = world.engine
        with world.dockerd():
            docker = world.container("-p", "9090:80", name="docker")
            process.wait_for(lambda: "docker0" in ours(world), "rules for docker's bridge")
            serves(world, {"web": (web, 8080), "docker": (docker, 9090)})
            inside = address(world.engine, "docker")
            world.client.route("eth0", HOST)
            with TcpServer(docker, 81):
                assert ask_tcp(world.client, inside, 81, SILENT_S) == "silence", "from outside, published ports only"
                assert ask_tcp(world.host, inside, 81) != "refused"
            world.remove("docker")
        world.engine = corten


def ours(world: World) -> str:
    """The end of our forward chain."""
    return world.host.run(["nft", "list", "ruleset", "inet"])


def serves(world: World, containers: dict[str, tuple[Node, int]]) -> None:
    """Each reaches the client, and the client each."""
    for name, (node, port) in containers.items():
        with TcpServer(node, 80), TcpServer(world.client, 99):
            assert ask_tcp(node, CLIENT, 99) == HOST, name
            assert ask_tcp(world.client, HOST, port) == CLIENT, name
