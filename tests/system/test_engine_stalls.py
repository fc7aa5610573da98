"""What a client or a container can make slow stalls that one alone: all others are served meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from clients.api import Api
from support import images
from support.engine import CortenEngine
from support.process import wait_for
from support.served import served
from support.stuckfs import StuckFs

IMAGE = images.BUSYBOX_REF
NO_ANSWER = "no answer within 5 s: a file system in the way does not respond"


@pytest.mark.parametrize("key", ["name", "id"])
def test_an_expression_that_tries_every_way_stalls_nobody(shared_engine: CortenEngine, key: str) -> None:
    name = "a" * 60 + "-"
    shared_engine.docker("create", "--name", name, IMAGE, check=True)
    pattern = "(a+)+$" if key == "name" else "([0-9a-f]+)+$" + "x"
    try:
        with served(shared_engine):
            done = shared_engine.docker("ps", "-aq", "--filter", f"{key}={pattern}", timeout=20)
        assert (done.returncode, done.stdout) == (0, "")
    finally:
        shared_engine.docker("rm", name, check=True)


def test_clients_that_stop_in_the_middle_of_an_archive_hold_up_no_start(shared_engine: CortenEngine) -> None:
    """More of them than the loop's pool has workers on any machine."""
    with ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(shared_engine.socket))
            client.sendall(b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        for _ in range(2):  # the second one needs a network namespace that is not there yet
            done = shared_engine.docker("run", "--rm", IMAGE, "echo", "hi", check=True, timeout=30)
            assert done.stdout == "hi\n"
    assert shared_engine.docker("images", "-q", check=True).stdout


@pytest.mark.parametrize("path", ["/containers/json?all=1", "/networks?x=1", "/images/json?x=1"])
def test_as_many_and_as_large_patterns_as_fit_stall_nobody(shared_engine: CortenEngine, path: str) -> None:
    shared_engine.docker("create", "--name", "a" * 1000, IMAGE, check=True)
    api = Api(shared_engine.socket)
    key = "reference" if "images" in path else "name"
    lists = [["[a-z]?" * 600] * 4, [r"\pL*" * 900] * 4, [f"{index}a" for index in range(30_000)], ["*a*" * 100_000]]
    try:
        for values in lists:
            filters = json.dumps({key: values}, separators=(",", ":"))
            with served(shared_engine):
                status, answer = api.call("GET", f"{path}&filters={quote(filters)}")
            assert status == 200 or "invalid filter 'name" in answer["message"]
    finally:
        shared_engine.docker("rm", "a" * 1000, check=True)


def test_the_longest_arguments_for_ps_stall_nobody(shared_engine: CortenEngine) -> None:
    shared_engine.docker("run", "-d", "--name", "topped", IMAGE, "sleep", "1000", check=True)
    try:
        with served(shared_engine):
            target = f"/containers/topped/top?ps_args={'-o%20' * 150_000}"
            status, answer = Api(shared_engine.socket).call("GET", target)
        assert (status, answer["message"]) == (500, "ps: argument list too long")
    finally:
        shared_engine.docker("rm", "-f", "topped", check=True)


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[StuckFs]:
    with StuckFs(tmp_path) as found:
        yield found


def test_an_exec_into_a_container_whose_passwd_does_not_answer_stalls_nobody(
    engine: CortenEngine, stuck: StuckFs
) -> None:
    script = "rm /etc/passwd; ln -s /data/passwd /etc/passwd; echo ready; exec sleep 1000"
    engine.docker("run", "-d", "--name", "stalled", "-v", f"{stuck.path}:/data", IMAGE, "sh", "-c", script, check=True)
    engine.docker("run", "-d", "--name", "other", IMAGE, "sleep", "1000", check=True)
    while "ready" not in engine.docker("logs", "stalled", check=True).stdout:
        time.sleep(0.02)
    done = []

    def run() -> None:
        done.append(engine.docker("exec", "-u", "root", "stalled", "true"))

    execs = [threading.Thread(target=run) for _ in range(8)]
    with served(engine):
        for thread in execs:
            thread.start()
        assert stuck.asked.wait(60)
        for _ in range(5):
            assert engine.docker("exec", "-u", "root", "other", "echo", "ok", timeout=5, check=True).stdout == "ok\n"
        engine.docker("run", "--rm", IMAGE, "true", check=True, timeout=10)
        for thread in execs:
            thread.join(60)
        assert len(done) == 8
        told = "/etc/passwd and /etc/group of container "
        assert [one.stdout for one in done if told not in one.stdout or NO_ANSWER not in one.stdout] == []
    stuck.release()
    deadline = time.monotonic() + 60
    while "unable to find user root" not in engine.docker("exec", "-u", "root", "stalled", "true").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    engine.docker("rm", "-f", "stalled", "other", check=True)


@pytest.mark.parametrize("how", ["-v", "--mount", "--device"])
def test_a_source_that_does_not_answer_stalls_its_container_alone(
    shared_engine: CortenEngine, stuck: StuckFs, how: str
) -> None:
    source = f"{stuck.path}/x"
    value = f"type=bind,src={source},dst=/x" if how == "--mount" else f"{source}:/x"
    with served(shared_engine):
        done = shared_engine.docker("run", "--rm", "--name", "stalled", how, value, IMAGE, "true", timeout=30)
    assert done.returncode == 125
    assert NO_ANSWER in done.stderr
    assert f"{'device' if how == '--device' else 'bind source'} {source}: {NO_ANSWER}" in done.stderr
    deadline = time.monotonic() + 60
    while "stalled" in shared_engine.docker("ps", "-a", check=True).stdout:
        assert time.monotonic() < deadline


def threads_of(engine: CortenEngine) -> int:
    return len(list(Path(f"/proc/{engine.pid}/task").iterdir()))


@pytest.mark.parametrize("how", ["create", "start"])
def test_a_source_that_does_not_answer_costs_one_thread_however_often_it_is_tried(
    engine: CortenEngine, stuck: StuckFs, how: str
) -> None:
    api, source = Api(engine.socket), f"{stuck.path}/x"
    mount = {"Type": "bind", "Source": source, "Target": "/x"}
    host = {"Mounts": [mount]} if how == "create" else {"Binds": [f"{source}:/x"]}
    engine.docker("run", "-d", "--name", "other", IMAGE, "sleep", "1000", check=True)

    def refused() -> None:
        status, answer = api.call("POST", "/containers/create", {"Image": IMAGE, "Cmd": ["true"], "HostConfig": host})
        if how == "start":
            assert status == 201
            status, answer = api.call("POST", f"/containers/{answer['Id']}/start")
        assert (status, answer["message"]) == (503, f"bind source {source}: {NO_ANSWER}")

    refused()
    threads, began = threads_of(engine), time.monotonic()
    for _ in range(70):
        refused()
    assert time.monotonic() - began < 60  # five seconds each would be more
    assert threads_of(engine) <= threads + 5
    assert engine.docker("exec", "-u", "root", "other", "echo", "ok", check=True).stdout == "ok\n"
    engine.docker("run", "--rm", "-v", "/tmp:/x", "--device", "/dev/null", IMAGE, "true", check=True)
    engine.docker("run", "--rm", "--mount", "type=bind,src=/tmp,dst=/x", IMAGE, "true", check=True)


def test_as_many_dead_sources_as_the_bound_leave_execs_alone(engine: CortenEngine, stuck: StuckFs) -> None:
    api = Api(engine.socket)
    engine.docker("run", "-d", "--name", "other", IMAGE, "sleep", "1000", check=True)

    def create(number: int) -> tuple[int, str]:
        mount = {"Type": "bind", "Source": f"{stuck.path}/{number}", "Target": "/x"}
        body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}}
        status, answer = api.call("POST", "/containers/create", body)
        return status, answer["message"]

    with served(engine), ThreadPoolExecutor(64) as clients:
        assert all(NO_ANSWER in text for _, text in clients.map(create, range(64)))
    assert create(64) == (503, f"bind source {stuck.path}/64: 64 others do not answer already")
    assert engine.docker("exec", "-u", "root", "other", "echo", "ok", check=True).stdout == "ok\n"
    engine.docker("run", "--rm", IMAGE, "true", check=True)
    stuck.release()
    wait_for(lambda: create(64)[0] == 400, "an answer: there is no such source")


