"""docker-py, the client of most Python programs, and bare sockets, which leave out what well-behaved clients send."""

from __future__ import annotations

import json
import socket
import time
from contextlib import closing
from typing import Any

from docker.errors import APIError, ContainerError, NotFound

from clients.checks_life import sleeper
from clients.compare import API, IMAGE, Side, check
from support.stripdoor import Act, Body, Query

Json = Any


@check("docker-py: containers.run", Body("Env"))
def py_run(side: Side) -> Json:
    with closing(side.py()) as client:
        output = client.containers.run(
            IMAGE, ["sh", "-c", "echo $A; sleep 0.1; echo err >&2"], environment={"A": "b"}, stderr=True
        )
        return sorted(output.decode().splitlines())


@check("docker-py: containers.run that fails", Body("Cmd"))
def py_error(side: Side) -> Json:
    with closing(side.py()) as client:
        try:
            client.containers.run(IMAGE, ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
        except ContainerError as error:
            return [error.exit_status, error.stderr.decode(), len(client.containers.list(all=True))]
        return "ran"


@check("docker-py: containers.run detach, logs stream", Act("/containers/*/logs", "GET", "500 Internal Server Error"))
def py_logs(side: Side) -> Json:
    with closing(side.py()) as client:
        container = client.containers.run(
            IMAGE, ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"], detach=True
        )
        try:
            lines = [line.decode() for line in container.logs(stream=True, follow=True)]
        except APIError as error:
            return error.status_code
        return ["".join(lines), container.wait()]


@check("docker-py: exec_run demux", Body("AttachStderr", "/containers/*/exec"))
def py_exec(side: Side) -> Json:
    sleeper(side)
    with closing(side.py()) as client:
        code, output = client.containers.get("box").exec_run(["sh", "-c", "echo out; echo err >&2; exit 2"], demux=True)
        return [code, [None if part is None else part.decode() for part in output]]


@check("docker-py: exec_run workdir and user", Body("WorkingDir", "/containers/*/exec"))
def py_exec_options(side: Side) -> Json:
    sleeper(side)
    with closing(side.py()) as client:
        code, output = client.containers.get("box").exec_run(
            ["sh", "-c", "pwd; id -un"], workdir="/var/tmp", user="user"
        )
        return [code, output.decode()]


@check("docker-py: attach_socket", Query("stdin", "/containers/*/attach"))
def py_attach(side: Side) -> Json:
    with closing(side.py()) as client:
        container = client.containers.create(IMAGE, ["head", "-n", "1"], stdin_open=True)
        stream = client.api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stream": 1})
        container.start()
        raw = stream._sock  # the only way to the socket that docker-py has
        raw.settimeout(side.patience / 4)
        with closing(stream), closing(raw):
            raw.sendall(b"spoken\n")
            try:
                return list(b"".join(iter(lambda: raw.recv(1000), b"")))
            except TimeoutError:
                return "nothing came"


@check("docker-py: networks of a container", Body("HostConfig.NetworkMode"))
def py_network(side: Side) -> Json:
    with closing(side.py()) as client:
        container = client.containers.run(IMAGE, "true", network_mode="none", detach=True)
        container.wait()
        container.reload()
        return sorted(container.attrs["NetworkSettings"]["Networks"])


@check("docker-py: NotFound", Act("/containers/nobody/json", "GET", "500 Internal Server Error"))
def py_missing(side: Side) -> Json:
    with closing(side.py()) as client:
        try:
            client.containers.get("nobody")
        except NotFound as error:
            return [error.status_code, error.explanation]
        except APIError as error:
            return error.status_code
        return "found"


@check("docker-py: images.list, tag, remove", Act("/images/*", "DELETE", "200 OK"))
def py_images(side: Side) -> Json:
    with closing(side.py()) as client:
        image = client.images.get(IMAGE)
        tagged = image.tag("py", "1")
        client.images.remove("py:1")
        return [tagged, sorted(tag for image in client.images.list() for tag in image.tags)]


@check("docker-py: events", Query("filters.event", "/events"))
def py_events(side: Side) -> Json:
    with closing(side.py()) as client:
        began = f"{time.time():.9f}"
        for name in ("first", "box"):
            client.containers.run(IMAGE, "true", name=name)
        filters = {"container": "box", "event": ["start", "die"]}
        stream = client.events(since=began, until=int(time.time()) + 1, filters=filters, decode=True)
        return [[event["Action"], event["Actor"]["Attributes"]["name"]] for event in stream]


@check("docker-py: put an end, stats once", Act("/containers/*/stats", "GET", "500 Internal Server Error"))
def py_stats(side: Side) -> Json:
    sleeper(side)
    with closing(side.py()) as client:
        try:
            sample = client.containers.get("box").stats(stream=False)
        except APIError as error:
            return error.status_code
        return [sample["pids_stats"]["current"], sample["memory_stats"]["usage"] > 0, sorted(sample["cpu_stats"])[:3]]


# Bare sockets.


def frames(data: bytes) -> Json:
    """Multiplexed output as (stream, text) pairs; how writes are cut into frames is nobody's promise."""
    found: list[list[Json]] = []
    while data:
        stream, size = data[0], int.from_bytes(data[4:8])
        text, data = data[8 : 8 + size].decode(), data[8 + size :]
        if found and found[-1][0] == stream:
            found[-1][1] += text
        else:
            found.append([stream, text])
    return found


def hijack(side: Side, target: str, body: Json, first: bytes, *, upgrade: bool, last: bytes = b"") -> Json:
    """A request; after the answer's head, input; status line, kind of stream, bytes up to `last` or the end.

    Input in the request's own segment and a half-close at once are for Corten alone: dockerd loses bytes then.
    """
    data = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"POST /v{API}{target} HTTP/1.1",
        "Host: d",
        f"Content-Length: {len(data)}",
        "Content-Type: application/json",
    ]
    lines += ["Connection: Upgrade", "Upgrade: tcp"] if upgrade else []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(side.patience / 2)
        connection.connect(str(side.socket))
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        answer = b""
        while b"\r\n\r\n" not in answer and (more := connection.recv(65536)):
            answer += more
        connection.sendall(first)
        while (not last or last not in answer) and (more := connection.recv(65536)):
            answer += more
    head, _, rest = answer.partition(b"\r\n\r\n")
    headers = [line for line in head.decode().split("\r\n")[1:] if line.lower().startswith(("content-type", "upgrade"))]
    return [head.decode().split("\r\n")[0], sorted(headers), frames(rest)]


