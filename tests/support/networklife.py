"""The life of two networks and of a container with a published port that goes from one to the other.

Judged from outside: a network that was told of is there, and the container's interfaces, addresses and default route
are those that inspect tells of, whatever was cut off in the middle.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from support import images
from support.engine import CortenEngine
from support.faultlife import PORT, SCRIPT, Life


class NetworkLife(Life):
    """Two networks made, a start on the first, `connect` to the second, `disconnect` from the first, both removed."""

    STEPS = (
        *("make_networks", "create", "start", "connect", "disconnect", "kill", "wait", "remove"),
        "remove_networks",
    )

    def __init__(self, engine: CortenEngine, *, network: str = "bridge", port: str = PORT) -> None:
        super().__init__(engine, network=network, port=port)
        self.first, self.second = f"{self.name}-a", f"{self.name}-b"

    # The steps.

    def make_networks(self) -> None:
        """Both, with what they get by themselves."""
        for name in (self.first, self.second):
            self.call("POST", "/networks/create", {"Name": name})

    def create(self) -> None:
        """On the first."""
        host = {"NetworkMode": self.first, "PortBindings": {"80/tcp": [{"HostPort": self.port}]}}
        body = {"Image": images.BUSYBOX_REF, "Cmd": ["sh", "-c", SCRIPT], "HostConfig": host}
        self.id = self.call("POST", f"/containers/create?name={self.name}", body)["Id"]

    def connect(self) -> None:
        """To the second, too."""
        body = {"Container": self.name, "EndpointConfig": {"Aliases": ["other"]}}
        self.call("POST", f"/networks/{self.second}/connect", body)

    def disconnect(self) -> None:
        """Off the first; its port is led to the second."""
        self.call("POST", f"/networks/{self.first}/disconnect", {"Container": self.name})

    def remove_networks(self) -> None:
        """Both."""
        for name in (self.first, self.second):
            self.call("DELETE", f"/networks/{name}")

    # The verdict.

    def judge(self, *, lost: bool = False) -> str:
        """As of any container; and its networks are what it is told to be on."""
        status, found = self.api.call("GET", f"/containers/{self.name}/json")
        if status == 200:
            self._judge_networks(found)
        verdict = super().judge(lost=lost)
        for name in (self.first, self.second):
            status, answer = self.api.call("DELETE", f"/networks/{name}")
            assert status in (204, 404), answer
            is_told = "make_networks" in self.told and "remove_networks" not in self.asked
            assert status == 204 or not is_told, f"network {name} was made, and is gone"
            assert status == 404 or "remove_networks" not in self.told, f"network {name} was removed, and is there"
        return verdict

    def _judge_networks(self, found: Any) -> None:
        networks: dict[str, Any] = found["NetworkSettings"]["Networks"]
        if "connect" in self.told:
            assert self.second in networks, f"connected to {self.second}: {networks}"
        if "disconnect" in self.told:
            assert self.first not in networks, f"disconnected from {self.first}: {networks}"
        if "disconnect" not in self.asked:
            assert self.first in networks, f"never disconnected from {self.first}: {networks}"
        if found["State"]["Running"]:
            self._judge_interfaces(found["State"]["Pid"], networks, found["NetworkSettings"]["Ports"])

    def _judge_interfaces(self, pid: int, networks: dict[str, Any], ports: Any) -> None:
        told = {f"{one['IPAddress']}/{one['IPPrefixLen']}" for one in networks.values()}
        links = inside(pid, "-4", "addr", "show", "scope", "global")
        there = {f"{one['local']}/{one['prefixlen']}" for link in links for one in link["addr_info"] if one}
        assert there == told, f"interfaces {there}, inspect {told}"
        (route,) = inside(pid, "route", "show", "default")
        assert route["gateway"] in {one["Gateway"] for one in networks.values()}, route
        assert ports["80/tcp"], ports


def inside(pid: int, *args: str) -> Any:
    """`ip` of the host in a process's network namespace."""
    argv = ["nsenter", "-t", str(pid), "-n", "--", "ip", "-j", *args]
    return json.loads(subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout or "[]")
