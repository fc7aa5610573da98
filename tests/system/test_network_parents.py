"""Containers on devices of their own above a device of the host: macvlan, in all its modes.

Every namespace is the test's own.  ipvlan, VLANs and dummy devices, which not every kernel has, are tested in the
virtual machine (tests/system/guest/engine).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest

from corten.errors import Internal
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.ports import parse_bindings
from corten.network.values import Endpoint, Network, Subnet, Wanted
from corten.sys import rtnetlink
from support.netlab import MemoryJournal, MemoryStore, Node, TcpServer, ask_tcp, join

ENGINE = "0123abcd"
HOST, CLIENT = "192.0.2.1", "192.0.2.9"
SUBNET = Subnet(IPv4Network("192.0.2.0/24"), IPv4Address(CLIENT), IPv4Network("192.0.2.64/26"))
SUBNET6 = Subnet(IPv6Network("2001:db8::/64"), IPv6Address("2001:db8::9"))
NETWORK = Network("a" * 64, "lan", "macvlan", "2026-01-01T00:00:00Z", subnets=(SUBNET,), options={"parent": "world"})

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@dataclass
class Lab:
    """A host with an engine, a client beside it, and the containers."""

    host: Node
    client: Node
    engine_host: Host
    store: MemoryStore = field(default_factory=MemoryStore)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driver = self.engine()

    def engine(self) -> BridgeDriver:
        """As a cortend that starts."""
        made = self.host.call(
            lambda: BridgeDriver(ENGINE, store=self.store, journal=self.journal, host=self.engine_host)
        )
        self.host.call(made.ensure)
        return made

    def create(self, network: Network = NETWORK) -> Network:
        return self.host.call(lambda: self.driver.create(network))

    def connect(self, name: str, wanted: Wanted | None = None, network: Network = NETWORK) -> Endpoint:
        """A container joins; its namespace is made for it when it is new."""
        if name not in self.nodes:
            self.nodes[name] = Node(name)
        node = self.nodes[name]
        return self.host.call(
            lambda: self.driver.connect(name, node.netns_fd, network_id=network.network_id, wanted=wanted)
        )

    def close(self) -> None:
        for node in (*self.nodes.values(), self.client):
            node.close()
        self.engine_host.close()
        self.host.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    host, client = Node("host"), Node("client")
    join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
    made = Lab(host, client, host.call(Host))
    yield made
    made.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def devices(node: Node) -> list[str]:
    """The devices of a namespace but lo."""
    return [link.name for link in node.links.links() if link.name != "lo"]


def test_a_container_on_a_macvlan_is_on_the_parents_wire_with_its_own_address(lab: Lab) -> None:
    lab.create()
    endpoint = lab.connect("one")
    node = lab.nodes["one"]
    assert str(endpoint.address) == "192.0.2.64/24"
    device = node.links.link("eth0")
    assert device is not None
    assert (device.kind, device.mac, device.is_up) == ("macvlan", "02:42:c0:00:02:40", True)
    assert [str(one.gateway) for one in node.links.routes() if one.destination.prefixlen == 0] == [CLIENT]
    with TcpServer(lab.client, 99), TcpServer(node, 80):
        assert ask_tcp(node, CLIENT, 99) == "192.0.2.64"
        assert ask_tcp(lab.client, "192.0.2.64", 80) == CLIENT
    assert devices(lab.host) == ["world", f"ctn-{ENGINE}"]


def test_a_macvlan_of_both_families_has_both_addresses_and_routes(lab: Lab) -> None:
    lab.create(replace(NETWORK, subnets=(SUBNET, SUBNET6), has_ipv6=True))
    endpoint = lab.connect("one")
    assert str(endpoint.address6) == "2001:db8::1/64"
    inside = lab.nodes["one"].links.addresses()
    assert IPv6Interface("2001:db8::1/64") in [one.interface for one in inside]
    routes = [
        str(one.gateway) for one in lab.nodes["one"].links.routes() if one.destination.prefixlen == 0 and one.gateway
    ]
    assert routes == [CLIENT, "2001:db8::9"]


@pytest.mark.parametrize(("mode", "answer"), [("bridge", "192.0.2.64"), ("private", "silence"), ("vepa", "silence")])
def test_containers_of_a_macvlan_see_each_other_as_its_mode_says(lab: Lab, mode: str, answer: str) -> None:
    lab.create(replace(NETWORK, options={"parent": "world", "macvlan_mode": mode}))
    lab.connect("one")
    lab.connect("two")
    with TcpServer(lab.nodes["two"], 80):
        timeout = 0.5 if answer == "silence" else 60.0
        assert ask_tcp(lab.nodes["one"], "192.0.2.65", 80, timeout) == answer


def test_passthru_takes_the_parents_address_and_one_container(lab: Lab) -> None:
    lab.create(replace(NETWORK, options={"parent": "world", "macvlan_mode": "passthru"}))
    parent = lab.host.links.link("world")
    assert parent is not None
    endpoint = lab.connect("one")
    device = lab.nodes["one"].links.link("eth0")
    assert device is not None
    assert endpoint.mac == device.mac == parent.mac
    with pytest.raises(Internal, match="failed to create the macvlan port: invalid argument"):
        lab.connect("two")
    assert [one.container_id for one in lab.driver.endpoints()] == ["one"]
    lab.host.call(lambda: lab.driver.disconnect("one"))
    lab.connect("two")


def test_an_address_is_free_for_the_next_container_though_the_namespace_stays(lab: Lab) -> None:
    lab.create()
    for name in ("one", "two", "three"):
        assert str(lab.connect(name).address) == "192.0.2.64/24"
        with TcpServer(lab.client, 99):
            assert ask_tcp(lab.nodes[name], CLIENT, 99) == "192.0.2.64"
        lab.host.call(lambda name=name: lab.driver.disconnect(name))  # type: ignore[misc]  # bound at once
    wait_until(lambda: not any(devices(lab.nodes[name]) for name in ("one", "two", "three")))


def test_a_container_that_lives_on_loses_the_device_at_once_also_after_a_restart(lab: Lab) -> None:
    lab.create()
    lab.connect("one")
    lab.host.call(lambda: lab.driver.disconnect("one", NETWORK.network_id, lives_on=True))
    assert devices(lab.nodes["one"]) == []
    lab.connect("one")
    driver = lab.engine()
    lab.host.call(lambda: driver.restore({"one"}))
    netns_fd = lab.nodes["one"].netns_fd
    lab.host.call(lambda: driver.disconnect("one", NETWORK.network_id, lives_on=True, netns_fd=netns_fd))
    assert devices(lab.nodes["one"]) == []
    assert driver.endpoints() == ()


def test_an_adopted_container_gives_its_address_back_at_its_end(lab: Lab) -> None:
    lab.create()
    lab.connect("one")
    lab.driver = lab.engine()
    lab.host.call(lambda: lab.driver.restore({"one"}))
    lab.host.call(lambda: lab.driver.adopt("one", lab.nodes["one"].netns_fd))
    lab.host.call(lambda: lab.driver.disconnect("one"))
    assert str(lab.connect("two").address) == "192.0.2.64/24"


def test_an_internal_macvlan_has_no_way_out(lab: Lab) -> None:
    lab.create(replace(NETWORK, internal=True))
    endpoint = lab.connect("one")
    assert endpoint.gateways == ()
    assert [one for one in lab.nodes["one"].links.routes() if one.destination.prefixlen == 0 and one.gateway] == []


def test_nothing_is_published_on_a_macvlan(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.create()
    endpoint = lab.connect("one")
    wanted = parse_bindings([], {"80/tcp": [("", "8080")]})
    with lab.host.call(lambda: lab.driver.publish(endpoint, "one", wanted)) as published:
        assert published.reservations == ()
    assert "nothing is published on a network without a bridge" in caplog.text


def test_a_parent_that_the_host_has_stays_when_the_network_goes(lab: Lab) -> None:
    lab.create()
    lab.host.call(lambda: lab.driver.remove(NETWORK.network_id))
    assert devices(lab.host) == ["world", f"ctn-{ENGINE}"]
    assert list(lab.store.known) == [lab.driver.network().network_id]
    lab.create()
    lab.host.call(lab.driver.destroy)
    assert devices(lab.host) == ["world"]


def test_a_missing_parent_is_said_at_create_and_at_the_start_of_a_container(lab: Lab) -> None:
    with pytest.raises(Internal, match=r"invalid subinterface vlan name nope, example formatting is eth0\.10"):
        lab.create(replace(NETWORK, options={"parent": "nope"}))
    assert list(lab.store.known) == [lab.driver.network().network_id]
    lab.create()
    lab.host.links.send(rtnetlink.delete_link("world"))
    with pytest.raises(Internal, match="the requested parent interface world was not found on the Docker host"):
        lab.connect("one")
    assert lab.driver.endpoints() == ()
    driver = lab.engine()  # an engine starts without the parents of its networks
    assert [one.name for one in driver.networks()] == ["bridge", "lan"]


def test_a_parent_is_of_one_network_of_a_driver_alone(lab: Lab) -> None:
    lab.create()
    other = replace(
        NETWORK,
        network_id="b" * 64,
        name="other",
        subnets=(Subnet(IPv4Network("10.9.0.0/24"), IPv4Address("10.9.0.1")),),
    )
    with pytest.raises(Internal, match=f"network dm-{'a' * 12} is already using parent interface world"):
        lab.create(other)


def test_an_option_of_another_driver_means_nothing(lab: Lab) -> None:
    bridged = Network("b" * 64, "web", "bridge", NETWORK.created, options={"macvlan_mode": "passthru", "parent": "lo"})
    lab.create(bridged)
    assert lab.connect("one", network=bridged).mac.startswith("02:42:")


def test_a_mac_of_the_users_own_is_the_devices(lab: Lab) -> None:
    lab.create()
    endpoint = lab.connect("one", Wanted(mac="02:00:00:00:00:77", ip=IPv4Address("192.0.2.100")))
    device = lab.nodes["one"].links.link("eth0")
    assert device is not None
    assert (endpoint.address, device.mac) == (IPv4Interface("192.0.2.100/24"), "02:00:00:00:00:77")


def test_a_macvlan_does_not_reach_the_hosts_bridges(lab: Lab) -> None:
    """The firewall drops what comes in by a wire for a bridge's container; a macvlan is on the wire."""
    lab.create()
    lab.connect("one")
    bridged = lab.nodes["two"] = Node("two")
    endpoint = lab.host.call(lambda: lab.driver.connect("two", bridged.netns_fd))
    with TcpServer(bridged, 80):
        node = lab.nodes["one"]
        asker = node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        device = node.links.link("eth0")
        assert device is not None
        node.links.send(rtnetlink.replace_default_route(IPv4Address(HOST), device.index))
        with asker:
            asker.settimeout(0.5)
            with pytest.raises((TimeoutError, OSError)):
                asker.connect((str(endpoint.ip), 80))
