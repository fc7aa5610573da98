"""A plain HTTP client for Docker's API on a unix socket, which sends exactly the JSON that it is given."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Api:
    """One engine; each call is a connection of its own."""

    def __init__(self, path: Path, version: str = "1.51") -> None:
        self.path = path
        self.version = version

    def call(self, method: str, target: str, body: Any = None, *, timeout: float = 30) -> tuple[int, Any]:
        """(status, the answer: parsed when it is JSON, else bytes)."""
        connection = Connection(self.path, timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/v{self.version}{target}", data, headers)
            answer = connection.getresponse()
            raw = answer.read()
            is_json = answer.headers.get_content_type() == "application/json" and raw
            return answer.status, json.loads(raw) if is_json else raw
        finally:
            connection.close()

    def ok(self, method: str, target: str, body: Any = None, *, timeout: float = 30) -> Any:
        """The answer of a call that must succeed."""
        status, answer = self.call(method, target, body, timeout=timeout)
        assert status < 400, f"{method} {target}: {status}: {answer}"
        return answer

    def logs(self, container_id: str, *, tty: bool = False) -> str:
        """Stdout and stderr so far."""
        raw = self.ok("GET", f"/containers/{container_id}/logs?stdout=1&stderr=1")
        return (raw if tty else demultiplexed(raw)).decode(errors="replace").replace("\r\n", "\n")

    def logs_until(self, container_id: str, mark: str, *, tty: bool = False, timeout_s: float = 60) -> str:
        """The output in front of `mark`, as soon as that is there, or all of it when the container has ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            running = self.ok("GET", f"/containers/{container_id}/json")["State"]["Running"]
            text = self.logs(container_id, tty=tty)
            if mark in text or not running:
                return text.partition(mark)[0].strip()
            assert time.monotonic() < deadline, f"no {mark!r} in {text!r}"
            time.sleep(0.005)

    def remove(self, container_id: str) -> None:
        """By force; it may be gone already."""
        self.call("DELETE", f"/containers/{quote(container_id)}?force=1&v=1")


def demultiplexed(raw: bytes) -> bytes:
    """The data of Docker's frames: stream, three zeroes, length big-endian."""
    out = bytearray()
    while raw:
        _, length = struct.unpack(">BxxxI", raw[:8])
        out += raw[8 : 8 + length]
        raw = raw[8 + length :]
    return bytes(out)
