"""Windows between two messages, held open: a process stands still at a named one while others act."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clients.api import Api
from support import images
from support.engine import CortenEngine
from support.hijack import Hijacked
from support.killpoints import NamedTrace
from support.leaks import Snapshot, Subject, expect_none
from support.process import is_alive, wait_for

pytestmark = pytest.mark.usefixtures("the_doctor_agrees")


def zygote_of(engine: CortenEngine) -> int:
    """The pid of the engine's zygote."""
    pattern = f"corten-shim --zygote --exec-root {engine.exec_root}"
    return int(subprocess.run(["pgrep", "-f", "--", pattern], check=True, stdout=subprocess.PIPE).stdout)


def shim_of(ident: str) -> int:
    """The pid of a container's shim; without its children, which have its name."""
    found = subprocess.run(["pgrep", "-o", "-f", f"corten-shim moby/{ident}"], check=True, stdout=subprocess.PIPE)
    return int(found.stdout)


class Asked(threading.Thread):
    """A request under way; `answer` waits for it."""

    def __init__(self, api: Api, method: str, target: str, body: Any = None) -> None:
        super().__init__()
        self._call = (method, target, body)
        self._api = api
        self._result: tuple[int, Any] = (0, None)
        self.start()

    def run(self) -> None:
        """In the thread."""
        self._result = self._api.call(*self._call)

    def answer(self) -> tuple[int, Any]:
        """(status, body)."""
        self.join(30)
        assert not self.is_alive(), f"no answer to {self._call}"
        return self._result


@contextmanager
def sleeper(engine: CortenEngine, name: str) -> Iterator[tuple[int, int]]:
    """A container that sleeps: the pids of its shim and of its init; after the block it must have ended with 137."""
    engine.docker("run", "-d", "--name", name, "-p", "8077:80", images.BUSYBOX_REF, "sleep", "1000", check=True)
    found = engine.docker("inspect", "-f", "{{.Id}} {{.State.Pid}}", name, check=True).stdout.split()
    yield shim_of(found[0]), int(found[1])
    status = ["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", name]
    wait_for(lambda: engine.docker(*status).stdout == "exited 137 \n", "exit")
    engine.docker("rm", name, check=True)


def exec_of(api: Api, name: str) -> str:
    """A new exec's id."""
    made: str = api.ok("POST", f"/containers/{name}/exec", {"Cmd": ["true"], "AttachStdout": True})["Id"]
    return made


def judge_exec(api: Api, ident: str) -> None:
    """It has ended, and says so."""
    found = api.ok("GET", f"/exec/{ident}/json")
    assert (found["Running"], found["ExitCode"]) == (False, 126), found


def test_an_exec_into_a_container_whose_init_has_died_unseen_is_refused_in_words(warm_engine: CortenEngine) -> None:
    api, before = Api(warm_engine.socket), Snapshot.take(Subject.of(warm_engine))
    with sleeper(warm_engine, "dead-init") as (shim, init):
        os.kill(shim, signal.SIGSTOP)
        try:
            os.kill(init, signal.SIGKILL)
            wait_for(lambda: not is_alive(init), "death of the init")
            ident = exec_of(api, "dead-init")
            status, answer = api.call("POST", f"/exec/{ident}/start", {"Detach": True})
        finally:
            os.kill(shim, signal.SIGCONT)
        assert status == 409, answer
        assert answer["message"].endswith("is not running"), answer
        judge_exec(api, ident)
    expect_none(before)


@pytest.mark.parametrize("attached", [False, True])
def test_an_exec_that_meets_the_death_of_its_container_in_the_shim_ends(
    warm_engine: CortenEngine, attached: bool
) -> None:
    api, before = Api(warm_engine.socket), Snapshot.take(Subject.of(warm_engine))
    with sleeper(warm_engine, "dying") as (shim, init):
        ident = exec_of(api, "dying")
        with NamedTrace(warm_engine.pid) as trace:
            os.kill(shim, signal.SIGSTOP)
            try:
                if attached:
                    stream = Hijacked(warm_engine.socket, f"/exec/{ident}/start", {"Detach": False})
                else:
                    asked = Asked(api, "POST", f"/exec/{ident}/start", {"Detach": True})
                wait_for(lambda: "send op exec_start" in trace.log.read_text(), "request to the shim")
                os.kill(init, signal.SIGKILL)
                wait_for(lambda: not is_alive(init), "death of the init")
            finally:
                os.kill(shim, signal.SIGCONT)
            if attached:
                with stream:
                    text = stream.read_all()
                    assert "is not running" in text
            else:
                status, answer = asked.answer()
                assert status == 409, answer
                assert answer["message"].endswith("is not running"), answer
            trace.end()
        judge_exec(api, ident)
    expect_none(before)


