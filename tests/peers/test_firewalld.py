"""A real firewalld beside the engine: it is named where it rejects, and with the bridge in a zone everything works."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from support.engine import CortenEngine
from support.firewalld import Firewalld
from support.images import BUSYBOX_REF as IMAGE
from support.netlab import TcpServer, UdpServer, ask_tcp, ask_udp
from support.networld import CLIENT, HOST, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE_S = 60.0
CHAIN = "chain inet firewalld filter_FORWARD of the host's firewall drops what is forwarded"
REJECTED = "errno 113"  # what "administratively prohibited" is to who asks


def bridge_of(engine: CortenEngine) -> str:
    return f"ctn-{(engine.data_root / 'engine-id').read_text().strip()}"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def reaches_all(world: World) -> None:
    """Out of the container, and in by its published port."""
    with TcpServer(world.client, 99):
        assert ask_tcp(world.node("web"), CLIENT, 99) == HOST
    assert ask_tcp(world.client, HOST, 8080) == CLIENT
    assert ask_udp(world.client, HOST, 8080) == CLIENT


def test_firewalld_is_named_until_the_bridge_is_in_a_zone_that_accepts() -> None:
    with World() as world, Firewalld(world.host) as firewalld, world.corten() as engine:
        bridge = bridge_of(engine)
        refused = engine.docker("run", "--name", "web", IMAGE, "true")
        assert f"{CHAIN}: let {bridge} pass there" in refused.stderr
        engine.docker("rm", "web", check=True)
        for words in (("--permanent",), ()):
            firewalld.cmd(*words, "--zone=trusted", f"--add-interface={bridge}")
        node = world.container("-p", "8080:80", "-p", "8080:80/udp", name="web")
        with TcpServer(node, 80), UdpServer(node, 80):
            reaches_all(world)
            firewalld.cmd("--reload")
            reaches_all(world)
            firewalld.cmd("--complete-reload")
            reaches_all(world)
            with TcpServer(world.host, 98):
                assert ask_tcp(world.client, HOST, 98) == REJECTED, "it is at work"


def test_with_respect_firewalld_says_who_reaches_a_published_port() -> None:
    config = {"host-firewall": "respect"}
    with World() as world, Firewalld(world.host) as firewalld, world.corten(config=config) as engine:
        firewalld.cmd("--zone=trusted", f"--add-interface={bridge_of(engine)}")
        node = world.container("-p", "8080:80", name="web")
        with TcpServer(node, 80):
            assert ask_tcp(world.client, HOST, 8080) == REJECTED
            assert ask_tcp(world.host, HOST, 8080) == HOST
            firewalld.cmd("--add-port=8080/tcp")
            assert ask_tcp(world.client, HOST, 8080) == CLIENT
            firewalld.cmd("--remove-port=8080/tcp")
            wait_until(lambda: ask_tcp(world.client, HOST, 8080) == REJECTED, "the port is closed again")
