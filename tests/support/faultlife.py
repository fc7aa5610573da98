"""The life of one container through every verb, by a client that remembers what it was told; and who judges it later.

The container prints `one`, waits, and ends with 7 after it printed `two` when it gets SIGUSR1: it cannot end otherwise
by itself, so after a fault its state, its exit code and its bytes are known.
"""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.api import Api
from support import images
from support.engine import CortenEngine
from support.hijack import Hijacked
from support.process import wait_for

# `one` is said when the child is what it will be: until its exec it is another process for who compares
CHILD = "sleep 1000 & until read -r name < /proc/$!/comm && [ $name = sleep ]; do :; done"
SCRIPT = f'trap "echo two; exit 7" USR1; {CHILD}; echo one; wait'
EXIT_CODE = 7
LOST = (137, "shim lost")
PORT = "8091"

_names = (f"life{number}" for number in itertools.count())


class Gone(Exception):
    """The daemon closed the connection in the middle of a call, or does not answer any more."""


class Refused(Exception):
    """The daemon answered with an error."""


class Life:
    """What the client asked and was told; `run` goes through all of it and stops at the first failure."""

    STEPS: tuple[str, ...] = ("create", "start", "exec", "pause", "unpause", "kill", "wait", "remove")

    def __init__(self, engine: CortenEngine, *, network: str = "bridge", port: str = PORT) -> None:
        """`port`: published on the bridge; '' for any."""
        self.engine = engine
        self.api = Api(engine.socket)
        self.name = next(_names)
        self.network = network
        self.port = port
        self.id = ""
        self.asked: list[str] = []
        self.told: list[str] = []
        self.failure = ""

    def run(self) -> None:
        """Every step until one fails; what the daemon said of it is in `failure`."""
        try:
            self.do(*self.STEPS)
        except (Gone, Refused) as error:
            self.failure = str(error)

    def do(self, *names: str) -> None:
        """Some steps by their names, noted as asked for and as told."""
        for name in names:
            self.asked.append(name)
            getattr(self, name)()
            self.told.append(name)

    def call(self, method: str, target: str, body: Any = None) -> Any:
        """The answer.  Raises Gone and Refused."""
        try:
            status, answer = self.api.call(method, target, body)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise Gone(f"{method} {target}: {error!r}") from error
        if status >= 400:
            raise Refused(f"{method} {target}: {status}: {answer}")
        return answer

    # The steps.

    def create(self) -> None:
        """Named, with a published port on the bridge."""
        host: dict[str, Any] = {"NetworkMode": self.network}
        body: dict[str, Any] = {"Image": images.BUSYBOX_REF, "Cmd": ["sh", "-c", SCRIPT], "HostConfig": host}
        body["OpenStdin"] = "attach" in self.STEPS
        if self.network == "bridge":
            body["ExposedPorts"] = {"80/tcp": {}}
            host["PortBindings"] = {"80/tcp": [{"HostPort": self.port}]}
        self.id = self.call("POST", f"/containers/create?name={self.name}", body)["Id"]

    def start(self) -> None:
        """Until it has printed its first line: its trap is set and its child there."""
        self.call("POST", f"/containers/{self.name}/start")
        wait_for(lambda: b"one" in self.log() or not self._is_up(), "first line of output")
        if b"one" not in self.log():
            raise Gone("no output")

    def _is_up(self) -> bool:
        """Whether the container may still say something: false when the daemon is gone or says that it ended."""
        try:
            status, found = self.api.call("GET", f"/containers/{self.name}/json")
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return False
        return status == 200 and bool(found["State"]["Running"])

    def exec(self) -> None:
        """A detached exec, inspected until it has ended."""
        body = {"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": True}
        exec_id = self.call("POST", f"/containers/{self.name}/exec", body)["Id"]
        self.call("POST", f"/exec/{exec_id}/start", {"Detach": True})
        end = time.monotonic() + 30
        while (found := self.call("GET", f"/exec/{exec_id}/json"))["Running"]:
            assert time.monotonic() < end, f"the exec does not end: {found}"
            time.sleep(0.01)
        if found["ExitCode"] != 3:
            raise Refused(f"exec: exit code {found['ExitCode']}")

    def pause(self) -> None:
        """The cgroup's freezer."""
        self.call("POST", f"/containers/{self.name}/pause")

    def unpause(self) -> None:
        """Thawed again."""
        self.call("POST", f"/containers/{self.name}/unpause")

    def kill(self) -> None:
        """The signal that ends it."""
        self.call("POST", f"/containers/{self.name}/kill?signal=USR1")

    def wait(self) -> None:
        """Its exit code, which must be the one that the script gives."""
        code = self.call("POST", f"/containers/{self.name}/wait")["StatusCode"]
        if code != EXIT_CODE:
            raise Refused(f"exit code {code}")

    def remove(self) -> None:
        """The end."""
        self.call("DELETE", f"/containers/{self.name}?force=1")

    # What can be seen from outside.

    def log(self) -> bytes:
        """What the container wrote, from the log file itself; a line that does not end or parse is a torn one."""
        found = list((self.engine.data_root / "containers").glob(f"{self.id or 'none'}/*-json.log"))
        return logged(found[0]) if found else b""

    def state(self) -> dict[str, Any] | None:
        """`State` as inspect shows it; None when the engine does not know the container."""
        status, found = self.api.call("GET", f"/containers/{self.name}/json")
        if status == 404:
            return None
        assert status == 200, found
        self.id = found["Id"]
        state: dict[str, Any] = found["State"]
        return state

    # The verdict.

    def judge(self, *, lost: bool = False) -> str:
        """After the daemon's return, or (`lost`) the death of the shim: everything told is true, what goes on ends
        as it should, and can be removed.  The status that was found; AssertionError otherwise."""
        state = self.state()
        if state is None:
            assert "create" not in self.told or "remove" in self.asked, f"{self.name} is not reported: {self.told}"
            return "absent"
        assert "remove" not in self.told, f"{self.name} was removed and is there: {state}"
        status: str = state["Status"]
        if status == "created":
            assert "start" not in self.told, f"{self.name} was started and is {state}"
            assert not state["Pid"], state
        elif status == "exited":
            self._judge_exit(state, lost=lost)
        else:
            self._finish(state)
        self.call("DELETE", f"/containers/{self.name}?force=1")
        return status

    def _judge_exit(self, state: dict[str, Any], *, lost: bool) -> None:
        if lost and (state["ExitCode"], state["Error"]) == LOST:
            assert self.log() in (b"", b"one\n", b"one\ntwo\n"), self.log()
            assert self.log() or "start" not in self.told, "the first line was seen and is lost"
            return
        assert "kill" in self.asked, f"{self.name} ended by itself: {state}"
        assert state["ExitCode"] == EXIT_CODE, state
        assert self.log() == b"one\ntwo\n", self.log()

    def _finish(self, state: dict[str, Any]) -> None:
        """It was adopted: it goes on, and nothing of its end is lost."""
        assert state["Status"] in ("running", "paused"), state
        if state["Paused"]:
            self.unpause()
        wait_for(lambda: b"one" in self.log(), "first line after adoption")
        status, answer = self.api.call("POST", f"/containers/{self.name}/kill?signal=USR1")
        assert status in (204, 409), answer
        code = self.call("POST", f"/containers/{self.name}/wait")["StatusCode"]
        assert code == EXIT_CODE, f"{self.name} was adopted and ended with {code}"
        wait_for(lambda: self.log() == b"one\ntwo\n", f"whole log, but {self.log()!r}")


