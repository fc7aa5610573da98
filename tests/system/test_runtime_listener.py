"""SCMP_ACT_NOTIFY: an agent gets state and listener, and answers; a dead, deaf or silent one harms its own alone."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import peers, process, runtimes
from support.agents import Agent, Decision
from support.runtimes import Bundle, Runtime

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")

MKDIR, CLOSE, EXECVE = 83, 3, 59
Agents = Callable[..., Agent]


def no_medium(number: int) -> int:
    return errno.ENOMEDIUM


def goes_on(number: int) -> int:
    return 0


@pytest.fixture
def agents(folder: Path) -> Iterator[Agents]:
    """Makes agents at `agent.sock` of the test's folder."""
    made: list[Agent] = []

    def make(decide: Decision, *, answers: bool = True) -> Agent:
        made.append(Agent(folder / "agent.sock", decide, answers=answers))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


@pytest.fixture
def runc(folder: Path) -> Iterator[Runtime]:
    """Debian's, with a state root of its own."""
    made = Runtime(peers.binary("runc"), folder / "runc")
    yield made
    made.close()


def bundle_of(folder: Path, *args: str, calls: tuple[str, ...] = ("mkdir",), **seccomp: Any) -> Bundle:
    """A bundle whose profile asks the agent for `calls`."""
    bundle = runtimes.bundle(*args, folder=folder / "bundle")
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(folder / "agent.sock"),
        "syscalls": [{"names": list(calls), "action": "SCMP_ACT_NOTIFY"}],
        **seccomp,
    }
    return bundle.save()


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_an_agent_answers_a_system_call_of_an_init(
    corten: Runtime, runc: Runtime, folder: Path, agents: Agents, no_new_privs: bool
) -> None:
    agent = agents(no_medium)
    bundle = bundle_of(folder, "busybox", "mkdir", "/tmp/x", listenerMetadata="for me")
    bundle.config["process"]["noNewPrivileges"] = no_new_privs
    bundle.config["annotations"] = {"a": "b"}
    bundle.save()
    outcomes = [runtime("run", "-b", str(bundle.path), "c") for runtime in (corten, runc)]
    assert outcomes[0].stderr == outcomes[1].stderr == "mkdir: can't create directory '/tmp/x': No medium found\n"
    assert outcomes[0].returncode == outcomes[1].returncode == 1
    process.wait_for(lambda: len(agent.states) == 2, "both runtimes' messages")
    ours, theirs = agent.states
    assert agent.fd_counts == [1, 1]
    assert agent.connections[0].recv(1) == b""  # one state, then the end (runc 1.1 leaves it open until it ends itself)
    assert [number for _, number in agent.calls] == [MKDIR, MKDIR]
    assert ours["pid"] == ours["state"]["pid"] == agent.calls[0][0]
    for obj in (ours, theirs):
        for part in (obj, obj["state"]):
            assert part.pop("pid") > 0
            assert part.pop("ociVersion")
    assert ours == theirs
    assert ours["metadata"] == "for me"


def test_an_agent_answers_a_system_call_of_an_exec(
    corten: Runtime, runc: Runtime, folder: Path, agents: Agents
) -> None:
    agent = agents(no_medium)
    bundle = bundle_of(folder, "sleep", "1000")
    for runtime in (corten, runc):
        runtime.detached("run", "-d", "-b", str(bundle.path), "c")
        done = runtime("exec", "c", "busybox", "mkdir", "/tmp/x")
        assert (done.returncode, done.stderr) == (1, "mkdir: can't create directory '/tmp/x': No medium found\n")
        runtime("delete", "--force", "c", check=True)
    process.wait_for(lambda: len(agent.states) == 4, "both runtimes' messages")
    _, ours, _, theirs = agent.states
    assert ours["pid"] == agent.calls[0][0] != ours["state"]["pid"]
    for obj in (ours, theirs):
        for part in (obj, obj["state"]):
            assert part.pop("pid") > 0
            assert part.pop("ociVersion")
    assert ours == theirs


def test_an_agent_has_the_listener_before_the_start(corten: Runtime, folder: Path, agents: Agents) -> None:
    agent = agents(no_medium)
    bundle = bundle_of(folder, "busybox", "mkdir", "/tmp/x")
    corten.detached("create", "-b", str(bundle.path), "c")
    process.wait_for(lambda: bool(agent.states), "the agent's message")
    (state,) = agent.states
    assert state["state"]["status"] == "creating"
    assert (state["fds"], state["pid"]) == (["seccompFd"], corten.state("c")["pid"])
    assert not agent.calls
    corten("start", "c", check=True)
    process.wait_for(lambda: bool(agent.calls), "the call to ask")


def test_calls_of_the_launcher_itself_may_ask(corten: Runtime, folder: Path, agents: Agents) -> None:
    agent = agents(goes_on)
    bundle = bundle_of(folder, "echo", "hello", calls=("close", "execve", "rt_sigaction", "read"))
    assert corten("run", "-b", str(bundle.path), "c", check=True).stdout == "hello\n"
    assert {CLOSE, EXECVE} <= {number for _, number in agent.calls}


