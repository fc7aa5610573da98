"""The lab of the network tests itself: its cables, its name server, and an engine in it."""

from __future__ import annotations

import os

import dns.message
import dns.query
import dns.rcode
import pytest

from support.nameserver import Asked
from support.netlab import TcpServer, UdpServer, ask_tcp, ask_udp
from support.networld import CLIENT, CLIENT6, HOST, HOST6, HOST_AT_RESOLVER, RESOLVER, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def test_client_and_host_reach_each_other_over_both_families() -> None:
    with World() as world, TcpServer(world.host, 99, "::"), UdpServer(world.host, 99, address="::"):
        assert ask_tcp(world.client, HOST, 99) == ask_udp(world.client, HOST, 99) == CLIENT
        assert ask_tcp(world.client, HOST6, 99) == ask_udp(world.client, HOST6, 99) == CLIENT6
        assert ask_tcp(world.client, HOST, 98) == "refused"


def test_the_name_server_answers_over_udp_and_over_tcp_what_does_not_fit() -> None:
    with World() as world:
        many = dns.message.make_query("many.example.test", "A")
        found, by_tcp = world.host.call(lambda: dns.query.udp_with_fallback(many, RESOLVER, timeout=60))
        assert by_tcp
        assert len(found.answer[0]) == 200
        missing = dns.message.make_query("nobody.example.test", "AAAA", use_edns=0)
        gone = world.host.call(lambda: dns.query.udp(missing, RESOLVER, timeout=60))
        assert gone.rcode() == dns.rcode.NXDOMAIN
        assert world.names.asked[-1] == Asked("nobody.example.test", "AAAA", "udp", HOST_AT_RESOLVER, has_edns=True)
        assert world.names.names() == ["many.example.test", "many.example.test", "nobody.example.test"]


def test_an_engine_in_the_world_publishes_ports_and_asks_its_name_server() -> None:
    with World() as world, world.corten() as engine:
        web = world.container("-p", "8080:80", name="web")
        with TcpServer(web, 80):
            assert ask_tcp(world.client, HOST, 8080) == CLIENT
        said = engine.docker("exec", "web", "cat", "/etc/resolv.conf", check=True).stdout
        assert f"nameserver {RESOLVER}" in said
