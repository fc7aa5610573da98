"""The same check against Corten and against dockerd 26.1, and the proof that each check has a bite.

A check is one (operation, option) pair: a function that drives a `Side` with real clients and returns what it saw, as
JSON.  It is run against both engines; what both saw is normalized by one table and must be equal.  Then it is run
against Corten behind a door that takes the option out of the request, and what it sees must differ.

Everything speaks API 1.45, dockerd 26.1's version.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol
from urllib.parse import urlencode

from docker import DockerClient as DockerPy

from support import images, peers
from support.dockerd import client_environment
from support.stripdoor import Strip

API = "1.45"
IMAGE = images.BUSYBOX_REF

Json = Any  # what json.loads returns


class Engine(Protocol):
    """What compare needs of a private engine."""

    @property
    def socket(self) -> Path: ...
    @property
    def folder(self) -> Path: ...


# What a check drives.


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        """Connects to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Beside:
    """A client that runs, and what it has printed so far."""

    process: subprocess.Popen[bytes]
    out: IO[str]
    err: IO[str]
    patience: float

    def printed(self) -> list[str]:
        """Stdout and stderr."""
        found = []
        for stream in (self.out, self.err):
            stream.seek(0)
            found.append(stream.read())
        return found

    def end(self) -> Json:
        """Waits for it: {"status", "stdout", "stderr"}."""
        status = self.process.wait(self.patience)
        return {"status": status, **dict(zip(("stdout", "stderr"), self.printed(), strict=True))}


