"""A new cortend takes over fifty containers: output flows, execs are open, terminals attached, some end in between.

What happens during the outage is caused by the test (a signal from the host, a line on a stream), and seen to have
happened (the shim's exit record, the answer on the stream) before cortend comes back.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clients.api import Api
from support import images, process, summary
from support.engine import CortenEngine
from support.faultlife import logged
from support.hijack import Hijacked
from support.leaks import Snapshot, Subject, expect_none
from support.process import is_alive, wait_for

COUNTING = "i=0; while true; do i=$((i+1)); echo line $i; usleep 20000; done"
ENDING = 'trap "echo last words; exit {code}" USR1; echo ready; sleep 1000 & wait'
EXEC_STATUS = 9


class Fleet:
    """Containers by what they are there for; 50 in all."""

    def __init__(self, engine: CortenEngine) -> None:
        self.engine = engine
        self.api = Api(engine.socket)
        self.counting = [self.run(COUNTING, port=number < 3) for number in range(10)]
        self.with_exec = [self.run("sleep 1000") for _ in range(10)]
        self.terminals = [self.run("cat", Tty=True, OpenStdin=True) for _ in range(5)]
        self.ending = [self.run(ENDING.format(code=code)) for code in range(10)]
        self.transient = [self.run(ENDING.format(code=3), host={"AutoRemove": True}) for _ in range(5)]
        self.restarting = [self.run(ENDING.format(code=4), host=policy("on-failure")) for _ in range(3)]
        self.restarting += [self.run(ENDING.format(code=0), host=policy("always")) for _ in range(2)]
        self.paused = [self.run(COUNTING) for _ in range(5)]

    @property
    def all(self) -> list[str]:
        """Every id."""
        groups = (self.counting, self.with_exec, self.terminals, self.ending, self.transient, self.restarting)
        return [*itertools.chain(*groups), *self.paused]

    @property
    def leaving(self) -> list[str]:
        """Those that end in the outage."""
        return [*self.ending, *self.transient, *self.restarting]

    def run(self, script: str, *, host: dict[str, Any] | None = None, port: bool = False, **config: Any) -> str:
        """A started container; its id."""
        body = {"Image": images.BUSYBOX_REF, "Cmd": ["sh", "-c", script], "HostConfig": dict(host or {}), **config}
        if port:
            body["ExposedPorts"] = {"80/tcp": {}}
            body["HostConfig"]["PortBindings"] = {"80/tcp": [{"HostPort": ""}]}
        else:
            body["HostConfig"]["NetworkMode"] = "none"
        ident: str = self.api.ok("POST", "/containers/create", body)["Id"]
        self.api.ok("POST", f"/containers/{ident}/start")
        return ident

    def inspect(self, ident: str) -> dict[str, Any]:
        """The container as the engine shows it."""
        found: dict[str, Any] = self.api.ok("GET", f"/containers/{ident}/json")
        return found

    def state(self, ident: str) -> dict[str, Any]:
        """Its `State`."""
        state: dict[str, Any] = self.inspect(ident)["State"]
        return state

    def log(self, ident: str) -> str:
        """The bytes of its log file, every line of which must be whole."""
        return logged(self.engine.data_root / "containers" / ident / f"{ident}-json.log").decode()

    def wait_for_first_lines(self) -> None:
        """Until everybody who speaks has spoken: traps are set then."""
        for ident in [*self.counting, *self.paused, *self.leaving]:
            wait_for(lambda: bool(self.whole_lines(ident)), f"output of {ident}")  # noqa: B023

    def whole_lines(self, ident: str) -> list[str]:
        """The lines so far that are whole: it may be read while it is written."""
        path = self.engine.data_root / "containers" / ident / f"{ident}-json.log"
        return path.read_text().split("\n")[:-1]


def policy(name: str) -> dict[str, Any]:
    """A HostConfig."""
    return {"RestartPolicy": {"Name": name}}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Fifty containers that run; what they leave is judged."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("run", "--rm", "-p", "8099:80", images.BUSYBOX_REF, "true", check=True)
        before = Snapshot.take(Subject.of(engine))
        fleet = Fleet(engine)
        assert len(fleet.all) == 50
        fleet.wait_for_first_lines()
        yield fleet
        for ident in fleet.all:
            fleet.api.remove(ident)
        expect_none(before)


def open_exec(fleet: Fleet, ident: str) -> tuple[str, Hijacked]:
    """(id, stream) of an exec that waits for a line and then answers and ends."""
    script = f"echo begun; read line; echo got $line; exit {EXEC_STATUS}"
    attached = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    exec_id = fleet.api.ok("POST", f"/containers/{ident}/exec", {"Cmd": ["sh", "-c", script], **attached})["Id"]
    stream = Hijacked(fleet.engine.socket, f"/exec/{exec_id}/start", {"Detach": False, "Tty": False})
    stream.read_until("begun")
    return exec_id, stream


def attach(fleet: Fleet, ident: str) -> Hijacked:
    """A terminal's stream that has answered once."""
    target = f"/containers/{ident}/attach?stream=1&stdin=1&stdout=1&stderr=1"
    stream = Hijacked(fleet.engine.socket, target, tty=True)
    stream.send("before\n")
    stream.read_until("before\nbefore")
    return stream


