"""`corten network`: what it asks, what it shows; requests and texts are those of Docker's CLI 28.2."""

from __future__ import annotations

from typing import Any

import pytest

from corten import errors
from corten.cli import ipam
from corten.cli.networks import create_request, endpoint_request, go_time, network_row

CREATE: dict[str, Any] = {
    **{"driver": "bridge", "scope": "", "ipv4": None, "ipv6": None, "ipam_driver": "default", "ipam_opt": ()},
    **{"internal": False, "attachable": False, "ingress": False, "config_only": False, "config_from": ""},
    **{"opt": (), "label": (), "subnet": (), "ip_range": (), "gateway": (), "aux_address": ()},
}
CONNECT: dict[str, Any] = {
    "driver_opt": (), "ip": "", "ip6": "", "link_local_ip": (), "link": (), "alias": (), "gw_priority": 0,
}  # fmt: skip


def test_create_asks_what_dockers_cli_asks() -> None:
    plain = {
        **{"Name": "a", "Driver": "bridge", "Scope": "", "Internal": False, "Attachable": False, "Ingress": False},
        **{"IPAM": {"Driver": "default", "Options": {}, "Config": []}, "ConfigOnly": False, "ConfigFrom": None},
        **{"Options": {}, "Labels": {}},
    }
    assert create_request("a", CREATE) == plain
    given = {"ipv4": False, "ipv6": True, "opt": ("parent=eth0", "x"), "label": ("a=b",), "config_from": "c"}
    assert create_request("a", CREATE | given) == plain | {
        **{"EnableIPv4": False, "EnableIPv6": True, "Options": {"parent": "eth0", "x": ""}, "Labels": {"a": "b"}},
        "ConfigFrom": {"Network": "c"},
    }


def test_addresses_go_to_the_subnet_that_they_lie_in() -> None:
    given = {
        "subnet": ("10.1.0.0/16,fd00::/64", "10.2.0.0/16"),
        "gateway": ("fd00::1",),
        "ip_range": ("10.2.3.0/24",),
        "aux_address": ("h=10.1.0.5", "g=10.1.0.6"),
    }
    assert create_request("a", CREATE | given)["IPAM"]["Config"] == [
        {"Subnet": "10.1.0.0/16", "AuxiliaryAddresses": {"h": "10.1.0.5", "g": "10.1.0.6"}},
        {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
        {"Subnet": "10.2.0.0/16", "IPRange": "10.2.3.0/24"},
    ]


B = "10.1.0.0/16"


@pytest.mark.parametrize(
    ("subnets", "ranges", "gateways", "reserved", "reason"),
    [
        ([], ["10.1.0.0/24"], [], {}, "every ip-range or gateway must have a corresponding subnet"),
        ([B], [], ["10.1.0.1", "10.1.0.2"], {}, "every ip-range or gateway must have a corresponding subnet"),
        ([B, "10.1.2.0/24"], [], [], {}, "multiple overlapping subnet configuration is not supported"),
        ([B], ["10.2.0.0/24"], [], {}, "no matching subnet for range 10.2.0.0/24"),
        ([B], ["10.1.0.5"], [], {}, "invalid CIDR address: 10.1.0.5"),
        ([B], [], ["10.2.0.1"], {}, "no matching subnet for gateway 10.2.0.1"),
        ([B], [], ["x/y"], {}, "invalid CIDR address: x/y"),
        ([B], [], [], {"a": "x"}, "no matching subnet for aux-address x"),
        (["x"], [], ["10.1.0.5"], {}, "invalid subnet: invalid CIDR address: x"),
        (["010.1.0.0/16"], [], ["10.1.0.1"], {}, "invalid subnet: invalid CIDR address: 010.1.0.0/16"),
        ([B, "10.2.0.0/16"], [], ["10.1.0.1", "10.1.0.2"], {},
         f"cannot configure multiple gateways (10.1.0.2, 10.1.0.1) for the same subnet ({B})"),
        ([B, "10.2.0.0/16"], ["10.1.0.0/24", "10.1.1.0/24"], [], {},
         f"cannot configure multiple ranges (10.1.1.0/24, 10.1.0.0/24) on the same subnet ({B})"),
    ],
)  # fmt: skip
def test_addresses_that_fit_no_subnet_are_refused(
    subnets: list[str], ranges: list[str], gateways: list[str], reserved: dict[str, str], reason: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        ipam.configs(subnets, ranges, gateways, reserved)
    assert caught.value.text == reason


def test_a_subnet_alone_is_left_to_the_engine() -> None:
    assert ipam.configs(["x"], [], [], {}) == [{"Subnet": "x"}]
    assert ipam.configs([B, "fd00::/64"], [], ["::ffff:10.1.0.1"], {})[0]["Gateway"] == "::ffff:10.1.0.1"


def test_connect_asks_what_dockers_cli_asks() -> None:
    assert endpoint_request(CONNECT) == {
        "IPAMConfig": {}, "Links": None, "Aliases": [], "DriverOpts": {}, "GwPriority": 0,
    }  # fmt: skip
    given = {
        **{"alias": ("x", "y,z"), "driver_opt": ("a=b=c", " d = e "), "gw_priority": 3, "ip": "10.0.0.1"},
        **{"link": ("c:d",), "link_local_ip": ("169.254.1.1,169.254.1.2",)},
    }
    assert endpoint_request(CONNECT | given) == {
        "IPAMConfig": {"IPv4Address": "10.0.0.1", "LinkLocalIPs": ["169.254.1.1", "169.254.1.2"]},
        **{"Links": ["c:d"], "Aliases": ["x", "y", "z"], "DriverOpts": {"a": "b=c", "d": "e"}, "GwPriority": 3},
    }
    for wrong in ("c", "=b"):
        with pytest.raises(errors.InvalidArgument, match="invalid key/value pair format in driver options"):
            endpoint_request(CONNECT | {"driver_opt": (wrong,)})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2024-01-02T03:04:05Z", "2024-01-02 03:04:05 +0000 UTC"),
        ("2024-01-02T03:04:05.123450000Z", "2024-01-02 03:04:05.12345 +0000 UTC"),
        ("2024-01-02T03:04:05+02:00", "2024-01-02 03:04:05 +0200 +0200"),
        ("", ""),
    ],
)
def test_moment_is_shown_as_go_shows_it(text: str, shown: str) -> None:
    assert go_time(text) == shown


def test_row_has_short_id_and_words_for_booleans() -> None:
    one = {"Id": "a" * 64, "Name": "n", "Driver": "bridge", "Scope": "local", "EnableIPv4": True, "Labels": {"b": "c"}}
    row = network_row(one, no_trunc=False)
    assert (row["ID"], row["IPv4"], row["IPv6"], row["Internal"]) == ("a" * 12, "true", "false", "false")
    assert (row["Labels"], row["Label"]("b"), row["Label"]("x")) == ("b=c", "c", "")
    assert network_row(one, no_trunc=True)["ID"] == "a" * 64
