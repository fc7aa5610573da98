"""The shim's end of a courier: back-pressure, dropping, death, end.  The courier is a real process."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from corten.errors import Internal
from corten.shim.client import HIGH_WATER_BYTES
from corten.shim.courier import Courier
from corten.shim.loop import Loop


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


class Play:
    """A courier in a loop that is turned here."""

    def __init__(self, server: socket.socket, limit: int = -1, **more: Any) -> None:
        self.loop = Loop()
        self.connections: set[object] = set()
        host, port = server.getsockname()
        order = {"driver": "syslog", "tag": "t", "address": ["tcp", host, port], "facility": 3, "limit": limit, **more}
        self.courier = Courier(order, self.loop, self.connections)
        self.rooms = 0
        self.courier.on_room = self.room
        self.error: BaseException | None = None

    def room(self) -> None:
        self.rooms += 1

    def begin(self) -> None:
        over: list[BaseException | None] = []

        def job() -> Generator[Any, bool, None]:
            try:
                yield from self.courier.begin()
            except Internal as error:
                over.append(error)
            else:
                over.append(None)

        self.loop.start(job())
        self.until(lambda: bool(over))
        if over[0] is not None:
            raise over[0]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.loop.turn(0.02)

    def write(self, data: bytes) -> None:
        self.courier.write(1, time.time_ns(), data)


def read_all(connection: socket.socket, play: Play) -> bytes:
    connection.setblocking(False)
    data = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        play.loop.turn(0.01)
        try:
            piece = connection.recv(1 << 20)
        except BlockingIOError:
            continue
        if not piece:
            return data
        data += piece
    raise AssertionError("no end")


def bodies(data: bytes) -> list[bytes]:
    return [line.partition(b"]: ")[2] for line in data.splitlines()]


def test_everything_arrives_in_order_and_the_end_is_the_end(server: socket.socket) -> None:
    play = Play(server)
    play.begin()
    connection, _ = server.accept()
    for number in range(1000):
        play.write(b"%d\n" % number)
    play.write(b"unfinished")
    play.courier.end(1, time.time_ns())
    play.courier.close()
    assert bodies(read_all(connection, play)) == [*(b"%d" % number for number in range(1000)), b"unfinished"]
    connection.close()
    play.until(lambda: not play.connections)


def test_a_server_that_is_not_there_fails_the_beginning(server: socket.socket) -> None:
    play = Play(server)
    port = server.getsockname()[1]
    server.close()
    with pytest.raises(Internal) as caught:
        play.begin()
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert caught.value.text == f"failed to initialize logging driver: {refused}"


LINE = b"x" * 999 + b"\n"


def test_a_container_that_is_to_wait_waits_and_loses_nothing(server: socket.socket) -> None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    play = Play(server)
    play.begin()
    connection, _ = server.accept()
    written = 0
    while not play.courier.is_full:
        play.write(LINE * 50)
        written += 50
        play.loop.turn(0)
        assert written < 100_000
    assert play.courier.pending >= HIGH_WATER_BYTES
    assert play.rooms == 0
    connection.settimeout(10)
    got = b""
    connection.setblocking(False)
    while play.courier.pending:
        play.loop.turn(0.005)
        try:
            got += connection.recv(1 << 20)
        except BlockingIOError:
            continue
    assert play.rooms == 1
    play.courier.close()
    got += read_all(connection, play)
    connection.close()
    assert len(bodies(got)) == written
    assert play.courier.dropped == 0


def test_a_container_that_is_not_to_wait_loses_what_does_not_fit(server: socket.socket) -> None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    play = Play(server, limit=100_000)
    play.begin()
    connection, _ = server.accept()
    for _ in range(20_000):
        play.write(LINE)
        assert not play.courier.is_full
    play.loop.turn(0)
    assert play.courier.pending <= 100_000
    assert play.courier.dropped > 0
    play.courier.close()
    lines = bodies(read_all(connection, play))
    connection.close()
    assert len(lines) == 20_000 - play.courier.dropped // len(LINE)
    assert set(lines) == {LINE.rstrip(b"\n")}


def test_a_courier_that_dies_is_followed_by_another(server: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    play = Play(server)
    play.begin()
    first, _ = server.accept()
    signal.pidfd_send_signal(play.courier._pidfd, signal.SIGKILL)
    play.until(lambda: play.courier._fd < 0)
    play.write(b"after\n")
    server.settimeout(0)
    accepted: list[socket.socket] = []

    def is_there() -> bool:
        try:
            accepted.append(server.accept()[0])
        except BlockingIOError:
            return False
        return True

    play.until(is_there)
    play.courier.close()
    assert bodies(read_all(accepted[0], play)) == [b"after"]
    for one in (first, accepted[0]):
        one.close()
    assert "another one follows" in capfd.readouterr().err


def test_a_courier_has_none_of_its_shim_s_descriptors(server: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    play = Play(server)
    play.begin()
    connection, _ = server.accept()
    theirs.close()
    ours.settimeout(5)
    assert ours.recv(1) == b""  # the courier does not hold its peer
    ours.close()
    play.courier.close()
    read_all(connection, play)
    connection.close()


def test_a_courier_is_reaped(server: socket.socket) -> None:
    play = Play(server)
    play.begin()
    connection, _ = server.accept()
    pidfd = os.dup(play.courier._pidfd)
    play.courier.close()
    read_all(connection, play)
    connection.close()

    def is_reaped() -> bool:
        try:
            return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and False
        except ChildProcessError:
            return True

    play.until(is_reaped)
    os.close(pidfd)
