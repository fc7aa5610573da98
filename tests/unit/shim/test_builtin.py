"""What a shim makes of helpers that die before they have begun what they were asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.shim import protocol
from corten.shim.backend import Phases, Steps, Streams
from corten.shim.builtin import BuiltinRuntime, own_children
from corten.shim.loop import Readable


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
