"""Rows of test_daemon_keys for the keys of networks: a value that is not the default, and what shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clients.api import Api
from support.engine import CortenEngine

Look = Callable[["Running"], Any]


@dataclass(frozen=True)
class Running:
    """An engine with all keys set, a container that it started, and what a reload says of the whole configuration."""

    engine: CortenEngine
    info: Any
    inspect: Any
    said: str
    configuration: Any


@dataclass(frozen=True)
class Row:
    """A supported key: a value that is not the default, and what shows it."""

    value: Any
    look: Look
    expect: Any


def bridge(running: Running) -> Any:
    """The network `bridge`."""
    return Api(running.engine.socket).ok("GET", "/networks/bridge")


def option(name: str) -> Look:
    """A driver option of it."""
    return lambda running: bridge(running)["Options"].get(f"com.docker.network.{name}")


def subnets(running: Running) -> list[Any]:
    return list(bridge(running)["IPAM"]["Config"])


def forward(running: Running) -> str:
    """What the firewall says of forwarding."""
    done = running.engine.netns.run(["nft", "list", "ruleset"])
    return done.partition("chain forward")[2]


def made(running: Running) -> Any:
    """A network that daemon.json's pools and options are for."""
    api = Api(running.engine.socket)
    found = api.ok("POST", "/networks/create", {"Name": "made"})["Id"]
    try:
        return api.ok("GET", f"/networks/{found}")
    finally:
        api.ok("DELETE", f"/networks/{found}")


NETWORKS: dict[str, Row] = {
    "allow-direct-routing": Row(True, lambda running: running.configuration.get("allow-direct-routing"), True),
    "bip": Row("10.199.0.1/16", lambda running: subnets(running)[0]["Gateway"], "10.199.0.1"),
    "bip6": Row("fd00:199::1/64", lambda running: [one["Gateway"] for one in subnets(running)[1:]], ["fd00:199::1"]),
    "bridge": Row("", lambda running: option("bridge.name")(running)[:4], "ctn-"),  # one of the host's: below
    "bridge-accept-fwmark": Row("0x1/0x3", lambda running: "mark & 0x00000003 == 0x00000001" in forward(running), True),
    "default-address-pools": Row(
        [{"base": "10.198.0.0/16", "size": 26}],
        lambda running: (made(running)["IPAM"]["Config"][0]["Subnet"][:7], running.info.get("DefaultAddressPools")),
        ("10.198.", [{"Base": "10.198.0.0/16", "Size": 26}]),
    ),
    "default-gateway": Row("10.199.0.9", lambda running: "default via 10.199.0.9 dev eth0" in running.said, True),
    "default-gateway-v6": Row(
        "fd00:199::9",
        lambda running: [one.get("AuxiliaryAddresses") for one in subnets(running)[1:]],
        [{"DefaultGatewayIPv6": "fd00:199::9"}],
    ),
    "default-network-opts": Row(
        {"bridge": {"com.docker.network.enable_ipv6": "true"}}, lambda running: made(running)["EnableIPv6"], True
    ),
    "firewall-backend": Row("nftables", lambda running: running.configuration.get("firewall-backend"), "nftables"),
    "fixed-cidr": Row("10.199.7.0/24", lambda running: "inet 10.199.7.0/16" in running.said, True),
    "fixed-cidr-v6": Row(
        "fd00:199::7:0/112", lambda running: [one.get("IPRange") for one in subnets(running)[1:]], ["fd00:199::7:0/112"]
    ),
    "icc": Row(False, option("bridge.enable_icc"), "false"),
    "ip": Row("127.0.0.1", option("bridge.host_binding_ipv4"), "127.0.0.1"),
    "ip-forward": Row(True, lambda running: running.configuration.get("ip-forward"), True),
    "ip-forward-no-drop": Row(True, lambda running: running.configuration.get("ip-forward-no-drop"), True),
    "ip-masq": Row(False, option("bridge.enable_ip_masquerade"), "false"),
    "ip6tables": Row(True, lambda running: running.configuration.get("ip6tables"), True),
    "iptables": Row(True, lambda running: running.configuration.get("iptables"), True),
    "ipv6": Row(True, lambda running: bridge(running)["EnableIPv6"], True),
    "mtu": Row(1400, lambda running: " mtu 1400 " in running.said, True),
}
