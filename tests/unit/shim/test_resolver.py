"""The resolver with real sockets: what it answers itself, what it asks servers, and what it refuses."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from corten.shim import dns, forward, protocol
from corten.shim import resolver as resolvers
from corten.shim.loop import Loop
from corten.shim.protocol import NAMES_SOCKET
from corten.shim.resolver import Resolver

from .test_dns import query

PATIENCE_S = 60.0
ROWS = (("a", "web", "10.0.0.2"), ("b", "db", "10.0.0.3"))


class Upstream:
    """A server by UDP and TCP; `answer` makes what it sends of what came (nothing: it keeps silent)."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.port = self.udp.getsockname()[1]
        self.tcp = socket.create_server(("127.0.0.1", self.port))
        self.asked: list[bytes] = []
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
            for one in self.answer(message):
                self.udp.sendto(one, peer)

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


class Lab:
    """A resolver in a thread, and a container whose sockets are on the loopback."""

    def __init__(self, root: Path) -> None:
        self.loop = Loop()
        self.resolver = Resolver(str(root), self.loop)
        self._end = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._control = protocol.connect(str(root), NAMES_SOCKET)
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

    def serve(self, *servers: str, networks: tuple[str, ...] = ("n1",)) -> None:
        fds = self.udp.fileno(), self.tcp.fileno()
        self.tell("serve", *fds, container="c", networks=networks, servers=servers)

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
    assert code(lab.ask("db")) == dns.NXDOMAIN
    lab.tell("view", container="c", networks=[], servers=[])
    assert code(lab.ask("web")) == dns.NXDOMAIN
    lab.tell("network", id="n1")
    assert lab.tell("hello")["containers"] == ["c"]


def test_what_is_not_known_is_asked_of_a_server_under_another_id(lab: Lab, upstream: Upstream) -> None:
    lab.serve("127.0.0.1")
    answers = [lab.ask("example.com", ident=number) for number in range(8)]
    assert [addresses(one) for one in answers] == [["192.0.2.7"]] * 8
    assert [dns.HEADER.unpack_from(one)[0] for one in answers] == list(range(8))
    assert [dns.HEADER.unpack_from(one)[0] for one in upstream.asked] != list(range(8))
    assert addresses(lab.ask_by_tcp("example.com")[0]) == ["192.0.2.7"]


def test_without_a_server_nothing_leaves(lab: Lab, upstream: Upstream) -> None:
    lab.serve()
    assert code(lab.ask("example.com")) == dns.NXDOMAIN
    assert upstream.asked == []


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
    monkeypatch.setattr(forward, "SERVER_S", 0.2)
    lab.serve("127.0.0.2", "127.0.0.1")
    assert addresses(lab.ask("example.com")) == ["192.0.2.7"]
    upstream.answer = lambda message: []
    assert code(lab.ask("example.com")) == dns.SERVFAIL


def test_a_container_has_so_many_questions_under_way_and_no_more(
    lab: Lab, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolvers, "FORWARDS", 2)
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
