"""Who reaches whom over the default bridge: containers, the host, and a client on the host's segment.

Every namespace is the test's own.  br_netfilter may be on or off; what depends on it says so and tests both.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.network.bridge import BridgeDriver, Published
from corten.network.host import Host
from corten.network.ports import parse_bindings
from corten.network.values import PortConflict, Wanted
from corten.sys import rtnetlink
from support.netlab import MemoryJournal, MemoryStore, Node, TcpServer, UdpServer, ask_tcp, ask_udp, join

ENGINE = "0123abcd"
HOST, CLIENT, GATEWAY = "192.0.2.1", "192.0.2.9", "172.17.0.1"
PORTS = {"80/tcp": [("", "8080"), ("127.0.0.1", "8081")], "53/udp": [("", "53"), ("127.0.0.1", "54")]}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@dataclass
class Lab:
    """A host with an engine's network on it, and a client beside it."""

    host: Node
    client: Node
    engine_host: Host
    driver: BridgeDriver
    store: MemoryStore
    journal: MemoryJournal
    containers: dict[str, Node] = field(default_factory=dict)
    held: list[Published] = field(default_factory=list)

    def container(self, name: str, ports: dict[str, list[tuple[str, str]]] | None = None, mac: str = "") -> Node:
        """A container on the bridge, with published ports."""
        node = Node(name)
        self.containers[name] = node
        self.connect(name, node, ports, mac)
        return node

    def connect(
        self, name: str, node: Node, ports: dict[str, list[tuple[str, str]]] | None = None, mac: str = ""
    ) -> Published:
        """Connects and publishes as the engine does at a start."""

        def start() -> Published:
            endpoint = self.driver.connect(name, node.netns_fd, wanted=Wanted(mac=mac))
            return self.driver.publish(endpoint, name, parse_bindings([], ports or {}))

        published = self.host.call(start)
        self.held.append(published)
        return published

    def stop(self, name: str) -> None:
        """What the engine does at an exit."""
        self.driver.disconnect(name)
        self.containers.pop(name).close()

    def links(self) -> list[str]:
        """The devices of the host."""
        return [link.name for link in self.host.links.links()]

    def close(self) -> None:
        for published in self.held:
            published.close()
        self.driver.settle()
        self.engine_host.close()
        for node in (*self.containers.values(), self.host, self.client):
            node.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """The kernel takes links away some ms after the last descriptor of their namespace."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def lab() -> Iterator[Lab]:
    host, client = Node("host"), Node("client")
    host.sysctl("ipv4/ip_forward", "0")  # a new namespace has what the machine has
    join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
    engine_host = host.call(Host)
    store, journal = MemoryStore(), MemoryJournal()
    driver = host.call(lambda: BridgeDriver(ENGINE, store=store, journal=journal, host=engine_host))
    host.call(driver.ensure)
    made = Lab(host, client, engine_host, driver, store, journal)
    yield made
    made.close()


def test_a_container_has_its_address_and_route_and_no_ipv6(lab: Lab) -> None:
    node = lab.container("one")
    interface = node.links.link("eth0")
    assert interface is not None
    assert (interface.mac, interface.is_up) == ("02:42:ac:11:00:02", True)
    assert "172.17.0.2/16" in [str(one.interface) for one in node.links.addresses()]
    assert [str(one.gateway) for one in node.links.routes() if one.destination.prefixlen == 0] == [GATEWAY]
    inet6 = node.run(["ip", "-6", "-o", "address"])
    assert "::1/128" in inet6
    assert "eth0" not in inet6
    assert node.call(lambda: Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").read_text()) == "1\n"


def test_no_device_of_ours_on_the_host_has_an_ipv6_address(lab: Lab) -> None:
    lab.container("one")
    inet6 = lab.host.run(["ip", "-6", "-o", "address"])
    assert "ctn-" not in inet6
    assert "ct0123" not in inet6


def test_a_container_reaches_the_client_with_the_hosts_address(lab: Lab) -> None:
    node = lab.container("one")
    with TcpServer(lab.client, 99), UdpServer(lab.client, 99):
        assert ask_tcp(node, CLIENT, 99) == HOST
        assert ask_udp(node, CLIENT, 99) == HOST


def test_containers_reach_each_other_with_their_own_address(lab: Lab) -> None:
    one, two = lab.container("one"), lab.container("two")
    with TcpServer(two, 80), UdpServer(two, 53):
        assert ask_tcp(one, "172.17.0.3", 80) == "172.17.0.2"
        assert ask_udp(one, "172.17.0.3", 53) == "172.17.0.2"


@pytest.mark.parametrize("br_netfilter", ["0", "1"])
def test_published_ports_are_reached_from_everywhere(lab: Lab, br_netfilter: str) -> None:
    """With br_netfilter a container's packet to its own port goes back out of the port it came from (hairpin)."""
    lab.host.sysctl("bridge/bridge-nf-call-iptables", br_netfilter)
    server, other = lab.container("server", PORTS), lab.container("other")
    with TcpServer(server, 80), UdpServer(server, 53):
        assert ask_tcp(lab.client, HOST, 8080) == CLIENT, "the client's address is kept"
        assert ask_udp(lab.client, HOST, 53) == CLIENT
        for address in ("127.0.0.1", "127.0.0.5"):
            assert ask_tcp(lab.host, address, 8080) == GATEWAY
            assert ask_udp(lab.host, address, 53) == GATEWAY
        assert ask_tcp(lab.host, "127.0.0.1", 8081) == GATEWAY
        assert ask_udp(lab.host, "127.0.0.1", 54) == GATEWAY
        assert ask_tcp(lab.host, HOST, 8080) == HOST, "the host's own address"
        assert ask_udp(lab.host, HOST, 53) == HOST
        assert ask_tcp(lab.host, GATEWAY, 8080) == GATEWAY
        for node in (server, other):
            for address in (HOST, GATEWAY):
                assert ask_tcp(node, address, 8080) == GATEWAY, node.name
                assert ask_udp(node, address, 53) == GATEWAY, node.name


