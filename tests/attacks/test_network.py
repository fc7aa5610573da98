"""D14: who must not reach a container does not, over IPv4 and IPv6, TCP and UDP, also while the daemon is dead.

A neighbour on the client's segment routes to the containers' subnets, or 127/8, over the host.  Each attack has its
twin: the same packets arrive once the engine's table is gone, or a switch of ours is turned back.

The classes: moby 2020-13401 (router advertisements), 2024-32473 (IPv6 that was off), 2025-54388 and 2025-54410
(isolation that ends with somebody's reload), podman 2021-20199, and ports of 127.0.0.1 that neighbours reached.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from support import process
from support.engine import CortenEngine
from support.netlab import Node, TcpServer, UdpServer, ask_tcp, ask_udp
from support.networld import CLIENT, CLIENT6, HOST, HOST6, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

SILENT_S, PATIENCE_S = 0.25, 60.0
NETS = {"one": ("10.91.0.0/24", "fd91::/64"), "two": ("10.92.0.0/24", "fd92::/64")}


@dataclass
class Scene:
    """Two networks of both families, a container on each; that of `one` publishes ports on 127.0.0.1 and everywhere."""

    world: World
    engine: CortenEngine
    one: Node
    two: Node

    def address(self, name: str, version: int) -> str:
        return self.world.address(name, name, version=version)

    @property
    def table(self) -> str:
        return f"corten-{(self.engine.data_root / 'engine-id').read_text().strip()}"

    def reached(self, asker: Node, address: str, port: int) -> set[str]:
        """What a server answers over TCP and UDP."""
        return all_reached([(asker, address, port)])[0]


def all_reached(tries: Sequence[tuple[Node, str, int]], timeout: float = SILENT_S) -> list[set[str]]:
    """What a server answers over TCP and UDP, for each attempt; all at once, for most of them end in silence."""
    with ThreadPoolExecutor(2 * len(tries)) as pool:
        found = [(pool.submit(ask_tcp, *one, timeout), pool.submit(_ask_udp, *one, timeout)) for one in tries]
        return [{tcp.result(), udp.result()} for tcp, udp in found]


def _ask_udp(asker: Node, address: str, port: int, timeout: float) -> str:
    return ask_udp(asker, address, port, timeout=timeout)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with World() as world, world.corten() as engine, ExitStack() as servers:
        for name, subnets in NETS.items():
            ranges = [f"--subnet={one}" for one in subnets]
            engine.docker("network", "create", "--ipv6", *ranges, name, check=True)
        one = world.container("--network", "one", "-p", "8080:80", "-p", "127.0.0.1:8081:80", name="one")
        two = world.container("--network", "two", name="two")
        for node in (one, two):
            servers.enter_context(TcpServer(node, 80, "::"))
            servers.enter_context(UdpServer(node, 80, address="::"))
        world.client.route("eth0", HOST)
        world.client.route("eth0", HOST6)
        yield Scene(world, engine, one, two)


def silent(found: dict[str, set[str]]) -> bool:
    return all(one == {"silence"} for one in found.values())


def test_neighbours_and_other_networks_are_kept_out_with_the_daemon_and_without(scene: Scene) -> None:
    addresses = {version: (scene.address("one", version), scene.address("two", version)) for version in (4, 6)}

    tries = {
        f"{who}, IPv{version}": attempt
        for version, (one, two) in addresses.items()
        for who, attempt in (
            ("neighbour to the container's address", (scene.world.client, one, 80)),
            ("from network to network", (scene.one, two, 80)),
        )
    }

    def attempts(timeout: float = SILENT_S) -> dict[str, set[str]]:
        return dict(zip(tries, all_reached(list(tries.values()), timeout), strict=True))

    assert silent(alive := attempts()), alive
    scene.engine.kill9()
    assert silent(dead := attempts()), dead
    assert ask_tcp(scene.world.client, HOST, 8080) == CLIENT, "a published port needs no daemon"
    scene.world.host.run(["nft", "flush", "ruleset"])
    twins = attempts(PATIENCE_S)
    assert not any("silence" in one for one in twins.values()), "without the rules the same packets arrive"
    scene.engine.start()
    assert silent(back := attempts()), back


def test_a_port_of_the_loopback_address_is_the_hosts_alone(scene: Scene) -> None:
    client = scene.world.client
    client.sysctl("ipv4/conf/all/route_localnet", "1")
    client.run(["ip", "address", "delete", "127.0.0.1/8", "dev", "lo"])
    client.run(["ip", "route", "add", "127.0.0.1/32", "via", HOST, "src", CLIENT])
    assert ask_tcp(scene.world.host, "127.0.0.1", 8081) != "refused"
    assert ask_tcp(client, HOST, 8081) == "refused"
    assert scene.reached(client, "127.0.0.1", 8081) == {"silence"}
    scene.engine.kill9()
    assert ask_tcp(client, "127.0.0.1", 8081, SILENT_S) == "silence"
    scene.world.host.run(["nft", "flush", "chain", "inet", scene.table, "guard"])
    assert ask_tcp(client, "127.0.0.1", 8081) == CLIENT, "without the guard it is the neighbour's too"
    scene.engine.start()
    assert ask_tcp(client, "127.0.0.1", 8081, SILENT_S) == "silence"


def test_a_published_port_does_not_open_the_containers_own_address(scene: Scene) -> None:
    assert ask_tcp(scene.world.client, HOST, 8080) == CLIENT
    assert ask_tcp(scene.world.client, scene.address("one", 4), 80, SILENT_S) == "silence"


def test_a_container_on_an_internal_network_gets_nowhere_whatever_it_does(scene: Scene) -> None:
    """Also with routes of its own making, and its questions stay inside."""
    scene.engine.docker("network", "create", "--internal", "--subnet=10.93.0.0/24", "inner", check=True)
    inner = scene.world.container("--network", "inner", name="inner")
    gateway = "10.93.0.1"
    inner.run(["ip", "route", "replace", "default", "via", gateway])
    with TcpServer(scene.world.client, 99), UdpServer(scene.world.client, 99):
        assert scene.reached(inner, CLIENT, 99) == {"silence"}
        assert scene.reached(inner, scene.address("one", 4), 80) == {"silence"}
    before = len(scene.world.names.asked)
    said = scene.engine.docker("exec", "inner", "nslookup", "www.example.test")
    assert "203.0.113.7" not in said.stdout
    assert scene.world.names.names()[before:] == []
    twin = scene.engine.docker("exec", "one", "nslookup", "www.example.test")
    assert "203.0.113.7" in twin.stdout, twin
    assert "www.example.test" in scene.world.names.names()[before:]
    scene.world.remove("inner")
    scene.engine.docker("network", "rm", "inner", check=True)


def test_ipv6_that_is_off_is_off_on_both_ends_of_the_cable(scene: Scene) -> None:
    plain = scene.world.container(name="plain")
    name = next(link.name for link in scene.world.host.links.links() if link.name.startswith("ctn-"))
    on_host = scene.world.host.run(["ip", "-6", "-o", "address", "show", "dev", name])
    inside = plain.run(["ip", "-6", "-o", "address", "show", "dev", "eth0"])
    assert (on_host, inside) == ("", "")
    # a container with every right turns it on for itself: nobody on the other side listens
    plain.sysctl("ipv6/conf/eth0/disable_ipv6", "0")
    plain.address("eth0", "fd99::2/64")
    plain.run(["ip", "-6", "route", "replace", "default", "via", "fe80::1", "dev", "eth0"])
    with TcpServer(scene.world.client, 99, "::"):
        assert ask_tcp(plain, CLIENT6, 99, SILENT_S) in ("silence", "errno 113")
    scene.world.remove("plain")


def advertise(node: Node) -> None:
    """A router advertisement to everybody on the link: a default route, and a prefix to take an address from."""
    prefix = struct.pack(">BBBBIII16s", 3, 4, 64, 0xC0, 9000, 9000, 0, socket.inet_pton(socket.AF_INET6, "fd66::"))
    message = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 9000, 0, 0) + prefix
    link = node.links.link("eth0")
    assert link is not None
    sender = node.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
    with sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.sendto(message, ("ff02::1", 0, 0, link.index))


def advertised(host: Node) -> str:
    return host.run(["ip", "-6", "route"]) + host.run(["ip", "-6", "address"])


def test_a_containers_router_advertisement_is_not_taken_by_the_host(scene: Scene) -> None:
    """moby 2020-13401: CAP_NET_RAW, which every container has, is all that it needs."""
    host = scene.world.host
    index = next(one.index for one in host.links.addresses() if str(one.interface.ip) == "fd91::1")
    bridge = next(link.name for link in host.links.links() if link.index == index)
    process.wait_for(lambda: "fe80" in scene.one.run(["ip", "-6", "address", "show", "eth0"]), "link-local address")
    process.wait_for(lambda: "tentative" not in scene.one.run(["ip", "-6", "address"]), "end of DAD")
    for _ in range(3):
        advertise(scene.one)
    assert "fd66" not in advertised(host)
    assert "default via fe80" not in host.run(["ip", "-6", "route", "show", "dev", bridge])
    host.sysctl(f"ipv6/conf/{bridge}/accept_ra", "2")

    def taken() -> bool:
        advertise(scene.one)
        return "fd66" in advertised(host)

    process.wait_for(taken, "the twin: with accept_ra the host takes it")
    host.run(["ip", "-6", "address", "flush", "dev", bridge, "to", "fd66::/64"])
    host.sysctl(f"ipv6/conf/{bridge}/accept_ra", "0")
    host.run(["ip", "-6", "route", "flush", "dev", bridge, "proto", "ra"])


def test_a_flush_beside_the_daemon_leaves_no_way_in(scene: Scene) -> None:
    """What began in the gap ends with it, and the gap ends at once."""
    one = scene.address("one", 4)
    table = ["nft", "list", "table", "inet", scene.table]
    before = scene.world.host.run(["nft", "-s", *table[1:]])
    scene.world.host.run(["nft", "flush", "ruleset"])

    def is_back() -> bool:
        try:
            return scene.world.host.run(["nft", "-s", *table[1:]]) == before
        except AssertionError:
            return False

    process.wait_for(is_back, "return of the rules")
    assert scene.reached(scene.world.client, one, 80) == {"silence"}
    assert ask_tcp(scene.world.client, HOST, 8080) == CLIENT
    process.wait_for(lambda: "was changed by nft: put right" in scene.engine.log.read_text(), "the log's word of it")
