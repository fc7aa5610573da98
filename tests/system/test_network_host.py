"""What the engine's network changes of its host, and what it leaves alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from corten.network.bridge import BridgeDriver
from corten.network.host import Host
from corten.network.values import Network
from support.netlab import MemoryJournal, MemoryStore, Node, TcpServer, ask_tcp, join

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ENGINE = "0123abcd"
HOST, CLIENT, OTHER = "192.0.2.1", "192.0.2.9", "198.51.100.9"
HOST6, CLIENT6, OTHER6 = "2001:db8:1::1", "2001:db8:1::9", "2001:db8:2::9"


@dataclass
class Between:
    """A host between a client and another machine, each of which has the host as its way out."""

    host: Node
    client: Node
    other: Node
    driver: BridgeDriver
    store: MemoryStore

    def sysctl(self, name: str) -> str:
        return self.host.call(lambda: Path(f"/proc/sys/net/{name}").read_text().strip())

    def passes(self, version: int, timeout: float = 60.0) -> str:
        """What the client's packets to the other machine come to."""
        address = OTHER if version == 4 else OTHER6
        with TcpServer(self.other, 80, "::"):
            return ask_tcp(self.client, address, 80, timeout)

    def is_stopped(self, version: int) -> bool:
        return self.passes(version, 0.3) == "silence"

    def add(self, name: str, *, has_ipv6: bool, internal: bool = False) -> None:
        network = Network(
            network_id=name[0] * 64,
            name=name,
            driver="bridge",
            created="2026-01-01T00:00:00Z",
            has_ipv6=has_ipv6,
            internal=internal,
        )
        self.host.call(lambda: self.driver.create(network))


@contextmanager
def between(forwards4: str = "0") -> Iterator[Between]:
    with Node("host") as host, Node("client") as client, Node("other") as other:
        host.sysctl("ipv4/ip_forward", forwards4)
        host.sysctl("ipv6/conf/all/forwarding", "0")
        join(host, "world", f"{HOST}/24", client, "eth0", f"{CLIENT}/24")
        join(host, "far", "198.51.100.1/24", other, "eth0", f"{OTHER}/24")
        for near, node, ours, theirs in (("world", client, HOST6, CLIENT6), ("far", other, "2001:db8:2::1", OTHER6)):
            host.address(near, f"{ours}/64")
            node.address("eth0", f"{theirs}/64")
            node.route("eth0", ours)
        client.route("eth0", HOST)
        other.route("eth0", "198.51.100.1")
        engine_host, store = host.call(Host), MemoryStore()
        driver = BridgeDriver(ENGINE, store=store, journal=MemoryJournal(), host=engine_host)
        host.call(driver.ensure)
        yield Between(host, client, other, driver, store)
        engine_host.close()


def test_ipv6_is_forwarded_from_the_first_network_that_needs_it_and_others_ipv6_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with between(forwards4="1") as lab:
        assert lab.sysctl("ipv6/conf/all/forwarding") == "0"
        lab.add("inner", has_ipv6=True, internal=True)
        assert lab.sysctl("ipv6/conf/all/forwarding") == "0", "an internal network needs no way out"
        with caplog.at_level(logging.INFO, logger="corten.network.host"):
            lab.add("wide", has_ipv6=True)
        assert lab.sysctl("ipv6/conf/all/forwarding") == "1"
        assert "sysctl net/ipv6/conf/all/forwarding: 0 -> 1" in caplog.text
        assert lab.passes(4) == CLIENT, "ipv4 was the host's own decision"
        assert lab.is_stopped(6), "ipv6 is ours"
        lab.host.call(lab.driver.ensure)
        assert lab.passes(4) == CLIENT
        assert lab.is_stopped(6)
        lab.host.call(lab.driver.destroy)
        assert lab.sysctl("ipv6/conf/all/forwarding") == "1", "never turned back"
        assert (lab.passes(4), lab.passes(6)) == (CLIENT, CLIENT6)


def test_interfaces_that_take_routes_from_advertisements_go_on_taking_them(caplog: pytest.LogCaptureFixture) -> None:
    with between() as lab, caplog.at_level(logging.INFO, logger="corten.network.host"):
        lab.host.sysctl("ipv6/conf/far/accept_ra", "0")
        lab.host.sysctl("ipv6/conf/world/accept_ra", "1")
        lab.add("wide", has_ipv6=True)
        assert lab.sysctl("ipv6/conf/world/accept_ra") == "2"
        assert lab.sysctl("ipv6/conf/far/accept_ra") == "0", "what is off stays off"
        assert "sysctl net/ipv6/conf/world/accept_ra: 1 -> 2" in caplog.text


def test_ipv4_that_the_host_did_not_route_before_is_not_routed_for_others() -> None:
    with between() as lab:
        assert lab.sysctl("ipv4/ip_forward") == "1"
        assert lab.is_stopped(4)
        lab.host.call(lab.driver.ensure)
        assert lab.is_stopped(4), "also when the engine finds it on at its next start"


def test_two_engines_on_one_host_leave_each_others_networks_alone() -> None:
    """The first makes the host a router, and drops what is not its own: the second's is not nobody's."""
    with between() as lab, Node("box") as box:
        second_host = lab.host.call(Host)
        second = BridgeDriver("89abcdef", store=MemoryStore(), journal=MemoryJournal(), host=second_host)
        lab.host.call(second.ensure)
        lab.host.call(lambda: second.connect("box", box.netns_fd))
        lab.host.call(lab.driver.ensure)
        with TcpServer(lab.client, 99):
            assert ask_tcp(box, CLIENT, 99) == HOST
        with TcpServer(box, 80):
            assert ask_tcp(lab.client, str(second.endpoints()[0].ip), 80, timeout=0.3) == "silence"
        lab.host.call(second.destroy)
        second_host.close()
