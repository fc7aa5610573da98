"""Docker's JSON of networks and endpoints."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

from corten.network import inspect
from corten.network.addresses import default_network
from corten.network.values import ANY, Bridge, Endpoint, Network, Publication

ENDPOINT = Endpoint(
    endpoint_id="e" * 64,
    container_id="c" * 64,
    network_id="n" * 64,
    address=IPv4Interface("172.17.0.3/16"),
    gateway=IPv4Address("172.17.0.1"),
    mac="02:42:ac:11:00:03",
    link="ct0123eeeeeeee",
)


def test_ports_are_listed_with_exposed_ones_as_null() -> None:
    local = Publication("tcp", IPv4Address("127.0.0.1"), 9000, 90)
    found = inspect.ports_map(
        ["443/tcp", "80/tcp", "90/tcp"], [Publication("tcp", ANY, 8080, 80), local, Publication("tcp", ANY, 9001, 90)]
    )
    assert found == {
        "443/tcp": None,
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
        "90/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}, {"HostIp": "0.0.0.0", "HostPort": "9001"}],
    }


def test_an_endpoint_shows_its_values() -> None:
    shown = inspect.endpoint_settings("n" * 64, ENDPOINT)
    assert (shown["IPAddress"], shown["IPPrefixLen"], shown["Gateway"]) == ("172.17.0.3", 16, "172.17.0.1")
    assert (shown["MacAddress"], shown["EndpointID"], shown["NetworkID"]) == ("02:42:ac:11:00:03", "e" * 64, "n" * 64)
    assert inspect.default_bridge_settings(ENDPOINT)["IPAddress"] == "172.17.0.3"


def test_a_stopped_container_shows_the_same_fields_without_values() -> None:
    running, stopped = (inspect.endpoint_settings("n" * 64, one) for one in (ENDPOINT, None))
    assert running.keys() == stopped.keys()
    assert (stopped["IPAddress"], stopped["IPPrefixLen"], stopped["NetworkID"]) == ("", 0, "n" * 64)
    assert inspect.endpoint_settings("n" * 64, None, "f" * 64)["EndpointID"] == "f" * 64


def test_the_default_networks_are_shown_as_docker_shows_them() -> None:
    bridge = Bridge("ctn-0123abcd", (IPv4Interface("172.17.0.1/16"),))
    default = default_network("n" * 64, "172.17.0.1/16")
    shown = inspect.network_resource(default, bridge, {"c" * 64: inspect.member("web", ENDPOINT)})
    assert shown["IPAM"]["Config"] == [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]
    assert shown["Options"]["com.docker.network.bridge.name"] == "ctn-0123abcd"
    assert shown["Containers"]["c" * 64]["IPv4Address"] == "172.17.0.3/16"
    none = inspect.network_resource(Network("m" * 64, "none", "null", ""), None, None)
    assert (none["Driver"], none["IPAM"]["Config"], none["Containers"], none["Options"]) == ("null", None, {}, {})
