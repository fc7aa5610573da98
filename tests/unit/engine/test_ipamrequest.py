"""IPAM of NetworkCreate: dockerd's refusals, and the subnets."""

from __future__ import annotations

from typing import Any

import pytest

from corten.engine.ipamrequest import enabled, subnets_of
from corten.errors import InvalidArgument, PermissionDenied
from corten.network import options
from corten.spec.docker import IPAMConfig, NetworkCreateRequest


def subnet(**fields: Any) -> Any:
    (found,) = subnets_of([IPAMConfig(**fields)], (4, 6))
    return found


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({}, ["invalid subnet : invalid CIDR block notation"]),
        ({"subnet": "10.0.0.0"}, ["invalid subnet 10.0.0.0: invalid CIDR block notation"]),
        ({"subnet": "10.0.0.0/255.0.0.0"}, ["invalid subnet 10.0.0.0/255.0.0.0: invalid CIDR block notation"]),
        ({"subnet": "10.0.0.0/08"}, ["invalid subnet 10.0.0.0/08: invalid CIDR block notation"]),
        ({"subnet": "10.0.0.7/24"}, ["invalid subnet 10.0.0.7/24: it should be 10.0.0.0/24"]),
        (
            {"subnet": "10.0.0.0/24", "ip_range": "10.0.1.7/24", "gateway": "10.1.0.1"},
            [
                "invalid ip-range 10.0.1.7/24: it should be 10.0.1.0/24",
                "invalid ip-range 10.0.1.7/24: parent subnet 10.0.0.0/24 doesn't contain ip-range",
                "invalid gateway 10.1.0.1: parent subnet 10.0.0.0/24 doesn't contain this address",
            ],
        ),
        (
            {"subnet": "10.0.0.0/24", "ip_range": "10.0.0.0/16"},
            ["invalid ip-range 10.0.0.0/16: CIDR block is bigger than its parent subnet 10.0.0.0/24"],
        ),
        (
            {"subnet": "10.0.0.0/24", "ip_range": "fd00::/64", "gateway": "fd00::1"},
            [
                "invalid ip-range fd00::/64: parent subnet is an IPv4 block",
                "invalid gateway fd00::1: parent subnet is an IPv4 block",
            ],
        ),
        (
            {"subnet": "10.0.0.0/24", "ip_range": "x", "gateway": "x", "auxiliary_addresses": {"a": "x"}},
            [
                "invalid ip-range x: invalid CIDR block notation",
                "invalid gateway x: invalid address",
                "invalid auxiliary address a: invalid address",
            ],
        ),
    ],
)
def test_every_fault_is_told_at_once(fields: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        subnet(**fields)
    assert caught.value.text.split("\n") == ["invalid network config:", *faults]


def test_the_gateway_is_the_first_address_of_the_range_that_has_no_name() -> None:
    assert str(subnet(subnet="10.0.0.0/24").own) == "10.0.0.1/24"
    found = subnet(subnet="10.0.0.0/16", ip_range="10.0.5.0/24", auxiliary_addresses={"a": "10.0.5.0"})
    assert (str(found.own), str(found.range)) == ("10.0.5.1/16", "10.0.5.0/24")
    assert str(subnet(subnet="fd00::/64").gateway) == "fd00::1"


def test_an_address_that_nobody_can_have_is_refused() -> None:
    with pytest.raises(PermissionDenied, match=r"failed to allocate gateway \(10.0.0.0\): Address already in use"):
        subnet(subnet="10.0.0.0/24", gateway="10.0.0.0")
    with pytest.raises(PermissionDenied, match=r"secondary ip address \(a:10.0.0.9\): Address already in use"):
        subnet(subnet="10.0.0.0/24", gateway="10.0.0.9", auxiliary_addresses={"a": "10.0.0.9"})


def test_one_subnet_of_each_family_and_those_of_a_family_that_is_off_are_left_out() -> None:
    both = [IPAMConfig(subnet="10.0.0.0/24"), IPAMConfig(subnet="fd00::/64")]
    assert [one.network.version for one in subnets_of(both, (4, 6))] == [4, 6]
    assert [one.network.version for one in subnets_of(both[::-1], (4, 6))] == [4, 6]
    assert [one.network.version for one in subnets_of(both, (4,))] == [4]
    assert subnets_of([IPAMConfig(subnet="fd00::7/64")], (4,)) == ()
    with pytest.raises(PermissionDenied, match="bridge driver doesn't support multiple subnets"):
        subnets_of([*both, IPAMConfig(subnet="10.1.0.0/24")], (4, 6))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ff02::/64", "multicast subnet"),
        ("224.0.0.0/24", "multicast subnet"),
        ("127.1.0.0/24", "loopback subnet"),
        ("fe80::/80", "clashes with the Link-Local prefix 'fe80::/64'"),
    ],
)
def test_a_subnet_that_is_for_something_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        subnet(subnet=text)


def test_the_request_says_which_families_are_on_and_the_options_where_it_is_silent() -> None:
    silent, six = NetworkCreateRequest(), {options.ENABLE[6]: "true"}
    assert enabled(silent, {}) == {4}
    assert enabled(silent, six) == {4, 6}
    assert enabled(NetworkCreateRequest(enable_ipv6=False), six) == {4}
    assert enabled(NetworkCreateRequest(enable_ipv4=False), six) == {6}
    with pytest.raises(InvalidArgument, match="IPv4 or IPv6 must be enabled"):
        enabled(NetworkCreateRequest(enable_ipv4=False), {})
