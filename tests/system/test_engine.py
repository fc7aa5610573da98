"""A whole engine through the docker CLI: starts, failures that leave nothing, restarts of containers, streams."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.engine import CortenEngine
from support.process import wait_for as until

IMAGE = "corten-test/busybox:1"


def inspect(engine: CortenEngine, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", name, check=True).stdout)[0]
    return found


def remains(engine: CortenEngine) -> list[str]:
    """What a container leaves, if it leaves something: directories, journal, cgroups, links."""
    with sqlite3.connect(f"file:{engine.data_root}/corten.db?mode=ro", uri=True) as database:
        journal = [f"journal {row}" for row in database.execute("SELECT kind, name FROM journal") if row[0] != "link"]
    database.close()
    folders = [*(engine.data_root / "containers").iterdir(), *(engine.exec_root / "tasks" / "moby").glob("*")]
    engine_id = (engine.data_root / "engine-id").read_text().strip()
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/corten-{engine_id}/*") if path.is_dir()]
    links = subprocess.run([*engine.netns.enter, "ip", "-o", "link"], check=True, stdout=subprocess.PIPE, text=True)
    return (
        journal
        + [str(path) for path in folders]
        + cgroups
        + [line for line in links.stdout.splitlines() if "ct" + engine_id[:4] in line]
    )


def test_a_container_that_removes_itself_leaves_nothing(engine: CortenEngine) -> None:
    done = engine.docker("run", "--rm", "-p", "8080:80", IMAGE, "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    until(lambda: not remains(engine), "remains of a --rm container")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nosuch",), 127),
        (("/etc/passwd",), 126),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$; sleep 1"), 0),
    ],
)
def test_exit_statuses_are_dockers_and_a_failed_start_leaves_nothing(
    shared_engine: CortenEngine, arguments: tuple[str, ...], status: int
) -> None:
    assert shared_engine.docker("run", "--rm", IMAGE, *arguments).returncode == status
    until(lambda: not remains(shared_engine), "remains of a failed start")


def test_a_start_that_fails_late_can_be_tried_again(engine: CortenEngine) -> None:
    engine.docker("create", "--name", "again", "-v", "/etc:/etc/passwd", IMAGE, "true", check=True)
    failed = engine.docker("start", "again")
    assert failed.returncode == 1
    assert "not a directory" in failed.stderr
    state = inspect(engine, "again")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "not a directory" in state["Error"]
    assert not list((engine.exec_root / "tasks" / "moby").glob("*"))


def test_a_port_is_free_as_soon_as_the_exit_is_known(engine: CortenEngine) -> None:
    for _ in range(5):
        engine.docker("run", "--rm", "-p", "8080:80", IMAGE, "true", check=True)


def test_a_taken_port_is_refused_in_dockers_words(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "web", "-p", "8080:80", IMAGE, "sleep", "100", check=True)
    refused = engine.docker("run", "--name", "two", "-p", "8080:80", IMAGE, "true")
    assert refused.returncode == 125
    assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in refused.stderr
    assert inspect(engine, "two")["State"]["Status"] == "created"


def test_events_of_an_end_come_in_dockers_order(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--rm", "--name", "brief", IMAGE, "sleep", "100", check=True)
    engine.docker("stop", "-t", "0", "brief", check=True)
    arguments = ("--since", "600s", "--until", "0s", "--filter", "type=container", "--format", "{{.Action}}")
    until(lambda: "destroy" in engine.docker("events", *arguments).stdout, "the last event")
    seen = engine.docker("events", *arguments, check=True).stdout.split()
    assert [action for action in seen if action in ("stop", "die", "destroy")] == ["stop", "die", "destroy"]


def test_restart_policy_always_goes_on_until_somebody_stops_it(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "again", "--restart", "always", IMAGE, "true", check=True)
    until(lambda: inspect(engine, "again")["RestartCount"] >= 2, "two restarts")
    engine.docker("stop", "again", check=True)
    count = inspect(engine, "again")["RestartCount"]
    time.sleep(0.5)
    found = inspect(engine, "again")
    assert found["RestartCount"] == count
    assert found["State"]["Status"] == "exited"


def test_restart_policy_on_failure_counts(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "fails", "--restart", "on-failure:2", IMAGE, "false", check=True)
    until(lambda: inspect(engine, "fails")["State"]["Status"] == "exited", "the end of its restarts")
    assert inspect(engine, "fails")["RestartCount"] == 2


def test_standard_input_reaches_a_container_that_was_attached_before_its_start(shared_engine: CortenEngine) -> None:
    done = shared_engine.docker("run", "--rm", "-i", IMAGE, "sh", "-c", "cat; echo end >&2", stdin="one\ntwo\n")
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "end\n")


def test_following_a_log_ends_with_the_container(shared_engine: CortenEngine) -> None:
    script = "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done"
    shared_engine.docker("run", "-d", "--name", "speaks", IMAGE, "sh", "-c", script, check=True)
    try:
        done = shared_engine.docker("logs", "-f", "speaks", timeout=60)
        assert done.stdout == "1\n2\n3\n4\n5\n"
        assert shared_engine.docker("logs", "--tail", "2", "speaks").stdout == "4\n5\n"
    finally:
        shared_engine.docker("rm", "-f", "speaks", check=True)


def test_a_process_of_exec_has_its_user_environment_and_status(shared_engine: CortenEngine) -> None:
    shared_engine.docker("run", "-d", "--name", "host", IMAGE, "sleep", "100", check=True)
    try:
        done = shared_engine.docker(
            "exec", "-u", "1000:5", "-e", "A=b", "-w", "/tmp", "host", "sh", "-c", "id -u; id -g; echo $A; pwd; exit 3"
        )
        assert (done.returncode, done.stdout) == (3, "1000\n5\nb\n/tmp\n")
        assert shared_engine.docker("exec", "host", "nosuch").returncode in (126, 127)
    finally:
        shared_engine.docker("rm", "-f", "host", check=True)


def test_init_forwards_signals_and_collects_orphans(shared_engine: CortenEngine) -> None:
    shared_engine.docker("run", "-d", "--init", "--name", "init", IMAGE, "sleep", "100", check=True)
    try:
        shared_engine.docker("exec", "init", "sh", "-c", "(sleep 0.05 &) ; true", check=True)
        shared_engine.docker("stop", "init", check=True)
        assert inspect(shared_engine, "init")["State"]["ExitCode"] == 143  # not 137: nobody had to kill it
    finally:
        shared_engine.docker("rm", "-f", "init", check=True)


def test_memory_is_limited_and_its_end_is_told(shared_engine: CortenEngine) -> None:
    shared_engine.docker("run", "--name", "eats", "-m", "8m", IMAGE, "sh", "-c", "tail /dev/zero")
    try:
        state = inspect(shared_engine, "eats")["State"]
        assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)
    finally:
        shared_engine.docker("rm", "-f", "eats", check=True)


def test_the_default_pids_limit_is_the_nodes(make_engine: Callable[..., CortenEngine]) -> None:
    from support import images

    engine = make_engine(config={"default-pids-limit": 77})
    engine.docker("load", "-i", str(images.busybox()), check=True)
    limit = ("cat", "/sys/fs/cgroup/pids/pids.max")
    assert engine.docker("run", "--rm", IMAGE, *limit, check=True).stdout == "77\n"
    assert engine.docker("run", "--rm", "--pids-limit", "-1", IMAGE, *limit, check=True).stdout == "max\n"


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_external_runtimes_run_the_same_container(shared_engine: CortenEngine, runtime: str) -> None:
    done = shared_engine.docker("run", "--rm", "--runtime", runtime, IMAGE, "sh", "-c", "echo $0; exit 5")
    assert (done.returncode, done.stdout) == (5, "sh\n")


def test_shared_namespaces_of_another_container(shared_engine: CortenEngine) -> None:
    shared_engine.docker("run", "-d", "--name", "donor", "--ipc", "shareable", IMAGE, "sleep", "100", check=True)
    try:
        shared_engine.docker("exec", "donor", "sh", "-c", "echo x > /dev/shm/x", check=True)
        join = ("run", "--rm", "--ipc", "container:donor", "--network", "container:donor", "--pid", "container:donor")
        done = shared_engine.docker(*join, IMAGE, "sh", "-c", "cat /dev/shm/x; hostname; cat /proc/1/comm", check=True)
        assert done.stdout == f"x\n{inspect(shared_engine, 'donor')['Id'][:12]}\nsleep\n"
    finally:
        shared_engine.docker("rm", "-f", "donor", check=True)


def test_a_start_is_traced_phase_by_phase_and_step_by_step(shared_engine: CortenEngine) -> None:
    shared_engine.docker("run", "-d", "--name", "traced", IMAGE, "sleep", "100", check=True)
    try:
        done = shared_engine.corten("trace", "traced", check=True).stdout
        assert "clone3" in done
        assert "network" in done
    finally:
        shared_engine.docker("rm", "-f", "traced", check=True)


def test_the_trace_of_a_start_that_ends_at_once_is_there(shared_engine: CortenEngine) -> None:
    for _ in range(8):
        shared_engine.docker("run", "--name", "brief", IMAGE, "true", check=True)
        try:
            assert "clone3" in shared_engine.corten("trace", "brief", check=True).stdout
        finally:
            shared_engine.docker("rm", "-f", "brief", check=True)


def leave(engine: CortenEngine, target: str, after_s: float) -> None:
    """A POST whose client goes away before the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.socket))
        client.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        time.sleep(after_s)


STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")


def test_a_restart_goes_on_when_its_client_goes(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "left", IMAGE, *STUBBORN, check=True)
    before = inspect(engine, "left")["State"]["StartedAt"]
    leave(engine, "/containers/left/restart?t=1", 0.2)
    until(lambda: inspect(engine, "left")["State"]["StartedAt"] != before, "the second start")
    engine.docker("rm", "-f", "left", check=True)


def test_a_stop_kills_in_the_end_when_its_client_goes(engine: CortenEngine) -> None:
    engine.docker("run", "-d", "--name", "left", IMAGE, *STUBBORN, check=True)
    leave(engine, "/containers/left/stop?t=1", 0.2)
    until(lambda: inspect(engine, "left")["State"]["Status"] == "exited", "the kill")
    engine.docker("rm", "left", check=True)


@pytest.mark.parametrize("after_ms", range(0, 20, 2))
def test_a_start_goes_on_when_its_client_goes(engine: CortenEngine, after_ms: int) -> None:
    engine.docker("create", "--name", "left", "-p", "80", IMAGE, "sleep", "100", check=True)
    leave(engine, "/containers/left/start", after_ms / 1000)
    until(lambda: inspect(engine, "left")["State"]["Status"] == "running", "the start")
    assert inspect(engine, "left")["NetworkSettings"]["Ports"]["80/tcp"]
    engine.docker("rm", "-f", "left", check=True)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["corten", "runc", "crun"])
def test_the_end_of_a_limit_of_swap_reaches_every_runtime(shared_engine: CortenEngine, runtime: str) -> None:
    """On cgroup v1; v2 is in guest/engine/test_2_options.py."""
    options = ("--runtime", runtime, "-m", "64m", "--network", "none", "--name", "swaps")
    shared_engine.docker("run", "-d", *options, IMAGE, "sleep", "1000", check=True)
    try:
        seen = []
        for words in (("-m", "60m"), ("--memory-swap", "-1"), ("-m", "200m"), ("--memory-swap", "300m")):
            shared_engine.docker("update", *words, "swaps", check=True)
            file = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
            seen.append(int(shared_engine.docker("exec", "swaps", "cat", file, check=True).stdout) >> 20)
    finally:
        shared_engine.docker("rm", "-f", "swaps")
    assert (seen[0], seen[1] == seen[2] > 1 << 40, seen[3]) == (128, True, 300)
