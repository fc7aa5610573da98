"""The real docker CLI against the door with a fake engine: what the CLI needs from a server, whatever is behind it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator

import pytest

from clients.door_thread import DoorThread
from support import peers


@pytest.fixture
def door() -> Iterator[DoorThread]:
    """A door of its own for each test."""
    with tempfile.TemporaryDirectory(prefix="corten-door-") as folder, DoorThread(folder) as door:
        yield door


def test_version_shows_the_negotiated_api(door: DoorThread) -> None:
    done = door.docker("version", "--format", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}}")
    assert done.stdout == b"1.51 1.40\n"


def test_run_prints_the_output_and_passes_the_exit_code_on(door: DoorThread) -> None:
    assert door.docker("run", "busybox", "echo", "hello", "there").stdout == b"hello there\n"
    assert door.docker("run", "busybox", "exit", "37").returncode == 37


def test_run_rm_waits_for_the_removal(door: DoorThread) -> None:
    done = door.docker("run", "--rm", "busybox", "exit", "3")
    assert done.returncode == 3
    assert not door.harness.engine.boxes


def test_stdin_goes_through_whole(door: DoorThread) -> None:
    data = os.urandom(1 << 20)
    done = door.docker("run", "-i", "--rm", "busybox", "cat", stdin=data)
    assert done.stdout == data


def test_an_absent_image_is_explained(door: DoorThread) -> None:
    done = door.docker("run", "nosuch", "x")
    assert done.returncode == 125
    assert b"Unable to find image 'nosuch:latest' locally" in done.stderr
    assert b"manifest for nosuch:latest not found: manifest unknown: manifest unknown" in done.stderr


def test_exec_prints_and_passes_the_exit_code_on(door: DoorThread) -> None:
    door.docker("run", "-d", "--name", "box", "busybox", "sleep")
    assert door.docker("exec", "box", "echo", "in").stdout == b"in\n"
    assert door.docker("exec", "box", "exit", "4").returncode == 4
    assert door.docker("exec", "-i", "box", "cat", stdin=b"typed").stdout == b"typed"
    done = door.docker("exec", "box", "nothing")
    assert done.returncode == 127
    assert b'exec: "nothing": executable file not found in $PATH' in done.stdout
    assert door.docker("exec", "-d", "box", "echo", "x").returncode == 0


def test_the_verbs_of_a_containers_life(door: DoorThread) -> None:
    assert door.docker("create", "--name", "box", "busybox", "sleep").returncode == 0
    for verb in (
        ("start", "box"),
        ("pause", "box"),
        ("unpause", "box"),
        ("restart", "-t", "1", "box"),
        ("top", "box"),
        ("rename", "box", "other"),
        ("kill", "other"),
        ("wait", "other"),
        ("rm", "other"),
    ):
        done = door.docker(*verb)
        assert done.returncode == 0, (verb, done.stderr)
    done = door.docker("rm", "other")
    assert (done.returncode, done.stderr) == (1, b"Error response from daemon: No such container: other\n")


def test_ps_inspect_and_logs(door: DoorThread) -> None:
    door.docker("run", "--name", "box", "busybox", "echo", "logged")
    assert door.docker("ps", "-aq", "--no-trunc").stdout.strip().decode() in door.harness.engine.boxes
    assert json.loads(door.docker("inspect", "box").stdout)[0]["Name"] == "/box"
    assert door.docker("logs", "box").stdout == b"logged\n"


def test_filters_are_handed_on(door: DoorThread) -> None:
    door.docker("ps", "--filter", "label=a=b", "--filter", "status=exited", "-n", "2")
    call = door.harness.engine.calls[-1]
    assert call[:3] == ("list", False, 2)
    assert call[4] == {"label": ["a=b"], "status": ["exited"]}


def test_load_tag_and_rmi(door: DoorThread) -> None:
    done = door.docker("load", stdin=os.urandom(5 << 20))
    assert done.stdout.startswith(b"Loaded image: ")
    assert door.harness.engine.loaded == 5 << 20
    assert door.docker("tag", "busybox", "a/b:c").returncode == 0
    assert door.docker("rmi", "a/b:c").stdout == b"Untagged: a/b:c\n"
    assert door.docker("import", "-", "new:tag", stdin=b"tar").returncode == 0


def test_push_shows_what_the_engine_tells_and_fails_with_its_error(door: DoorThread) -> None:
    assert door.docker("push", "busybox:1").stdout == b"The push refers to repository [docker.io/library/busybox]\n"
    done = door.docker("push", "reg.example/a/b:1")
    assert (done.returncode, done.stderr) == (1, b"An image does not exist locally with the tag: reg.example/a/b\n")
    names = [call[1] for call in door.harness.engine.calls if call[0] == "push"]
    assert names == ["docker.io/library/busybox:1", "reg.example/a/b:1"]


def test_what_is_not_supported_yet_says_so(door: DoorThread) -> None:
    for command, text in (
        (("search", "n"), "image search is not supported yet"),
        (("swarm", "init"), "swarm init is not supported yet"),
    ):
        done = door.docker(*command)
        assert done.returncode != 0
        assert text in done.stderr.decode(), (command, done.stderr)


def test_what_clients_ask_in_passing_is_answered(door: DoorThread) -> None:
    for command in (("network", "ls"), ("volume", "ls"), ("system", "df"), ("info",), ("plugin", "ls"), ("images",)):
        done = door.docker(*command)
        assert done.returncode == 0, (command, done.stderr)


def test_events_arrive_while_they_happen(door: DoorThread) -> None:
    command = [str(peers.docker_cli()), "-H", door.host, "events", "--format", "{{.Action}}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as events:
        deadline = time.monotonic() + 60
        while not door.harness.engine.listeners:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        door.docker("run", "busybox", "echo", "x")
        assert events.stdout is not None
        assert [events.stdout.readline() for _ in range(3)] == [b"create\n", b"start\n", b"die\n"]
        events.kill()


def test_a_tty_is_raw_and_resized(door: DoorThread) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 99))
    command = [str(peers.docker_cli()), "-H", door.host, "run", "-it", "busybox", "head", "3"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        os.write(ours, b"abc")
        assert running.wait(60) == 0
    assert b"abc" in os.read(ours, 4096)
    os.close(ours)
    calls = door.harness.engine.calls
    assert calls[0][1].host_config.console_size == (33, 99)
    assert any(call[0] == "resize" and call[2:] == (33, 99) for call in calls)


@pytest.mark.parametrize("version", ["1.40", "1.43", "1.51"])
def test_clients_of_other_versions_are_served(door: DoorThread, version: str) -> None:
    done = door.docker("run", "--rm", "busybox", "echo", version, DOCKER_API_VERSION=version)
    assert done.stdout.decode() == version + "\n"
    request = door.harness.engine.calls[0][1]
    assert request.api_version == tuple(int(part) for part in version.split("."))


def test_a_version_that_is_too_old_is_told_apart(door: DoorThread) -> None:
    done = door.docker("ps", DOCKER_API_VERSION="1.24")
    assert b"client version 1.24 is too old. Minimum supported API version is 1.40" in done.stderr
