"""Networks above a device of the host's that not every kernel has drivers for: ipvlan, VLANs, dummies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from support.engine import CortenEngine
from support.guestlook import IMAGE, inspect, run

VLAN = ["ip", "-n", "beyond", "link", "add", "link", "eth0", "name", "eth0.7", "type", "vlan", "id", "7"]
PING = ("ping", "-c", "1", "-W", "60")


@pytest.fixture
def beyond() -> Iterator[None]:
    """A neighbour at 192.0.2.2, and at 198.51.100.2 in VLAN 7; it reaches 203.0.113.0/24 by this machine, 192.0.2.1."""
    run("ip", "netns", "add", "beyond")
    run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", "beyond")
    run("ip", "link", "set", "wire", "up")
    run("ip", "address", "add", "192.0.2.1/24", "dev", "wire")
    for words in (("address", "add", "192.0.2.2/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        run("ip", "-n", "beyond", *words)
    run(*VLAN)
    for words in (("address", "add", "198.51.100.2/24", "dev", "eth0.7"), ("link", "set", "eth0.7", "up")):
        run("ip", "-n", "beyond", *words)
    run("ip", "-n", "beyond", "route", "add", "203.0.113.0/24", "via", "192.0.2.1")
    yield
    run("ip", "netns", "delete", "beyond")
    subprocess.run(["ip", "link", "delete", "wire"], check=False, capture_output=True)


def links() -> set[str]:
    return {line.split(": ")[1].partition("@")[0] for line in run("ip", "-o", "link").splitlines()}


def network(engine: CortenEngine, name: str, driver: str, *words: str) -> None:
    options = (word for one in words if "=" in one and not one.startswith("-") for word in ("-o", one))
    flags = (one for one in words if one.startswith("-"))
    engine.docker("network", "create", "-d", driver, *options, *flags, name, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_an_ipvlan_reaches_the_neighbour_with_the_parents_hardware_address(
    engine: CortenEngine, beyond: None, mode: str
) -> None:
    on_wire = ("--subnet=192.0.2.0/24", "--ip-range=192.0.2.64/26", "--gateway=192.0.2.2")
    flags = on_wire if mode == "l2" else ("--subnet=203.0.113.0/24",)
    network(engine, "ipv", "ipvlan", "parent=wire", f"ipvlan_mode={mode}", *flags)
    engine.docker("run", "-d", "--name", "one", "--network", "ipv", IMAGE, "sleep", "1000", check=True)
    try:
        engine.docker("exec", "one", *PING, "192.0.2.2", check=True)
        routes = engine.docker("exec", "one", "ip", "route", check=True).stdout
        expected = "default via 192.0.2.2 dev eth0" if mode == "l2" else "default dev eth0"
        assert expected in routes
        found = inspect(engine, "one")["NetworkSettings"]["Networks"]["ipv"]
        assert (found["MacAddress"], found["Gateway"]) == ("", "192.0.2.2" if mode == "l2" else "")
        two = engine.docker("run", "--rm", "--network", "ipv", IMAGE, *PING, found["IPAddress"])
        assert two.returncode == 0, two
        own = run("cat", "/sys/class/net/wire/address").strip()
        assert engine.docker("exec", "one", "cat", "/sys/class/net/eth0/address", check=True).stdout.strip() == own
    finally:
        engine.docker("rm", "-f", "one", check=True)
        engine.docker("network", "rm", "ipv", check=True)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_vlan_device_is_made_made_again_and_removed(engine: CortenEngine, beyond: None, driver: str) -> None:
    network(engine, "seven", driver, "parent=wire.7", "--subnet=198.51.100.0/24")
    assert "wire.7" in links()
    try:
        ask = ("run", "--rm", "--network", "seven", IMAGE, *PING, "198.51.100.2")
        engine.docker(*ask, check=True)
        run("ip", "link", "delete", "wire.7")
        engine.docker(*ask, check=True)
        assert "wire.7" in links()
    finally:
        engine.docker("network", "rm", "seven", check=True)
    assert not {"wire.7"} & links()


@pytest.mark.slow
def test_without_a_parent_containers_reach_each_other_alone(engine: CortenEngine) -> None:
    run("modprobe", "dummy")  # whose first load makes a dummy0
    before = links()
    network(engine, "alone", "macvlan", "--subnet=10.77.0.0/24")
    (made,) = links() - before
    assert made.startswith("dm-")
    engine.docker("run", "-d", "--name", "one", "--network", "alone", IMAGE, "sleep", "1000", check=True)
    try:
        engine.docker("run", "--rm", "--network", "alone", IMAGE, *PING, "10.77.0.2", check=True)
        assert "default" not in engine.docker("exec", "one", "ip", "route", check=True).stdout
    finally:
        engine.docker("rm", "-f", "one", check=True)
        engine.docker("network", "rm", "alone", check=True)
    assert links() == before