class TalkingLife(Life):
    """One with streams: stdin and output attached and half closed, execs with streams and with a terminal that changes
    its size, new limits, and numbers."""

    STEPS = ("create", "start", "attach", "exec_streams", "exec_terminal", "update", "stats", "kill", "wait", "remove")

    @contextmanager
    def hijacked(self, target: str, body: Any = None, *, tty: bool = False) -> Iterator[Hijacked]:
        """A stream; one that ends too early, or is refused, is the daemon's or the shim's death."""
        try:
            with Hijacked(self.engine.socket, target, body, tty=tty) as stream:
                yield stream
        except (AssertionError, OSError) as error:
            raise Gone(f"{target}: {error!r}") from error

    def attach(self) -> None:
        """Input and output; the input ends."""
        target = f"/containers/{self.name}/attach?stream=1&stdin=1&stdout=1&logs=1"
        with self.hijacked(target) as stream:
            stream.read_until("one")
            stream.send("nobody reads it\n")
            stream.end_input()

    def exec_streams(self) -> None:
        """What comes in goes out, to its end."""
        with self.executing("cat", tty=False) as (_, stream):
            stream.send("there and back\n")
            stream.end_input()
            assert stream.read_all() == "there and back\n", stream.output()

    def exec_terminal(self) -> None:
        """Its size is what the client says."""
        with self.executing("echo up; read x; stty size", tty=True) as (exec_id, stream):
            stream.read_until("up")
            self.call("POST", f"/exec/{exec_id}/resize?h=33&w=44")
            stream.send("\n")
            stream.read_until("33 44")
            stream.read_all()

    @contextmanager
    def executing(self, script: str, *, tty: bool) -> Iterator[tuple[str, Hijacked]]:
        """An exec's id and its stream."""
        body = {"Cmd": ["sh", "-c", script], "AttachStdin": True, "AttachStdout": True, "Tty": tty}
        exec_id: str = self.call("POST", f"/containers/{self.name}/exec", body)["Id"]
        with self.hijacked(f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty}, tty=tty) as stream:
            yield exec_id, stream

    def update(self) -> None:
        """Another limit."""
        self.call("POST", f"/containers/{self.name}/update", {"PidsLimit": 77})

    def stats(self) -> None:
        """Once, without a second reading."""
        found = self.call("GET", f"/containers/{self.name}/stats?stream=0&one-shot=1")
        if found["pids_stats"].get("limit") != 77:
            raise Refused(f"stats: {found['pids_stats']}")


def logged(path: Path) -> bytes:
    """The bytes that a json-file log holds.  Every line is whole, or this fails."""
    raw = path.read_bytes()
    assert raw == b"" or raw.endswith(b"\n"), f"torn last line: {raw[-80:]!r}"
    return "".join(json.loads(line)["log"] for line in raw.splitlines()).encode()


@contextmanager
def named(point: str) -> Iterator[None]:
    """Names the point (and the seed) in whatever fails inside."""
    from support.killpoints import seed

    try:
        yield
    except BaseException as error:
        error.add_note(f"kill point: {point}; seed {seed()}")
        raise