ATTACH = "/containers/box/attach?stream=1&stdin=1&stdout=1&stderr=1"


def listener(side: Side, *options: str) -> None:
    """A container that answers what it reads, until the end of its input."""
    script = 'while read -r line; do echo "got $line"; done; echo end'
    side.docker("run", "-di", "--name", "box", *options, IMAGE, "sh", "-c", script)


@check("attach with Upgrade", Body("OpenStdin"))
def attach_at_once(side: Side) -> Json:
    listener(side)
    return hijack(side, ATTACH, None, b"one\ntwo\n", upgrade=True, last=b"got two\n")


@check("attach without Upgrade", Body("OpenStdin"))
def attach_without_upgrade(side: Side) -> Json:
    listener(side)
    return hijack(side, ATTACH, None, b"one\n", upgrade=False, last=b"got one\n")


@check("exec start with Upgrade", Body("AttachStdin", "/containers/*/exec"))
def exec_at_once(side: Side) -> Json:
    sleeper(side)
    body = {"Cmd": ["head", "-n", "2"], "AttachStdin": True, "AttachStdout": True}
    identity = side.api("POST", "/containers/box/exec", body)["body"]["Id"]
    return hijack(side, f"/exec/{identity}/start", {"Detach": False, "Tty": False}, b"one\ntwo\n", upgrade=True)


@check("exec start without Upgrade", Body("Cmd", "/containers/*/exec"))
def exec_without_upgrade(side: Side) -> Json:
    sleeper(side)
    body = {"Cmd": ["sh", "-c", "echo out; sleep 0.1; echo err >&2"], "AttachStdout": True, "AttachStderr": True}
    identity = side.api("POST", "/containers/box/exec", body)["body"]["Id"]
    head, headers, output = hijack(side, f"/exec/{identity}/start", {"Detach": False}, b"", upgrade=False)
    return [head, headers, sorted(output)]  # which of two pipes is read first is nobody's promise


@check("attach with logs", Query("logs", "/containers/*/attach"))
def attach_with_logs(side: Side) -> Json:
    side.docker("run", "-di", "--name", "box", IMAGE, "sh", "-c", "echo before; cat")
    side.until(lambda: "before" in side.docker("logs", "box")["stdout"])
    return hijack(side, f"{ATTACH}&logs=1", None, b"after\n", upgrade=True, last=b"after\n")


@check("resize", Act("/containers/*/resize", status="200 OK"))
def resized(side: Side) -> Json:
    sleeper(side, "-t")
    seen = side.api("POST", "/containers/box/resize", h="31", w="97")
    return [seen, side.docker("exec", "box", "stty", "-F", "/dev/console", "size")]


@check("exec resize", Act("/exec/*/resize", status="200 OK"))
def exec_resized(side: Side) -> Json:
    sleeper(side)
    script = "while true; do stty size >/new; mv /new /size; sleep 0.1; done"
    body = {"Cmd": ["sh", "-c", script], "Tty": True}
    identity = side.api("POST", "/containers/box/exec", body)["body"]["Id"]
    side.api("POST", f"/exec/{identity}/start", {"Detach": True, "Tty": True})
    seen = side.api("POST", f"/exec/{identity}/resize", h="31", w="97")
    side.until(lambda: "31" in side.docker("exec", "box", "cat", "/size")["stdout"])
    return [seen, side.docker("exec", "box", "cat", "/size")]
