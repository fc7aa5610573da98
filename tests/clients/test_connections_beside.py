"""Containers on several networks, beside dockerd 26.1: every answer, what inspect says, and what is inside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from clients.api import Api
from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine

pytestmark = pytest.mark.slow

IMAGE = images.BUSYBOX_REF
NETWORKS = {
    "n1": ("--subnet", "10.81.0.0/24"),
    "a2": ("--subnet", "10.82.0.0/24"),
    "i3": ("--subnet", "10.83.0.0/24", "--internal"),
    "z6": ("--subnet", "10.84.0.0/24", "--ipv6", "--subnet", "fd84::/64"),
}
# `IPv4Address`, and dockerd's Gateway of an internal network, are of other tests; ids are random.
SHOWN = (
    *("IPAMConfig", "Links", "Aliases", "DriverOpts", "DNSNames", "MacAddress"),
    *("IPAddress", "IPPrefixLen", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPv6Gateway"),
)
INSIDE = (
    "ip -o addr show | grep -v ' lo ' | grep -v fe80 | tr -s ' ' | cut -d' ' -f2-4 | sort; ip route | sort; "
    "ip -6 route | grep default; cat /etc/hosts; grep -v '^#' /etc/resolv.conf"
)
ALL_MODES = ("none", "host", "bridge")


class Side:
    """One engine, and what a run has seen so far."""

    def __init__(self, engine: DockerClient) -> None:
        self.engine = engine
        self.api = Api(engine.socket, "1.45")
        self.seen: list[str] = []
        self._ids: dict[str, str] = {}

    def note(self, *words: object) -> None:
        text = " ".join(map(str, words))
        text = re.sub(r"\b[0-9a-f]{64}\b", lambda found: self._ids.setdefault(found[0][:12], "<id>"), text)
        self.seen.append(re.sub(r"\b[0-9a-f]{12}\b", "<id>", text))

    def docker(self, *argv: str) -> None:
        done = self.engine.docker(*argv)
        self.note("docker", *argv, "→", done.returncode, done.stderr.strip())

    def call(self, verb: str, network: str, container: str, **settings: Any) -> None:
        body: dict[str, Any] = {"Container": container, **({"EndpointConfig": settings} if settings else {})}
        status, answer = self.api.call("POST", f"/networks/{network}/{verb}", body)
        message = answer["message"] if isinstance(answer, dict) else ""
        self.note(verb, network, container, json.dumps(settings), "→", status, message)

    def look(self, name: str, *, inside: bool = True) -> None:
        found = self.api.ok("GET", f"/containers/{name}/json")
        settings = found["NetworkSettings"]
        for network, one in sorted(settings["Networks"].items()):
            said = {key: one[key] for key in SHOWN} | {"started": bool(one["EndpointID"])}
            self.note(name, network, json.dumps(said))
        flat = {key: settings[key] for key in ("IPAddress", "Gateway", "MacAddress", "Ports")}
        self.note(name, found["HostConfig"]["NetworkMode"], json.dumps(flat))
        if inside and found["State"]["Running"]:
            self.note(name, "inside", self.engine.docker("exec", name, "sh", "-c", INSIDE).stdout)

    def create(self, name: str, mode: str, endpoints: dict[str, Any], **body: Any) -> None:
        """Made, looked at, started, looked at, removed."""
        body |= {"Image": IMAGE, "Cmd": ["sleep", "999"], "NetworkingConfig": {"EndpointsConfig": endpoints}}
        body["HostConfig"] = {"NetworkMode": mode, **body.get("HostConfig", {})}
        status, answer = self.api.call("POST", f"/containers/create?name={name}", body)
        self.note("create", name, mode, json.dumps(endpoints), "→", status, answer.get("message"))
        if status == 201:
            self.look(name)
            self.docker("start", name)
            self.look(name)
            self.docker("rm", "-f", name)

    def sleeper(self, name: str, *options: str) -> None:
        """One that runs; of the host's own network there is nothing to compare."""
        self.docker("run", "-d", "--name", name, *options, IMAGE, "sleep", "999")
        self.look(name, inside="host" not in options)


def connected_and_disconnected(side: Side) -> None:
    """While it runs, to the last network and back."""
    side.sleeper("c1", "--network", "n1", "--network-alias", "al", "--ip", "10.81.0.9")
    side.call("connect", "a2", "c1", Aliases=["foo"], IPAMConfig={"IPv4Address": "10.82.0.7"})
    side.look("c1")
    for network in ("a2", "z6", "i3", "bridge"):
        side.call("connect", network, "c1")
    side.look("c1")
    side.call("disconnect", "a2", "c1")
    side.call("disconnect", "a2", "c1")
    for network in ("nope", "n1", "z6", "bridge"):
        side.call("disconnect", network, "c1")
    side.call("connect", "nope", "c1")
    side.call("connect", "n1", "nobody")
    side.call("disconnect", "i3", "c1")
    side.look("c1", inside=False)
    side.docker("restart", "-t", "0", "c1")
    side.look("c1", inside=False)
    side.docker("stop", "-t", "0", "c1")
    side.call("connect", "nope", "c1")
    side.call("disconnect", "nope", "c1")
    side.call("disconnect", "z6", "c1")
    side.call("connect", "a2", "c1", Aliases=["foo2"])
    side.call("connect", "a2", "c1", Aliases=["bar2"])
    side.docker("start", "c1")
    side.look("c1")
    side.docker("rm", "-f", "c1")