@pytest.mark.parametrize(
    ("verb", "op", "status"), [("pause", "pause", 409), ("unpause", "resume", 409), ("update", "update", 200)]
)
def test_a_verb_that_meets_the_death_of_its_container_in_the_shim_says_so(
    warm_engine: CortenEngine, verb: str, op: str, status: int
) -> None:
    api, before = Api(warm_engine.socket), Snapshot.take(Subject.of(warm_engine))
    with sleeper(warm_engine, "dying") as (shim, init), NamedTrace(warm_engine.pid) as trace:
        if verb == "unpause":
            api.ok("POST", "/containers/dying/pause")
        os.kill(shim, signal.SIGSTOP)
        try:
            asked = Asked(api, "POST", f"/containers/dying/{verb}", {"CpuShares": 77})
            wait_for(lambda: f"send op {op}" in trace.log.read_text(), "request to the shim")
            os.kill(init, signal.SIGKILL)
            wait_for(lambda: not is_alive(init), "death of the init")
        finally:
            os.kill(shim, signal.SIGCONT)
        found, answer = asked.answer()
        assert found == status, answer
        if status == 409:
            assert answer["message"].endswith("is not running"), answer
        else:
            assert api.ok("GET", "/containers/dying/json")["HostConfig"]["CpuShares"] == 77
        trace.end()
    expect_none(before)


# What the verbs of several clients at once may be answered; of 500 nothing but dockerd's own word.
ANSWERS: dict[str, tuple[str, Any, set[int]]] = {
    "kill": ("kill", None, {204, 409}),
    "term": ("kill?signal=TERM", None, {204, 409}),
    "stop": ("stop?t=0", None, {204, 304}),
    "restart": ("restart?t=0", None, {204}),
    "start": ("start", None, {204, 304, 409}),
    "pause": ("pause", None, {204, 409}),
    "unpause": ("unpause", None, {204, 409, 500}),
    "update": ("update", {"CpuShares": 77}, {200}),
    "resize": ("resize?h=20&w=70", None, {200, 409}),
    "exec": ("exec", {"Cmd": ["true"]}, {201, 409}),
}


def crowd(engine: CortenEngine, rounds: int) -> None:
    """In each round four verbs at once, on one container that runs or is paused; each is answered as dockerd would."""
    api, chance = Api(engine.socket), random.Random(rounds)
    body = {"Image": images.BUSYBOX_REF, "Cmd": ["sleep", "1000"], "Tty": True, "HostConfig": {"NetworkMode": "none"}}
    api.ok("POST", "/containers/create?name=crowded", body)
    for number in range(rounds):
        api.call("POST", "/containers/crowded/start")
        if number % 2:
            api.call("POST", "/containers/crowded/pause")
        verbs = chance.sample(sorted(ANSWERS), 4)
        asked = [Asked(api, "POST", f"/containers/crowded/{ANSWERS[verb][0]}", ANSWERS[verb][1]) for verb in verbs]
        for verb, one in zip(verbs, asked, strict=True):
            status, answer = one.answer()
            assert status in ANSWERS[verb][2], (number, verbs, verb, status, answer)
            assert status != 500 or answer["message"].endswith("is not paused"), (number, verbs, verb, answer)
            if verb == "exec" and status == 201:
                status, answer = api.call("POST", f"/exec/{answer['Id']}/start", {"Detach": True})
                assert status in (200, 409), (number, verbs, status, answer)
    api.ok("DELETE", "/containers/crowded?force=1")


