"""--sig-proxy of run, attach and start -a: what a client is sent reaches the container, or ends the client alone.

With a terminal `run` alone passes signals on: whoever closes the window of an attach leaves the container alone.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.api import Api
from support import images, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

NAMES = ("USR1", "INT", "HUP", "QUIT", "WINCH")
SCRIPT = f"for s in {' '.join(NAMES)} USR2; do trap \"echo got-$s.\" $s; done; trap 'echo got-TERM.; exit 7' TERM"
SCRIPT += "; echo ready.; while :; do sleep 0.02; done"
BOX = "sig-proxy-box"
CLIENTS: dict[str, Callable[[], Path]] = {"corten": lambda: paths.COMMANDS / "corten", "docker": peers.docker_cli}


@dataclass
class Client:
    """A client's process, and what it has shown."""

    process: subprocess.Popen[bytes]
    output_fd: int
    seen: bytes = b""

    def until(self, wanted: str, remind: Callable[[], object] | None = None) -> None:
        """Wait for a text; `remind` is called again and again meanwhile."""
        deadline = time.monotonic() + 60
        while wanted.encode() not in self.seen:
            assert time.monotonic() < deadline, (wanted, self.seen)
            if remind is not None:
                remind()
            if select.select([self.output_fd], [], [], 0.2)[0]:
                data = os.read(self.output_fd, 4096)
                assert data, (wanted, self.seen, self.process.wait(60))
                self.seen += data


@contextmanager
def running(engine: CortenEngine, program: str, words: list[str], *, tty: bool) -> Iterator[Client]:
    """`program words`, in a terminal of its own or with a pipe."""
    output_fd, theirs = os.openpty() if tty else os.pipe()
    argv = ["env", "--default-signal", str(CLIENTS[program]()), "-H", engine.host, *words]  # also below nohup(1)
    stdin = theirs if tty else subprocess.DEVNULL
    process = subprocess.Popen(
        argv, stdin=stdin, stdout=theirs, stderr=theirs, env=client_environment(), start_new_session=True
    )
    os.close(theirs)
    try:
        yield Client(process, output_fd)
    finally:
        process.kill()
        process.wait()
        os.close(output_fd)
        Api(engine.socket).remove(BOX)


@contextmanager
def attached(
    engine: CortenEngine, program: str, verb: str, *, tty: bool, more: tuple[str, ...] = ()
) -> Iterator[Client]:
    """A client of the container, which has shown what this said."""
    terminal = ["-t"] if tty else []
    made = [*terminal, "--name", BOX, images.BUSYBOX_REF, "sh", "-c", SCRIPT]
    words = {"run": ["run", *more, *made], "start": ["start", "-a", BOX], "attach": ["attach", *more, BOX]}[verb]
    if verb != "run":
        engine.docker(*(["create"] if verb == "start" else ["run", "-d"]), *made, check=True)
    with running(engine, program, words, tty=tty) as client:
        if verb == "attach":
            api = Api(engine.socket)
            client.until("got-USR2.", lambda: api.call("POST", f"/containers/{BOX}/kill?signal=USR2"))
        else:
            client.until("ready.")
        yield client


def proxied(engine: CortenEngine, program: str, verb: str, *, tty: bool) -> None:
    """Each signal is seen by the container's trap; its exit code is the client's."""
    with attached(engine, program, verb, tty=tty) as client:
        for name in NAMES:
            client.process.send_signal(signal.Signals[f"SIG{name}"])
            client.until(f"got-{name}.")
        client.process.send_signal(signal.SIGTERM)
        client.until("got-TERM.")
        assert client.process.wait(60) == 7


@pytest.mark.parametrize(("verb", "tty"), [("run", False), ("run", True), ("attach", False), ("start", False)])
def test_signals_of_the_client_reach_the_container(shared_engine: CortenEngine, verb: str, tty: bool) -> None:
    proxied(shared_engine, "corten", verb, tty=tty)


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "tty"), [("run", False), ("run", True), ("attach", False)])
def test_docker_does_the_same(shared_engine: CortenEngine, verb: str, tty: bool) -> None:
    proxied(shared_engine, "docker", verb, tty=tty)


@pytest.mark.parametrize("verb", ["run", "attach"])
def test_without_it_the_client_ends_alone(shared_engine: CortenEngine, verb: str) -> None:
    api = Api(shared_engine.socket)
    with attached(shared_engine, "corten", verb, tty=False, more=("--sig-proxy=false",)) as client:
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(60) == -signal.SIGTERM
        assert api.ok("GET", f"/containers/{BOX}/json")["State"]["Running"]
        api.ok("POST", f"/containers/{BOX}/kill?signal=USR1")
        assert api.logs_until(BOX, "got-USR1.", timeout_s=60).replace("got-USR2.", "").split() == ["ready."]


@pytest.mark.parametrize("program", ["corten", pytest.param("docker", marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", ["attach", "start"])
def test_with_a_terminal_a_client_that_is_attached_ends_alone(
    shared_engine: CortenEngine, program: str, verb: str
) -> None:
    api = Api(shared_engine.socket)
    with attached(shared_engine, program, verb, tty=True) as client:
        client.process.send_signal(signal.SIGHUP)
        client.process.wait(60)
        assert api.ok("GET", f"/containers/{BOX}/json")["State"]["Running"]
        api.ok("POST", f"/containers/{BOX}/kill?signal=USR1")
        assert "got-HUP." not in api.logs_until(BOX, "got-USR1.", tty=True)