def run_late(engine: CortenEngine, slow: StuckFs) -> None:
    """A container `late` that a policy starts again, with a source that answers for now."""
    slow.release()
    arguments = ("--restart", "always", "-v", f"{slow.path}/x:/x", IMAGE, "sleep", "1000")
    engine.docker("run", "-d", "--name", "late", *arguments, check=True)


def state_of_late(engine: CortenEngine) -> Any:
    return json.loads(engine.docker("inspect", "late", check=True).stdout)[0]["State"]


@pytest.mark.parametrize("when", ["after an exit", pytest.param("with cortend", marks=pytest.mark.slow)])
def test_a_restart_policy_starts_a_container_whose_source_answers_late(
    engine: CortenEngine, tmp_path: Path, when: str
) -> None:
    def state() -> Any:
        return state_of_late(engine)

    with StuckFs(tmp_path, has_all=True) as slow:
        run_late(engine, slow)
        before = state()["Pid"]
        if when == "with cortend":  # `always` holds for what was stopped by hand, once cortend begins anew
            engine.docker("stop", "-t", "0", "late", check=True)
        slow.hold()
        if when == "with cortend":
            engine.restart()
        else:
            os.kill(before, signal.SIGKILL)
        wait_for(lambda: NO_ANSWER in state()["Error"], "the refusal of the first start")
        assert state()["Status"] == "restarting"
        slow.release()
        wait_for(lambda: state()["Status"] == "running", "the start")
        assert state()["Error"] == ""
        assert state()["Pid"] != before
        engine.docker("rm", "-f", "late", check=True)


