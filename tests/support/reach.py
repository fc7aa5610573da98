"""Who reaches whom: places on two networks, on the machine and beside it, each with an agent that serves and asks.

    client ── host (engine) ─┬─ default bridge: plain, mate
                             ├─ network one (v4, v6): web (published), peer
                             └─ network two (v4, v6): other

An agent is a program of the machine in a place's network namespace: nothing of an image is needed, and both protocols
and versions are served by one socket each.  It answers with the address of who asked.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from support import images, process
from support.dockerd import DockerClient
from support.neighbour import CLIENT, HOST, neighbour
from support.netns import NetNs

SERVED, PUBLISHED, LOCAL = 7000, 18080, 18081  # the last is published on the host's loopback alone
SUBNETS = {"one": ("10.77.1.0/24", "fd77:1::/64"), "two": ("10.77.2.0/24", "fd77:2::/64")}
GATEWAYS = {"one": {4: "10.77.1.1", 6: "fd77:1::1"}, "two": {4: "10.77.2.1", 6: "fd77:2::1"}}
CONTAINERS = {
    "web": ("--network", "one", *(f"-p{PUBLISHED}:{SERVED}/{kind}" for kind in ("tcp", "udp"))),
    "peer": ("--network", "one"),
    "other": ("--network", "two", *(f"-p127.0.0.1:{LOCAL}:{SERVED}/{kind}" for kind in ("tcp", "udp"))),
    "plain": (),
    "mate": (),
}
PATIENCE_S, SILENCE_S = 60.0, 1.0
NO_ANSWER = "-"  # refused, unreachable or silent: which of them, the engines differ in

# {id, kind, address, port, timeout} a line; the answer is {id, said}
_AGENT = """
import json, socket, sys, threading, time
def plain(address):
    return address.removeprefix("::ffff:")
def tcp(server):
    while True:
        connection, peer = server.accept()
        with connection:
            connection.sendall(plain(peer[0]).encode())
def udp(server):
    while True:
        _, told, _, peer = server.recvmsg(100, 100)
        info = [data[:16] + bytes(4) for _, kind, data in told if kind == socket.IPV6_PKTINFO]
        try:  # from the address that was asked
            server.sendmsg([plain(peer[0]).encode()], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info[0])], 0, peer)
        except OSError:
            pass
def ask(kind, address, port, timeout):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as asker:
        try:
            if kind == "udp":
                asker.settimeout(1)
                asker.connect((address, port))
                return ask_again(asker, time.monotonic() + timeout)
            asker.settimeout(timeout)
            asker.connect((address, port))
            return asker.recv(100).decode()
        except OSError as error:
            return f"- {error}"
def ask_again(asker, end):
    while True:  # a datagram may be lost
        asker.send(b"?")
        try:
            return asker.recv(100).decode()
        except TimeoutError:
            if time.monotonic() >= end:
                raise
def one(wanted):
    said = ask(wanted["kind"], wanted["address"], wanted["port"], wanted["timeout"])
    print(json.dumps({"id": wanted["id"], "said": said}), flush=True)
