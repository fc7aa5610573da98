"""The relay of UDP ports, in a namespace with ::1 (that of TCP: tests/unit/shim/test_relay.py)."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from corten.shim import relay
from corten.shim.loop import Loop
from corten.shim.relay import Relays
from support.netlab import Node

PATIENCE_S = 60.0
NAME = "port:udp:[::]:53"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


class Lab:
    """A reserved UDP socket of [::] that is relayed to a server; everything in one namespace."""

    def __init__(self, undo: ExitStack, node: Node) -> None:
        self._undo = undo
        self._node = node
        self._loop = Loop()
        self._relays = Relays(self._loop)
        self.held = self.open(socket.AF_INET6)
        self.held.bind(("::", 0))
        self.server = self.listen()
        self.serve(self.server)
        undo.callback(self._end)

    def _end(self) -> None:
        """Sockets are closed at the end of a round."""
        self._relays.end(NAME)
        self.turn()

    def open(self, family: int = socket.AF_INET) -> socket.socket:
        """One of the namespace."""
        made = self._node.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._undo.enter_context(made).settimeout(PATIENCE_S)
        return made

    def listen(self) -> socket.socket:
        """A server to lead to."""
        made = self.open()
        made.bind(("127.0.0.1", 0))
        return made

    def serve(self, server: socket.socket) -> None:
        """Lead there."""
        self._node.call(lambda: self._relays.serve(NAME, self.held.fileno(), server.getsockname()))

    def asker(self) -> socket.socket:
        """Somebody who asks ::1."""
        made = self.open(socket.AF_INET6)
        made.connect(("::1", self.held.getsockname()[1]))
        return made

    def turn(self) -> None:
        """One round of the relay, which makes sockets."""
        self._node.call(lambda: self._loop.turn(0.01))

    def read(self, sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
        """The next datagram and who sent it."""
        end = time.monotonic() + PATIENCE_S
        while not select.select([sock], [], [], 0)[0]:
            assert time.monotonic() < end
            self.turn()
        data, address = sock.recvfrom(100)
        return data, address


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as undo:
        yield Lab(undo, undo.enter_context(Node("host")))


def test_datagrams_go_there_and_answers_come_back_from_where_they_were_sent_to(lab: Lab) -> None:
    one, two = lab.asker(), lab.asker()
    for asker, text in ((one, b"one"), (two, b"two"), (one, b"again")):
        asker.send(text)
        data, address = lab.read(lab.server)
        assert data == text
        lab.server.sendto(b"answer to " + text, address)
        assert lab.read(asker)[0] == b"answer to " + text


def test_one_asker_is_one_flow_inside(lab: Lab) -> None:
    asker = lab.asker()
    seen = set()
    for _ in range(3):
        asker.send(b"x")
        seen.add(lab.read(lab.server)[1])
    assert len(seen) == 1


def test_where_nobody_listens_datagrams_are_lost_and_later_ones_are_not(lab: Lab) -> None:
    asker, address = lab.asker(), lab.server.getsockname()
    lab.server.close()
    asker.send(b"lost")
    for _ in range(3):
        lab.turn()
    again = lab.open()
    again.bind(address)
    for _ in range(3):  # the first one may meet the error of the lost one
        asker.send(b"there")
    while (came := lab.read(again)[0]) == b"lost":  # on a busy machine the relay has had its turn later
        pass
    assert came == b"there"


def test_askers_beyond_the_limit_cost_the_one_that_was_silent_longest_its_place(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MAX_ASKERS", 2)
    one, two, three = (lab.asker() for _ in range(3))
    inside = {}
    for name, asker in (("one", one), ("two", two), ("one", one), ("three", three)):
        asker.send(b"x")
        inside[name] = lab.read(lab.server)[1]
    one.send(b"x")
    assert lab.read(lab.server)[1] == inside["one"]
    two.send(b"x")
    assert lab.read(lab.server)[1] != inside["two"]


def test_who_was_silent_is_forgotten(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "IDLE_S", 0.0)
    asker = lab.asker()
    asker.send(b"x")
    first = lab.read(lab.server)[1]
    lab.turn()
    lab.turn()
    asker.send(b"x")
    assert lab.read(lab.server)[1] != first


def test_another_target_is_for_all(lab: Lab) -> None:
    asker = lab.asker()
    asker.send(b"x")
    lab.read(lab.server)
    other = lab.listen()
    lab.serve(other)
    asker.send(b"y")
    assert lab.read(other)[0] == b"y"
