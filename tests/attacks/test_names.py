"""Attacks on names: forged answers by a neighbour, questions that must not leave an internal network."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import dns.flags
import dns.message
import dns.opcode
import dns.rdataclass
import dns.rrset
import pytest

from support.asking import RESOLVER as OWN
from support.asking import addresses, ask, name_of, told
from support.nameserver import ZONE, Transport, of_zone
from support.netlab import Node
from support.networld import RESOLVER, World
from support.process import wait_for

EVIL, TRUE, NAME = "203.0.113.66", "203.0.113.7", "www.example.test"
FRONT = "10.64.0.0/24"
ASKER, NEIGHBOUR = "10.64.0.10", "10.64.0.66"
ARRIVED_S = (
    0.2  # a packet over a bridge takes microseconds; one that is late makes the attack weaker, never the test red
)

Forge = Callable[[dns.message.Message], dns.message.Message]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made, made.corten() as engine:
        engine.docker("network", "create", "--subnet", FRONT, "front", check=True)
        engine.docker("network", "create", "--internal", "inner", check=True)
        yield made


def forged(query: dns.message.Message, *, ident: int | None = None, name: str = NAME) -> dns.message.Message:
    made = dns.message.make_response(query, recursion_available=True)
    if ident is not None:
        made.id = ident
    if name != NAME:
        made.question = dns.message.make_query(name, "A").question
    made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", EVIL))
    return made


def datagram(source: str, target: str, port: int, payload: bytes) -> bytes:
    """IP and UDP, as if from port 53 of `source`; the kernel fills in length and checksum of the first header."""
    udp = struct.pack("!HHHH", 53, port, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp


class Attack:
    """Forged answers that arrive before the true one.  The attacker sees even the port that the question came from."""

    def __init__(self, world: World) -> None:
        with suppress(FileNotFoundError):  # tracking in the host would drop the forgeries
            world.host.sysctl("bridge/bridge-nf-call-iptables", "0")
        self.asker = world.container("--network", "front", "--ip", ASKER, name="asker")
        self.neighbour = world.container("--network", "front", "--ip", NEIGHBOUR, name="neighbour")
        self.raw = self.neighbour.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self.source = RESOLVER
        self.forgeries: Callable[[dns.message.Message], list[dns.message.Message]] = lambda query: []
        self._true = of_zone(ZONE)

    def answer(self, query: dns.message.Message, transport: Transport) -> dns.message.Message | None:
        for port in self.ports():
            for one in self.forgeries(query):
                self.raw.sendto(datagram(self.source, ASKER, port, one.to_wire()), (ASKER, 0))
        time.sleep(ARRIVED_S)
        return self._true(query, transport)

    def ports(self) -> list[int]:
        """Of sockets in the asker's namespace that are connected to the server (proc_net_udp)."""

        def read() -> list[str]:
            with open("/proc/thread-self/net/udp") as file:
                return file.read().splitlines()[1:]

        wanted = socket.inet_aton(RESOLVER)[::-1].hex().upper() + ":0035"
        rows = [line.split() for line in self.asker.call(read)]
        return [int(row[1].partition(":")[2], 16) for row in rows if row[2] == wanted]


@pytest.fixture(scope="module")
def attack(world: World) -> Iterator[Attack]:
    made = Attack(world)
    world.names.answer = made.answer
    yield made
    world.names.answer = of_zone(ZONE)
    made.raw.close()


def test_who_knows_everything_is_believed_so_these_attacks_reach_their_aim(attack: Attack) -> None:
    attack.forgeries = lambda query: [forged(query)]
    wait_for(lambda: addresses(attack.asker, NAME) == [EVIL], "a forgery that was in time")


@pytest.mark.parametrize("kind", ["id", "question", "no answer", "source"])
def test_a_forged_answer_is_not_believed(attack: Attack, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def query_again(query: dns.message.Message) -> dns.message.Message:
        made = forged(query)
        made.flags &= ~dns.flags.QR
        return made

    forgeries: dict[str, Callable[[dns.message.Message], list[dns.message.Message]]] = {
        "id": lambda query: [forged(query, ident=query.id ^ guess) for guess in range(1, 25)],
        "question": lambda query: [forged(query, name="evil.example.test")],
        "no answer": lambda query: [query_again(query)],
        "source": lambda query: [forged(query)],
    }
    attack.forgeries = forgeries[kind]
    if kind == "source":
        monkeypatch.setattr(attack, "source", NEIGHBOUR)
    assert addresses(attack.asker, NAME) == [TRUE]


def test_nothing_that_is_asked_on_an_internal_network_reaches_a_server(world: World) -> None:
    inside = world.container("--network", "inner", name="inside")
    world.names.asked.clear()
    for kind in ("A", "AAAA", "MX", "TXT", "SRV", "ANY", "SOA", "AXFR"):
        for by_tcp in (False, True):
            assert told(ask(inside, NAME, kind, by_tcp=by_tcp, size=1232)) == ["SERVFAIL"], (kind, by_tcp)
    assert name_of(inside, TRUE) == ["SERVFAIL"]
    for change in (chaos, update):
        assert told(raw_ask(inside, change(dns.message.make_query(NAME, "A")))) == ["NOTIMP"]
    assert world.names.asked == []
    direct = inside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with direct, pytest.raises(OSError, match="unreachable"):
        direct.connect((RESOLVER, 53))


def chaos(query: dns.message.Message) -> dns.message.Message:
    query.question[0].rdclass = dns.rdataclass.CH
    return query


def update(query: dns.message.Message) -> dns.message.Message:
    query.set_opcode(dns.opcode.NOTIFY)
    return query


def raw_ask(node: Node, query: dns.message.Message) -> dns.message.Message:
    with node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(60)
        sock.connect((OWN, 53))
        sock.send(query.to_wire())
        return dns.message.from_wire(sock.recv(4096))
