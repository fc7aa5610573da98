"""A shim's wish that the helper stays: asked of the next helper when one ends, as often as needed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corten.shim import protocol, stay
from corten.shim.loop import Loop
from corten.shim.stay import Stay


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stay, "_PAUSE_S", 0.01)


def turn_until(loop: Loop, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        loop.turn(0.02)


class Helper:
    """Listens; takes what comes."""

    def __init__(self, folder: Path) -> None:
        self.listener = protocol.bind_listener(str(folder), protocol.HELPER_SOCKET)
        self.asked: list[socket.socket] = []

    def accept(self) -> bool:
        try:
            self.asked.append(self.listener.accept()[0])
        except BlockingIOError:
            return False
        return True

    def end(self) -> None:
        self.listener.close()
        for sock in self.asked:
            sock.close()


def test_it_asks_once_and_the_next_helper_when_the_first_has_ended(tmp_path: Path) -> None:
    loop = Loop()
    first = Helper(tmp_path)
    wish = Stay(str(tmp_path), loop)
    turn_until(loop, first.accept)
    first.asked[0].setblocking(True)
    assert protocol.receive(first.asked[0])[0] == b'{"op":"stay"}'
    first.end()
    loop.turn(0.1)
    second = Helper(tmp_path)
    turn_until(loop, second.accept)
    wish.close()
    assert not second.accept(), "one connection"
    second.asked[0].setblocking(True)
    assert [protocol.receive(second.asked[0])[0] for _ in range(2)] == [b'{"op":"stay"}', b""]
    second.end()


def test_it_waits_for_a_helper_that_is_not_there_yet_and_longer_each_time(tmp_path: Path) -> None:
    loop = Loop()
    wish = Stay(str(tmp_path), loop)
    for _ in range(4):
        loop.turn(0.05)
    assert wish._pause_s >= 0.04
    helper = Helper(tmp_path)
    turn_until(loop, helper.accept)
    wish.close()
    wish.close()
    helper.end()