@pytest.mark.timeout(180)
def test_fifty_containers_are_adopted_with_nothing_lost(fleet: Fleet) -> None:
    with ExitStack() as stack:
        execs = [open_exec(fleet, ident) for ident in fleet.with_exec]
        terminals = [attach(fleet, ident) for ident in fleet.terminals]
        for stream in [*terminals, *(stream for _, stream in execs)]:
            stack.enter_context(stream)
        for ident in fleet.paused:
            fleet.api.ok("POST", f"/containers/{ident}/pause")
        found = {ident: fleet.inspect(ident) for ident in fleet.all}
        lines = {ident: len(fleet.whole_lines(ident)) for ident in fleet.counting}
        fleet.engine.kill9()
        during_the_outage(fleet, found, execs[:5], terminals)
        wait_for(lambda: all(len(fleet.whole_lines(one)) > lines[one] for one in fleet.counting), "output meanwhile")
        fleet.engine.start()
        check_running(fleet, found)
        check_execs(fleet, execs)
        check_terminals(fleet, terminals)
        check_ended(fleet)
        check_output(fleet, lines)
    summary.add("adoption", "50 containers: 10 speak, 10 with an exec, 5 terminals, 20 ended in the outage, 5 paused")


def during_the_outage(
    fleet: Fleet,
    found: dict[str, dict[str, Any]],
    execs: Sequence[tuple[str, Hijacked]],
    terminals: Sequence[Hijacked],
) -> None:
    """Ends, answers and typing while nobody is there but the shims."""
    for ident in fleet.leaving:
        os.kill(found[ident]["State"]["Pid"], signal.SIGUSR1)
    for _, stream in execs:
        stream.send("meanwhile\n")
        assert stream.read_all() == "begun\ngot meanwhile\n"
    for stream in terminals:
        stream.send("meanwhile\n")
        stream.read_until("meanwhile\nmeanwhile")
    for ident in fleet.leaving:
        record = fleet.engine.exec_root / "tasks" / "moby" / ident / "exit"
        wait_for(record.exists, f"exit record of {ident}")
        assert not is_alive(found[ident]["State"]["Pid"])


def check_running(fleet: Fleet, found: dict[str, dict[str, Any]]) -> None:
    """The same processes, ports and states as before."""
    for ident in [*fleet.counting, *fleet.with_exec, *fleet.terminals, *fleet.paused]:
        now, then = fleet.inspect(ident), found[ident]
        assert now["State"] == then["State"], ident
        assert now["NetworkSettings"] == then["NetworkSettings"], ident
    for ident in fleet.paused:
        assert fleet.state(ident)["Status"] == "paused"
        fleet.api.ok("POST", f"/containers/{ident}/unpause")


def check_execs(fleet: Fleet, execs: Sequence[tuple[str, Hijacked]]) -> None:
    """Five ended in the outage, five go on after it."""
    for _, stream in execs[5:]:
        stream.send("later\n")
        assert stream.read_all() == "begun\ngot later\n"
    for exec_id, _ in execs:
        wait_for(lambda: not fleet.api.ok("GET", f"/exec/{exec_id}/json")["Running"], "end of an exec")  # noqa: B023
        assert fleet.api.ok("GET", f"/exec/{exec_id}/json")["ExitCode"] == EXEC_STATUS


def check_terminals(fleet: Fleet, terminals: Sequence[Hijacked]) -> None:
    """The clients' own streams go on; a resize reaches the terminal."""
    for ident, stream in zip(fleet.terminals, terminals, strict=True):
        stream.send("after\n")
        stream.read_until("after\nafter")
        fleet.api.ok("POST", f"/containers/{ident}/resize?h=33&w=99")
        size = fleet.engine.docker("exec", ident, "stty", "-F", "/dev/console", "size", check=True)
        assert size.stdout == "33 99\n"
        stream.send("\x04")
        assert stream.read_all().startswith("before\nbefore\nmeanwhile\nmeanwhile\nafter\nafter\n")
        assert fleet.api.ok("POST", f"/containers/{ident}/wait")["StatusCode"] == 0