def test_a_port_of_another_loopback_address_is_not_published(lab: Lab) -> None:
    server = lab.container("server", PORTS)
    with TcpServer(server, 80):
        assert ask_tcp(lab.host, "127.0.0.2", 8081) == "refused"
        assert ask_tcp(lab.client, HOST, 8081) == "refused"
        assert ask_tcp(server, "127.0.0.1", 8080) == "refused", "the container's own loopback is its own"


def test_a_client_that_routes_to_the_bridge_reaches_no_container(lab: Lab) -> None:
    server = lab.container("server", PORTS)
    lab.client.route("eth0", HOST)
    with TcpServer(server, 80), TcpServer(server, 81):
        assert ask_tcp(lab.client, "172.17.0.2", 80, timeout=0.3) == "silence"
        assert ask_tcp(lab.client, "172.17.0.2", 81, timeout=0.3) == "silence"


def test_a_neighbour_reaches_neither_loopback_ports_nor_the_hosts_loopback(lab: Lab) -> None:
    """127/8 sent over the wire: to a port published on 127.0.0.1, and to a service of the host's."""
    server = lab.container("server", PORTS)
    lab.client.sysctl("ipv4/conf/all/route_localnet", "1")
    lab.client.run(["ip", "address", "delete", "127.0.0.1/8", "dev", "lo"])
    lab.client.run(["ip", "route", "add", "127.0.0.1/32", "via", HOST, "src", CLIENT])
    with TcpServer(server, 80), TcpServer(lab.host, 99, "127.0.0.1"):
        assert ask_tcp(lab.client, "127.0.0.1", 8081, timeout=0.3) == "silence"
        assert ask_tcp(lab.client, "127.0.0.1", 99, timeout=0.3) == "silence"
        # the twin: without the guard the same packets arrive
        lab.host.run(["nft", "flush chain inet corten-0123abcd guard"])
        assert ask_tcp(lab.client, "127.0.0.1", 8081) == CLIENT


def test_a_container_does_not_reach_the_hosts_loopback_over_the_bridge(lab: Lab) -> None:
    node = lab.container("one")
    node.sysctl("ipv4/conf/all/route_localnet", "1")
    node.run(["ip", "address", "delete", "127.0.0.1/8", "dev", "lo"])
    node.run(["ip", "route", "add", "127.0.0.1/32", "via", GATEWAY, "src", "172.17.0.2"])
    with TcpServer(lab.host, 99, "127.0.0.1"):
        assert ask_tcp(node, "127.0.0.1", 99, timeout=0.3) == "silence"
        lab.host.run(["nft", "flush chain inet corten-0123abcd guard"])
        assert ask_tcp(node, "127.0.0.1", 99) == "172.17.0.2"


def test_what_is_not_ours_is_not_forwarded_when_we_turned_forwarding_on(lab: Lab) -> None:
    with Node("other") as other:
        join(lab.host, "other", "198.51.100.1/24", other, "eth0", "198.51.100.9/24")
        other.route("eth0", "198.51.100.1")
        lab.client.route("eth0", HOST)
        with TcpServer(other, 80):
            assert ask_tcp(lab.client, "198.51.100.9", 80, timeout=0.3) == "silence"


