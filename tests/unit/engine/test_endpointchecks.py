"""What a container may ask of a network; every text is dockerd 26.1's answer to the same request."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from corten.engine.endpointchecks import check_asked, check_settings
from corten.errors import InvalidArgument
from corten.network.values import Network, Subnet
from corten.spec.docker import EndpointIPAMConfig, EndpointSettings

_NO_SUBNET = "user specified IP address is supported only when connecting to networks with user configured subnets"
OWN = Network("1" * 64, "n1", "bridge", "", (Subnet(ip_network("10.81.0.0/24"), ip_address("10.81.0.1")),))
CHOSEN = Subnet(ip_network("172.17.0.0/16"), ip_address("172.17.0.1"), is_chosen=True)
BRIDGE = Network("2" * 64, "bridge", "bridge", "", (CHOSEN,))


def asked(ip: str = "", ip6: str = "", local: str = "", mac: str = "", alias: str = "") -> EndpointSettings:
    ipam = EndpointIPAMConfig(ipv4_address=ip, ipv6_address=ip6, link_local_ips=[local] if local else None)
    return EndpointSettings(ipam_config=ipam, mac_address=mac, aliases=[alias] if alias else None)


@pytest.mark.parametrize(
    ("network", "settings", "text"),
    [
        (OWN, asked(ip="10.99.0.9"), "no configured subnet or ip-range contain the IP address 10.99.0.9"),
        (
            OWN,
            asked(ip="x"),
            "* invalid IPv4 address: x\n* no configured subnet or ip-range contain the IP address x",
        ),
        (
            OWN,
            asked(ip="0.0.0.0"),
            "* invalid IPv4 address: 0.0.0.0\n* no configured subnet or ip-range contain the IP address 0.0.0.0",
        ),
        (OWN, asked(ip6="x"), f"* invalid IPv6 address: x\n* {_NO_SUBNET}"),
        (OWN, asked(ip6="fd99::1"), _NO_SUBNET),
        (OWN, asked(local="x"), "invalid link-local IP address: x"),
        (
            BRIDGE,
            asked(ip="172.17.0.99"),
            f"* user specified IP address is supported on user defined networks only\n* {_NO_SUBNET}",
        ),
        (BRIDGE, asked(alias="x"), "network-scoped alias is supported only for containers in user defined networks"),
    ],
)
def test_a_request_that_a_network_cannot_meet_is_refused(
    network: Network, settings: EndpointSettings, text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_settings(network, settings)
    assert caught.value.text == f"invalid endpoint settings:\n{text}"
    with pytest.raises(InvalidArgument) as caught:
        check_asked(network.name, network, settings)
    assert caught.value.text == f"invalid config for network {network.name}: invalid endpoint settings:\n{text}"


def test_a_hardware_address_is_looked_at_first() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid MAC address zz$"):
        check_settings(OWN, asked(ip="x", ip6="y", mac="zz"))


def test_of_a_network_that_is_not_there_less_can_be_told() -> None:
    check_asked("later", None, asked(ip="10.81.0.9"))
    with pytest.raises(InvalidArgument, match="invalid IPv4 address: x"):
        check_asked("later", None, asked(ip="x"))


@pytest.mark.parametrize(
    "settings", [asked(), asked(ip="10.81.0.9", local="169.254.3.4", mac="02:42:0a:51:00:09", alias="x")]
)
def test_what_a_network_can_meet_is_taken(settings: EndpointSettings) -> None:
    check_settings(OWN, settings)
