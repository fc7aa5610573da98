"""docker-py against the door with a fake engine."""

from __future__ import annotations

import gc
import io
import tempfile
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from clients.door_thread import DoorThread

# docker-py leaves the sockets of its streams to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def door() -> Iterator[DoorThread]:
    """A door of its own for each test."""
    with tempfile.TemporaryDirectory(prefix="corten-door-") as folder, DoorThread(folder) as door:
        yield door


@pytest.fixture
def client(door: DoorThread) -> Iterator[Any]:
    """A docker-py client that negotiated its version."""
    client = docker.DockerClient(base_url=door.host)
    yield client
    client.close()
    gc.collect()  # here, where its warnings are expected, not in some later test


def test_negotiation(client: Any) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.51"


def test_run_returns_the_output(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "from", "python"]) == b"from python\n"


def test_a_failing_run_raises_with_its_code(client: Any) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["exit", "5"])
    assert caught.value.exit_status == 5


def test_errors_carry_the_message(client: Any) -> None:
    with pytest.raises(docker.errors.NotFound) as caught:
        client.containers.get("nobody")
    assert caught.value.explanation == "No such container: nobody"
    with pytest.raises(docker.errors.APIError) as refused:
        client.images.search("n")
    assert (refused.value.status_code, refused.value.explanation) == (501, "image search is not supported yet")


def test_exec_with_separate_streams(client: Any) -> None:
    box = client.containers.run("busybox", ["sleep"], detach=True)
    code, (out, err) = box.exec_run(["echo", "in"], demux=True)
    assert (code, out, err) == (0, b"in\n", None)
    box.kill()
    assert box.wait()["StatusCode"] == 137


def test_the_socket_of_attach_is_written_and_half_closed(client: Any) -> None:
    box = client.containers.create("busybox", ["cat"], stdin_open=True)
    stream = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    stream._sock.sendall(b"typed")
    stream._sock.shutdown(1)
    received = b""
    while piece := stream._sock.recv(4096):
        received += piece
    assert received == b"\x01\0\0\0\0\0\0\x05typed"
    stream.close()


def test_logs_events_and_stats_are_streams(client: Any, door: DoorThread) -> None:
    box = client.containers.run("busybox", ["sleep"], detach=True)
    door.harness.engine.flood = b"tick"
    follow = box.logs(stream=True, follow=True)
    assert next(follow) == b"tick"
    stats = box.stats(decode=True)
    assert "cpu_stats" in next(stats)
    events = client.events(decode=True)
    client.containers.create("busybox", ["x"])
    assert next(events)["Action"] == "create"
    events.close()


def test_load_and_list_of_images(client: Any, door: DoorThread) -> None:
    with pytest.raises(docker.errors.NotFound):
        client.images.get("nothere")
    client.api.load_image(io.BytesIO(b"x" * 3_000_000))
    assert door.harness.engine.loaded == 3_000_000
    assert len(client.images.list()) == 1


@pytest.mark.parametrize("version", ["1.41", "1.44"])
def test_a_fixed_version(door: DoorThread, version: str) -> None:
    client = docker.DockerClient(base_url=door.host, version=version)
    assert client.containers.run("busybox", ["echo", "x"]) == b"x\n"
    client.close()