def test_what_is_not_ours_is_forwarded_when_the_host_did_that_before() -> None:
    with Node("host") as host, Node("client") as client, Node("other") as other:
        join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
        join(host, "other", "198.51.100.1/24", other, "eth0", "198.51.100.9/24")
        other.route("eth0", "198.51.100.1")
        client.route("eth0", HOST)
        host.sysctl("ipv4/ip_forward", "1")
        engine_host = host.call(Host)
        driver = BridgeDriver(ENGINE, store=MemoryStore(), journal=MemoryJournal(), host=engine_host)
        host.call(driver.ensure)
        host.call(driver.ensure)
        with TcpServer(other, 80):
            assert ask_tcp(client, "198.51.100.9", 80) == CLIENT
        engine_host.close()


def test_frames_within_another_bridge_of_the_host_pass_under_br_netfilter() -> None:
    with Node("host") as host, Node("one") as one, Node("two") as two:
        host.sysctl("bridge/bridge-nf-call-iptables", "1")
        host.links.send(rtnetlink.new_bridge("virbr0", "02:00:00:00:00:01"), rtnetlink.set_up("virbr0"))
        bridge = host.links.link("virbr0")
        assert bridge is not None
        for node, port, address in ((one, "p1", "198.51.100.1/24"), (two, "p2", "198.51.100.2/24")):
            host.links.send(
                rtnetlink.new_veth(port, "eth0", f"02:00:00:00:01:0{port[1]}", node.netns_fd),
                rtnetlink.set_up(port, bridge.index),
            )
            node.address("eth0", address)
        engine_host = host.call(Host)
        driver = BridgeDriver(ENGINE, store=MemoryStore(), journal=MemoryJournal(), host=engine_host)
        host.call(driver.ensure)
        with TcpServer(two, 80):
            assert ask_tcp(one, "198.51.100.2", 80) == "198.51.100.1"
        engine_host.close()


def test_a_subnet_of_the_hosts_is_avoided() -> None:
    with Node("host") as host, Node("client") as client:
        join(host, "world", "172.17.3.1/24", client, "eth0", "172.17.3.2/24")
        engine_host = host.call(Host)
        driver = BridgeDriver(ENGINE, store=MemoryStore(), journal=MemoryJournal(), host=engine_host)
        host.call(driver.ensure)
        assert str(driver.bridge().addresses[0]) == "172.18.0.1/16"
        engine_host.close()


# --- conflicts


def conflict(lab: Lab, name: str, ports: dict[str, list[tuple[str, str]]]) -> str:
    with Node(name) as node:
        with pytest.raises(PortConflict) as caught:
            lab.connect(name, node, ports)
        lab.driver.disconnect(name)
    return str(caught.value)


def test_conflicts_are_told_in_dockers_words(lab: Lab) -> None:
    lab.container("server", PORTS)
    with lab.host.call(lambda: socket.create_server((HOST, 7777))):
        own = conflict(lab, "late", {"80/tcp": [("", "8080")]})
        foreign = conflict(lab, "late", {"80/tcp": [("", "7777")]})
        narrower = conflict(lab, "late", {"80/tcp": [("127.0.0.1", "8080")]})
    begin = "driver failed programming external connectivity on endpoint late ("
    assert own.startswith(begin)
    assert own.endswith("): Bind for 0.0.0.0:8080 failed: port is already allocated")
    taken = "bind: address already in use"
    assert foreign.endswith(f"): Error starting userland proxy: listen tcp4 0.0.0.0:7777: {taken}")
    assert narrower.endswith(f"): Error starting userland proxy: listen tcp4 127.0.0.1:8080: {taken}")


def test_after_a_conflict_nothing_of_the_loser_is_left(lab: Lab) -> None:
    lab.container("server", PORTS)
    before = set(lab.links())
    conflict(lab, "late", {"81/tcp": [("", "8090")], "80/tcp": [("", "8080")]})
    assert len(lab.store.records) == 1
    wait_until(lambda: lab.driver.leftovers() == [])
    lab.container("next", {"81/tcp": [("", "8090")]})
    assert {"8090"} == {str(one.host_port) for one in lab.driver.endpoints()[1].publications}
    assert before <= set(lab.links())


def test_ports_are_given_back_when_the_descriptors_run_out(lab: Lab) -> None:
    many = parse_bindings([], {f"{port}/tcp": [("", str(port))] for port in range(9000, 9300)})
    with Node("greedy") as node:
        endpoint = lab.host.call(lambda: lab.driver.connect("greedy", node.netns_fd))
        before = os.listdir("/proc/self/fd")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 20, limits[1]))
        try:
            with pytest.raises(Internal, match="ports of greedy: Too many open files"):
                lab.host.call(lambda: lab.driver.publish(endpoint, "greedy", many))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len(os.listdir("/proc/self/fd")) <= len(before)
        with lab.host.call(lambda: lab.driver.publish(endpoint, "greedy", many)) as published:
            assert len(published.reservations) == 600, "of IPv4 and IPv6"
        lab.driver.disconnect("greedy")


