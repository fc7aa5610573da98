"""A container on a macvlan through the life of a real cortend."""

from __future__ import annotations

import pytest

from support import images
from support.netlab import TcpServer, ask_tcp
from support.networld import CLIENT, World

LAN = ("-o", "parent=world", "--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.64/26", "--gateway", CLIENT)


@pytest.mark.slow
def test_a_container_on_a_macvlan_outlives_cortend_and_gives_its_address_back() -> None:
    with World() as world, world.corten() as engine:
        engine.docker("network", "create", "-d", "macvlan", *LAN, "lan", check=True)
        node = world.container("--network", "lan", name="one")
        engine.kill9()
        with TcpServer(world.client, 99):
            assert ask_tcp(node, CLIENT, 99) == "192.0.2.64"
        engine.start()
        with TcpServer(node, 80):
            assert ask_tcp(world.client, "192.0.2.64", 80) == CLIENT
        joined = ("run", "-d", "--name", "two", "--network", "container:one", images.BUSYBOX_REF, "sleep", "600")
        engine.docker(*joined, check=True)  # the namespace stays
        world.remove("one")
        other = world.container("--network", "lan", name="three")
        assert world.address("three", "lan") == "192.0.2.64"
        with TcpServer(world.client, 99):
            assert ask_tcp(other, CLIENT, 99) == "192.0.2.64"
        engine.docker("rm", "-f", "two", check=True)
        world.remove("three")
        engine.docker("network", "rm", "lan", check=True)
