"""What a shim makes of helpers that die before they have begun what they were asked."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.shim import protocol
from corten.shim.backend import Phases, Steps, Streams
from corten.shim.builtin import BuiltinRuntime, own_children
from corten.shim.loop import READ, Loop, Readable


class DyingHelpers:
    """Takes sessions; the first `losses` end without an answer, as when a helper and then its zygote die."""

    def __init__(self, folder: Path, losses: int) -> None:
        self._listener = protocol.bind_listener(str(folder), protocol.HELPER_SOCKET)
        self.losses = losses
        self.ops: list[str] = []

    def serve(self) -> None:
        """One request."""
        session, _ = self._listener.accept()
        with session:
            body, fds = protocol.receive(session)
            protocol.close_all(fds)
            self.ops.append(str(protocol.decode(body)["op"]))
            if len(self.ops) > self.losses:
                protocol.send(session, protocol.encode({"ok": {}}))

    def fileno(self) -> int:
        """Readable when somebody has asked."""
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def helpers(tmp_path: Path) -> Iterator[DyingHelpers]:
    made = DyingHelpers(tmp_path, 0)
    yield made
    made.close()


def runtime(folder: Path) -> BuiltinRuntime:
    """`known`: all children of the test's are somebody's, none is to be killed."""
    return BuiltinRuntime(str(folder), "box", None, str(folder), pids_limit=0, known=lambda: set(own_children()))


def run(steps: Steps[object], helpers: DyingHelpers) -> None:
    """The steps to their end, with a helper at the other side."""
    with contextlib.suppress(StopIteration):
        wait = next(steps)
        while True:
            if isinstance(wait, Readable):
                helpers.serve()
            wait = steps.send(True)  # what the loop says of a descriptor that is readable


@pytest.mark.parametrize("losses", [0, 1, 2])
def test_an_op_that_was_not_begun_outlives_the_death_of_a_helper_and_of_its_zygote(
    helpers: DyingHelpers, tmp_path: Path, losses: int
) -> None:
    helpers.losses = losses
    run(runtime(tmp_path).pause(), helpers)
    assert helpers.ops == ["pause"] * (losses + 1)


def test_helpers_that_die_again_and_again_are_an_error(helpers: DyingHelpers, tmp_path: Path) -> None:
    helpers.losses = 100
    with pytest.raises(Internal, match="pause: the helper died"):
        run(runtime(tmp_path).pause(), helpers)
    assert len(helpers.ops) < 10


def test_a_start_is_asked_for_once(helpers: DyingHelpers, tmp_path: Path) -> None:
    helpers.losses = 1
    with pytest.raises(Internal, match="create: the helper died"):
        run(runtime(tmp_path).create(Streams((0, 1, 2)), Phases()), helpers)
    assert helpers.ops == ["create"]


def test_calls_that_lose_a_helper_together_end_what_it_left_behind_and_go_on(
    helpers: DyingHelpers, tmp_path: Path
) -> None:
    helpers.losses = 2
    known, loop, done = set(own_children()), Loop(), []
    left = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]

    def call(number: int) -> Steps[None]:
        box = BuiltinRuntime(str(tmp_path), "box", None, str(tmp_path), pids_limit=0, known=lambda: known)
        yield from box.pause()
        done.append(number)

    for number in range(2):
        loop.start(call(number))
    for _ in range(2):
        helpers.serve()
    loop.add(helpers.fileno(), READ, lambda events: helpers.serve())
    deadline = time.monotonic() + 60
    while len(done) < 2 and time.monotonic() < deadline:
        loop.turn(0.1)
    assert sorted(done) == [0, 1]
    assert set(own_children()) <= known
    for process in left:
        process.returncode = 0  # collected
