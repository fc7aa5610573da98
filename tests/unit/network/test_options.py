"""Driver options of bridge networks and of endpoints."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from corten.errors import InvalidArgument
from corten.network import endpointoptions, options
from corten.network.options import BridgeOptions, Mode


def test_without_options_containers_reach_each_other_and_have_the_hosts_address_outside() -> None:
    assert options.parse({}) == BridgeOptions()
    assert options.parse({"com.example.unknown": "x"}) == BridgeOptions()


def test_every_option_has_its_meaning() -> None:
    found = options.parse(
        {
            "com.docker.network.bridge.name": "br0",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "0",
            "com.docker.network.bridge.inhibit_ipv4": "1",
            "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            "com.docker.network.bridge.trusted_host_interfaces": "wg0:tun0",
            "com.docker.network.bridge.gateway_mode_ipv4": "routed",
            "com.docker.network.bridge.gateway_mode_ipv6": "nat-unprotected",
            "com.docker.network.host_ipv4": "192.0.2.5",
            "com.docker.network.host_ipv6": "2001:db8::5",
            "com.docker.network.container_iface_prefix": "lan",
            "com.docker.network.driver.mtu": "1400",
        }
    )
    assert found == BridgeOptions(
        name="br0",
        mtu=1400,
        has_icc=False,
        masquerades=False,
        inhibits_ipv4=True,
        host_ip=IPv4Address("127.0.0.1"),
        trusted=("wg0", "tun0"),
        prefix="lan",
        mode4=Mode.ROUTED,
        mode6=Mode.UNPROTECTED,
        source4=IPv4Address("192.0.2.5"),
        source6=IPv6Address("2001:db8::5"),
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (options.ICC, "yes", 'value: yes (strconv.ParseBool: parsing "yes": invalid syntax)'),
        (options.MASQUERADE, "", 'value:  (strconv.ParseBool: parsing "": invalid syntax)'),
        (options.MTU, "big", 'value: big (strconv.Atoi: parsing "big": invalid syntax)'),
        (options.MTU, "9" * 30, "value out of range)"),
        (options.MTU, "-1", "invalid MTU number: -1"),
        (options.MTU, "10", "invalid MTU number: 10"),
        (options.MTU, "65536", "invalid MTU number: 65536"),
        (options.HOST_IP, "here", "value: here (nil ip)"),
        (options.SOURCES[4], "2001:db8::1", "not an IPv4 address"),
        (options.MODES[4], "nut", "value: nut (unknown gateway mode nut)"),
        (options.NAME, "sixteen-bytes-br", "not the name of a device"),
        (options.NAME, "../x", "not the name of a device"),
        (options.NAME, 'a"b', "not the name of a device"),
        (options.TRUSTED, "eth0:..", "not the name of a device"),
        (options.PREFIX, "a b", "not the name of a device"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_option(name: str, value: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        options.parse({name: value})
    assert text in caught.value.text


def test_isolated_is_for_internal_networks() -> None:
    said = {options.MODES[6]: "isolated"}
    options.check(said, internal=True, has_ipv6=False)
    with pytest.raises(InvalidArgument, match="gateway mode 'isolated' can only be used for an internal network"):
        options.check(said, internal=False, has_ipv6=False)


def test_ipv6_needs_an_mtu_of_1280() -> None:
    options.check({options.MTU: "1279"}, internal=False, has_ipv6=False)
    with pytest.raises(InvalidArgument, match="invalid MTU number: 1279"):
        options.check({options.MTU: "1279"}, internal=False, has_ipv6=True)


def test_a_family_is_turned_on_and_off_by_an_option() -> None:
    assert options.is_enabled({}, 6) is None
    assert options.is_enabled({options.ENABLE[6]: "true"}, 6) is True
    assert options.is_enabled({options.ENABLE[4]: "0"}, 4) is False
    with pytest.raises(InvalidArgument, match="is not a valid bool"):
        options.is_enabled({options.ENABLE[6]: "on"}, 6)


def test_sysctls_of_an_endpoint_are_files_of_its_interface() -> None:
    said = {endpointoptions.SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.IFNAME.gc_stale_time=30"}
    found = endpointoptions.sysctls(said)
    assert endpointoptions.for_interface(found, "eth2") == (
        ("ipv4/conf/eth2/log_martians", "1"),
        ("ipv6/neigh/eth2/gc_stale_time", "30"),
    )
    assert endpointoptions.sysctls({}) == ()


@pytest.mark.parametrize(
    "text",
    [
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.forwarding=1",
        "net.ipv4.conf.eth0.forwarding=1",
        "net.ipv4.conf.IFNAME.log_martians",
        "net.ipv4.conf.IFNAME.../../x=1",
        "net.ipv4.conf.IFNAME.log_martians=1\n2",
        "kernel.conf.IFNAME.x=1",
        ",",
        "net.ipv4.conf.IFNAME.log_martians=1,",
    ],
)
def test_a_sysctl_that_is_not_of_the_interface_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid sysctl"):
        endpointoptions.sysctls({endpointoptions.SYSCTLS: text})
