"""Subnets, addresses and driver options of networks: what the docker CLI sees beside dockerd 26.1.

Names and subnets are of this file alone: both engines are shared with others.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine

NAME = "addresses"

# create with these words fails with the same text
REFUSED = [
    "--subnet 10.231.0.0",
    "--subnet 10.231.0.7/24",
    "--subnet 10.231.0.0/24 --ip-range 10.232.0.0/25",
    "--subnet 10.231.0.0/24 --ip-range 10.231.0.0/16",
    "--subnet 10.231.0.0/24 --subnet 10.232.0.0/24",
    "--subnet 10.231.0.0/24 --gateway 10.231.0.0",
    "--subnet 10.231.0.0/24 --gateway 10.231.0.255",
    "--subnet 10.231.0.0/24 --gateway 10.231.0.5 --aux-address x=10.231.0.5",
    "--subnet 10.230.0.128/25",
    "-o com.docker.network.bridge.enable_icc=x",
    "-o com.docker.network.bridge.enable_ip_masquerade=maybe",
    "-o com.docker.network.driver.mtu=x",
    "-o com.docker.network.driver.mtu=-1",
    "-o com.docker.network.bridge.host_binding_ipv4=x",
    "-o com.docker.network.bridge.name=lo",
    "-o com.docker.network.bridge.name=br-addresses",
    "--ipam-driver nope",
    "--ipam-driver null",
]
# and with these it has the same IPAM, options, addresses and routes
MADE = [
    "--subnet 10.231.0.0/16 --ip-range 10.231.5.0/24 --aux-address a=10.231.5.1",
    "--subnet 10.231.0.0/24 --ipv6 --subnet fd00:231::/64 --gateway fd00:231::9 --ip-range fd00:231::100/120",
]
MORE = [
    "--subnet 10.231.0.0/24",
    "--subnet 10.231.0.0/24 --gateway 10.231.0.9",
    "--subnet 10.231.0.0/24 --aux-address a=10.231.0.2 --aux-address DefaultGatewayIPv4=10.231.0.77",
    "--subnet 10.231.0.0/31",
    "--subnet 10.231.0.0/24 --ipv6 --subnet fd00:231::/64",
    "--subnet 10.231.0.0/24 --internal",
    "--subnet 10.231.0.0/24 -o com.docker.network.driver.mtu=1400 -o com.docker.network.container_iface_prefix=lan",
    "--subnet 10.231.0.0/24 -o com.docker.network.bridge.inhibit_ipv4=true",
]
LOOK = "ip -o addr; ip route; ip -6 route; ip link; cat /proc/sys/net/ipv6/conf/*0/disable_ipv6"


@pytest.fixture(scope="module")
def both(dockerd: Dockerd, shared_engine: CortenEngine) -> Iterator[tuple[DockerClient, DockerClient]]:
    """dockerd and Corten, each with a network on 10.230.0.0/24."""
    for one in (dockerd, shared_engine):
        taken = ("--subnet", "10.230.0.0/24", "-o", "com.docker.network.bridge.name=br-addresses")
        one.docker("network", "create", *taken, f"{NAME}-taken", check=True)
    yield dockerd, shared_engine
    for one in (dockerd, shared_engine):
        one.docker("network", "rm", f"{NAME}-taken", check=True)


@pytest.mark.parametrize("words", REFUSED)
def test_a_wrong_network_is_refused_in_dockerds_words(both: tuple[DockerClient, DockerClient], words: str) -> None:
    theirs, ours = (one.docker("network", "create", *shlex.split(words), NAME) for one in both)
    assert (ours.returncode, plain(ours.stderr)) == (theirs.returncode, plain(theirs.stderr)) != (0, "")


def plain(text: str) -> str:
    """Without ids."""
    return re.sub("[0-9a-f]{64}", "ID", text)


def look(engine: DockerClient, words: str) -> tuple[object, object, list[str]]:
    """IPAM, options, and what a container on the network sees, without indexes, times and its link-local address."""
    engine.docker("network", "create", *shlex.split(words), NAME, check=True)
    try:
        (found,) = json.loads(engine.docker("network", "inspect", NAME, check=True).stdout)
        done = engine.docker("run", "--rm", "--network", NAME, images.BUSYBOX_REF, "sh", "-c", LOOK, check=True)
    finally:
        engine.docker("network", "rm", NAME, check=True)
    lines = [
        re.sub(r"^\d+: |@if\d+|\\.*|qdisc.*| (flags 02|tentative)|,M-DOWN", "", one) for one in done.stdout.split("\n")
    ]
    return found["IPAM"], found["Options"], [one.rstrip() for one in lines if "fe80:" not in one]


@pytest.mark.parametrize("words", [*MADE, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)])
def test_a_network_has_dockerds_addresses_and_routes(both: tuple[DockerClient, DockerClient], words: str) -> None:
    theirs, ours = (look(one, words) for one in both)
    assert ours == theirs


def test_sysctls_of_an_endpoint_come_from_the_command_line(shared_engine: CortenEngine) -> None:
    option = "name=bridge,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME."
    words = (images.BUSYBOX_REF, "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians")
    done = shared_engine.docker("run", "--rm", "--network", f"{option}log_martians=1", *words, check=True)
    assert done.stdout == "1\n"
    failed = shared_engine.docker("create", "--network", option.replace("IFNAME", "all"), *words)
    assert "invalid config for network bridge: invalid endpoint settings:\ninvalid sysctl 'net.ipv4" in failed.stderr
    failed = shared_engine.docker("run", "--rm", "--network", f"{option}nonsense=1", *words)
    assert "sysctl net.ipv4.conf.eth0.nonsense=1: no such file or directory" in failed.stderr


def test_a_dual_stack_network_without_a_subnet_has_one_of_the_engines_own_range(shared_engine: CortenEngine) -> None:
    shared_engine.docker("network", "create", "--ipv6", NAME, check=True)
    try:
        run = ("run", "--rm", "--network", NAME, images.BUSYBOX_REF, "ip", "-6", "route")
        done = shared_engine.docker(*run, check=True)
        assert re.search(r"^default via fd[0-9a-f:]+::1 dev eth0", done.stdout, re.M)
    finally:
        shared_engine.docker("network", "rm", NAME, check=True)
