"""The resolver with real sockets: what it answers itself, what it asks servers, and what it refuses."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message as judge
import pytest
from dns import opcode

from corten.shim import asking, dns, forward, protocol, servers
from corten.shim.loop import Loop, Timer
from corten.shim.names import NetworkNames, View
from corten.shim.resolver import Resolver
from corten.shim.servers import HostServers, Place

from .test_dns import query

PATIENCE_S = 60.0
ROWS = (("a", "web", "10.0.0.2"), ("b", "db", "10.0.0.3"))


def both() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket with one number, which another program may have for one of them."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()


class Upstream:
    """A server by UDP and TCP; `answer` makes what it sends of what came (nothing: it keeps silent)."""

    def __init__(self) -> None:
        self.udp, self.tcp = both()
        self.port: int = self.udp.getsockname()[1]
        self.asked: list[bytes] = []
        self.ports: list[int] = []
        self.answer: Callable[[bytes], list[bytes]] = lambda message: [address_of(message, "192.0.2.7")]
        self._threads = [threading.Thread(target=work) for work in (self._datagrams, self._streams)]
        for thread in self._threads:
            thread.start()

    def _datagrams(self) -> None:
        while True:
            message, peer = self.udp.recvfrom(4096)
            if not message and not peer:  # shut down
                return
            self.asked.append(message)
            self.ports.append(peer[1])
            for one in self.answer(message):
                self.reply(one, peer)

    def reply(self, raw: bytes, peer: Any) -> None:
        self.udp.sendto(raw, peer)

    def _streams(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                raw = connection.recv(4096)
                self.asked.append(raw[2:])
                for one in self.answer(raw[2:]):
                    connection.sendall(struct.pack("!H", len(one)) + one)

    def close(self) -> None:
        with suppress(OSError):  # ENOTCONN, and the reader is woken
            self.udp.shutdown(socket.SHUT_RDWR)
        self.tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.udp.close()
        self.tcp.close()


def address_of(message: bytes, text: str) -> bytes:
    question = dns.read(message)
    return dns.answer(question, [dns.address_record(ip_address(text))])


class Here(Place):
    """A container's network that is this one."""

    def __init__(self, inside: socket.socket) -> None:
        self._netns_fd = -1

    def socket(self, family: int, kind: int) -> socket.socket:
        return socket.socket(family, kind)


