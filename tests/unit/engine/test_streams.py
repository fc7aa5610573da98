"""A log for a client that attaches: all of it, or the client goes; nobody waits for one that does not read."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from corten.engine import streams
from corten.engine.logconfig import LogPlace
from corten.engine.logformats import JSON_LINES
from corten.engine.logread import Formatter, Query
from corten.shim.logfile import mend

LINE = b'{"log":"%s\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}\n'


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "log"
    path.write_bytes((LINE % (b"x" * 1000)) * 1000)
    return str(path)


def write(client: socket.socket, log: str, *, ended: bool = False) -> bool:
    flag = threading.Event()
    if ended:
        flag.set()
    place = LogPlace(log, JSON_LINES, mend)
    return streams._write_log(client, place, Formatter(Query(stdout=True, stderr=True), raw=True), flag)


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


def test_a_client_that_reads_gets_the_whole_log(log: str) -> None:
    ours, theirs = pair()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: theirs.recv(1 << 16), b"")))
    reader.start()
    assert write(ours, log)
    reader.join()
    theirs.close()
    assert len(b"".join(got)) == 1001 * 1000


def test_a_client_that_does_not_read_is_given_up(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_READ_TIMEOUT_S", 1)
    ours, theirs = pair()
    with theirs:
        assert not write(ours, log)
        assert ours.fileno() == -1


def test_a_client_that_has_gone_and_the_engine_s_end_are_no_errors(log: str) -> None:
    ours, theirs = pair()
    theirs.close()
    assert not write(ours, log)
    ours, theirs = pair()
    with theirs:
        assert not write(ours, log, ended=True)
