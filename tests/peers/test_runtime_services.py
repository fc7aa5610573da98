"""`corten-runtime` as the default runtime of dockerd, and what dockerd itself does with containers while they run.

Swarm services, health checks, restart policies, attach with detach keys: the same as with runc.
"""

from __future__ import annotations

import functools
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import images, paths, peers
from support.dockerd import Dockerd, client_environment

IMAGE = images.BUSYBOX_REF
NONE = ("--network", "none")
PIDS = ("cat", "/sys/fs/cgroup/pids/pids.max")
RUNTIMES = ("runc", "corten")


@pytest.fixture(scope="module", params=["20.10", "26.1"])
def engine(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    runtimes = {"corten": paths.COMMANDS / "corten-runtime"}
    with Dockerd(request.param, runtimes=runtimes, args=("--default-runtime", "corten")) as daemon:
        daemon.docker("load", "-i", str(images.busybox()), check=True)
        yield daemon


@pytest.fixture
def swarm(engine: Dockerd) -> Iterator[Dockerd]:
    engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1", check=True)
    yield engine
    engine.docker("swarm", "leave", "--force", check=True)
    until(lambda: not running(engine, ""), "end of the tasks")


def until(ready: Callable[[], Any], what: str, timeout_s: float = 40) -> Any:
    """Polls dockerd, which is slow to ask."""
    end = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < end, f"no {what} after {timeout_s} s"
        time.sleep(0.2)
    return found


def running(engine: Dockerd, service: str) -> list[str]:
    """The ids of a service's containers that run; of every service when the name is empty."""
    label = f"label=com.docker.swarm.service.name{'=' if service else ''}{service}"
    return engine.docker("ps", "-q", "--filter", label, check=True).stdout.split()


def inspect(engine: Dockerd, name: str, form: str) -> str:
    return engine.docker("inspect", "-f", form, name, check=True).stdout.strip()


def create_service(engine: Dockerd, name: str, *options: str, replicas: int = 1) -> list[str]:
    words = ("service", "create", "--detach", "--name", name, "--no-resolve-image", "--replicas", str(replicas))
    engine.docker(*words, *options, IMAGE, "sleep", "1000", check=True)
    return until(lambda: len(found := running(engine, name)) == replicas and found, f"tasks of {name}")  # type: ignore[no-any-return]


def test_a_service_has_the_default_of_the_node_and_keeps_a_limit_that_is_given(swarm: Dockerd) -> None:
    rows: list[tuple[tuple[str, ...], str]] = [
        ((), "500\n"),
        (("--network", "host"), "500\n"),
        (("--limit-pids", "77"), "77\n"),
        (("--network", "host", "--limit-pids", "1000", "--limit-memory", "32m"), "1000\n"),
    ]
    for number, (options, expected) in enumerate(rows):
        (task,) = create_service(swarm, f"s{number}", *options)
        assert swarm.docker("exec", task, *PIDS, check=True).stdout == expected, options
        assert inspect(swarm, task, "{{.HostConfig.Runtime}}") == "corten"
    (task,) = running(swarm, "s3")
    memory = ("cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    assert swarm.docker("exec", task, *memory, check=True).stdout == f"{32 << 20}\n"
    swarm.docker("service", "rm", *(f"s{number}" for number in range(len(rows))), check=True)
    until(lambda: not running(swarm, ""), "end of the services")


def test_a_service_is_scaled_and_a_task_that_dies_is_replaced(swarm: Dockerd) -> None:
    tasks = create_service(swarm, "many", replicas=2)
    os.kill(int(inspect(swarm, tasks[0], "{{.State.Pid}}")), 9)
    until(lambda: tasks[0] not in (found := running(swarm, "many")) and len(found) == 2, "replacement")
    assert inspect(swarm, tasks[0], "{{.State.ExitCode}}") == "137"
    swarm.docker("service", "scale", "--detach", "many=3", check=True)
    until(lambda: len(running(swarm, "many")) == 3, "third task")
    swarm.docker("service", "rm", "many", check=True)
    until(lambda: not running(swarm, "many"), "end of the service")


def test_the_default_runtime_is_used_and_named(engine: Dockerd) -> None:
    assert engine.docker("info", "-f", "{{.DefaultRuntime}}", check=True).stdout == "corten\n"
    assert engine.docker("run", "--rm", *NONE, IMAGE, *PIDS, check=True).stdout == "500\n"
    assert engine.docker("run", "--rm", *NONE, "--pids-limit", "77", IMAGE, *PIDS, check=True).stdout == "77\n"
    assert engine.docker("run", "--rm", *NONE, "--runtime", "runc", IMAGE, *PIDS, check=True).stdout == "max\n"


def test_a_health_check_gives_what_it_gives_with_runc(engine: Dockerd) -> None:
    looks = [health(engine, runtime) for runtime in RUNTIMES]
    assert looks[0] == looks[1]


def is_health(engine: Dockerd, wanted: str) -> bool:
    return inspect(engine, "health", "{{.State.Health.Status}}") == wanted


def health(engine: Dockerd, runtime: str) -> list[Any]:
    """What is seen of a check that fails, then works, then takes too long."""
    check = "test -e /slow && sleep 60; echo checked; test -e /good"
    options = ("--health-cmd", check, "--health-interval", "300ms", "--health-retries", "2", "--health-timeout", "2s")
    words = ("run", "-d", "--name", "health", "--runtime", runtime, *NONE, *options, IMAGE, "sleep", "1000")
    engine.docker(*words, check=True)
    try:
        seen: list[Any] = []
        for command in ("true", "touch /good", "touch /slow; rm /good"):
            engine.docker("exec", "health", "sh", "-c", command, check=True)
            wanted = "healthy" if command == "touch /good" else "unhealthy"
            until(functools.partial(is_health, engine, wanted), wanted)
            last = json.loads(inspect(engine, "health", "{{json .State.Health.Log}}"))[-1]
            seen.append((wanted, last["ExitCode"], last["Output"]))
        return seen
    finally:
        engine.docker("rm", "-f", "health", check=True)


def test_restart_policies_give_what_they_give_with_runc(engine: Dockerd) -> None:
    looks = [restarts(engine, runtime) for runtime in RUNTIMES]
    assert looks[0] == looks[1]
    assert looks[1][0] == ("exited", "3", "2", "x\nx\nx\n")


def restarts(engine: Dockerd, runtime: str) -> list[tuple[str, ...]]:
    """State, exit code, number of restarts, output: of a failure that is tried again, of a kill, of a stop."""
    form = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"

    def look(name: str) -> tuple[str, ...]:
        return (*inspect(engine, name, form).split(), engine.docker("logs", name, check=True).stdout)

    def start(name: str, policy: str, command: str) -> None:
        words = ("run", "-d", "--name", name, "--restart", policy, "--runtime", runtime, *NONE)
        engine.docker(*words, IMAGE, "sh", "-c", command, check=True)

    try:
        start("fails", "on-failure:2", "echo x; exit 3")
        start("killed", "unless-stopped", "echo y; exec sleep 1000")
        os.kill(int(inspect(engine, "killed", "{{.State.Pid}}")), 9)
        until(lambda: look("killed")[:3:2] == ("running", "1"), "restart")
        until(lambda: look("killed")[3] == "y\ny\n", "output")
        until(lambda: look("fails")[0] == "exited", "last failure")
        seen = [look("fails"), look("killed")]
        engine.docker("stop", "-t", "0", "killed", check=True)
        return [*seen, look("killed")]
    finally:
        engine.docker("rm", "-f", "fails", "killed", check=True)


class Typist:
    """The docker CLI in a terminal."""

    def __init__(self, engine: Dockerd, *words: str) -> None:
        self._terminal, other = os.openpty()
        argv = [str(peers.docker_cli()), "-H", engine.host, *words]
        self._process = subprocess.Popen(
            argv, stdin=other, stdout=other, stderr=other, env=client_environment(), start_new_session=True
        )
        os.close(other)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, text: str, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} after {timeout_s} s: {self.seen!r}"
            self.seen += os.read(self._terminal, 65536).decode()

    def end(self) -> int:
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._terminal)