@dataclass(frozen=True, slots=True)
class Side:
    """One engine as a check sees it: docker CLI, docker-py, plain HTTP; every call at API 1.45."""

    socket: Path
    folder: Path  # the engine's; files that a check wants to mount go below `shared`
    enter: tuple[str, ...]  # what to put before an argv that is to run in the engine's network
    patience: float = 120  # seconds that one call may take

    @property
    def shared(self) -> Path:
        """A folder for files to mount, the same path on both sides after normalization."""
        path = self.folder / "shared"
        path.mkdir(exist_ok=True)
        return path

    @property
    def parent(self) -> str:
        """A cgroup that no engine removes, because it did not make it; `test_compare` does."""
        return f"{self.folder.name}-parent"

    def docker(self, *args: str, stdin: str | None = None) -> Json:
        """Runs the docker CLI: {"status", "stdout", "stderr"}."""
        done = subprocess.run(
            [str(peers.docker_cli()), "-H", f"unix://{self.socket}", *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=self.patience,
            env=client_environment() | {"DOCKER_API_VERSION": API},
        )
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def speak(self, text: str, *args: str) -> Json:
        """Runs the docker CLI with a terminal's patience: its stdin stays open until it ends by itself."""
        argv = [str(peers.docker_cli()), "-H", f"unix://{self.socket}", *args]
        pipe, environment = subprocess.PIPE, client_environment() | {"DOCKER_API_VERSION": API}
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as client:
            assert client.stdin
            assert client.stdout
            assert client.stderr
            client.stdin.write(text)
            client.stdin.flush()
            try:
                status = client.wait(self.patience)
            except subprocess.TimeoutExpired:
                client.kill()
                raise
            return {"status": status, "stdout": client.stdout.read(), "stderr": client.stderr.read()}

    def api(self, method: str, path: str, body: Json = None, **query: str) -> Json:
        """One request: {"status", "body"}; the body parsed when it is JSON."""
        status, _, data = self.raw(method, path, None if body is None else json.dumps(body).encode(), **query)
        return {"status": status, "body": parse(data)}

    def raw(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json", **query: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers, bytes."""
        connection = UnixConnection(self.socket, self.patience)
        try:
            target = f"/v{API}{path}" + (f"?{urlencode(query)}" if query else "")
            connection.request(method, target, body, {"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def inside(self, *argv: str) -> Json:
        """Runs a command in the engine's network: {"status", "stdout"}."""
        done = subprocess.run(
            [*self.enter, *argv], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        return {"status": done.returncode, "stdout": done.stdout}

    @contextmanager
    def beside(self, *args: str) -> Iterator[Beside]:
        """The docker CLI, running while the check goes on."""
        argv = [str(peers.docker_cli()), "-H", f"unix://{self.socket}", *args]
        environment = client_environment() | {"DOCKER_API_VERSION": API}
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
            client = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
            try:
                yield Beside(client, out, err, self.patience)
            finally:
                client.kill()
                client.wait()

    def until(self, ready: Callable[[], bool]) -> None:
        """Polls for some seconds; what a check then sees tells whether it came."""
        end = time.monotonic() + self.patience / 4
        while not ready() and time.monotonic() < end:
            time.sleep(0.05)

    def later(self, method: str, path: str, **query: str) -> Future[Json]:
        """`api` in a thread of its own, as soon as the head of its answer is here: the engine is at it then."""
        future: Future[Json] = Future()
        connection = UnixConnection(self.socket, self.patience)
        connection.request(method, f"/v{API}{path}" + (f"?{urlencode(query)}" if query else ""))
        answer = connection.getresponse()

        def read() -> None:
            try:
                future.set_result({"status": answer.status, "body": parse(answer.read())})
            except OSError as error:
                future.set_exception(error)
            finally:
                connection.close()

        threading.Thread(target=read, daemon=True).start()
        return future

    def inspect(self, name: str, *fields: str) -> Json:
        """Fields (dotted) of a container's inspect; all of it without `fields`."""
        answer = self.api("GET", f"/containers/{name}/json")
        if answer["status"] != 200 or not fields:
            return answer
        return {name: dig(answer["body"], name) for name in fields}

    def py(self) -> DockerPy:
        """A docker-py client; the check closes it (with contextlib.closing)."""
        return DockerPy(base_url=f"unix://{self.socket}", version=API, timeout=int(self.patience))

    def clear(self) -> None:
        """Removes every container, volume and network, and every image but the one that all checks use, which is
        loaded when it is gone."""
        for row in self.api("GET", "/containers/json", all="1")["body"]:
            self.api("DELETE", f"/containers/{row['Id']}", force="1", v="1")
        for row in self.api("GET", "/volumes")["body"]["Volumes"] or ():
            self.api("DELETE", f"/volumes/{row['Name']}", force="1")
        self.api("POST", "/networks/prune")
        for row in self.api("GET", "/images/json")["body"]:
            for tag in row["RepoTags"] or [row["Id"]]:
                if tag != IMAGE:
                    self.api("DELETE", f"/images/{tag}", force="1")
        if self.api("GET", f"/images/{IMAGE}/json")["status"] != 200:
            self.docker("load", "-i", str(images.busybox()))


def dig(document: Json, dotted: str) -> Json:
    """A field of nested objects, "absent" when it is not there."""
    for part in dotted.split("."):
        if not isinstance(document, dict) or part not in document:
            return "absent"
        document = document[part]
    return document


def parse(data: bytes) -> Json:
    """JSON, a list of JSON lines, or text."""
    text = data.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return text


# Checks.


@dataclass(frozen=True, slots=True)
class Check:
    """One (operation, option) pair."""

    name: str
    see: Callable[[Side], Json]
    without: Strip
    is_slow: bool = False


CHECKS: list[Check] = []


def check(
    name: str, without: Strip, *, is_slow: bool = False
) -> Callable[[Callable[[Side], Json]], Callable[[Side], Json]]:
    """Registers a function as the check `name`, whose option is what `without` takes out; a slow one is no gate's."""

    def register(see: Callable[[Side], Json]) -> Callable[[Side], Json]:
        assert all(known.name != name for known in CHECKS), f"{name} stands twice"
        CHECKS.append(Check(name, see, without, is_slow))
        return see

    return register


# The verdict.


def difference(left: Json, right: Json, place: str = "") -> list[str]:
    """Where two observations differ, one line each: `place: left != right`."""
    if isinstance(left, dict) and isinstance(right, dict):
        lines = []
        for key in sorted({*left, *right}):
            lines += difference(left.get(key, "<absent>"), right.get(key, "<absent>"), f"{place}.{key}")
        return lines
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            line
            for index, pair in enumerate(zip(left, right, strict=True))
            for line in difference(*pair, f"{place}[{index}]")
        ]
    return (
        [] if left == right and type(left) is type(right) else [f"{place or '.'}: dockerd {left!r}, corten {right!r}"]
    )


def peer_only() -> bool:
    """CORTEN_COMPARE=dockerd: both sides are dockerd, to make checks and their bites right without Corten."""
    return os.environ.get("CORTEN_COMPARE") == "dockerd"
