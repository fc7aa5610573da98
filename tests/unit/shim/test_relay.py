"""The relay of TCP ports, over loopback (that of UDP needs IPv6: tests/system/test_network_ports.py)."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from corten.shim.loop import Loop
from corten.shim.relay import Relays

PATIENCE_S = 60.0
MANY = 3 * 1024 * 1024
NAME = "port:tcp:[::1]:80"


class Lab:
    """A reserved socket that is relayed to a server."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self.loop = Loop()
        self.relays = Relays(self.loop)
        self.held = undo.enter_context(socket.socket())
        self.held.bind(("127.0.0.1", 0))
        self.server = self.listen()
        self.relays.serve(NAME, self.held.fileno(), self.server.getsockname())

    def listen(self) -> socket.socket:
        """A server to lead to."""
        return self._undo.enter_context(socket.create_server(("127.0.0.1", 0)))

    def client(self) -> socket.socket:
        """A connection to the reserved port."""
        made = self._undo.enter_context(socket.create_connection(self.held.getsockname(), PATIENCE_S))
        made.settimeout(PATIENCE_S)
        return made

    def until(self, is_so: Callable[[], object]) -> None:
        """Turns the relay's loop."""
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end
            self.loop.turn(0.01)

    def accept(self, server: socket.socket | None = None) -> socket.socket:
        """The container's end of the next connection."""
        listener = server or self.server
        self.until(lambda: readable(listener))
        made = self._undo.enter_context(listener.accept()[0])
        made.settimeout(PATIENCE_S)
        return made

    def read(self, sock: socket.socket) -> bytes:
        """The next bytes, b"" at the end."""
        self.until(lambda: readable(sock))
        return sock.recv(MANY)


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as undo:
        made = Lab(undo)
        undo.callback(made.relays.close)
        yield made


def test_bytes_go_both_ways_and_each_way_ends_by_itself(lab: Lab) -> None:
    client, inside = lab.client(), lab.accept()
    client.sendall(b"question")
    assert lab.read(inside) == b"question"
    client.shutdown(socket.SHUT_WR)
    assert lab.read(inside) == b""
    inside.sendall(b"answer")
    assert lab.read(client) == b"answer"
    assert lab.relays.pairs == 1
    inside.close()
    assert lab.read(client) == b""
    lab.until(lambda: lab.relays.pairs == 0)


def test_one_that_does_not_read_makes_the_other_wait_and_loses_nothing(lab: Lab) -> None:
    client, inside = lab.client(), lab.accept()
    data = os.urandom(MANY)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(20):
        lab.loop.turn(0.01)
    came = bytearray()
    while part := lab.read(inside):
        came += part
    sender.join()
    assert bytes(came) == data
    inside.sendall(b"thanks")
    assert lab.read(client) == b"thanks"


def test_where_nobody_listens_the_client_is_reset(lab: Lab) -> None:
    lab.server.close()
    client = lab.client()
    with pytest.raises(ConnectionResetError):
        lab.read(client)
    assert lab.relays.pairs == 0


def test_a_reset_is_passed_on(lab: Lab) -> None:
    client, inside = lab.client(), lab.accept()
    client.sendall(b"x")
    assert lab.read(inside) == b"x"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        lab.read(inside)
    assert lab.relays.pairs == 0


def test_another_target_is_for_new_connections(lab: Lab) -> None:
    before = lab.client(), lab.accept()
    other = lab.listen()
    lab.relays.serve(NAME, lab.held.fileno(), other.getsockname())
    after = lab.client(), lab.accept(other)
    for client, inside in (before, after):
        client.sendall(b"x")
        assert lab.read(inside) == b"x"


def test_connections_beyond_the_limit_wait_for_the_end_of_another(lab: Lab) -> None:
    lab.relays.pairs_limit = 1
    first, inside = lab.client(), lab.accept()
    second = lab.client()
    second.sendall(b"second")
    for _ in range(5):
        lab.loop.turn(0.01)
    assert lab.relays.pairs == 1
    assert not readable(lab.server)
    for one in (first, inside):
        one.close()
    assert lab.read(lab.accept()) == b"second"


def test_the_end_of_a_relay_ends_its_connections_and_leaves_the_socket_to_its_holder(lab: Lab) -> None:
    client = lab.client()
    lab.accept()
    lab.relays.end(NAME)
    lab.relays.end(NAME)
    with pytest.raises(ConnectionResetError):
        lab.read(client)
    assert lab.relays.pairs == 0
    assert lab.held.getsockname()[1]


def test_many_connections_share_few_pipes(lab: Lab) -> None:
    pairs = [(lab.client(), lab.accept()) for _ in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    for number, (client, inside) in enumerate(pairs):
        client.sendall(b"%d" % number)
        assert lab.read(inside) == b"%d" % number
    assert len(os.listdir("/proc/self/fd")) - before <= 4


def test_an_idle_connection_wakes_nobody(lab: Lab) -> None:
    """Both of its ends are closed one way, which the kernel may tell again and again."""
    client, inside = lab.client(), lab.accept()
    inside.shutdown(socket.SHUT_WR)
    assert lab.read(client) == b""
    turns, end = 0, time.monotonic() + 0.2
    while time.monotonic() < end:
        lab.loop.turn(0.1)
        turns += 1
    assert turns <= 4


def test_nothing_is_open_when_all_is_closed() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with ExitStack() as undo:
        made = Lab(undo)
        client, inside = made.client(), made.accept()
        client.sendall(b"x")
        assert made.read(inside) == b"x"
        made.relays.close()
        made.relays.close()
    del made.loop, made.relays
    assert set(os.listdir("/proc/self/fd")) - before == set()