def test_flag_of_listeners_works(corten: Runtime, folder: Path, agents: Agents) -> None:
    agents(no_medium)
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_LOG"]
    bundle = bundle_of(folder, "busybox", "mkdir", "/tmp/x", flags=flags)
    assert "No medium found" in corten("run", "-b", str(bundle.path), "c").stderr


def test_a_path_in_the_bundle_and_a_long_one(corten: Runtime, folder: Path, agents: Agents) -> None:
    agent = agents(no_medium)
    deep = folder / ("d" * 120)
    deep.symlink_to(".")
    for path in ("../agent.sock", str(deep / "agent.sock")):
        bundle = bundle_of(folder, "busybox", "mkdir", "/tmp/x", listenerPath=path)
        assert "No medium found" in corten("run", "-b", str(bundle.path), "c").stderr
    assert len(agent.states) == 2


def test_a_container_gets_no_descriptor_of_it(corten: Runtime, folder: Path, agents: Agents) -> None:
    agents(goes_on)
    bundle = bundle_of(folder, "ls", "/proc/self/fd")
    assert corten("run", "-b", str(bundle.path), "c", check=True).stdout.split() == ["0", "1", "2", "3"]
    bundle = bundle_of(folder, "sleep", "1000")
    corten.detached("run", "-d", "-b", str(bundle.path), "d")
    assert corten("exec", "d", "ls", "/proc/self/fd", check=True).stdout.split() == ["0", "1", "2", "3"]


def test_a_dead_agent_fails_the_create_and_the_exec(corten: Runtime, runc: Runtime, folder: Path) -> None:
    text = "failed to connect with seccomp agent specified in the seccomp profile"
    bundle = bundle_of(folder, "sleep", "1000")
    for runtime in (corten, runc):
        done = runtime("create", "-b", str(bundle.path), "c")
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr
        assert runtime("state", "c").returncode == 1
        assert not bundle.has_cgroup()
    agent = Agent(folder / "agent.sock", goes_on)
    try:
        corten.detached("run", "-d", "-b", str(bundle.path), "c")
    finally:
        agent.close()
    (folder / "agent.sock").unlink()
    done = corten("exec", "c", "true")
    assert (done.returncode, text in done.stderr) == (255, True)
    assert bundle.cgroup("pids", "pids.current") == "1"


def test_an_agent_that_is_gone_answers_with_enosys(corten: Runtime, folder: Path) -> None:
    agent = Agent(folder / "agent.sock", goes_on, answers=False)
    bundle = bundle_of(folder, "busybox", "mkdir", "/tmp/x")
    output = folder / "output"
    try:
        with output.open("wb") as file:
            argv = corten.argv("create", "-b", str(bundle.path), "c")
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=True, timeout=30)
        process.wait_for(lambda: bool(agent.states), "the agent's message")
    finally:
        agent.close()
    corten("start", "c", check=True)
    process.wait_for(lambda: corten.state("c")["status"] == "stopped", "the container's end")
    assert "Function not implemented" in output.read_text()


def test_a_silent_agent_holds_up_its_container_alone(corten: Runtime, folder: Path, agents: Agents) -> None:
    agent = agents(goes_on, answers=False)
    bundle = bundle_of(folder, "busybox", "mkdir", "/tmp/x")
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    pid = corten.state("c")["pid"]
    process.wait_for(lambda: agent.calls == [(pid, MKDIR)], "the call to ask")
    assert process.is_alive(pid)
    corten("delete", "--force", "c", check=True)
    assert not process.is_alive(pid)
    assert not bundle.has_cgroup()


def test_a_deaf_agent_with_a_full_queue_is_an_error_at_once(corten: Runtime, folder: Path) -> None:
    bundle = bundle_of(folder, "true")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / "agent.sock"))
        deaf.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(folder / "agent.sock"))
            done = corten("run", "-b", str(bundle.path), "c", timeout=20)
    assert "seccomp profile" in done.stderr
    assert "resource temporarily unavailable" in done.stderr
    assert not bundle.has_cgroup()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY cannot be used as default action"),
        ({"calls": ("write",)}, "SCMP_ACT_NOTIFY cannot be used for the write syscall"),
        ({"listenerPath": ""}, "listenerPath is not set"),
    ],
    ids=["default", "write", "no path"],
)
def test_what_cannot_be_asked_is_refused_in_the_words_of_runc(
    corten: Runtime, runc: Runtime, folder: Path, agents: Agents, change: dict[str, Any], text: str
) -> None:
    agents(goes_on)
    bundle = bundle_of(folder, "true", **change)
    for runtime in (corten, runc):
        done = runtime("run", "-b", str(bundle.path), "c")
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr
