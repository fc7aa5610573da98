"""The shim's end of a courier: back-pressure, dropping, death, end.  The courier is a real process."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from corten.errors import Internal
from corten.shim import courier
from corten.shim.builtin import BuiltinRuntime, own_children
from corten.shim.client import HIGH_WATER_BYTES
from corten.shim.courier import Courier
from corten.shim.log import Log
from corten.shim.loop import Loop
from corten.shim.shim import Shim

if TYPE_CHECKING:
    from corten.launch.facts import HostFacts


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(60)
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
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            self.loop.turn(0.02)

    def write(self, data: bytes) -> None:
        self.courier.write(1, time.time_ns(), data)


def read_all(connection: socket.socket, play: Play) -> bytes:
    connection.setblocking(False)
    data = b""
    deadline = time.monotonic() + 60
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
    connection.settimeout(60)
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


def accepted(server: socket.socket, play: Play) -> socket.socket:
    """The next connection, while the loop turns."""
    server.settimeout(0)
    found: list[socket.socket] = []

    def is_there() -> bool:
        with contextlib.suppress(BlockingIOError):
            found.append(server.accept()[0])
        return bool(found)

    play.until(is_there)
    return found[0]


def kill(play: Play) -> None:
    signal.pidfd_send_signal(play.courier._pidfd, signal.SIGKILL)
    play.until(lambda: play.courier._fd < 0)


def test_a_courier_that_dies_with_more_than_there_is_room_for_makes_room(server: socket.socket) -> None:
    """What it takes along is room as well: nobody would tell the container otherwise."""
    play = Play(server)
    play.begin()
    first, _ = server.accept()
    os.kill(play.courier.pid, signal.SIGSTOP)
    play.write(b"y" * HIGH_WATER_BYTES + b"\n")  # cut: the socket holds less
    assert play.courier.is_full
    kill(play)
    assert play.courier.pending == 0
    assert play.rooms == 1
    play.courier.close()
    first.close()


def test_a_write_that_finds_its_courier_dead_makes_room(server: socket.socket) -> None:
    play = Play(server)
    play.begin()
    first, _ = server.accept()
    os.kill(play.courier.pid, signal.SIGSTOP)
    play.write(b"y" * HIGH_WATER_BYTES + b"\n")
    assert play.courier.is_full
    signal.pidfd_send_signal(play.courier._pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, play.courier._pidfd, os.WEXITED | os.WNOWAIT)
    play.courier._flush()
    assert play.courier._fd < 0
    assert play.rooms == 1
    play.courier.close()
    first.close()


def test_what_waits_when_a_dead_courier_is_closed_is_sent_by_another(server: socket.socket) -> None:
    play = Play(server)
    play.begin()
    first, _ = server.accept()
    kill(play)
    play.write(b"the last words\n")
    play.courier.close()
    assert play.connections
    second = accepted(server, play)
    assert bodies(read_all(second, play)) == [b"the last words"]
    play.until(lambda: not play.connections)
    for one in (first, second):
        one.close()


def test_a_courier_that_cannot_be_followed_is_followed_later(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(courier, "_AGAIN_S", 0.01)
    play = Play(server)
    play.begin()
    first, _ = server.accept()
    refused: list[str] = []

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*args: object) -> Any:
            refused.append(name)
            raise OSError(errno.EMFILE, "Too many open files")

        return refuse

    kill(play)
    before = set(os.listdir("/proc/self/fd"))
    for owner, name in ((socket, "socketpair"), (os, "pipe"), (os, "fork"), (os, "pidfd_open")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refusing(name))
            play.until(lambda name=name: refused[-1:] == [name])  # type: ignore[misc]
        assert set(os.listdir("/proc/self/fd")) <= before
        assert (play.courier.pid, play.courier._fd, play.courier._pidfd) == (0, -1, -1)
    second = accepted(server, play)
    play.courier.close()
    assert "Too many open files" in capfd.readouterr().err
    for one in (first, second):
        one.close()


def test_frames_of_a_byte_take_no_more_memory_than_the_limit_says(server: socket.socket) -> None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    play = Play(server, limit=64_000)
    play.begin()
    os.kill(play.courier.pid, signal.SIGSTOP)
    for _ in range(200_000):
        play.write(b"z")
    assert 0 < len(play.courier._queue) <= 1000
    kill(play)
    play.courier._queue.clear()
    play.courier.close()


def test_a_courier_outlives_the_death_of_a_helper(server: socket.socket, tmp_path: Path) -> None:
    before = set(own_children())
    play = Play(server)
    play.begin()
    connection, _ = server.accept()
    shim = Shim(str(tmp_path), "t", "box", cast("HostFacts", None), str(tmp_path))
    shim._task._log = Log(None, courier=play.courier)

    def known() -> set[int]:
        return shim._busy_pids() | before

    box = BuiltinRuntime(str(tmp_path), "box", None, str(tmp_path), pids_limit=0, known=known)
    assert set(own_children()) - before == {play.courier.pid}
    assert list(box._kill_strangers()) == []
    play.write(b"still here\n")
    play.courier.close()
    assert bodies(read_all(connection, play)) == [b"still here"]
    assert shim._busy_pids() == set()
    connection.close()


_SHIM = """
import os, signal, socket, sys, time
from corten.shim import courier
from corten.shim.loop import Loop
courier.END_S = 1
port = int(sys.argv[1])
order = {"driver": "syslog", "tag": "t", "address": ["tcp", "127.0.0.1", port], "facility": 3}
loop = Loop()
made = courier.Courier(order, loop, set())
loop.start(made.begin())
while not loop.watches(made._fd):
    loop.turn(0.1)
last = time.monotonic()
while time.monotonic() - last < 0.5:
    if not made.is_full:
        last = time.monotonic()
        made.write(1, time.time_ns(), b"x" * 65000 + b"\\n")
    loop.turn(0.01 if made.is_full else 0)
print(made.pid, flush=True)
time.sleep(100)
"""


def test_a_courier_that_waits_for_its_server_ends_after_its_shim_was_killed(server: socket.socket) -> None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    argv = [sys.executable, "-c", _SHIM, str(server.getsockname()[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as shim:
        assert shim.stdout is not None
        connection, _ = server.accept()
        pid = int(shim.stdout.readline())  # the queue is full for a while: the courier waits for the server
        pidfd = os.pidfd_open(pid)
        shim.kill()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        assert poll.poll(15_000)
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        connection.close()


def test_a_courier_that_is_told_its_end_as_soon_as_it_is_born_sends_what_it_has(server: socket.socket) -> None:
    for number in range(10):
        play = Play(server)
        play.write(b"%d\n" % number)
        play.courier._again()
        play.courier.close()
        connection = accepted(server, play)
        assert bodies(read_all(connection, play)) == [b"%d" % number]
        connection.close()


def test_a_courier_has_none_of_its_shim_s_descriptors(server: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    play = Play(server)
    play.begin()
    connection, _ = server.accept()
    theirs.close()
    ours.settimeout(60)
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
