"""The helper as its callers and its zygote see it: one that has served many, one whose zygote is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.launch.spawn import Launcher
from corten.runtime.prepare import Host
from corten.shim import protocol
from corten.shim.helper import Helper

F_SETPIPE_SZ = 1031
PAGE = 4096
TIMEOUT_S = 20


class NoLauncher(Launcher):
    """Nothing is launched here."""

    def __init__(self) -> None:
        self.fd = -1


class Scene:
    """A helper that runs in a thread, and its zygote's end of the pipe of life."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self._reason = os.open("/dev/null", os.O_WRONLY)
        self._life, self._zygote = os.pipe()
        listener = protocol.bind_listener(self.folder, protocol.HELPER_SOCKET)
        self.helper = Helper(listener, Host(launcher=NoLauncher()), self._reason)
        self._listener = listener
        self.thread = threading.Thread(target=self.helper.run, args=(self._life,))
        self.thread.start()

    def connect(self) -> socket.socket:
        sock = protocol.connect(self.folder, protocol.HELPER_SOCKET)
        sock.settimeout(TIMEOUT_S)
        return sock

    def end_zygote(self) -> None:
        """A second call does nothing."""
        if self._zygote >= 0:
            os.close(self._zygote)
            self._zygote = -1

    def close(self) -> None:
        self.end_zygote()
        self.thread.join(TIMEOUT_S)
        self._listener.close()
        os.close(self._life)
        os.close(self._reason)


@contextlib.contextmanager
def playing(folder: Path) -> Iterator[Scene]:
    scene = Scene(folder)
    try:
        yield scene
    finally:
        scene.close()


def ask(sock: socket.socket, op: str) -> bytes:
    protocol.send(sock, protocol.encode({"op": op}))
    return protocol.receive(sock)[0]


def test_a_helper_serves_more_requests_than_a_pipe_has_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pipe

    def narrow_pipe() -> tuple[int, int]:
        ends = real()
        fcntl.fcntl(ends[1], F_SETPIPE_SZ, PAGE)
        return ends

    monkeypatch.setattr(os, "pipe", narrow_pipe)
    with playing(tmp_path) as scene:
        monkeypatch.undo()
        with scene.connect() as sock:
            for _ in range(PAGE + 10):
                assert ask(sock, "ping") == b'{"ok":{}}'
        scene.end_zygote()
        scene.thread.join(TIMEOUT_S)
        assert not scene.thread.is_alive()