def test_the_verbs_of_several_clients_at_once_are_answered_as_by_dockerd(warm_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    crowd(warm_engine, 8)
    expect_none(before)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_verbs_of_several_clients_are_answered_so_many_times(warm_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    crowd(warm_engine, 300)
    expect_none(before)


def test_an_exec_whose_shim_dies_under_it_ends(warm_engine: CortenEngine) -> None:
    api, before = Api(warm_engine.socket), Snapshot.take(Subject.of(warm_engine))
    warm_engine.docker("run", "-d", "--name", "shimless", images.BUSYBOX_REF, "sleep", "1000", check=True)
    ident = warm_engine.docker("inspect", "-f", "{{.Id}}", "shimless", check=True).stdout.strip()
    shim, one = shim_of(ident), exec_of(api, "shimless")
    with NamedTrace(warm_engine.pid) as trace:
        os.kill(shim, signal.SIGSTOP)
        asked = Asked(api, "POST", f"/exec/{one}/start", {"Detach": True})
        wait_for(lambda: "send op exec_start" in trace.log.read_text(), "request to the shim")
        os.kill(shim, signal.SIGKILL)
        status, answer = asked.answer()
        trace.end()
    assert status >= 400, answer
    judge_exec(api, one)
    status_of = ["inspect", "-f", "{{.State.ExitCode}} {{.State.Error}}", "shimless"]
    wait_for(lambda: warm_engine.docker(*status_of).stdout == "137 shim lost\n", "verdict")
    warm_engine.docker("rm", "shimless", check=True)
    expect_none(before)


# A client that attaches after those before it were handed over, and before the start is recorded.


def late_client(engine: CortenEngine, name: str, script: str, query: str) -> tuple[str, int]:
    """What such a client reads until its end, and the status of the start."""
    api = Api(engine.socket)
    body = {"Image": images.BUSYBOX_REF, "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}
    api.ok("POST", f"/containers/create?name={name}", body)
    with NamedTrace(zygote_of(engine), forks=True, stop=(1, "child receive op start")) as trace:
        start = Asked(api, "POST", f"/containers/{name}/start")
        wait_for(trace.has_come, "shim at its start")
        shim = shim_of(api.ok("GET", f"/containers/{name}/json")["Id"])
        trace.end()
    try:
        client = Hijacked(engine.socket, f"/containers/{name}/attach?stream=1&stdout=1&stderr=1{query}")
        assert api.ok("GET", f"/containers/{name}/json")["State"]["Status"] == "created"
    finally:
        os.kill(shim, signal.SIGCONT)
    with client:
        status, _ = start.answer()
        return client.read_all(), status


@pytest.mark.parametrize("query", ["", "&logs=1"])
def test_a_client_that_attaches_between_hand_over_and_record_gets_the_output(
    warm_engine: CortenEngine, query: str
) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    assert late_client(warm_engine, "late", "sleep 0.5; echo hello", query) == ("hello\n", 204)
    warm_engine.docker("rm", "-f", "late", check=True)
    expect_none(before)


def test_a_client_that_attaches_then_to_a_container_that_ends_at_once_is_let_go(warm_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    output, status = late_client(warm_engine, "brief", "echo gone", "")
    assert status == 204
    assert output in ("", "gone\n")
    warm_engine.docker("rm", "-f", "brief", check=True)
    expect_none(before)


def test_a_client_that_attaches_then_to_a_start_that_fails_is_let_go(warm_engine: CortenEngine) -> None:
    before = Snapshot.take(Subject.of(warm_engine))
    api = Api(warm_engine.socket)
    body = {"Image": images.BUSYBOX_REF, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    api.ok("POST", "/containers/create?name=failing", body)
    with NamedTrace(zygote_of(warm_engine), forks=True, stop=(1, "child receive op start")) as trace:
        start = Asked(api, "POST", "/containers/failing/start")
        wait_for(trace.has_come, "shim at its start")
        shim = shim_of(api.ok("GET", "/containers/failing/json")["Id"])
        trace.end()
    with Hijacked(warm_engine.socket, "/containers/failing/attach?stream=1&stdout=1&stderr=1") as client:
        os.kill(shim, signal.SIGKILL)
        assert client.read_all() == ""
    assert start.answer()[0] >= 400
    warm_engine.docker("rm", "-f", "failing", check=True)
    expect_none(before)
