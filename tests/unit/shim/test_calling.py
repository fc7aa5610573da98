"""A shim's conversation with a helper that is a double."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import NotFound, Unavailable
from corten.shim import protocol
from corten.shim.calling import Call
from corten.shim.loop import Readable, Sleep


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    made = Call(str(tmp_path))
    yield made
    made.close()


def listen(folder: Path) -> socket.socket:
    return protocol.bind_listener(str(folder), protocol.HELPER_SOCKET)


def test_an_error_is_told_though_what_is_to_be_collected_is_gone(tmp_path: Path, call: Call) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with listen(tmp_path) as listener:
        steps = call.run(b'{"op":"exec"}', (), (0, 1, 2))
        assert isinstance(next(steps), Readable)
        with listener.accept()[0] as session:
            error = protocol.failure(NotFound("no such program"))
            protocol.send(session, protocol.encode({"error": error, "reap": [child.pid]}))
            with pytest.raises(NotFound, match="no such program"):
                steps.send(True)


def test_a_call_that_is_given_up_before_there_is_a_helper_asks_none(tmp_path: Path, call: Call) -> None:
    steps = call.run(b'{"op":"exec"}', (), (0, 1, 2))
    assert isinstance(next(steps), Sleep)
    call.give_up()
    with listen(tmp_path) as listener:
        with pytest.raises(Unavailable, match="helper does not answer"):
            steps.send(True)
        with pytest.raises(BlockingIOError):
            listener.accept()
