"""Addresses, driver options and daemon.json's settings of bridge networks, in the kernel."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_network
from pathlib import Path

import pytest

from corten.errors import CortenError, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from corten.network import endpointoptions, options
from corten.network.bridge import BridgeDriver
from corten.network.defaults import Defaults, Family
from corten.network.host import Host
from corten.network.inspect import ports_map
from corten.network.pools import Pool
from corten.network.ports import parse_bindings
from corten.network.values import Endpoint, Network, Subnet, Wanted
from corten.sys import rtnetlink
from support.netlab import MemoryJournal, MemoryStore, Node, TcpServer, ask_tcp, join

ENGINE = "0123abcd"
HOST, CLIENT = "192.0.2.1", "192.0.2.9"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@dataclass
class Lab:
    """A host with an engine's networks on it, and a client beside it."""

    host: Node
    client: Node
    engine_host: Host
    store: MemoryStore
    journal: MemoryJournal
    containers: dict[str, Node] = field(default_factory=dict)
    driver: BridgeDriver = None  # type: ignore[assignment]  # made by start

    def start(self, settings: Defaults | None = None) -> BridgeDriver:
        """An engine's driver, as a start of cortend makes it."""
        found = settings or Defaults()

        def make() -> BridgeDriver:
            made = BridgeDriver(ENGINE, store=self.store, journal=self.journal, host=self.engine_host, settings=found)
            made.ensure()
            made.restore(set(self.containers))
            return made

        self.driver = self.host.call(make)
        return self.driver

    def network(self, name: str, **fields: object) -> Network:
        """A network of one's own."""
        said = Network(f"{name}f".ljust(64, "0"), name, "bridge", "2026-01-01T00:00:00Z", **fields)  # type: ignore[arg-type]
        return self.host.call(lambda: self.driver.create(said))

    def container(self, name: str, network: Network | None = None, wanted: Wanted | None = None) -> Endpoint:
        """A container on a network."""
        node = self.containers.get(name) or Node(name)
        ident = network.network_id if network else ""
        try:
            endpoint = self.host.call(
                lambda: self.driver.connect(name, node.netns_fd, network_id=ident, wanted=wanted or Wanted())
            )
        except BaseException:
            node.close()
            raise
        self.containers[name] = node
        return endpoint

    def call(self, work: Callable[[], object]) -> None:
        self.host.call(work)

    def close(self) -> None:
        self.engine_host.close()
        for node in (*self.containers.values(), self.host, self.client):
            node.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    host, client = Node("host"), Node("client")
    host.sysctl("ipv4/ip_forward", "0")
    join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
    made = Lab(host, client, host.call(Host), MemoryStore(), MemoryJournal())
    made.start()
    yield made
    made.close()


def addresses(node: Node, name: str) -> list[str]:
    """Of a device, without link-local ones."""
    link = node.links.link(name)
    assert link is not None, name
    found = [one.interface for one in node.links.addresses() if one.index == link.index]
    return [str(one) for one in found if not one.is_link_local]


def mtu(node: Node, name: str) -> int:
    link = node.links.link(name)
    assert link is not None
    return link.mtu


def subnet4(text: str) -> Subnet:
    own = IPv4Interface(text)
    return Subnet(own.network, own.ip)


# --- pools and leases


def test_sixty_networks_have_a_24_each_and_none_overlaps_a_route_of_the_host(lab: Lab) -> None:
    route = IPv4Network("172.18.3.0/24")
    index = lab.host.links.link("world")
    assert index is not None
    lab.host.links.send(rtnetlink.new_route(route, index.index, IPv4Address(CLIENT)))
    found = [lab.network(f"n{number}", has_ipv6=number < 3) for number in range(60)]
    v4 = [one.subnets[0].network for one in found]
    assert all(one.prefixlen == 24 for one in v4)
    assert len(set(v4)) == 60
    assert not any(one.overlaps(route) for one in v4 if isinstance(one, IPv4Network))
    v6 = {one.subnets[1].network for one in found[:3]}
    assert len(v6) == 3
    assert all(one.subnet_of(IPv6Network("fd00::/8")) and one.prefixlen == 64 for one in v6)  # type: ignore[arg-type]