def check_ended(fleet: Fleet) -> None:
    """Exit codes and last words, --rm, restart policies."""
    for code, ident in enumerate(fleet.ending):
        state = fleet.state(ident)
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", code, ""), state
        assert fleet.log(ident) == "ready\nlast words\n"
    for ident in fleet.transient:
        wait_for(lambda: fleet.api.call("GET", f"/containers/{ident}/json")[0] == 404, f"end of {ident}")  # noqa: B023
    for ident in fleet.restarting:
        wait_for(lambda: fleet.state(ident)["Status"] == "running", f"restart of {ident}")  # noqa: B023
        assert fleet.inspect(ident)["RestartCount"] == 1
        wait_for(lambda: len(fleet.whole_lines(ident)) > 2, f"output of {ident} after its restart")  # noqa: B023
        assert fleet.log(ident) == "ready\nlast words\nready\n"


def check_output(fleet: Fleet, lines: dict[str, int]) -> None:
    """Every line, once, whole, in order; from before, meanwhile and after."""
    for ident in fleet.counting:
        so_far = len(fleet.whole_lines(ident))
        assert so_far > lines[ident]
        wait_for(lambda: len(fleet.whole_lines(ident)) > so_far, f"more output of {ident}")  # noqa: B023
        fleet.api.ok("POST", f"/containers/{ident}/kill")
        assert fleet.api.ok("POST", f"/containers/{ident}/wait")["StatusCode"] == 137
        numbered = fleet.log(ident).splitlines()
        assert numbered == [f"line {number}" for number in range(1, len(numbered) + 1)]
        assert fleet.api.logs(ident).splitlines() == numbered


def test_machine_that_stops_leaves_records_that_start_again() -> None:
    """Everything killed, cgroups and run directory and devices gone, as after a power cut: all are reported."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        fleet_of = ("no", "always", "unless-stopped")
        for name in fleet_of:
            arguments = ("--name", f"of-{name}", "--restart", name, "-p", "80", images.BUSYBOX_REF)
            engine.docker("run", "-d", *arguments, "sh", "-c", "echo ready; sleep 1000", check=True)
            wait_for(lambda: engine.docker("logs", f"of-{name}").stdout == "ready\n", "output")  # noqa: B023
        power_cut(engine)
        engine.start()
        status = ["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}"]
        assert engine.docker(*status, "of-no", check=True).stdout == "exited 137\n"
        for name in fleet_of[1:]:
            wait_for(lambda: engine.docker("logs", f"of-{name}").stdout == "ready\nready\n", "a restart")  # noqa: B023
            assert engine.docker(*status, f"of-{name}", check=True).stdout == "running 0\n"
        engine.docker("start", "of-no", check=True)
        engine.docker("rm", "-f", *(f"of-{name}" for name in fleet_of), check=True)
        assert engine.docker("run", "--rm", images.BUSYBOX_REF, "echo", "ok", check=True).stdout == "ok\n"
        wait_for(lambda: not list((engine.exec_root / "tasks" / "moby").iterdir()), "end of all tasks")


def power_cut(engine: CortenEngine) -> None:
    """What a reboot takes: processes, cgroups, the run directory, devices and rules."""
    ident = (engine.data_root / "engine-id").read_text().strip()
    engine.kill9()
    shims = subprocess.run(["pgrep", "-f", "corten-shim moby/"], check=True, stdout=subprocess.PIPE, text=True)
    ours = {path.name for path in (engine.exec_root / "tasks" / "moby").iterdir()}
    for pid in map(int, shims.stdout.split()):
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and any(one in command.read_text() for one in ours):
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not is_alive(pid), "death of a shim")  # noqa: B023
    wait_for(lambda: not list(process.processes(str(engine.exec_root))), "end of zygote and helper")
    process.remove_cgroups(f"corten-{ident}")
    process.unmount_below(engine.exec_root)
    shutil.rmtree(engine.exec_root)
    for command_line in (["ip", "link", "del", f"ctn-{ident}"], ["nft", "flush", "ruleset"]):
        subprocess.run([*engine.netns.enter, *command_line], check=True)
