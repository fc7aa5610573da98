"""The helper as its callers and its zygote see it: one that has served many, one whose zygote is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from corten.errors import Internal
from corten.launch.spawn import Launcher
from corten.runtime import container
from corten.runtime.ending import Unfinished
from corten.runtime.options import CreateOptions
from corten.runtime.prepare import Host
from corten.shim import helper, protocol
from corten.shim.helper import VERBS, Answer, Helper, Session
from corten.shim.request import Request
from support.process import wait_for

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
        self.helper = Helper(listener, Host(launcher=NoLauncher()), self._reason, self.folder)
        self._listener = listener
        self.thread = threading.Thread(target=self.helper.run, args=(self._life,))
        self.thread.start()

    def connect(self) -> socket.socket:
        sock = protocol.connect(self.folder, protocol.HELPER_SOCKET)
        sock.settimeout(TIMEOUT_S)
        return sock

    def listens(self) -> bool:
        """Whether a caller would wait."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return False
        return True

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


def warn_of_one(options: CreateOptions, host: Host) -> None:
    options.warn("container c could not be taken back: udc")
    raise Internal("nothing was made")


@pytest.mark.parametrize(
    ("op", "verb", "double"),
    [("create", "create", warn_of_one), ("delete", "delete", lambda *_: ["container c could not be taken back: udc"])],
)
def test_what_the_runtime_warns_of_stands_in_the_helpers_log(
    op: str,
    verb: str,
    double: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(container, verb, double)
    with playing(tmp_path) as scene, scene.connect() as sock:
        message = {"op": op, "dir": str(tmp_path), "id": "c", "terminal": False, "force": True, "default_pids_limit": 5}
        protocol.send(sock, protocol.encode(message))
        assert protocol.receive(sock)[0].startswith(b'{"error"' if op == "create" else b'{"ok"')
    assert capfd.readouterr().err.startswith("container c could not be taken back: udc")


def test_complaints_of_a_delete_that_fails_stand_in_the_helpers_log_as_its_caller_may_tell_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def unfinished(*_: object) -> list[str]:
        raise Unfinished("busy", ["take back network device eth7: file exists"])

    monkeypatch.setattr(container, "delete", unfinished)
    with playing(tmp_path) as scene, scene.connect() as sock:
        protocol.send(sock, protocol.encode({"op": "delete", "dir": str(tmp_path), "id": "c", "force": True}))
        answer = protocol.decode(protocol.receive(sock)[0])
    told = "busy; before that: take back network device eth7: file exists"
    assert answer == {"error": {"kind": "internal", "text": told}}
    assert capfd.readouterr().err == "take back network device eth7: file exists\n"


def test_a_helper_whose_zygote_is_gone_ends_its_work_and_keeps_no_other_caller_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def slow(session: Session, request: Request) -> Answer:
        began.set()
        goes_on.wait(TIMEOUT_S)
        return {}, []

    monkeypatch.setitem(VERBS, "ping", slow)
    with playing(tmp_path) as scene, scene.connect() as sock:
        protocol.send(sock, protocol.encode({"op": "ping"}))
        assert began.wait(TIMEOUT_S)
        scene.end_zygote()
        wait_for(lambda: not scene.listens(), "refused callers")
        assert scene.thread.is_alive()
        goes_on.set()
        assert protocol.receive(sock)[0] == b'{"ok":{}}'
        scene.thread.join(TIMEOUT_S)
        assert not scene.thread.is_alive()


def test_a_helper_stays_for_those_who_asked_and_ends_with_the_last(tmp_path: Path) -> None:
    with playing(tmp_path) as scene:
        with scene.connect() as first, scene.connect() as second:
            for sock in (first, second):
                assert ask(sock, "stay") == b'{"ok":{}}'
            scene.end_zygote()
            first.close()
            with scene.connect() as sock:
                assert ask(sock, "ping") == b'{"ok":{}}'
        scene.thread.join(TIMEOUT_S)
        assert not scene.thread.is_alive()


def test_who_was_told_that_it_stays_finds_it_also_when_the_zygote_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, goes_on = Helper._keep, threading.Event()

    def slowly(self: Helper, sock: socket.socket) -> bool:
        goes_on.wait(TIMEOUT_S)
        return keep(self, sock)

    monkeypatch.setattr(Helper, "_keep", slowly)
    with playing(tmp_path) as scene:
        with scene.connect() as first, scene.connect() as second:
            assert ask(first, "stay") == b'{"ok":{}}'
            scene.end_zygote()
            assert ask(second, "ping") == b'{"ok":{}}'
            goes_on.set()
            assert ask(second, "ping") == b'{"ok":{}}'
        scene.thread.join(TIMEOUT_S)
        assert not scene.thread.is_alive()


def test_a_helper_that_stays_ends_when_another_has_taken_its_place(tmp_path: Path) -> None:
    with playing(tmp_path) as scene, scene.connect() as sock:
        assert ask(sock, "stay") == b'{"ok":{}}'
        scene.end_zygote()
        with protocol.bind_listener(scene.folder, protocol.HELPER_SOCKET):
            scene.thread.join(TIMEOUT_S)
        assert not scene.thread.is_alive()
        assert protocol.receive(sock)[0] == b"", "who stays looks for the other"


def test_hundreds_of_shims_stay_and_none_has_to_ask_again(tmp_path: Path) -> None:
    with playing(tmp_path) as scene, ExitStack() as stack:
        for _ in range(300):
            assert ask(stack.enter_context(scene.connect()), "stay") == b'{"ok":{}}'
        wait_for(lambda: len(scene.helper._stays) == 300, "all who stay")


def test_those_who_stay_leave_half_of_the_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corten.shim.helper.openfiles.limit", lambda: 2)
    with playing(tmp_path) as scene, scene.connect() as first, scene.connect() as second:
        assert ask(first, "stay") == b'{"ok":{}}'
        wait_for(lambda: len(scene.helper._stays) == 1, "the first that stays")  # which is noted behind its answer
        assert ask(second, "stay") == b'{"ok":{}}'
        assert protocol.receive(second)[0] == b""


def test_more_than_enough_need_not_stay_and_descriptors_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "_MAX_STAYS", 1)
    with playing(tmp_path) as scene, scene.connect() as first, scene.connect() as second:
        assert ask(first, "stay") == b'{"ok":{}}'
        wait_for(lambda: len(scene.helper._stays) == 1, "the first that stays")  # which is noted behind its answer
        assert ask(second, "stay") == b'{"ok":{}}'
        assert protocol.receive(second)[0] == b"", "asks again later"
        scene.end_zygote()
        with scene.connect() as sock:
            assert ask(sock, "ping") == b'{"ok":{}}'
