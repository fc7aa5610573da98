"""Containers that join and leave networks while they run, paused or not: what is inside, and what inspect says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clients.api import Api
from support import images
from support.engine import CortenEngine
from support.networklife import inside

IMAGE = images.BUSYBOX_REF
NETWORKS = {
    "n1": ("--subnet", "10.81.0.0/24"),
    "a2": ("--subnet", "10.82.0.0/24"),
    "i3": ("--subnet", "10.83.0.0/24", "--internal"),
    "z6": ("--subnet", "10.84.0.0/24", "--ipv6", "--subnet", "fd84::/64"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    """One with four networks."""
    with CortenEngine() as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        for name, options in NETWORKS.items():
            made.docker("network", "create", *options, name, check=True)
        yield made


@pytest.fixture
def made(engine: CortenEngine) -> Iterator[Box]:
    """One that the test starts."""
    yield Box(engine, "box")
    engine.docker("rm", "-f", "box", check=True)


@pytest.fixture
def box(made: Box) -> Box:
    """A container on n1."""
    made.run("--network", "n1", "--ip", "10.81.0.9")
    return made


class Box:
    """A container, seen from outside."""

    def __init__(self, engine: CortenEngine, name: str) -> None:
        self.engine = engine
        self.api = Api(engine.socket)
        self.name = name

    def run(self, *options: str) -> None:
        argv = ("run", "-d", "--name", self.name, "--hostname", "hh", *options, IMAGE, "sleep", "1000")
        self.engine.docker(*argv, check=True)

    def connect(self, network: str, **settings: Any) -> None:
        body = {"Container": self.name, "EndpointConfig": settings}
        self.api.ok("POST", f"/networks/{network}/connect", body)

    def disconnect(self, network: str) -> None:
        self.api.ok("POST", f"/networks/{network}/disconnect", {"Container": self.name})

    @property
    def found(self) -> Any:
        return self.api.ok("GET", f"/containers/{self.name}/json")

    def networks(self) -> dict[str, str]:
        """Name → address, as inspect has them."""
        return {name: one["IPAddress"] for name, one in self.found["NetworkSettings"]["Networks"].items()}

    def ip(self, *args: str) -> Any:
        return inside(self.found["State"]["Pid"], *args)

    def addresses(self) -> dict[str, list[str]]:
        """Interface → its addresses."""
        links = self.ip("addr", "show", "scope", "global")
        found = {one["ifname"]: [each["local"] for each in one["addr_info"] if each] for one in links}
        return {name: addresses for name, addresses in found.items() if addresses}

    def way_out(self, version: int = 4) -> list[tuple[str, str]]:
        """(interface, gateway) of the default route."""
        return [(one["dev"], one["gateway"]) for one in self.ip(f"-{version}", "route", "show", "default")]

    def hosts(self) -> list[str]:
        """The lines of its own name in /etc/hosts."""
        text = self.engine.docker("exec", self.name, "cat", "/etc/hosts", check=True).stdout
        return [line.partition("\t")[0] for line in text.splitlines() if line.endswith("\thh")]


def test_interfaces_routes_and_hosts_follow(box: Box) -> None:
    assert (box.addresses(), box.way_out()) == ({"eth0": ["10.81.0.9"]}, [("eth0", "10.81.0.1")])
    box.connect("a2", IPAMConfig={"IPv4Address": "10.82.0.7", "LinkLocalIPs": ["169.254.3.4"]})
    assert box.addresses() == {"eth0": ["10.81.0.9"], "eth1": ["10.82.0.7", "169.254.3.4"]}
    assert box.way_out() == [("eth1", "10.82.0.1")]
    box.connect("i3")
    box.connect("z6")
    assert box.way_out() == [("eth3", "10.84.0.1")]
    assert box.way_out(6) == [("eth3", "fd84::1")]
    assert box.hosts() == ["10.81.0.9", "10.82.0.7", "10.83.0.2", "10.84.0.2", "fd84::2"]
    box.disconnect("a2")
    box.disconnect("z6")
    assert (box.way_out(), box.way_out(6)) == ([("eth0", "10.81.0.1")], [])
    assert box.hosts() == ["10.81.0.9", "10.83.0.2"]
    box.connect("bridge", GwPriority=1)
    assert box.way_out()[0][0] == "eth1"
    assert set(box.addresses()) == {"eth0", "eth1", "eth2"}
    for name in ("n1", "i3", "bridge"):
        box.disconnect(name)
    assert (box.addresses(), box.networks(), box.hosts()) == ({}, {}, [])


def test_what_was_connected_is_there_after_a_restart_of_container_and_cortend(box: Box) -> None:
    box.connect("z6", Aliases=["other"])
    box.disconnect("n1")
    before = box.addresses()
    box.engine.kill9()
    box.engine.start()
    assert (box.addresses(), box.networks()) == (before, {"z6": before["eth1"][0]})
    box.connect("n1")
    box.engine.docker("restart", "-t", "0", "box", check=True)
    assert set(box.addresses()) == {"eth0", "eth1"}
    assert box.way_out() == [("eth0", "10.84.0.1")]
    box.engine.docker("stop", "-t", "0", "box", check=True)
    box.disconnect("z6")
    box.connect("a2")
    box.engine.docker("start", "box", check=True)
    assert set(box.networks()) == {"n1", "a2"}


def test_a_paused_container_joins_and_leaves(box: Box) -> None:
    box.engine.docker("pause", "box", check=True)
    box.connect("a2")
    box.disconnect("n1")
    assert list(box.addresses()) == ["eth1"]
    box.engine.docker("unpause", "box", check=True)
    assert box.way_out() == [("eth1", "10.82.0.1")]


def test_one_that_joins_another_s_namespace_has_what_that_has(box: Box) -> None:
    guest = Box(box.engine, "guest")
    box.engine.docker("run", "-d", "--name", "guest", "--network", "container:box", IMAGE, "sleep", "1000", check=True)
    box.connect("a2")
    assert guest.addresses() == box.addresses()
    assert guest.hosts() == box.hosts() == ["10.81.0.9", "10.82.0.2"]
    assert guest.networks() == {}
    box.engine.docker("rm", "-f", "guest", check=True)


def test_a_connect_that_fails_leaves_nothing(box: Box) -> None:
    before = (box.addresses(), box.networks(), box.hosts(), box.way_out())
    for network, settings, text in (
        ("a2", {"IPAMConfig": {"IPv4Address": "10.82.0.1"}}, "Address already in use"),
        ("a2", {"DriverOpts": {"com.docker.network.endpoint.ifname": "eth0"}}, "interface name eth0 is in use"),
        ("a2", {"MacAddress": "zz"}, "invalid MAC address zz"),
    ):
        body = {"Container": "box", "EndpointConfig": settings}
        status, answer = box.api.call("POST", f"/networks/{network}/connect", body)
        assert (status >= 400, text in answer["message"]) == (True, True), answer
    assert (box.addresses(), box.networks(), box.hosts(), box.way_out()) == before
    network = box.api.ok("GET", "/networks/a2")
    assert network["Containers"] == {}


def test_ports_go_with_the_way_out(made: Box) -> None:
    box = made
    box.run("--network", "n1", "-p", "127.0.0.1:8097:80")
    ports = box.found["NetworkSettings"]["Ports"]
    box.connect("a2")
    box.disconnect("n1")
    assert box.found["NetworkSettings"]["Ports"] == ports
    box.disconnect("a2")
    assert box.found["NetworkSettings"]["Ports"] == {}
    box.connect("n1")
    assert box.found["NetworkSettings"]["Ports"] == ports


def test_a_container_is_known_by_its_new_name_at_once(made: Box) -> None:
    made.run("--network", "i3", "--network-alias", "alias", "--ip", "10.83.0.9")
    docker = made.engine.docker
    docker(
        "run", "-d", "--name", "other", "--network", "i3", "--link", "box:friend", IMAGE, "sleep", "1000", check=True
    )

    def known(*names: str) -> list[bool]:
        """On an internal network nobody else is asked."""
        return ["10.83.0.9" in docker("exec", "other", "nslookup", one).stdout for one in names]

    assert known("box", "friend", "alias", "renamed") == [True, True, True, False]
    docker("rename", "box", "renamed", check=True)
    assert known("box", "box.i3", "alias", "renamed") == [False, False, True, True]
    assert "renamed.i3" in docker("exec", "other", "nslookup", "10.83.0.9", check=True).stdout
    docker("rename", "renamed", "box", check=True)
    docker("rm", "-f", "other", check=True)


def test_containers_are_found_by_the_network_they_are_on(box: Box) -> None:
    box.connect("a2")
    for network, found in (("a2", "box"), ("n1", "box"), ("z6", "")):
        done = box.engine.docker("ps", "--filter", f"network={network}", "--format", "{{.Names}}", check=True)
        assert done.stdout.strip() == found
    done = box.engine.docker("network", "rm", "a2")
    assert "has active endpoints" in done.stderr


def test_a_prune_of_everything_takes_networks_that_nobody_runs_on(box: Box) -> None:
    docker = box.engine.docker
    docker("network", "create", "unused", check=True)
    docker("network", "create", "kept", check=True)
    docker("create", "--name", "off", "--network", "unused", IMAGE, "true", check=True)
    box.connect("kept")
    told = docker("system", "prune", "-f", check=True).stdout
    left = docker("network", "ls", "--format", "{{.Name}}", check=True).stdout.split()
    assert ("unused" in told, "unused" in left, "kept" in left, "n1" in left) == (True, False, True, True)
    for name in set(NETWORKS) - set(left):
        docker("network", "create", *NETWORKS[name], name, check=True)
