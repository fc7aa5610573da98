"""The life of a container whose published ports change while it runs.

Judged from outside: the ports that inspect shows are those that the container asks for, and those alone are held
against other programs, whatever was cut off in the middle.
"""

from __future__ import annotations

import socket
from typing import Any

from support.faultlife import PORT, Life
from support.netlab import Node

ADDED, OTHER = "8092", "8093"


class PortLife(Life):
    """Started with a port; gets another one; has the first one exchanged."""

    STEPS = ("create", "start", "add_port", "exchange_port", "kill", "wait", "remove")

    def _change(self, add: dict[str, str], remove: dict[str, str]) -> None:
        body = {name: {key: [{"HostPort": port}] for key, port in of.items()} for name, of in self._named(add, remove)}
        self.call("POST", f"/containers/{self.name}/corten/ports", body)

    @staticmethod
    def _named(add: dict[str, str], remove: dict[str, str]) -> tuple[tuple[str, dict[str, str]], ...]:
        return ("Add", add), ("Remove", remove)

    # The steps.

    def add_port(self) -> None:
        """Beside the one of its create, and of another port inside."""
        self._change({"81/tcp": ADDED}, {})

    def exchange_port(self) -> None:
        """One goes, one comes."""
        self._change({"80/tcp": OTHER}, {"80/tcp": PORT})

    # The verdict.

    def judge(self, *, lost: bool = False) -> str:
        """As of any container; and its ports are what it asks for."""
        status, found = self.api.call("GET", f"/containers/{self.name}/json")
        if status == 200:
            self._judge_ports(found)
        verdict = super().judge(lost=lost)
        assert self._held() == set(), "ports of a container that is gone"
        return verdict

    def _judge_ports(self, found: Any) -> None:
        asked = _numbers(found["HostConfig"]["PortBindings"])
        if "add_port" in self.told:
            assert ADDED in asked, f"added: {asked}"
        if "exchange_port" in self.told:
            assert asked == {ADDED, OTHER}, f"exchanged: {asked}"
        if not found["State"]["Running"]:
            return
        published = _numbers(found["NetworkSettings"]["Ports"])
        assert published == asked, f"published {published}, asked for {asked}"
        assert self._held() == asked, f"held {self._held()}, asked for {asked}"

    def _held(self) -> set[str]:
        """Of those that may be its own: what no other program of the host can have, by IPv4 or IPv6."""
        with Node("host", self.engine.netns.path) as host:
            return {port for port in (PORT, ADDED, OTHER) if host.call(lambda: _is_held(int(port)))}  # noqa: B023


def _numbers(bindings: Any) -> set[str]:
    return {one["HostPort"] for of in (bindings or {}).values() for one in of or ()}


def _is_held(port: int) -> bool:
    held = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
                held.append(False)
            except OSError:
                held.append(True)
    assert len(set(held)) == 1, f"port {port} is held by one family alone: {held}"
    return held[0]