class Lab:
    """A resolver in a thread, and a container whose sockets are on the loopback."""

    def __init__(self, root: Path) -> None:
        self.loop = Loop()
        self.resolv_conf = root / "resolv.conf"
        host = HostServers(str(self.resolv_conf))
        self.resolver = Resolver(str(root), self.loop, place=Here, host=host)
        self._end = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._control = protocol.connect(str(root), protocol.NAMES_SOCKET)
        self._control.settimeout(PATIENCE_S)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp = socket.create_server(("127.0.0.1", 0))

    def _run(self) -> None:
        while not self._end:
            self.loop.turn(0.05)

    def tell(self, op: str, *fds: int, **fields: Any) -> dict[str, Any]:
        """A request of cortend's."""
        protocol.send(self._control, protocol.encode({"op": op, "seq": 1, **fields}), fds)
        answer = protocol.decode(protocol.receive(self._control)[0])
        if "error" in answer:
            protocol.raise_failure(answer["error"])
        found: dict[str, Any] = answer["ok"]
        return found

    def serve(self, *servers: str, networks: tuple[str, ...] = ("n1",), **more: Any) -> None:
        fds = self.udp.fileno(), self.tcp.fileno()
        view: dict[str, Any] = {"networks": networks, "servers": servers, "way_out": bool(servers)}
        self.tell("serve", *fds, container="c", **{**view, **more})

    def ask(self, name: str, kind: int = dns.A, ident: int = 7) -> bytes:
        """By UDP, as a container."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(PATIENCE_S)
            asker.connect(self.udp.getsockname())
            asker.send(query(name, kind, ident=ident))
            return asker.recv(4096)

    def ask_by_tcp(self, *names: str) -> list[bytes]:
        """All questions in one go over one connection."""
        with socket.create_connection(self.tcp.getsockname(), timeout=PATIENCE_S) as asker:
            raw = [query(name) for name in names]
            asker.sendall(b"".join(struct.pack("!H", len(one)) + one for one in raw))
            stream = asker.makefile("rb")
            return [stream.read(struct.unpack("!H", stream.read(2))[0]) for _ in names]

    def close(self) -> None:
        self._end = True
        self._thread.join()
        self.resolver.close()
        for sock in (self._control, self.udp, self.tcp):
            sock.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    made.tell("network", id="n1", name="backend")
    for container, name, address in ROWS:
        made.tell("join", network="n1", container=container, names=[name], addresses=[address])
    yield made
    made.close()


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    made = Upstream()
    monkeypatch.setattr(forward, "PORT", made.port)
    monkeypatch.setattr(forward, "SERVER_S", PATIENCE_S)  # it may be late on a busy machine
    yield made
    made.close()


def addresses(answer: bytes) -> list[str]:
    _, _, _, count, *_ = dns.HEADER.unpack_from(answer)
    return [str(ip_address(answer[len(answer) - 4 :]))] if count == 1 else [str(count)]


def code(answer: bytes) -> int:
    return int(dns.HEADER.unpack_from(answer)[1] & dns.RCODE)


def test_names_of_the_networks_are_answered_by_udp_and_tcp(lab: Lab) -> None:
    lab.serve()
    assert addresses(lab.ask("web")) == ["10.0.0.2"]
    assert [addresses(one) for one in lab.ask_by_tcp("db", "web")] == [["10.0.0.3"], ["10.0.0.2"]]


def test_names_change_under_a_container_that_is_served(lab: Lab) -> None:
    lab.serve()
    lab.tell("join", network="n1", container="a", names=["web"], addresses=["10.0.0.9"])
    assert addresses(lab.ask("web")) == ["10.0.0.9"]
    lab.tell("leave", network="n1", container="b")
    assert code(lab.ask("db")) == dns.SERVFAIL
    joins = [{"network": "n1", "name": "backend", "container": "b", "names": ["api"], "addresses": ["10.0.0.8"]}]
    lab.tell("view", container="c", networks=["n1"], joins=joins)
    assert addresses(lab.ask("api")) == ["10.0.0.8"]
    lab.tell("view", container="c", networks=[])
    assert code(lab.ask("web")) == dns.SERVFAIL
    lab.tell("network", id="n1")
    assert lab.tell("hello")["containers"] == ["c"]


def test_a_table_takes_the_place_of_all_that_was_told(lab: Lab) -> None:
    lab.serve()
    member = {"container": "z", "names": ["late"], "addresses": ["10.0.0.77"]}
    lab.tell("table", networks=[{"id": "n1", "name": "backend", "members": [member]}])
    assert (addresses(lab.ask("late.backend")), code(lab.ask("web"))) == (["10.0.0.77"], dns.SERVFAIL)


def test_a_container_that_is_forgotten_leaves_its_networks(lab: Lab) -> None:
    lab.serve()
    lab.tell("forget", container="a")
    assert (addresses(lab.ask("db")), code(lab.ask("web"))) == (["10.0.0.3"], dns.SERVFAIL)


def test_what_is_not_known_is_asked_of_a_server_under_another_id(lab: Lab, upstream: Upstream) -> None:
    lab.serve("127.0.0.1")
    answers = [lab.ask("example.com", ident=number) for number in range(8)]
    assert [addresses(one) for one in answers] == [["192.0.2.7"]] * 8
    assert [dns.HEADER.unpack_from(one)[0] for one in answers] == list(range(8))
    assert [dns.HEADER.unpack_from(one)[0] for one in upstream.asked] != list(range(8))
    assert addresses(lab.ask_by_tcp("example.com")[0]) == ["192.0.2.7"]


def test_without_a_server_nothing_leaves(lab: Lab, upstream: Upstream) -> None:
    lab.resolv_conf.write_text("nameserver 127.0.0.1\n")
    lab.serve("127.0.0.1", way_out=False)
    assert code(lab.ask("example.com")) == dns.SERVFAIL
    lab.serve(servers=None, way_out=False)
    assert code(lab.ask("example.com")) == dns.SERVFAIL
    assert upstream.asked == []


def test_the_hosts_servers_are_those_that_its_file_names_now(
    lab: Lab, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_LOOK_S", 0.0)
    lab.resolv_conf.write_text("# nobody\nnameserver\nnameserver bogus\nnameserver 127.0.0.9\n")
    lab.serve(servers=None, way_out=True)
    assert code(lab.ask("example.com")) == dns.SERVFAIL
    lab.resolv_conf.write_text("search x\nnameserver 127.0.0.1\n")
    assert addresses(lab.ask("example.com")) == ["192.0.2.7"]


def test_a_server_that_fails_or_refuses_is_not_the_last_word(lab: Lab, upstream: Upstream) -> None:
    codes = [dns.SERVFAIL, dns.REFUSED, dns.NXDOMAIN]
    upstream.answer = lambda message: [dns.answer(dns.read(message), code=codes[len(upstream.asked) - 1])]
    lab.serve("127.0.0.1", "127.0.0.1", "127.0.0.1")
    assert code(lab.ask("example.com")) == dns.NXDOMAIN
    codes[:] = [dns.REFUSED] * 6
    assert code(lab.ask("example.com")) == dns.SERVFAIL


def test_an_answer_that_comes_late_is_taken(lab: Lab, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    delays, later = iter([0.05, PATIENCE_S]), Loop.call_later

    def call_later(loop: Loop, seconds: float, callback: Callable[[], None]) -> Timer:
        return later(loop, next(delays) if seconds == forward.SERVER_S else seconds, callback)

    monkeypatch.setattr(Loop, "call_later", call_later)
    held: list[bytes] = []

    def answer(message: bytes) -> list[bytes]:
        held.append(message)
        return [address_of(held[0], "192.0.2.7")] if len(held) == 2 else []

    upstream.answer = answer
    send = upstream.reply
    monkeypatch.setattr(upstream, "reply", lambda raw, peer: send(raw, ("127.0.0.1", upstream.ports[0])))
    lab.serve("127.0.0.1")
    assert addresses(lab.ask("example.com")) == ["192.0.2.7"]


def test_who_guesses_ids_does_not_keep_the_try_that_he_guesses_at(lab: Lab, upstream: Upstream) -> None:
    def answer(message: bytes) -> list[bytes]:
        if len(upstream.asked) > 1:
            return [address_of(message, "192.0.2.7")]
        ident = dns.HEADER.unpack_from(message)[0]
        return [dns.with_ident(address_of(message, "203.0.113.66"), ident ^ guess) for guess in range(1, 40)]

    upstream.answer = answer
    lab.serve("127.0.0.1")
    assert addresses(lab.ask("example.com")) == ["192.0.2.7"]
    first, second = (dns.HEADER.unpack_from(one)[0] for one in upstream.asked)
    assert first != second or upstream.ports[0] != upstream.ports[1]


def test_an_answer_with_another_id_or_question_is_not_taken(lab: Lab, upstream: Upstream) -> None:
    def answer(message: bytes) -> list[bytes]:
        ident = dns.HEADER.unpack_from(message)[0]
        wrong = dns.with_ident(address_of(message, "203.0.113.66"), ident ^ 1)
        other = dns.with_ident(address_of(query("evil.com"), "203.0.113.66"), ident)
        return [wrong, other, message, b"", b"x" * 40, address_of(message, "192.0.2.7")]

    upstream.answer = answer
    lab.serve("127.0.0.1")
    assert addresses(lab.ask("example.com")) == ["192.0.2.7"]


def test_the_next_server_is_asked_when_one_is_silent_or_not_there(
    lab: Lab, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.serve("127.0.0.2", "127.0.0.1")
    assert addresses(lab.ask("example.com")) == ["192.0.2.7"]
    monkeypatch.setattr(forward, "SERVER_S", 0.2)
    upstream.answer = lambda message: []
    assert code(lab.ask("example.com")) == dns.SERVFAIL


def test_a_container_has_so_many_questions_under_way_and_no_more(
    lab: Lab, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "FORWARDS", 2)
    upstream.answer = lambda message: []
    lab.serve("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE_S)
        asker.connect(lab.udp.getsockname())
        for number in range(3):
            asker.send(query("example.com", ident=number))
        first = asker.recv(4096)
    assert (dns.HEADER.unpack_from(first)[0], code(first)) == (2, dns.REFUSED)
    assert addresses(lab.ask("web")) == ["10.0.0.2"]


def test_what_is_no_query_is_refused_and_harms_nobody(lab: Lab) -> None:
    lab.serve()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE_S)
        asker.connect(lab.udp.getsockname())
        for raw in (b"", b"x", dns.answer(dns.read(query("web"))), query("web")[:-1]):
            asker.send(raw)
        assert code(asker.recv(4096)) == dns.FORMERR
    assert addresses(lab.ask("web")) == ["10.0.0.2"]


@pytest.mark.parametrize(
    ("op", "fields"),
    [("serve", {"container": "c"}), ("view", {"container": "x"}), ("leave", {"network": "x"}), ("sing", {})],
)
def test_a_wrong_request_is_answered_and_nothing_changes(lab: Lab, op: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"descriptors|not served|not known|unknown op"):
        lab.tell(op, **fields)
    assert lab.tell("hello")["containers"] == []


def test_who_is_forgotten_is_not_answered(lab: Lab) -> None:
    lab.serve()
    lab.tell("forget", container="c")
    lab.tell("forget", container="c")
    assert lab.tell("hello") == {"version": protocol.VERSION, "containers": []}


def test_while_one_has_many_questions_under_way_another_has_room() -> None:
    room = asking.Room(64)
    greedy = 0
    while room.take(greedy):
        greedy += 1
    assert greedy == 13  # a quarter of what is left
    modest = [room.take(have) for have in range(8)]
    assert modest == [True] * 8
    room.give_back(greedy + len(modest))
    assert room.take(15)


def test_large_answers_reach_a_container_that_reads_them_late(lab: Lab, upstream: Upstream) -> None:
    rest = b"x" * 60_000

    def answer(message: bytes) -> list[bytes]:
        return [address_of(message, "192.0.2.7") + rest]

    upstream.answer = answer
    lab.serve("127.0.0.1")
    with socket.create_connection(lab.tcp.getsockname(), timeout=PATIENCE_S) as asker:
        raw = query("example.com")
        asker.sendall((struct.pack("!H", len(raw)) + raw) * 4)
        while len(upstream.asked) < 4:
            lab.ask("web")
        stream = asker.makefile("rb")
        for _ in range(4):
            (length,) = struct.unpack("!H", stream.read(2))
            assert stream.read(length).endswith(rest)


def test_many_questions_in_one_go_are_all_answered(lab: Lab) -> None:
    lab.serve()
    names = ["web", "db"] * 200
    assert [addresses(one) for one in lab.ask_by_tcp(*names)] == [["10.0.0.2"], ["10.0.0.3"]] * 200


def test_a_question_that_is_too_long_is_malformed_and_not_cut(lab: Lab, upstream: Upstream) -> None:
    lab.serve("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE_S)
        asker.connect(lab.udp.getsockname())
        asker.send(query("example.com") + b"x" * 5000)
        assert code(asker.recv(4096)) == dns.FORMERR
    assert upstream.asked == []


def test_without_cortend_and_containers_it_ends(tmp_path: Path) -> None:
    resolver = Resolver(str(tmp_path), Loop(), place=Here)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    resolver.take(theirs)
    ours.close()
    while not resolver.is_ended:
        resolver.loop.turn(PATIENCE_S)
    resolver.close()


def test_a_container_has_so_many_connections_and_no_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "STREAMS", 2)
    lab.serve()
    opened = [socket.create_connection(lab.tcp.getsockname(), timeout=PATIENCE_S) for _ in range(3)]
    try:
        assert opened[2].recv(1) == b""
        raw = query("web")
        opened[1].sendall(struct.pack("!H", len(raw)) + raw)
        assert addresses(opened[1].recv(4096)[2:]) == ["10.0.0.2"]
    finally:
        for one in opened:
            one.close()


class House:
    """A resolver without servers, for messages of any kind."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.chance = random.Random(1)
        self.room = asking.Room()
        network = NetworkNames("backend")
        for container, name, address in ROWS:
            network.put(container, [name], [ip_address(address)])
        self.found = View((network,), has_way_out=True, links={"link": "web"})

    def view(self, client: asking.Client) -> View:
        return self.found

    def servers(self, client: asking.Client) -> list[servers.Server]:
        return []


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_container_sends_it_gets_one_answer_or_none_and_nothing_is_left(seed: int) -> None:
    chance, house = random.Random(seed), House()
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    client = asking.Client(house, udp, tcp, Here(udp))
    seeds = [query("web.backend", edns=1200), query("2.0.0.10.in-addr.arpa", dns.PTR), query("link"), query("x" * 63)]
    for _ in range(1500):
        raw = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        message = bytes(raw[: chance.randrange(len(raw) + 1)] if chance.random() < 0.3 else raw)
        answers: list[bytes] = []
        client.ask(message, answers.append, by_tcp=chance.random() < 0.5)
        assert len(answers) <= 1
        for one in answers:
            assert one[:2] == message[:2]
            assert one[2] & 0x80
            if one[2] >> 3 & 0xF != opcode.UPDATE:  # whose question is a zone
                judge.from_wire(one)
    assert house.room.take(asking.FORWARDS - 1), "questions are left under way"
    client.close()


@pytest.mark.parametrize("seed", range(2))
def test_whatever_a_server_sends_only_the_answer_is_taken(lab: Lab, upstream: Upstream, seed: int) -> None:
    chance = random.Random(seed)

    def answer(message: bytes) -> list[bytes]:
        true = address_of(message, "192.0.2.7")
        lies = []
        for _ in range(20):
            raw = bytearray(true)
            raw[chance.randrange(12 + len(query("example.com")) - 12)] ^= 1 << chance.randrange(8)
            lies.append(bytes(raw[: chance.randrange(12, len(raw) + 1)]))
        question, ident = dns.read(message), dns.HEADER.unpack_from(message)[0]
        return [one for one in lies if not dns.is_answer_to(one, question, ident)] + [true]

    upstream.answer = answer
    lab.serve("127.0.0.1")
    for number in range(30):
        assert addresses(lab.ask("example.com", ident=number)) == ["192.0.2.7"]