def test_a_published_port_is_held_against_other_programs_without_the_daemon(lab: Lab) -> None:
    lab.container("server", PORTS)
    for kind, port in ((socket.SOCK_STREAM, 8080), (socket.SOCK_DGRAM, 53)):
        other = lab.host.call(lambda kind=kind: socket.socket(socket.AF_INET, kind))  # type: ignore[misc]
        with other:
            if kind == socket.SOCK_STREAM:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("0.0.0.0", port))


# --- one after the other


def test_an_address_that_was_used_serves_its_next_container_at_once(lab: Lab) -> None:
    """The old namespace still exists: its port of the bridge is cut off, so it can answer nothing."""
    old = lab.container("old", {"80/tcp": [("", "8080")]})
    with TcpServer(old, 80):
        assert ask_tcp(lab.client, HOST, 8080) == CLIENT
        lab.driver.disconnect("old")
        assert ask_tcp(lab.client, HOST, 8080) == "refused"
        lab.held.pop().close()
        new = lab.container("new", {"80/tcp": [("", "8080")]})
        assert lab.driver.endpoints()[0].ip == IPv4Address("172.17.0.2")
        with UdpServer(new, 80):
            assert ask_tcp(lab.client, HOST, 8080) == "refused", "nobody listens in the new one"
        with TcpServer(new, 80):
            assert ask_tcp(lab.client, HOST, 8080) == CLIENT


def test_the_same_container_connects_again_before_its_last_link_is_gone(lab: Lab) -> None:
    node = lab.container("one")
    lab.driver.disconnect("one")
    with Node("again") as again:
        lab.connect("one", again)
        with TcpServer(again, 80):
            assert ask_tcp(lab.host, "172.17.0.2", 80) == GATEWAY
        lab.driver.disconnect("one")
    assert node.links.link("eth0") is not None


def test_a_hardware_address_of_ones_own_is_taken_and_forgotten_with_the_container(lab: Lab) -> None:
    node = lab.container("one", mac="02:00:00:aa:bb:cc")
    link = node.links.link("eth0")
    assert link is not None
    assert link.mac == "02:00:00:aa:bb:cc"
    with TcpServer(node, 80):
        assert ask_tcp(lab.host, "172.17.0.2", 80) == GATEWAY
    lab.driver.disconnect("one")
    two = lab.container("two")
    with TcpServer(two, 80):
        assert ask_tcp(lab.host, "172.17.0.2", 80) == GATEWAY


def ask_until(node: Node, wanted: str, tries: int = 300) -> str:
    """Keeps one UDP flow going (always from the same port), as a DNS forwarder does."""
    answer = ""
    for _ in range(tries):
        answer = ask_udp(node, HOST, 53, source_port=4000, timeout=0.2)
        if answer == wanted:
            break
    return answer


def test_a_udp_flow_follows_the_port_to_its_next_container(lab: Lab) -> None:
    ports = {"53/udp": [("", "53")]}
    lab.container("keeper")
    first = lab.container("first", ports)
    with UdpServer(first, 53, "first "):
        assert ask_until(lab.client, f"first {CLIENT}") == f"first {CLIENT}"
    lab.driver.disconnect("first")
    lab.held.pop().close()
    lab.container("between")  # takes the address
    second = lab.container("second", ports)
    with UdpServer(second, 53, "second "):
        assert ask_until(lab.client, f"second {CLIENT}") == f"second {CLIENT}"


def test_a_udp_flow_from_before_the_port_was_published_reaches_the_container(lab: Lab) -> None:
    lab.container("keeper", {"1/udp": [("", "1")]})
    assert ask_udp(lab.client, HOST, 53, source_port=4000) == "refused"
    server = lab.container("server", {"53/udp": [("", "53")]})
    with UdpServer(server, 53):
        assert ask_until(lab.client, CLIENT) == CLIENT


def test_ephemeral_ports_come_in_order_from_the_hosts_range(lab: Lab) -> None:
    lab.container("one", {"443/tcp": [("", "")], "80/tcp": [("", "")], "53/udp": [("", "")]})
    ports = {one.container_port: one.host_port for one in lab.driver.endpoints()[0].publications}
    assert ports == {443: 32768, 80: 32769, 53: 32768}