def every_mode(side: Side) -> None:
    """What each mode lets a container join and leave, running and stopped."""
    side.sleeper("c1", "--network", "n1")
    for mode in (*ALL_MODES, "container:c1"):
        side.sleeper("box", "--network", mode)
        for _ in range(2):
            for network in ("n1", *ALL_MODES):
                side.call("connect", network, "box")
            for network in (*ALL_MODES, "a2"):
                side.call("disconnect", network, "box")
            side.docker("stop", "-t", "0", "box")
        side.docker("rm", "-f", "box")
    side.docker("rm", "-f", "c1")


def settings_that_are_refused(side: Side) -> None:
    """At connect and at create."""
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("n1", {"IPAMConfig": {"IPv4Address": "10.99.0.9"}}),
        ("n1", {"IPAMConfig": {"IPv4Address": "x"}}),
        ("n1", {"IPAMConfig": {"IPv6Address": "x"}}),
        ("n1", {"IPAMConfig": {"IPv6Address": "fd99::1"}}),
        ("n1", {"IPAMConfig": {"LinkLocalIPs": ["x"]}}),
        ("n1", {"MacAddress": "zz"}),
        ("n1", {"IPAMConfig": {"IPv4Address": "x", "IPv6Address": "y"}, "MacAddress": "zz"}),
        ("n1", {"IPAMConfig": {"IPv4Address": "0.0.0.0"}}),
        ("bridge", {"IPAMConfig": {"IPv4Address": "172.17.0.99"}}),
        ("bridge", {"Aliases": ["x"]}),
    )
    side.docker("create", "--name", "off", IMAGE, "true")
    side.docker("run", "-d", "--name", "on", IMAGE, "sleep", "999")
    for network, settings in cases:
        for name in ("on", "off"):
            side.call("connect", network, name, **settings)
        side.create("made", network, {network: settings})
    side.call("connect", "n1", "on", IPAMConfig={"IPv4Address": "10.81.0.1"})
    side.call("connect", "a2", "on", IPAMConfig={"IPv4Address": "10.82.0.255"})
    side.docker("rm", "-f", "on", "off")


def created_with_several(side: Side) -> None:
    """The keys of EndpointsConfig beside the mode."""
    ident = side.api.ok("GET", "/networks/n1")["Id"]
    ports = {"ExposedPorts": {"80/tcp": {}}, "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8099"}]}}}
    side.create("s1", "z6", {"z6": {}, "a2": {"Aliases": ["q"]}, "n1": {"MacAddress": "02:42:0a:51:00:77"}})
    side.create("s2", "default", {"n1": {}})
    side.create("s3", "bridge", {"n1": {}, "bridge": {}})
    side.create("s4", ident, {ident: {"Aliases": ["q"]}})
    side.create("s5", ident, {})
    side.create("s6", "n1", {"a2": {}})
    side.create("s7", "none", {"a2": {}})
    side.create("s8", "nope", {})
    side.create("s10", "n1", {"n1": {}, "none": {}})
    side.create("s11", "i3", {"i3": {}, "z6": {}})
    bare: dict[str, Any] = {"IPAMConfig": {}, "Aliases": [], "DriverOpts": {}, "Links": []}
    side.create("s12", "n1", {"n1": bare}, Hostname="hh", Domainname="dd.x")
    odd = {"IPAMConfig": {"LinkLocalIPs": ["169.254.9.9"]}, "DriverOpts": {"a": "b"}, "Links": ["c1:lnk"]}
    side.create("s13", "n1", {"n1": odd})
    side.create("s14", "", {"a2": {}, "z6": {}}, **ports)


def ports_follow(side: Side) -> None:
    """To the network that leads out."""
    side.sleeper("q1", "-p", "8098:80", "--network", "n1")
    for verb, network in (("connect", "bridge"), ("disconnect", "n1"), ("disconnect", "bridge"), ("connect", "n1")):
        side.docker("network", verb, network, "q1")
        side.look("q1", inside=False)
    side.docker("rm", "-f", "q1")


def older_versions(side: Side) -> None:
    """What inspect says of names before they had a field."""
    side.sleeper("v1", "--network", "n1", "--hostname", "hh", "--network-alias", "al")
    side.docker("network", "connect", "bridge", "v1")
    for version in ("1.43", "1.44", "1.45"):
        found = Api(side.engine.socket, version).ok("GET", "/containers/v1/json")["NetworkSettings"]["Networks"]
        rows = {name: one["Aliases"] for name, one in found.items()}
        side.note(version, json.dumps(rows, sort_keys=True))
    side.docker("rm", "-f", "v1")


SCRIPTS = (
    connected_and_disconnected,
    every_mode,
    settings_that_are_refused,
    created_with_several,
    ports_follow,
    older_versions,
)


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    """dockerd and Corten, with the same networks."""
    with Dockerd() as dockerd, CortenEngine() as corten:
        both = Side(dockerd), Side(corten)
        for side in both:
            side.engine.docker("load", "-i", str(images.busybox()), check=True)
            for name, options in NETWORKS.items():
                side.engine.docker("network", "create", *options, name, check=True)
        yield both


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_both_engines_say_and_do_the_same(sides: tuple[Side, Side], script: Any) -> None:
    for side in sides:
        side.seen.clear()
        script(side)
    theirs, ours = (side.seen for side in sides)
    assert ours == theirs
