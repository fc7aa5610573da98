"""Streams between a process that the test plays and clients that it plays too."""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corten.errors import Unavailable
from corten.shim.client import HIGH_WATER_BYTES, AttachOptions
from corten.shim.detach import DEFAULT_KEYS
from corten.shim.log import Log
from corten.shim.logfile import LogFile
from corten.shim.loop import Loop
from corten.shim.stdio import Stdio

OUT_FRAME = b"\x01\x00\x00\x00\x00\x00\x00\x02hi"
ERR_FRAME = b"\x02\x00\x00\x00\x00\x00\x00\x03bad"


class Bench:
    """A stdio, its process's ends and a loop."""

    def __init__(self, log: Log | None = None, *, tty: bool = False) -> None:
        self.loop = Loop()
        self.connections: set[object] = set()
        self.detached = 0
        self.peers: list[socket.socket] = []
        self.stdio = Stdio(self.loop, tty=tty, log=log, on_detach=self.count, connections=self.connections)
        if tty:
            master, self.stdin = os.openpty()
            self.stdout = self.stderr = os.dup(self.stdin)
            self.stdio.set_master(master, stdin=True)
        else:
            fds = self.stdio.open_pipes(stdin=True)
            self.stdin, self.stdout, self.stderr = (os.dup(fd) for fd in fds)

    def count(self) -> None:
        self.detached += 1

    def attach(self, **options: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self.stdio.attach(theirs.detach(), AttachOptions(**options))  # type: ignore[arg-type]  # keywords by name
        self.peers.append(ours)
        return ours

    def turn(self, until: Callable[[], bool] | None = None) -> None:
        deadline = time.monotonic() + 60
        while True:
            self.loop.turn(0.02)
            if until is None or until():
                return
            assert time.monotonic() < deadline

    def end_process(self) -> None:
        for fd in {self.stdin, self.stdout, self.stderr}:
            os.close(fd)
        self.stdin = self.stdout = self.stderr = -1

    def close(self) -> None:
        self.stdio.finish()
        for peer in self.peers:
            peer.close()
        if self.stdin >= 0:
            self.end_process()
        self.turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.stdio.begin()
    yield made
    made.close()


def drained(peer: socket.socket) -> bytes:
    data = b""
    while piece := peer.recv(65536):
        data += piece
    return data


def test_output_goes_to_every_client_and_to_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    bench = Bench(Log(LogFile(str(path)), b""))
    bench.stdio.begin()
    framed, raw, errors = bench.attach(multiplexed=True), bench.attach(), bench.attach(stdout=False)
    os.write(bench.stdout, b"hi")
    os.write(bench.stderr, b"bad")
    bench.end_process()
    bench.turn(lambda: bench.stdio.is_over)
    bench.stdio.finish()
    assert sorted([OUT_FRAME, ERR_FRAME]) == sorted(split_frames(drained(framed)))
    assert sorted(drained(raw)) == sorted(b"hibad")
    assert drained(errors) == b"bad"
    assert {b'{"log":"hi"', b'{"log":"bad"'} == {line.split(b",")[0] for line in path.read_bytes().splitlines()}
    bench.close()


def split_frames(data: bytes) -> list[bytes]:
    frames = []
    while data:
        size = 8 + int.from_bytes(data[4:8], "big")
        frames.append(data[:size])
        data = data[size:]
    return frames


def test_half_close_ends_stdin_and_output_goes_on(bench: Bench) -> None:
    peer = bench.attach(stdin=True, stdin_once=True)
    peer.sendall(b"typed")
    peer.shutdown(socket.SHUT_WR)
    bench.turn(lambda: not bench.stdio.is_stdin_open)
    assert os.read(bench.stdin, 100) == b"typed"
    assert os.read(bench.stdin, 100) == b""
    os.write(bench.stdout, b"answer")
    bench.turn()
    assert peer.recv(100) == b"answer"


def test_half_close_without_stdin_once_detaches_the_client_and_keeps_stdin(bench: Bench) -> None:
    peer = bench.attach(stdin=True)
    peer.sendall(b"x")
    peer.shutdown(socket.SHUT_WR)
    bench.turn(lambda: bench.stdio.client_count == 0)
    assert drained(peer) == b""
    assert bench.stdio.is_stdin_open


def test_half_close_of_a_client_without_stdin_means_nothing(bench: Bench) -> None:
    peer = bench.attach()
    peer.shutdown(socket.SHUT_WR)
    bench.turn()
    os.write(bench.stdout, b"x")
    bench.turn()
    assert peer.recv(10) == b"x"


def test_input_before_the_process_exists_is_kept() -> None:
    bench = Bench()
    peer = bench.attach(stdin=True, stdin_once=True, initial_stdin=b"first ")
    peer.sendall(b"second")
    peer.shutdown(socket.SHUT_WR)
    bench.turn()
    bench.turn()
    bench.stdio.begin()
    assert os.read(bench.stdin, 100) == b"first second"
    assert os.read(bench.stdin, 100) == b""
    bench.close()


def test_a_client_that_sends_and_goes_has_its_input_delivered(bench: Bench) -> None:
    peer = bench.attach(stdin=True, stdin_once=True)
    peer.sendall(b"last words")
    peer.close()
    bench.turn(lambda: bench.stdio.client_count == 0)
    assert os.read(bench.stdin, 100) == b"last words"
    assert os.read(bench.stdin, 100) == b""


def test_a_process_that_does_not_read_slows_its_client_down(bench: Bench) -> None:
    peer = bench.attach(stdin=True, stdin_once=True)
    peer.setblocking(False)
    sent = flood(peer, bench)
    assert sent < 4_000_000
    received = 0
    os.set_blocking(bench.stdin, False)
    peer.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + 60
    while received < sent and time.monotonic() < deadline:
        bench.loop.turn(0.01)
        try:
            received += len(os.read(bench.stdin, 65536))
        except BlockingIOError:
            continue
    assert received == sent


def flood(peer: socket.socket, bench: Bench) -> int:
    sent = idle = 0
    while idle < 5:
        try:
            sent += peer.send(b"z" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
        bench.loop.turn(0.01)
    return sent


def test_a_client_that_does_not_read_pauses_the_process_and_nothing_is_lost(bench: Bench) -> None:
    slow, fast = bench.attach(), bench.attach()
    fast.setblocking(False)
    os.set_blocking(bench.stdout, False)
    written = seen = idle = 0
    while idle < 5:
        try:
            written += os.write(bench.stdout, b"o" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
        bench.loop.turn(0.01)
        seen += read_all(fast)
    assert written < 4 * HIGH_WATER_BYTES + 1_000_000
    slow.setblocking(False)
    total = 0
    deadline = time.monotonic() + 60
    while total < written and time.monotonic() < deadline:
        total += read_all(slow)
        bench.loop.turn(0.01)
        seen += read_all(fast)
    assert (total, seen) == (written, written)


def read_all(peer: socket.socket) -> int:
    total = 0
    while True:
        try:
            data = peer.recv(65536)
        except BlockingIOError:
            return total
        if not data:
            return total
        total += len(data)


def test_a_client_that_vanishes_while_it_held_the_process_up_lets_it_go_on(bench: Bench) -> None:
    slow = bench.attach()
    os.set_blocking(bench.stdout, False)
    assert fill(bench) > 0
    slow.close()
    bench.turn(lambda: bench.stdio.client_count == 0)
    assert fill(bench, rounds=20) > 500_000


def fill(bench: Bench, rounds: int = 200) -> int:
    written = 0
    for _ in range(rounds):
        try:
            written += os.write(bench.stdout, b"o" * 65536)
        except BlockingIOError:
            bench.loop.turn(0.005)
        else:
            bench.loop.turn(0)
    return written


def test_what_a_slow_client_has_not_read_is_kept_after_the_end(bench: Bench) -> None:
    peer = bench.attach()
    os.set_blocking(bench.stdout, False)
    written = fill(bench)
    bench.end_process()
    bench.stdio.drain()
    bench.stdio.finish()
    assert len(bench.connections) == 1
    peer.setblocking(False)
    total = 0
    deadline = time.monotonic() + 60
    while bench.connections and time.monotonic() < deadline:
        total += read_all(peer)
        bench.loop.turn(0.01)
    assert total + read_all(peer) == written


def test_the_client_sees_an_end_and_no_reset_when_its_input_was_not_read(bench: Bench) -> None:
    peer = bench.attach()
    peer.sendall(b"nobody reads this")
    os.write(bench.stdout, b"bye")
    bench.turn()
    bench.end_process()
    bench.turn(lambda: bench.stdio.is_over)
    bench.stdio.finish()
    assert drained(peer) == b"bye"


def test_detach_keys_take_one_client_off_a_terminal() -> None:
    bench = Bench(tty=True)
    bench.stdio.begin()
    keys, other = bench.attach(stdin=True, detach_keys=DEFAULT_KEYS), bench.attach(stdin=True, detach_keys=b"x")
    keys.sendall(b"a\x10")
    bench.turn()
    keys.sendall(b"\x11")
    bench.turn(lambda: bench.stdio.client_count == 1)
    assert bench.detached == 1
    keys.settimeout(60)
    assert b"\x11" not in drained(keys)
    other.sendall(b"b\n")
    bench.turn()
    assert os.read(bench.stdin, 100) == b"ab\n"
    bench.close()


def test_a_terminal_that_nobody_has_open_is_looked_at_again() -> None:
    bench = Bench(tty=True)
    name = os.ttyname(bench.stdin)
    bench.stdio.begin()
    peer = bench.attach()
    bench.end_process()
    bench.turn()
    again = os.open(name, os.O_RDWR | os.O_NOCTTY)
    os.write(again, b"back")
    bench.turn(lambda: bool(select.select([peer], [], [], 0)[0]))
    assert peer.recv(10) == b"back"
    os.close(again)
    bench.close()


def test_a_terminal_is_resized() -> None:
    bench = Bench(tty=True)
    bench.stdio.begin()
    bench.stdio.resize(33, 77)
    assert os.get_terminal_size(bench.stdin) == (77, 33)
    bench.close()


def test_nobody_can_attach_after_the_end(bench: Bench) -> None:
    bench.end_process()
    bench.turn(lambda: bench.stdio.is_over)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(Unavailable):
        bench.stdio.attach(theirs.fileno(), AttachOptions())


def test_a_process_that_was_never_started_leaves_nothing_open() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    bench = Bench()
    peer = bench.attach(stdin=True)
    bench.end_process()
    bench.stdio.abandon()
    assert drained(peer) == b""
    peer.close()
    bench.loop.turn(0)
    del bench
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before  # less: what an earlier test left to the collector