def test_an_ipv6_subnet_never_overlaps_a_route_either(lab: Lab) -> None:
    first = lab.network("a", has_ipv6=True).subnets[1].network
    lab.call(lambda: lab.driver.remove("af".ljust(64, "0")))
    index = lab.host.links.link("world")
    assert index is not None
    lab.host.sysctl("ipv6/conf/world/disable_ipv6", "0")
    lab.host.links.send(rtnetlink.new_route(first, index.index))
    assert lab.network("b", has_ipv6=True).subnets[1].network != first


def test_pools_of_daemon_json_run_out_with_dockers_words(lab: Lab) -> None:
    lab.start(Defaults(pools=(Pool(ip_network("10.9.0.0/24"), 26),)))
    found = [lab.network(name).subnets[0].network for name in "abcd"]
    assert [str(one) for one in found] == ["10.9.0.0/26", "10.9.0.64/26", "10.9.0.128/26", "10.9.0.192/26"]
    with pytest.raises(FailedPrecondition, match="could not find an available, non-overlapping IPv4 address pool"):
        lab.network("e")
    assert [one.name for one in lab.store.networks()] == ["bridge", *"abcd"]


def test_a_connect_that_fails_at_any_datagram_leaves_no_address_taken(lab: Lab) -> None:
    network = lab.network("a", subnets=(subnet4("10.9.0.1/30"),))
    wrong = {endpointoptions.SYSCTLS: "net.ipv4.conf.IFNAME.nonsense=1"}
    for _ in range(3):
        with pytest.raises(InvalidArgument, match=r"sysctl net.ipv4.conf.eth0.nonsense=1: no such file"):
            lab.container("one", network, Wanted(options=wrong))
    assert not lab.store.endpoints()
    assert str(lab.container("one", network).address) == "10.9.0.2/30"
    with pytest.raises(FailedPrecondition, match="no available IPv4 addresses on this network's address pools"):
        lab.container("two", network)
    assert [one.container_id for one in lab.store.endpoints()] == ["one"]
    kept = {entry for one in lab.store.endpoints() for entry in one.journal}
    kept |= {entry for one in lab.store.networks() for entry in one.journal}
    assert {entry.id for entry in lab.journal.entries()} == kept


def test_a_static_address_is_had_alone_and_named_ones_by_nobody(lab: Lab) -> None:
    subnet = replace(subnet4("10.9.0.1/24"), reserved=(("printer", IPv4Address("10.9.0.7")),))
    network = lab.network("a", subnets=(subnet,))
    assert str(lab.container("one", network, Wanted(ip=IPv4Address("10.9.0.9"))).address) == "10.9.0.9/24"
    for taken in ("10.9.0.9", "10.9.0.1", "10.9.0.7", "10.9.0.255", "10.9.0.0"):
        with pytest.raises(PermissionDenied, match="Address already in use"):
            lab.container("two", network, Wanted(ip=IPv4Address(taken)))
    lab.container("two", network, Wanted(mac="02:00:00:00:00:07"))
    link = lab.containers["two"].links.link("eth0")
    assert link is not None
    assert link.mac == "02:00:00:00:00:07"


# --- options of a network


