"""`--network` and the flags beside it; requests and texts are those of Docker's CLI 28.2."""

from __future__ import annotations

from typing import Any

import pytest

from corten import errors
from corten.cli.networkflag import networking, parse_network

NONE = {
    **{"network": (), "network_alias": (), "link": (), "link_local_ip": ()},
    **{"ip": None, "ip6": None, "mac_address": None},
}
LONG = (
    "name=a,alias=b,alias=c,ip=10.0.0.1,ip6=fd00::1,link-local-ip=169.254.1.1,mac-address=02:42:00:00:00:01,"
    "driver-opt=k=v,driver-opt=j=w,gw-priority=4"
)
ALL = {
    "IPAMConfig": {"IPv4Address": "10.0.0.1", "IPv6Address": "fd00::1", "LinkLocalIPs": ["169.254.1.1"]},
    "Aliases": ["b", "c"],
    "MacAddress": "02:42:00:00:00:01",
    "DriverOpts": {"k": "v", "j": "w"},
    "GwPriority": 4,
}


@pytest.mark.parametrize(
    ("given", "mode", "endpoints"),
    [
        ({}, "default", {}),
        ({"network": ("a",)}, "a", {}),
        ({"network": ("a", "b")}, "a", {"a": {}, "b": {}}),
        ({"network": (LONG,)}, "a", {"a": ALL}),
        ({"network": ("a", "name=b,alias=c"), "network_alias": ("q",)}, "a",
         {"a": {"Aliases": ["q"]}, "b": {"Aliases": ["c"]}}),
        ({"network": ("a",), "link": ("z:y",)}, "a", {"a": {"Links": ["z:y"]}}),
        ({"link": ("z:y",)}, "default", {}),
        ({"ip": "x"}, "default", {"default": {"IPAMConfig": {"IPv4Address": "x"}}}),
        ({"network": ("host",), "ip": "10.0.0.1"}, "host", {"host": {"IPAMConfig": {"IPv4Address": "10.0.0.1"}}}),
        ({"network": ("name=A, ALIAS=B ",)}, "a", {"a": {"Aliases": ["b"]}}),
        ({"network": ("name=",)}, "name=", {}),
        ({"network": ("a,b",)}, "a,b", {}),
        ({"network": ('"name=a",alias=c',)}, "a", {"a": {"Aliases": ["c"]}}),
        ({"network": ("name=a,gw-priority=+1",)}, "a", {"a": {"GwPriority": 1}}),
    ],
)  # fmt: skip
def test_flags_become_the_endpoints_that_dockers_cli_sends(
    given: dict[str, Any], mode: str, endpoints: dict[str, Any]
) -> None:
    assert networking(NONE | given) == (mode, endpoints)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name=a,nope=1", "invalid field key nope"),
        ("a=b", "invalid field key a"),
        ("name=a,link=x", "invalid field key link"),
        ("name=a,alias", "invalid field alias"),
        ("alias=b", "network name/id is not specified"),
        ("name=a,driver-opt=k", "invalid key value pair format in driver options"),
        ("name=a,driver-opt==v", "invalid key value pair format in driver options"),
        ("name=a,gw-priority=x", "invalid gw-priority (x): invalid syntax"),
        ("name=a,gw-priority=0x10", "invalid gw-priority (0x10): invalid syntax"),
        ("name=a,gw-priority=99999999999999999999", "invalid gw-priority (99999999999999999999): value out of range"),
    ],
)
def test_wrong_network_is_refused_with_dockers_reason(text: str, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        parse_network(text)
    assert caught.value.text == reason


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"network": ("",)}, "no name set for network"),
        ({"network": ("a", "name=a")}, 'network "a" is specified multiple times'),
        ({"network": ("host", "host")}, 'network "host" is specified multiple times'),
        ({"network": ("a", "host")}, "conflicting options: cannot attach both user-defined and non-user-defined"),
        ({"network": ("container:x", "a")}, "conflicting options: cannot attach both user-defined and non-user"),
        ({"network_alias": ("q",)}, "network-scoped aliases are only supported for user-defined networks"),
        ({"network": ("name=a,mac-address=x",)}, "x is not a valid mac address"),
        ({"network": ("name=a,alias=b",), "network_alias": ("c",)},
         "conflicting options: cannot specify both --network-alias and per-network alias"),
        ({"network": ("name=a,ip=10.0.0.1",), "ip": "10.0.0.1"},
         "conflicting options: cannot specify both --ip and per-network IPv4 address"),
        ({"network": ("name=a,link-local-ip=169.254.1.1",), "link_local_ip": ("169.254.1.1",)},
         "conflicting options: cannot specify both --link-local-ip and per-network link-local IP addresses"),
    ],
)  # fmt: skip
def test_networks_that_do_not_go_together_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        networking(NONE | given)
    assert caught.value.text.startswith(reason)
