"""Drivers, scopes and configuration-only networks: what is refused, and what a network takes over."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from corten.engine import networkkinds
from corten.errors import CortenError, InvalidArgument, NotFound, PermissionDenied
from corten.network.values import Network, Subnet
from corten.spec.docker import IPAM, IPAMConfig, NetworkCreateRequest

SOURCE = Network(
    "c" * 64,
    "conf",
    networkkinds.CONFIG_DRIVER,
    "2026-01-01T00:00:00Z",
    subnets=(Subnet(IPv4Network("10.8.0.0/24"), IPv4Address("10.8.0.1")),),
    options={"com.docker.network.bridge.enable_icc": "false"},
    labels={"a": "b"},
    config_only=True,
)
EMPTY = Network("d" * 64, "made", "bridge", "2026-01-01T00:00:00Z")
MADE_FROM = NetworkCreateRequest(name="made", config_from={"Network": "conf"})

SWARM = "cannot create a swarm scoped network when swarm is not active"
OWN = "user specified configurations are not supported if the network depends on a configuration network"


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (NetworkCreateRequest(driver="overlay"), PermissionDenied, "This node is not a swarm manager. Use "),
        (NetworkCreateRequest(driver="nope"), NotFound, 'plugin "nope" not found'),
        (NetworkCreateRequest(driver="host"), PermissionDenied, 'only one instance of "host" network is allowed'),
        (NetworkCreateRequest(driver="null"), PermissionDenied, 'only one instance of "null" network is allowed'),
        (NetworkCreateRequest(ingress=True), PermissionDenied, "Ingress network can only be global scope network"),
        (NetworkCreateRequest(scope="swarm"), PermissionDenied, SWARM),
        (NetworkCreateRequest(scope="wide"), InvalidArgument, "invalid network scope: wide: "),
        (NetworkCreateRequest(config_only=True, internal=True), PermissionDenied, "configuration network can only "),
        (NetworkCreateRequest(config_only=True, scope="local"), PermissionDenied, "configuration network can only "),
        (
            NetworkCreateRequest(config_only=True, config_from={"Network": "conf"}),
            PermissionDenied,
            "a configuration network cannot depend on another configuration network",
        ),
        (NetworkCreateRequest(config_from={"Network": "conf"}, labels={"a": "b"}), PermissionDenied, OWN),
        (
            NetworkCreateRequest(config_from={"Network": "conf"}, ipam=IPAM(config=[IPAMConfig(subnet="10.9.0.0/24")])),
            PermissionDenied,
            OWN,
        ),
        (
            NetworkCreateRequest(config_from={"Network": "conf"}, options={"a": "b"}),
            PermissionDenied,
            "network driver options are not supported if the network depends on a configuration network",
        ),
    ],
)
def test_what_there_is_no_network_of_is_refused_in_dockerds_words(
    request_: NetworkCreateRequest, kind: type[CortenError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        networkkinds.check(request_, request_.driver or networkkinds.BRIDGE)
    assert caught.value.text.startswith(text)


@pytest.mark.parametrize("driver", ["bridge", "macvlan", "ipvlan"])
def test_the_drivers_there_are_are_accepted(driver: str) -> None:
    networkkinds.check(NetworkCreateRequest(driver=driver, scope="local", attachable=True), driver)


def test_a_network_takes_over_what_its_configuration_says() -> None:
    made = networkkinds.configured(EMPTY, MADE_FROM, [SOURCE])
    assert (made.subnets, made.options, made.labels) == (SOURCE.subnets, SOURCE.options, SOURCE.labels)
    assert (made.name, made.driver, made.config_from, made.config_only) == ("made", "bridge", "conf", False)


def test_a_configuration_that_is_not_there_or_is_a_network_itself_is_not_found() -> None:
    for others in ([], [Network("e" * 64, "conf", "bridge", "2026-01-01T00:00:00Z")]):
        with pytest.raises(NotFound, match='configuration network "conf" does not exist'):
            networkkinds.configured(EMPTY, MADE_FROM, others)


def test_an_empty_reference_is_none() -> None:
    assert networkkinds.configured(EMPTY, NetworkCreateRequest(config_from={"Network": ""}), [SOURCE]) is EMPTY


def test_a_configuration_in_use_is_kept_and_nobody_joins_it() -> None:
    made = networkkinds.configured(EMPTY, MADE_FROM, [SOURCE])
    with pytest.raises(PermissionDenied, match='configuration network "conf" is in use'):
        networkkinds.check_unused(SOURCE, [SOURCE, made])
    networkkinds.check_unused(SOURCE, [SOURCE])
    with pytest.raises(PermissionDenied, match="cannot create endpoint on configuration-only network"):
        networkkinds.check_joinable(SOURCE)
    networkkinds.check_joinable(made)