def test_mtu_and_sysctls_are_those_of_the_options(lab: Lab) -> None:
    network = lab.network("a", options={options.MTU: "1400"})
    said = {endpointoptions.SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.neigh.IFNAME.gc_stale_time=31"}
    lab.container("one", network, Wanted(options=said))
    node = lab.containers["one"]
    assert mtu(node, "eth0") == mtu(lab.host, "br-af0000000000") == 1400
    read = node.call(lambda: Path("/proc/sys/net/ipv4/conf/eth0/log_martians").read_text())
    assert read.strip() == "1"
    assert node.call(lambda: Path("/proc/sys/net/ipv4/neigh/eth0/gc_stale_time").read_text()).strip() == "31"


def test_a_container_has_no_ipv6_where_its_network_has_none(lab: Lab) -> None:
    lab.container("one", lab.network("a"))
    lab.container("six", lab.network("b", has_ipv6=True))
    off, on = lab.containers["one"], lab.containers["six"]
    path = Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
    assert off.call(path.read_text) == "1\n"
    assert "eth0" not in off.run(["ip", "-6", "-o", "address"])
    assert on.call(path.read_text) == "0\n"
    assert any(IPv6Interface(one).network.prefixlen == 64 for one in addresses(on, "eth0") if ":" in one)
    assert "default via fd" in on.run(["ip", "-6", "route"])


def test_a_bridge_that_is_there_is_used_by_its_name_and_never_deleted(lab: Lab) -> None:
    lab.host.links.send(rtnetlink.new_bridge("br0", "02:00:00:00:00:01"), rtnetlink.set_up("br0"))
    network = lab.network("a", options={options.NAME: "br0"}, subnets=(subnet4("10.9.0.1/24"),))
    lab.container("one", network)
    assert addresses(lab.host, "br0") == ["10.9.0.1/24"]
    with TcpServer(lab.host, 99):
        assert ask_tcp(lab.containers["one"], "10.9.0.1", 99) == "10.9.0.2"
    lab.start()
    lab.call(lambda: lab.driver.disconnect("one"))
    lab.call(lambda: lab.driver.remove(network.network_id))
    link = lab.host.links.link("br0")
    assert link is not None
    assert not link.alias


@pytest.mark.parametrize("name", ["lo", "world", "br-1"])
def test_a_device_that_is_no_bridge_or_of_another_engine_is_not_used(lab: Lab, name: str) -> None:
    lab.host.links.send(rtnetlink.new_bridge("br-1", "02:00:00:00:00:01"), rtnetlink.set_alias("br-1", "corten-x y"))
    with pytest.raises(CortenError, match=f"device {name} exists|existing interface {name} is not a bridge"):
        lab.network("a", options={options.NAME: name})
    assert lab.host.links.link(name) is not None
    assert [one.name for one in lab.driver.networks()] == ["bridge"]


def test_an_inhibited_bridge_has_no_ipv4_address_and_an_isolated_one_none_at_all(lab: Lab) -> None:
    lab.network("a", options={options.INHIBIT: "true"}, has_ipv6=True)
    assert [one.count(":") > 0 for one in addresses(lab.host, "br-af0000000000")] == [True]
    modes = {options.MODES[4]: "isolated", options.MODES[6]: "isolated"}
    network = lab.network("b", internal=True, options=modes, has_ipv6=True, subnets=(subnet4("10.9.0.1/24"),))
    assert addresses(lab.host, "br-bf0000000000") == []
    lab.container("one", network)
    lab.container("two", network)
    with TcpServer(lab.containers["two"], 99):
        assert ask_tcp(lab.containers["one"], "10.9.0.3", 99) == "10.9.0.2"
        assert "10.9.0.0/24" not in lab.host.run(["ip", "route"])


def test_outside_a_network_has_the_address_that_was_said_or_its_own(lab: Lab) -> None:
    world = lab.host.links.link("world")
    assert world is not None
    lab.host.links.send(rtnetlink.new_address(world.index, IPv4Interface("192.0.2.77/24")))
    lab.client.route("eth0", HOST)
    routed = {options.MODES[4]: "routed"}
    for name, said, seen in (
        ("a", {}, HOST),
        ("b", {options.SOURCES[4]: "192.0.2.77"}, "192.0.2.77"),
        ("c", {options.MASQUERADE: "false"}, "10.9.2.2"),
        ("d", routed, "10.9.3.2"),
    ):
        number = "abcd".index(name)
        lab.container(name, lab.network(name, options=said, subnets=(subnet4(f"10.9.{number}.1/24"),)))
        with TcpServer(lab.client, 99):
            assert ask_tcp(lab.containers[name], CLIENT, 99) == seen, name


def test_from_outside_a_container_is_reached_only_where_its_network_is_unprotected_or_trusts_the_way(lab: Lab) -> None:
    lab.client.route("eth0", HOST)
    for name, said, is_reached in (
        ("a", {}, False),
        ("b", {options.MODES[4]: "nat-unprotected"}, True),
        ("c", {options.TRUSTED: "wg0:world"}, True),
        ("d", {options.MODES[4]: "routed"}, False),
    ):
        number = "abcd".index(name)
        lab.container(name, lab.network(name, options=said, subnets=(subnet4(f"10.9.{number}.1/24"),)))
        with TcpServer(lab.containers[name], 99):
            if is_reached:
                assert ask_tcp(lab.client, f"10.9.{number}.2", 99) == CLIENT, name
                continue
            assert ask_tcp(lab.client, f"10.9.{number}.2", 99, timeout=0.5) == "silence", name


def publish(lab: Lab, endpoint: Endpoint, ports: dict[str, list[tuple[str, str]]]) -> Endpoint:
    """Publishes ports; the sockets are closed, for they only keep the port from others."""
    asked = parse_bindings([], ports)
    published = lab.host.call(lambda: lab.driver.publish(endpoint, "name", asked))
    published.close()
    return published.endpoint


def pinged(node: Node, address: str) -> str:
    """Who answers an echo request (RFC 792)."""

    def ask() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(60)
            raw.sendto(struct.pack("!BBHHH", 8, 0, 0xFFFF - 0x0800 - 1 - 1, 1, 1), (address, 0))
            while True:
                answer, peer = raw.recvfrom(1500)
                if answer[20] == 0:
                    return str(peer[0])

    return node.call(ask)


def test_a_port_of_a_routed_network_is_reached_at_the_containers_address_and_takes_none_of_the_hosts(lab: Lab) -> None:
    lab.client.route("eth0", HOST)
    network = lab.network("a", options={options.MODES[4]: "routed"}, subnets=(subnet4("10.9.0.1/24"),))
    endpoint = publish(lab, lab.container("one", network), {"99/tcp": [("", "8099"), ("", "8098")]})
    assert [(one.host_port, one.container_port) for one in endpoint.publications] == [(0, 99)]
    assert ports_map([], endpoint.publications) == {"99/tcp": None}
    assert pinged(lab.client, "10.9.0.2") == "10.9.0.2"
    with TcpServer(lab.containers["one"], 99), TcpServer(lab.containers["one"], 98):
        assert ask_tcp(lab.client, "10.9.0.2", 99) == CLIENT
        assert ask_tcp(lab.client, HOST, 8099) == "refused"
        lab.start()
        assert ask_tcp(lab.client, "10.9.0.2", 99) == CLIENT
        assert ask_tcp(lab.client, "10.9.0.2", 98, timeout=0.5) == "silence"
        (found,) = lab.driver.endpoints()
        lab.call(lambda: lab.driver.unpublish(found, found.publications))
        assert ask_tcp(lab.client, "10.9.0.2", 99, timeout=0.5) == "silence"


def test_published_ports_are_reached_directly_where_daemon_json_says_so(lab: Lab) -> None:
    lab.client.route("eth0", HOST)
    lab.start(Defaults(is_direct=True))
    endpoint = publish(lab, lab.container("one"), {"99/tcp": [("", "8099"), ("", "8098")], "98/tcp": [("", "8097")]})
    with TcpServer(lab.containers["one"], 99), TcpServer(lab.containers["one"], 97):
        assert ask_tcp(lab.client, "172.17.0.2", 99) == ask_tcp(lab.client, HOST, 8099) == CLIENT
        assert ask_tcp(lab.client, "172.17.0.2", 97, timeout=0.5) == "silence"
        gone = [one for one in endpoint.publications if one.host_port == 8099]
        lab.call(lambda: lab.driver.unpublish(endpoint, gone))
        assert ask_tcp(lab.client, "172.17.0.2", 99) == CLIENT  # it is published on 8098 still
        (rest,) = lab.driver.endpoints()
        lab.call(lambda: lab.driver.unpublish(rest, [one for one in rest.publications if one.container_port == 99]))
        assert ask_tcp(lab.client, "172.17.0.2", 99, timeout=0.5) == "silence"
    lab.call(lambda: lab.driver.disconnect("one"))
    assert "elements" not in lab.host.run(["nft", "list", "set", "inet", f"corten-{ENGINE}", "opened4"])


# --- daemon.json


def test_the_default_bridge_is_as_daemon_json_says_and_stays_while_containers_are_on_it(lab: Lab) -> None:
    family = Family(IPv4Interface("10.9.0.1/16"), IPv4Network("10.9.8.0/24"), IPv4Address("10.9.0.254"))
    said = Defaults(v4=family, has_ipv6=True, mtu=1400)
    lab.start(said)
    endpoint = lab.container("one")
    assert (str(endpoint.address), str(endpoint.gateway)) == ("10.9.8.0/16", "10.9.0.254")
    assert endpoint.address6 is not None
    name = f"ctn-{ENGINE}"
    assert addresses(lab.host, name)[0] == "10.9.0.1/16"
    assert mtu(lab.host, name) == mtu(lab.containers["one"], "eth0") == 1400
    lab.start()
    assert addresses(lab.host, name)[0] == "10.9.0.1/16"
    assert mtu(lab.host, name) == 1500
    lab.call(lambda: lab.driver.disconnect("one"))
    lab.containers.pop("one").close()
    lab.start()
    assert addresses(lab.host, name) == ["172.17.0.1/16"]


def test_a_bridge_of_the_hosts_can_be_the_default_one(lab: Lab) -> None:
    name = f"ctn-{ENGINE}"
    lab.host.links.send(rtnetlink.new_bridge("br0", "02:00:00:00:00:01"))
    lab.host.address("br0", "10.9.0.9/24")
    lab.start(Defaults(device="br0"))
    assert lab.host.links.link(name) is None
    endpoint = lab.container("one")
    assert (str(endpoint.address), str(endpoint.gateway)) == ("10.9.0.1/24", "10.9.0.9")
    lab.call(lambda: lab.driver.disconnect("one"))
    lab.containers.pop("one").close()
    lab.start()
    assert lab.host.links.link("br0") is not None
    assert addresses(lab.host, name) == ["172.17.0.1/16"]


def test_forwarding_is_left_alone_where_daemon_json_says_so(lab: Lab) -> None:
    path = Path("/proc/sys/net/ipv4/ip_forward")
    lab.host.sysctl("ipv4/ip_forward", "0")
    lab.start(Defaults(forwards=False))
    assert lab.host.call(path.read_text) == "0\n"
    lab.start(Defaults(drops_others=False))
    assert lab.host.call(path.read_text) == "1\n"
    table = lab.host.run(["nft", "list", "chain", "inet", f"corten-{ENGINE}", "forward"])
    assert "policy accept" in table


def test_marked_packets_are_let_in(lab: Lab) -> None:
    lab.client.route("eth0", HOST)
    lab.start(Defaults(mark=(0x1, 0x3)))
    lab.container("one")
    with TcpServer(lab.containers["one"], 99):
        assert ask_tcp(lab.client, "172.17.0.2", 99, timeout=0.5) == "silence"
        mangle = "add table ip m; add chain ip m p { type filter hook prerouting priority mangle; }; "
        lab.host.run(["nft", f"{mangle} add rule ip m p iifname world meta mark set 0x5"])
        assert ask_tcp(lab.client, "172.17.0.2", 99) == CLIENT


def test_a_network_that_is_open_to_the_outside_is_closed_to_other_networks(lab: Lab) -> None:
    opened = {options.MODES[4]: "nat-unprotected", options.TRUSTED: "world"}
    lab.container("a", lab.network("a", options=opened, subnets=(subnet4("10.9.0.1/24"),)))
    lab.container("b", lab.network("b", subnets=(subnet4("10.9.1.1/24"),)))
    with TcpServer(lab.containers["a"], 99):
        assert ask_tcp(lab.host, "10.9.0.2", 99) == "10.9.0.1"
        assert ask_tcp(lab.containers["b"], "10.9.0.2", 99, timeout=0.5) == "silence"


def test_a_container_on_a_network_of_ipv6_alone_has_no_ipv4(lab: Lab) -> None:
    endpoint = lab.container("six", lab.network("a", has_ipv4=False, has_ipv6=True))
    assert (endpoint.address, endpoint.gateway) == (None, None)
    assert [one.partition("/")[2] for one in addresses(lab.containers["six"], "eth0")] == ["64"]


def test_containers_that_run_are_kept_apart_as_soon_as_daemon_json_says_so(lab: Lab) -> None:
    lab.container("one")
    lab.container("two")
    for settings, said in ((Defaults(has_icc=False), "silence"), (Defaults(), "172.17.0.2")):
        lab.start(settings)
        with TcpServer(lab.containers["two"], 99):
            assert ask_tcp(lab.containers["one"], "172.17.0.3", 99, timeout=0.5 if said == "silence" else 60) == said


def test_without_a_default_bridge_there_is_no_device_and_it_comes_back_with_its_id_and_subnet(lab: Lab) -> None:
    before, name = lab.driver.network(), f"ctn-{ENGINE}"
    lab.container("one")
    lab.start(Defaults(device="none"))
    assert lab.host.links.link(name) is not None  # a container is on it
    lab.call(lambda: lab.driver.disconnect("one"))
    lab.containers.pop("one").close()
    lab.start(Defaults(device="none"))
    assert (lab.driver.networks(), lab.driver.own_address) == ((), "")
    with pytest.raises(NotFound, match="network bridge not found"):
        lab.driver.network()
    assert lab.host.links.link(name) is None
    assert not lab.journal.entries()
    lab.container("own", lab.network("a"))
    lab.start()
    assert (lab.driver.network().network_id, lab.driver.network().subnets) == (before.network_id, before.subnets)
    assert addresses(lab.host, name) == ["172.17.0.1/16"]


def test_a_network_whose_device_another_has_now_is_none_for_the_others(lab: Lab) -> None:
    lab.network("a", options={options.NAME: "mine"}, subnets=(subnet4("10.9.0.1/24"),))
    lab.host.links.send(rtnetlink.delete_link("mine"))
    lab.host.links.send(rtnetlink.new_veth("mine", "eth9", "02:00:00:00:00:08", lab.client.netns_fd))
    lab.start()
    lab.container("one")
    with pytest.raises(FailedPrecondition, match="bridge mine is not there"):
        lab.container("two", lab.driver.network("af".ljust(64, "0")))
    assert [one.container_id for one in lab.store.endpoints()] == ["one"]


IPV6_MODES = [
    ({}, "fd00:9::1", "silence"),
    ({options.SOURCES[6]: "fd00:9::77"}, "fd00:9::77", "silence"),
    ({options.MODES[6]: "routed"}, "fd00:1::2", "silence"),
    ({options.MODES[6]: "nat-unprotected"}, "fd00:9::1", "fd00:9::9"),
]


@pytest.mark.parametrize(("said", "seen", "answer"), IPV6_MODES, ids=["nat", "source", "routed", "unprotected"])
def test_ipv6_has_gateway_modes_and_addresses_of_its_own(
    lab: Lab, said: dict[str, str], seen: str, answer: str
) -> None:
    lab.host.address("world", "fd00:9::1/64")
    if said.get(options.SOURCES[6]):
        lab.host.address("world", "fd00:9::77/64")
    lab.client.address("eth0", "fd00:9::9/64")
    lab.client.route("eth0", "fd00:9::1")
    subnet = Subnet(IPv6Network("fd00:1::/64"), IPv6Address("fd00:1::1"))
    lab.container("one", lab.network("a", options=said, has_ipv6=True, subnets=(subnet,)))
    with TcpServer(lab.client, 99, "::"):
        assert ask_tcp(lab.containers["one"], "fd00:9::9", 99) == seen
    with TcpServer(lab.containers["one"], 98, "::"):
        assert ask_tcp(lab.client, "fd00:1::2", 98, timeout=0.5 if answer == "silence" else 60) == answer
