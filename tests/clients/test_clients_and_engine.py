"""Clients against a real engine: stdin in the segment of a request, API versions, `--debug`, origins of `--explain`."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import subprocess

import docker
import pytest

from clients.api import Api, demultiplexed
from support import images, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
UPGRADE = {"with Upgrade": "Upgrade: tcp\r\nConnection: Upgrade\r\n", "without Upgrade": ""}
VERSIONS = ("1.40", "1.43", "1.45", "1.51")


def in_one_segment(engine: CortenEngine, target: str, upgrade: str, body: bytes, stdin: bytes) -> bytes:
    """Head, body and stdin in one send, half-close at once; all that comes back."""
    head = (
        f"POST /v1.51{target} HTTP/1.1\r\nHost: d\r\n{upgrade}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    got = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(engine.socket))
        connection.sendall(head.encode() + body + stdin)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65536):
            got += chunk
    return got


@pytest.mark.parametrize("upgrade", UPGRADE.values(), ids=UPGRADE)
def test_stdin_in_the_segment_of_an_exec_start_reaches_the_process(shared_engine: CortenEngine, upgrade: str) -> None:
    api = Api(shared_engine.socket)
    shared_engine.docker("run", "-d", "--name", "segment", IMAGE, "sleep", "1000", check=True)
    try:
        config = {"Cmd": ["sh", "-c", "cat; echo end"], "AttachStdin": True, "AttachStdout": True}
        exec_id = api.ok("POST", "/containers/segment/exec", config)["Id"]
        body = b'{"Detach":false,"Tty":false}'
        got = in_one_segment(shared_engine, f"/exec/{exec_id}/start", upgrade, body, b"early bytes\n" * 1000)
        head, _, stream = got.partition(b"\r\n\r\n")
        assert head.split()[1] == (b"101" if upgrade else b"200")
        assert demultiplexed(stream) == b"early bytes\n" * 1000 + b"end\n"
        assert api.ok("GET", f"/exec/{exec_id}/json")["ExitCode"] == 0
    finally:
        api.remove("segment")


@pytest.mark.parametrize("upgrade", UPGRADE.values(), ids=UPGRADE)
def test_stdin_in_the_segment_of_an_attach_reaches_a_running_container(
    shared_engine: CortenEngine, upgrade: str
) -> None:
    """The container reads to the end of its stdin, which comes with the half-close (StdinOnce, as `create -i` asks)."""
    api = Api(shared_engine.socket)
    shared_engine.docker("create", "-i", "--name", "segment", IMAGE, "sh", "-c", "cat; echo end", check=True)
    shared_engine.docker("start", "segment", check=True)
    try:
        target = "/containers/segment/attach?stream=1&stdin=1&stdout=1"
        got = in_one_segment(shared_engine, target, upgrade, b"", b"early bytes\n" * 1000)
        head, _, stream = got.partition(b"\r\n\r\n")
        assert head.split()[1] == (b"101" if upgrade else b"200")
        assert demultiplexed(stream) == b"early bytes\n" * 1000 + b"end\n"
    finally:
        api.remove("segment")


@pytest.mark.parametrize("version", VERSIONS)
def test_docker_cli_runs_its_main_flow_at_every_version(shared_engine: CortenEngine, version: str) -> None:
    name = f"flow-{version}"

    def cli(*args: str) -> str:
        done = subprocess.run(
            [peers.docker_cli(), "-H", shared_engine.host, *args],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env=client_environment() | {"DOCKER_API_VERSION": version},
        )
        return done.stdout

    assert cli("version", "-f", "{{.Client.APIVersion}}") == f"{version}\n"
    try:
        assert len(cli("run", "-d", "--name", name, "-m", "64m", "-p", "127.0.0.1::80", IMAGE, "sleep", "999")) == 65
        assert cli("exec", name, "echo", "in") == "in\n"
        assert cli("ps", "--filter", f"name={name}", "--format", "{{.Names}} {{.State}}") == f"{name} running\n"
        assert cli("inspect", "-f", "{{.State.Running}} {{.HostConfig.Memory}}", name) == "true 67108864\n"
        assert cli("run", "--rm", IMAGE, "echo", "out") == "out\n"
        assert IMAGE in cli("images", "--format", "{{.Repository}}:{{.Tag}}")
        assert cli("stop", "-t", "0", name) == f"{name}\n"
        assert cli("wait", name) == "137\n"
        assert cli("logs", name) == ""
    finally:
        cli("rm", "-f", name)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("version", VERSIONS)
def test_docker_py_runs_its_main_flow_at_every_version(shared_engine: CortenEngine, version: str) -> None:
    with contextlib.closing(docker.DockerClient(base_url=shared_engine.host, version=version, timeout=30)) as client:
        assert client.containers.run(IMAGE, ["echo", "out"], remove=True) == b"out\n"
        container = client.containers.run(IMAGE, ["sleep", "999"], detach=True, mem_limit="64m")
        try:
            assert container.exec_run(["echo", "in"]) == (0, b"in\n")
            assert [found.id for found in client.containers.list(filters={"id": container.id})] == [container.id]
            assert container.attrs["HostConfig"]["Memory"] == 64 << 20
            container.stop(timeout=0)
            assert container.wait()["StatusCode"] == 137
            assert IMAGE in [tag for image in client.images.list() for tag in image.tags]
        finally:
            container.remove(force=True)
    gc.collect()  # docker-py leaves the sockets of its streams to it


class Plain(CortenEngine):
    """An engine without `--debug`."""

    @property
    def argv(self) -> list[str]:
        """cortend's argv without the flag."""
        return [word for word in super().argv if word != "--debug"]


@pytest.mark.parametrize(("kind", "is_debug"), [(CortenEngine, True), (Plain, False)])
def test_debug_logs_requests_and_shows_in_info(kind: type[CortenEngine], is_debug: bool) -> None:
    with kind() as engine:
        assert engine.docker("info", "-f", "{{.Debug}}").stdout == f"{str(is_debug).lower()}\n"
        assert ("DEBUG corten.docker: GET" in engine.log.read_text()) is is_debug
        assert "INFO corten.daemon: Corten" in engine.log.read_text()


def test_explain_names_the_origin_of_each_value() -> None:
    with CortenEngine(config={"default-pids-limit": 77}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        text = engine.corten("run", "--explain", "-m", "64m", "-w", "/tmp", IMAGE, check=True).stdout
        limited = engine.corten("run", "--explain", "--pids-limit", "7", IMAGE, check=True).stdout
        assert engine.corten("ps", "-aq").stdout == ""
    assert re.search(r"^\S*Memory +flag +67108864$", text, re.M)
    assert re.search(r"^\S*WorkingDir +flag +/tmp$", text, re.M)
    assert re.search(r"^\S*Cmd +image +", text, re.M)
    assert re.search(r"^\S*PidsLimit +daemon\.json +77$", text, re.M)
    assert re.search(r"^\S*PidsLimit +flag +7$", limited, re.M)
    assert re.search(r"^\S*ShmSize +built-in +67108864$", text, re.M)