for kind, serve in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
    server = socket.socket(socket.AF_INET6, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    server.bind(("::", int(sys.argv[1])))
    if kind == socket.SOCK_STREAM:
        server.listen(64)
    threading.Thread(target=serve, args=(server,), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    for wanted in json.loads(line):
        threading.Thread(target=one, args=(wanted,), daemon=True).start()
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One question: from a place, to what, by which protocol and version."""

    source: str
    target: str
    kind: str
    version: int

    def __str__(self) -> str:
        return f"{self.source} → {self.target}, {self.kind} over IPv{self.version}"


class Agent:
    """A program in a network namespace."""

    def __init__(self, enter: Sequence[str]) -> None:
        argv = [*enter, "/usr/bin/python3", "-I", "-c", _AGENT, str(SERVED)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read() == "ready\n"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self, questions: Sequence[Mapping[str, Any]]) -> list[str]:
        """All at once: who each server says that we are, or NO_ANSWER and why."""
        assert self._process.stdin is not None
        wanted = [{"id": number, **question} for number, question in enumerate(questions)]
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        said = {answer["id"]: str(answer["said"]) for answer in (json.loads(self._read()) for _ in wanted)}
        return [said[number] for number in range(len(wanted))]

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


class Town:
    """The places of one engine, with their addresses."""

    def __init__(self, addresses: Mapping[str, Mapping[int, str]], agents: Mapping[str, Agent]) -> None:
        self.addresses = addresses
        self._agents = agents
        self._names = {ip_address(text): place for place, found in addresses.items() for text in found.values()}

    def measure(self, expected: Mapping[Cell, str]) -> dict[Cell, str]:
        """What becomes of each question; one of which silence is expected is given up soon."""
        by_source: dict[str, list[Cell]] = {}
        for cell in expected:
            by_source.setdefault(cell.source, []).append(cell)

        def of(source: str) -> dict[Cell, str]:
            cells = by_source[source]
            said = self._agents[source].ask([self._question(cell, expected[cell]) for cell in cells])
            return {cell: self._place(source, answer) for cell, answer in zip(cells, said, strict=True)}

        with ThreadPoolExecutor(len(by_source)) as pool:
            return {cell: said for found in pool.map(of, by_source) for cell, said in found.items()}

    def _question(self, cell: Cell, expected: str) -> dict[str, Any]:
        address, port = self._address(cell)
        timeout = SILENCE_S if expected == NO_ANSWER else PATIENCE_S
        return {"kind": cell.kind, "address": address, "port": port, "timeout": timeout}

    def _address(self, cell: Cell) -> tuple[str, int]:
        loopback = {4: "127.0.0.1", 6: "::1"}[cell.version]
        match cell.target:
            case "published":
                return HOST[cell.version], PUBLISHED
            case "published, by the gateway of one":
                return GATEWAYS["one"][cell.version], PUBLISHED
            case "published, by loopback":
                return loopback, PUBLISHED
            case "loopback's":
                return HOST[cell.version], LOCAL
            case "loopback's, by loopback":
                return loopback, LOCAL
        return self.addresses[cell.target][cell.version], SERVED

    def _place(self, source: str, said: str) -> str:
        """Whose address a server saw: `source`'s own, another place's, or none."""
        if said.startswith("-"):
            return NO_ANSWER
        address = ip_address(said)
        place = "loopback" if address.is_loopback else self._names.get(address, said)
        return "itself" if place == source else place


@contextmanager
def town(engine: DockerClient, netns: NetNs) -> Iterator[Town]:
    """The networks, containers and agents of an engine that lives in `netns`, and the client beside it."""
    with ExitStack() as stack:
        client = stack.enter_context(neighbour(netns))
        _be_hostile(client)
        engine.docker("load", "-i", str(images.busybox()), check=True)
        for name, (v4, v6) in SUBNETS.items():
            engine.docker("network", "create", "--ipv6", "--subnet", v4, "--subnet", v6, name, check=True)
        for name, options in CONTAINERS.items():
            argv = ("run", "-d", "--name", name, *options, images.BUSYBOX_REF, "sleep", "10000")
            engine.docker(*argv, check=True)
            stack.callback(engine.docker, "rm", "-f", name)
        found = json.loads(engine.docker("inspect", *CONTAINERS, check=True).stdout)
        enters = {one["Name"].lstrip("/"): ["nsenter", f"--net=/proc/{one['State']['Pid']}/ns/net"] for one in found}
        enters |= {"host": netns.enter, "client": client.enter}
        agents = {place: Agent(enter) for place, enter in enters.items()}
        for agent in agents.values():
            stack.callback(agent.close)
        tentative = ["ip", "-6", "-o", "address", "show", "tentative"]
        process.wait_for(lambda: not netns.run(tentative), "IPv6 addresses that nobody else has")
        yield Town(_addresses(found), agents)


def _be_hostile(client: NetNs) -> None:
    """The neighbour sends what is for the containers' addresses to the host."""
    for v4, v6 in SUBNETS.values():
        client.run(["ip", "route", "add", v4, "via", HOST[4]])
        client.run(["ip", "-6", "route", "add", v6, "via", HOST[6]])
    client.run(["ip", "route", "add", "172.16.0.0/12", "via", HOST[4]])


def _addresses(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    """Of every place; of a gateway, as the name of a place that answers for others."""
    addresses: dict[str, dict[int, str]] = {"host": dict(HOST), "client": dict(CLIENT)}
    addresses |= {f"gateway of {name}": dict(of) for name, of in GATEWAYS.items()}
    for one in found:
        (network,) = one["NetworkSettings"]["Networks"].values()
        mine = addresses[one["Name"].lstrip("/")] = {4: network["IPAddress"]}
        if network["GlobalIPv6Address"]:
            mine[6] = network["GlobalIPv6Address"]
        else:
            addresses["gateway of bridge"] = {4: network["Gateway"]}
    return addresses
