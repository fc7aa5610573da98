"""The keeper's verdicts on helpers that are doubles: a process that sleeps, the other end of its pipe."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from corten.shim import keeper as keeper_module
from corten.shim import protocol
from corten.shim.keeper import Keeper, give_sign


class Scene:
    """A keeper that looks at each turn and has room for a few callers, and its helper's life."""

    def __init__(self, folder: Path, lives: contextlib.ExitStack) -> None:
        self.epoll = lives.enter_context(select.epoll())
        self.keeper = Keeper(str(folder), self.epoll)
        lives.enter_context(self.keeper.listener)
        lives.callback(self.keeper.forget)
        self.folder = str(folder)
        self._lives = lives
        self.process: subprocess.Popen[bytes]
        self.pipe = -1

    def live(self) -> None:
        """A helper, and its end of the pipe."""
        reason = self.keeper.announce()
        self.pipe = os.dup(reason)
        self._lives.callback(os.close, self.pipe)
        self.process = self._lives.enter_context(subprocess.Popen(["sleep", "1000"]))
        self._lives.callback(self.process.kill)
        self.keeper.started(self.process.pid, reason)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.keeper.ended(signal.SIGKILL)

    def call(self) -> None:
        """Somebody waits to be accepted."""
        self._lives.enter_context(protocol.connect(self.folder, protocol.HELPER_SOCKET))

    def fill(self) -> None:
        """So many that there is no room for another."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.call()

    def accept_all(self) -> list[socket.socket]:
        accepted = []
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted.append(self._lives.enter_context(self.keeper.listener.accept()[0]))
        return accepted

    def turns(self, number: int) -> None:
        for _ in range(number):
            self.keeper.turn(dict(self.epoll.poll(0)))

    def is_judged(self) -> bool:
        """Whether the keeper has killed it, which must have been."""
        return self.process.wait(60) == -signal.SIGKILL

    def is_spared(self) -> bool:
        """Whether it lives."""
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            return True
        return False

    def is_due(self) -> bool:
        return self.keeper.is_due

    def called(self) -> int:
        """The keeper's side of its call, copied as a fork copies it."""
        self.call()
        self.turns(1)
        *_, call = self.accept_all()
        assert protocol.decode(protocol.receive(call)[0]) == {"op": "ping"}
        protocol.send(call, b"{}")
        ((fd, _),) = self.epoll.poll(1)
        copy = os.dup(fd)
        self._lives.callback(os.close, copy)
        return copy


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(keeper_module, "_LOOK_S", 0.0)
    monkeypatch.setattr(keeper_module, "_BACKLOG", 3)
    with contextlib.ExitStack() as lives:
        yield Scene(tmp_path, lives)


def test_a_helper_that_is_killed_before_it_accepted_anybody_is_replaced_at_once_only_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "time", SimpleNamespace(monotonic=lambda: 1000.0))  # it stands still
    scene.live()
    scene.end()
    assert scene.is_due()
    for pause_s in (1, 2, 4):
        scene.live()
        scene.end()
        assert not scene.is_due()
        assert scene.keeper.patience_s() == pause_s


def test_helpers_that_are_killed_at_work_are_replaced_at_once(scene: Scene) -> None:
    for _ in range(4):
        scene.live()
        give_sign(scene.pipe)
        scene.end()
        assert scene.is_due()
    scene.live()
    scene.end()
    assert scene.is_due()  # the first at its start


def test_helpers_that_are_killed_after_a_long_life_without_callers_are_replaced_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_SHORT_LIFE_S", 0.0)
    for _ in range(3):
        scene.live()
        scene.end()
        assert scene.is_due()


def test_a_helper_that_accepts_everybody_after_a_crowd_is_left_alone(scene: Scene) -> None:
    scene.live()
    scene.fill()
    scene.turns(2)  # no room for the keeper's own call
    scene.accept_all()
    scene.turns(3)
    scene.fill()
    scene.turns(2)
    assert scene.is_spared()


def test_a_helper_that_makes_room_for_the_call_has_two_more_looks_to_answer(scene: Scene) -> None:
    scene.live()
    scene.fill()
    scene.turns(2)
    scene.accept_all()
    scene.call()
    scene.turns(2)
    assert scene.is_spared()
    scene.turns(1)
    assert scene.is_judged()


def test_a_helper_that_leaves_a_crowd_waiting_is_killed(scene: Scene) -> None:
    scene.live()
    scene.fill()
    scene.turns(3)
    assert scene.is_judged()


def test_a_helper_that_accepts_nobody_but_gives_signs_of_life_is_left_alone_as_long_as_it_does(scene: Scene) -> None:
    scene.live()
    scene.call()
    for _ in range(6):
        give_sign(scene.pipe)
        scene.turns(1)
    assert scene.is_spared()
    scene.turns(2)
    assert scene.is_judged()


def test_an_answered_call_is_heard_no_more_though_a_shim_has_a_copy_of_it(scene: Scene) -> None:
    scene.live()
    scene.called()
    scene.turns(1)
    assert scene.epoll.poll(0) == []


def test_a_forked_shim_that_forgets_takes_nothing_from_the_zygotes_epoll(scene: Scene) -> None:
    scene.live()
    scene.called()
    scene.keeper.forget()
    assert len(scene.epoll.poll(0)) == 1


def test_a_helper_without_a_pipe_is_not_started_and_callers_are_told(scene: Scene) -> None:
    scene.keeper.not_started("fork: no descriptor", -1)
    assert not scene.is_due()
    scene.call()
    with protocol.connect(scene.folder, protocol.HELPER_SOCKET) as caller:
        scene.turns(1)
        answer = protocol.decode(protocol.receive(caller)[0])
    assert answer["error"]["text"] == "the runtime's helper does not start: fork: no descriptor"
