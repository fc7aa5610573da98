"""Published ports of a real engine, by IPv4 and IPv6: who reaches them, and who a container sees."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.engine import CortenEngine
from support.images import BUSYBOX_REF as IMAGE
from support.netlab import Node, TcpServer, UdpServer, ask_tcp, ask_udp
from support.networld import CLIENT, CLIENT6, HOST, HOST6, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

GATEWAY, GATEWAY6 = "172.17.0.1", "fd00:1::1"
WEB = ("-p", "8080:80", "-p", "5353:53/udp")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made, made.corten():
        yield made


@pytest.fixture
def engine(world: World) -> Iterator[CortenEngine]:
    assert isinstance(world.engine, CortenEngine)
    yield world.engine
    for name in world.engine.docker("ps", "-a", "--format", "{{.Names}}", check=True).stdout.split():
        world.remove(name)
    world.engine.docker("network", "prune", "-f", check=True)


def ports(world: World, name: str) -> Any:
    return world.inspect(name)["NetworkSettings"]["Ports"]


def held(world: World, port: int, family: int = socket.AF_INET6, address: str = "::") -> bool:
    """Nobody else on the host can have a TCP port; ended connections (TIME_WAIT) do not count."""

    def bind() -> bool:
        with socket.socket(family, socket.SOCK_STREAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                other.bind((address, port))
            except OSError:
                return True
            return False

    return world.host.call(bind)


def everywhere(number: str) -> list[dict[str, str]]:
    return [{"HostIp": "0.0.0.0", "HostPort": number}, {"HostIp": "::", "HostPort": number}]


def test_a_container_without_ipv6_is_reached_by_ipv6_over_the_relay(world: World, engine: CortenEngine) -> None:
    node = world.container(*WEB, name="web")
    assert ports(world, "web") == {"53/udp": everywhere("5353"), "80/tcp": everywhere("8080")}
    with TcpServer(node, 80), UdpServer(node, 53):
        for address in ("::1", HOST6, "127.0.0.1"):
            assert ask_tcp(world.host, address, 8080) == GATEWAY, address
            assert ask_udp(world.host, address, 5353) == GATEWAY, address
        assert ask_tcp(world.client, HOST6, 8080) == GATEWAY
        assert ask_udp(world.client, HOST6, 5353) == GATEWAY
        assert ask_tcp(world.client, HOST, 8080) == CLIENT
        assert ask_udp(world.client, HOST, 5353) == CLIENT


def test_a_container_with_ipv6_sees_who_asks_by_ipv6(world: World, engine: CortenEngine) -> None:
    engine.docker("network", "create", "--ipv6", "--subnet", "fd00:1::/64", "both", check=True)
    node = world.container("--network", "both", *WEB, name="web")
    own = world.address("web", "both", version=6)
    rows = [row.split() for row in world.host.run(["ip", "-6", "-o", "address"]).splitlines()]
    (bridge,) = (row[1] for row in rows if row[3] == "fd00:1::1/64")
    assert not [row for row in rows if row[1] == bridge and "tentative" in row], "neighbours would be asked 2 s later"
    with TcpServer(node, 80, "::"), UdpServer(node, 53, address="::"):
        assert ask_tcp(world.client, HOST6, 8080) == CLIENT6
        assert ask_udp(world.client, HOST6, 5353) == CLIENT6
        assert ask_tcp(world.host, HOST6, 8080) == HOST6
        assert ask_tcp(world.host, "::1", 8080) == GATEWAY6
        assert ask_udp(world.host, "::1", 5353) == GATEWAY6
        assert ask_tcp(node, HOST6, 8080) == GATEWAY6, "its own port (hairpin)"
        assert ask_tcp(world.client, HOST, 8080) == CLIENT
        assert ask_tcp(world.client, own, 80, timeout=0.3) != CLIENT6, "the address itself is not published"


def test_a_udp_flow_of_ipv6_follows_the_port_to_its_next_container(world: World, engine: CortenEngine) -> None:
    """As a DNS forwarder does, from one port all the time: NAT decides at the first datagram of a flow."""
    engine.docker("network", "create", "--ipv6", "--subnet", "fd00:1::/64", "both", check=True)
    for name in ("first", "second"):
        node = world.container("--network", "both", "-p", "5353:53/udp", name=name)
        with UdpServer(node, 53, f"{name} ", "::"):
            end, answer = time.monotonic() + 60, ""
            while not answer.startswith(name) and time.monotonic() < end:
                answer = ask_udp(world.client, HOST6, 5353, source_port=4000, timeout=0.2)
            assert answer == f"{name} {CLIENT6}"
        world.remove(name)
        world.container("--network", "both", name=f"after-{name}")  # takes the address


def test_a_port_on_one_address_is_on_no_other(world: World, engine: CortenEngine) -> None:
    node = world.container("-p", "[::1]:8080:80", "-p", f"[{HOST6}]:8081:80", "-p", "0.0.0.0:8082:80", name="web")
    assert ports(world, "web") == {
        "80/tcp": [
            {"HostIp": "0.0.0.0", "HostPort": "8082"},
            {"HostIp": HOST6, "HostPort": "8081"},
            {"HostIp": "::1", "HostPort": "8080"},
        ]
    }
    with TcpServer(node, 80):
        assert ask_tcp(world.host, "::1", 8080) == GATEWAY
        assert ask_tcp(world.client, HOST6, 8081) == GATEWAY
        assert ask_tcp(world.host, "127.0.0.1", 8082) == GATEWAY
        for asker, address, port in (
            (world.client, HOST6, 8080),
            (world.host, "127.0.0.1", 8080),
            (world.host, "::1", 8081),
            (world.host, "::1", 8082),
        ):
            assert ask_tcp(asker, address, port) == "refused", (address, port)


def test_conflicts_by_ipv6_are_told_in_dockers_words_before_anything_runs(world: World, engine: CortenEngine) -> None:
    world.container("-p", "8080:80", name="web")
    with world.host.call(lambda: socket.create_server(("::", 8090), family=socket.AF_INET6)):
        ours = engine.docker("run", "--name", "late", "-p", "[::]:8080:80", IMAGE, "true")
        theirs = engine.docker("run", "--name", "later", "-p", "8090:80", IMAGE, "true")
    assert "Bind for :::8080 failed: port is already allocated" in ours.stderr
    taken = "Error starting userland proxy: listen tcp6 [::]:8090: bind: address already in use"
    assert taken in theirs.stderr
    assert [world.inspect(name)["State"]["Status"] for name in ("late", "later")] == ["created", "created"]
    assert not held(world, 8090, socket.AF_INET, "0.0.0.0"), "what was taken for it is given back"


def test_relays_and_reservations_outlive_cortend_and_end_with_their_container(
    world: World, engine: CortenEngine
) -> None:
    node = world.container(*WEB, name="web")
    with TcpServer(node, 80), UdpServer(node, 53):
        engine.kill9()
        for _ in range(2):
            assert ask_tcp(world.client, HOST6, 8080) == GATEWAY
            assert ask_udp(world.host, "::1", 5353) == GATEWAY
            assert ask_tcp(world.client, HOST, 8080) == CLIENT
            assert held(world, 8080)
            if not engine.answers():
                engine.start()
        assert ports(world, "web")["80/tcp"] == everywhere("8080")
    world.remove("web")
    assert not held(world, 8080)
    assert not held(world, 8080, socket.AF_INET, "0.0.0.0")


def test_an_ephemeral_port_has_one_number_for_both_families(world: World, engine: CortenEngine) -> None:
    world.container("-p", "80", name="web")
    numbers = {one["HostPort"] for one in ports(world, "web")["80/tcp"]}
    assert len(ports(world, "web")["80/tcp"]) == 2
    assert len(numbers) == 1


def test_hundreds_of_ports_are_published_at_once(world: World, engine: CortenEngine) -> None:
    node = world.container("-p", "9000-9149:9000-9149", name="many")
    for port in (9000, 9149):
        with TcpServer(node, port):
            assert ask_tcp(world.host, "127.0.0.1", port) == GATEWAY
            assert ask_tcp(world.host, "::1", port) == GATEWAY


# --- ports of a container that exists


def reached(world: World, node: Node, number: int) -> list[str]:
    """By IPv4 from the client, by ::1 from the host."""
    with TcpServer(node, 80):
        return [ask_tcp(world.client, HOST, number), ask_tcp(world.host, "::1", number)]


def test_ports_are_added_to_a_running_container_and_taken_away(world: World, engine: CortenEngine) -> None:
    node = world.container("-p", "8080:80", name="web")
    engine.corten("port", "add", "web", "8081:80", "127.0.0.1:8082:80", check=True)
    shown = engine.corten("port", "web", "80", check=True).stdout.split()
    assert sorted(shown) == ["0.0.0.0:8080", "0.0.0.0:8081", "127.0.0.1:8082", "[::]:8080", "[::]:8081"]
    assert reached(world, node, 8080) == reached(world, node, 8081) == [CLIENT, GATEWAY]
    assert reached(world, node, 8082) == ["refused", "refused"]
    engine.corten("port", "rm", "web", "8080:80", "127.0.0.1:8082:80", check=True)
    assert ports(world, "web") == {"80/tcp": everywhere("8081")}
    assert reached(world, node, 8080) == ["refused", "refused"]
    assert reached(world, node, 8081) == [CLIENT, GATEWAY]
    assert not held(world, 8080)
    engine.docker("restart", "-t", "0", "web", check=True)
    assert reached(world, world.node("web"), 8081) == [CLIENT, GATEWAY]
    assert ports(world, "web") == {"80/tcp": everywhere("8081")}


def test_a_port_that_cannot_be_had_changes_nothing(world: World, engine: CortenEngine) -> None:
    node = world.container("-p", "8080:80", name="web")
    before = world.inspect("web")["HostConfig"]["PortBindings"]
    with world.host.call(lambda: socket.create_server((HOST, 8091))):
        done = engine.corten("port", "add", "web", "8090:80", "8091:81")
    assert "listen tcp4 0.0.0.0:8091: bind: address already in use" in done.stderr
    assert world.inspect("web")["HostConfig"]["PortBindings"] == before
    assert ports(world, "web") == {"80/tcp": everywhere("8080")}
    assert not held(world, 8090)
    assert "no public port '99/tcp' is published" in engine.corten("port", "rm", "web", "99").stderr
    assert reached(world, node, 8080) == [CLIENT, GATEWAY]


def test_ports_of_a_stopped_container_are_those_of_its_next_start(world: World, engine: CortenEngine) -> None:
    engine.docker("create", "--name", "web", "-p", "8080:80", IMAGE, "sleep", "1000", check=True)
    engine.corten("port", "add", "web", "8081:80", check=True)
    engine.corten("port", "rm", "web", "8080:80", check=True)
    assert not held(world, 8081)
    engine.docker("start", "web", check=True)
    assert ports(world, "web") == {"80/tcp": everywhere("8081")}


def test_a_container_without_a_network_of_its_own_has_no_ports_to_add(world: World, engine: CortenEngine) -> None:
    engine.docker("create", "--name", "web", "--network", "host", IMAGE, "true", check=True)
    done = engine.corten("port", "add", "web", "8081:80")
    assert done.returncode == 1
    assert "has no ports of its own to publish: its network is host" in done.stderr


@pytest.mark.slow
def test_added_ports_outlive_cortend(world: World, engine: CortenEngine) -> None:
    node = world.container(name="web")
    engine.corten("port", "add", "web", "8081:80", check=True)
    engine.kill9()
    assert reached(world, node, 8081) == [CLIENT, GATEWAY]
    engine.start()
    assert reached(world, node, 8081) == [CLIENT, GATEWAY]
    engine.corten("port", "rm", "web", "80", check=True)
    assert reached(world, node, 8081) == ["refused", "refused"]


# --- several networks


def both_networks(engine: CortenEngine) -> None:
    """`one` before `two` by name."""
    for name, subnet in (("one", "10.91.0.0/24"), ("two", "10.92.0.0/24")):
        engine.docker("network", "create", "--subnet", subnet, name, check=True)


def inside(world: World, node: Node, address: str, number: int) -> list[str]:
    """As `reached`, where the container listens on one of its addresses alone."""
    with TcpServer(node, 80, address):
        return [ask_tcp(world.client, HOST, number), ask_tcp(world.host, "::1", number)]


def test_ports_follow_the_gateway_when_a_network_comes_or_goes(world: World, engine: CortenEngine) -> None:
    both_networks(engine)
    node = world.container("--network", "two", "-p", "8080:80", "-p", "80", name="web")
    before, two = ports(world, "web"), world.address("web", "two")
    assert inside(world, node, two, 8080) == [CLIENT, "10.92.0.1"]
    engine.docker("network", "connect", "one", "web", check=True)
    one = world.address("web", "one")
    assert inside(world, node, one, 8080) == [CLIENT, "10.91.0.1"]
    assert "refused" in inside(world, node, two, 8080)
    engine.docker("network", "disconnect", "one", "web", check=True)
    assert inside(world, node, two, 8080) == [CLIENT, "10.92.0.1"]
    assert ports(world, "web") == before, "with the numbers that they had"
    engine.docker("network", "disconnect", "two", "web", check=True)
    assert not held(world, 8080)
    engine.docker("network", "connect", "one", "web", check=True)
    assert reached(world, node, 8080) == [CLIENT, "10.91.0.1"]


def test_an_internal_network_takes_no_ports(world: World, engine: CortenEngine) -> None:
    both_networks(engine)
    engine.docker("network", "create", "--internal", "alone", check=True)
    node = world.container("--network", "two", "-p", "8080:80", name="web")
    engine.docker("network", "connect", "alone", "web", check=True)
    assert reached(world, node, 8080) == [CLIENT, "10.92.0.1"]
    engine.docker("network", "disconnect", "two", "web", check=True)
    assert ports(world, "web") in ({}, {"80/tcp": None})
    done = engine.corten("port", "add", "web", "8081:80")
    assert "is on no network that leads to the outside" in done.stderr
    engine.docker("network", "connect", "two", "web", check=True)
    assert reached(world, node, 8080) == [CLIENT, "10.92.0.1"]


def test_moved_ports_outlive_cortend_and_end_with_the_container(world: World, engine: CortenEngine) -> None:
    both_networks(engine)
    node = world.container("--network", "two", "-p", "8080:80", name="web")
    engine.docker("network", "connect", "one", "web", check=True)
    engine.kill9()
    assert reached(world, node, 8080) == [CLIENT, "10.91.0.1"]
    engine.start()
    engine.docker("network", "disconnect", "one", "web", check=True)
    assert reached(world, node, 8080) == [CLIENT, "10.92.0.1"]
    world.remove("web")
    assert not held(world, 8080)
