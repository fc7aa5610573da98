"""The whole engine: an archive of a real `docker save`, SIGTERM, stdin that comes with the request."""

from __future__ import annotations

import socket
import subprocess
import time

from support import images
from support.dockerd import Dockerd
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF


def test_archive_of_docker_save_is_the_same_image_here(dockerd: Dockerd, engine: CortenEngine) -> None:
    dockerd.docker("tag", IMAGE, "saved/by-dockerd:7", check=True)
    archive = engine.folder / "saved.tar"
    dockerd.docker("save", "-o", str(archive), "saved/by-dockerd:7", check=True)
    dockerd.docker("rmi", "saved/by-dockerd:7", check=True)
    assert engine.docker("load", "-i", str(archive)).stdout == "Loaded image: saved/by-dockerd:7\n"
    form = ("image", "inspect", "-f", "{{.Id}} {{json .RootFS.Layers}}")
    assert engine.docker(*form, "saved/by-dockerd:7").stdout == dockerd.docker(*form, IMAGE).stdout
    assert engine.docker("run", "--rm", "saved/by-dockerd:7", "echo", "runs").stdout == "runs\n"


def test_end_of_cortend_leaves_containers_and_their_ports(engine: CortenEngine) -> None:
    """SIGTERM is no stop of containers: the same process, and an answer on its port while nobody listens."""
    engine.docker("run", "-d", "--name", "web", "-p", "8123:80", IMAGE, "httpd", "-f", "-h", "/etc", check=True)
    pid = engine.docker("inspect", "-f", "{{.State.Pid}}", "web").stdout
    fetch = [*engine.netns.enter, "/bin/busybox", "wget", "-qO-", "http://127.0.0.1:8123/passwd"]
    engine.stop()
    assert not engine.is_running()
    assert b"root:" in subprocess.run(fetch, check=True, capture_output=True, timeout=60).stdout
    engine.start()
    assert engine.docker("inspect", "-f", "{{.State.Pid}}", "web").stdout == pid
    assert b"root:" in subprocess.run(fetch, check=True, capture_output=True, timeout=60).stdout
    engine.docker("rm", "-f", "web", check=True)


def test_stdin_in_the_segment_of_the_attach_request_reaches_the_container(engine: CortenEngine) -> None:
    """Head, stdin and half-close at once, with and without Upgrade, to a container that is started afterwards."""
    for upgrade in ("Upgrade: tcp\r\nConnection: Upgrade\r\n", ""):
        engine.docker("create", "-i", "--name", "cat", IMAGE, "cat", check=True)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(engine.socket))
            target = "/v1.45/containers/cat/attach?stream=1&stdin=1&stdout=1"
            head = f"POST {target} HTTP/1.1\r\nHost: d\r\n{upgrade}Content-Length: 0\r\n\r\n"
            connection.sendall(head.encode() + b"early bytes\n")
            connection.shutdown(socket.SHUT_WR)
            wait_for_head(connection)
            engine.docker("start", "cat", check=True)
            got = b""
            while chunk := connection.recv(65536):
                got += chunk
        assert got.endswith(b"early bytes\n"), got
        engine.docker("rm", "-f", "cat", check=True)


def wait_for_head(connection: socket.socket) -> None:
    """The attach is registered when its head is here."""
    end = time.monotonic() + 60
    seen = b""
    while b"\r\n\r\n" not in seen:
        assert time.monotonic() < end
        seen += connection.recv(1)