def test_attach_and_its_detach_keys_work_as_they_do_with_runc(engine: Dockerd) -> None:
    looks = [attached(engine, runtime) for runtime in RUNTIMES]
    assert looks[0] == looks[1]
    assert [state for _, state in looks[1]] == ["running", "running", "exited"]


def attached(engine: Dockerd, runtime: str) -> list[tuple[int, str]]:
    """Exit code of the client and state of the container: detached, detached again by own keys, ended in the shell."""
    command = "while read line; do echo got-$line; done; exit 7"
    words = ("run", "-d", "-it", "--name", "home", "--runtime", runtime, *NONE, IMAGE, "sh", "-c", command)
    engine.docker(*words, check=True)
    seen = []
    try:
        rows = (((), "\x10\x11"), (("--detach-keys", "ctrl-a,b"), "\x01b"), ((), "\x04"))
        for number, (options, keys) in enumerate(rows):
            typist = Typist(engine, "attach", *options, "home")
            typist.type(f"word{number}\n")
            typist.read_until(f"got-word{number}")
            typist.type(keys)
            status = typist.end()
            if keys == "\x04":
                engine.docker("wait", "home", check=True)
            seen.append((status, inspect(engine, "home", "{{.State.Status}}")))
        return seen
    finally:
        engine.docker("rm", "-f", "home", check=True)


def test_a_published_port_leads_to_the_container(engine: Dockerd) -> None:
    """The answer is the same as with runc."""
    answers = []
    for runtime in RUNTIMES:
        server = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
        words = ("run", "-d", "--name", "web", "--runtime", runtime, "-p", "8099:80", IMAGE, "sh", "-c", server)
        engine.docker(*words, check=True)
        try:
            enter = ["nsenter", f"--net=/proc/{engine.pid}/ns/net", "--"]
            get = [*enter, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8099/index.html"]

            def answer(get: list[str] = get) -> str:
                return subprocess.run(get, check=False, capture_output=True, text=True, timeout=60).stdout

            answers.append(until(answer, "answer"))
        finally:
            engine.docker("rm", "-f", "web", check=True)
    assert answers == ["served\n", "served\n"]