@pytest.mark.slow
def test_what_joins_a_container_whose_source_answers_late_is_started_behind_it(
    engine: CortenEngine, tmp_path: Path
) -> None:
    def state(name: str) -> Any:
        return json.loads(engine.docker("inspect", name, check=True).stdout)[0]["State"]

    def statuses() -> list[str]:
        names = engine.docker("inspect", "--format", "{{.State.Status}}", "late", "net", "pid", check=True)
        return names.stdout.split()

    with StuckFs(tmp_path, has_all=True) as slow:
        run_late(engine, slow)
        for kind in ("net", "pid"):
            join = "--network" if kind == "net" else "--pid"
            arguments = ("--restart", "always", join, "container:late", IMAGE, "sleep", "1000")
            engine.docker("run", "-d", "--name", kind, *arguments, check=True)
        pids = [state(name)["Pid"] for name in ("late", "net", "pid")]
        engine.stop()
        for pid in pids:  # while nobody looks
            os.kill(pid, signal.SIGKILL)
        slow.hold()
        engine.start()
        wait_for(lambda: NO_ANSWER in state_of_late(engine)["Error"], "the refusal of the first start")
        wait_for(lambda: statuses() == ["restarting"] * 3, "their turn")
        slow.release()
        wait_for(lambda: statuses() == ["running"] * 3, "the start of all", 60)
    engine.docker("rm", "-f", "net", "pid", "late", check=True)


@pytest.mark.slow
def test_a_container_that_waits_for_its_source_can_be_stopped(engine: CortenEngine, tmp_path: Path) -> None:
    def state() -> Any:
        return state_of_late(engine)

    with StuckFs(tmp_path, has_all=True) as slow:
        run_late(engine, slow)
        slow.hold()
        os.kill(state()["Pid"], signal.SIGKILL)
        wait_for(lambda: NO_ANSWER in state()["Error"], "the refusal of the first start")
        engine.docker("stop", "late", check=True)
        slow.release()
        time.sleep(1)
        assert state()["Status"] == "exited"
        engine.docker("rm", "late", check=True)


def test_a_passwd_of_ten_gigabytes_is_read_up_to_its_bound(engine: CortenEngine) -> None:
    script = (
        "truncate -s 10G /etc/passwd; mkfifo /fifo; rm /etc/group; ln -s /fifo /etc/group; echo ready; exec sleep 1000"
    )
    engine.docker("run", "-d", "--name", "large", IMAGE, "sh", "-c", script, check=True)
    while "ready" not in engine.docker("logs", "large", check=True).stdout:
        time.sleep(0.02)
    with served(engine):
        done = engine.docker("exec", "-u", "missing", "large", "true", timeout=10)
        assert done.stdout == "unable to find user missing: no matching entries in passwd file\r\n"
        assert engine.docker("exec", "-u", "7", "large", "echo", "ok", timeout=10, check=True).stdout == "ok\n"
    engine.docker("rm", "-f", "large", check=True)
