"""A lean Docker API client for timing: one kept connection, no retries, no model of anything.

It notes what it asked, which is printed under the table.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from pathlib import Path
from typing import Any


class KeptConnection(http.client.HTTPConnection):
    """HTTP over one unix socket connection that is kept for all requests."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine")
        self.path = path
        self.asked: list[str] = []

    def text(self) -> str:
        """The requests of the last `run` or `execute`, or since `asked` was emptied; ids are written ID."""
        return re.sub(r"[0-9a-f]{64}", "ID", "; ".join(self.asked))

    def connect(self) -> None:
        """Connects to the engine's socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self.path))

    def call(self, method: str, target: str, body: Any = None) -> Any:
        """One request; raises RuntimeError with the engine's text on an error status."""
        answer = self._ask(method, target, body)
        raw = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {target}: {answer.status}: {raw.decode(errors='replace')}")
        return json.loads(raw) if raw.strip() else None

    def _ask(self, method: str, target: str, body: Any) -> http.client.HTTPResponse:
        data = "" if body is None else json.dumps(body)
        self.asked.append(f"{method} /v1.41{target} {data}".rstrip())
        headers = {"Content-Type": "application/json"}
        self.request(method, f"/v1.41{target}", body=data.encode() or None, headers=headers)
        return self.getresponse()

    def create(self, image: str, command: list[str], **host_config: Any) -> str:
        """ContainerCreate; the new id."""
        exposed: dict[str, dict[str, str]] = {port: {} for port in host_config.get("PortBindings", {})}
        body = {"Image": image, "Cmd": command, "ExposedPorts": exposed, "HostConfig": host_config}
        return str(self.call("POST", "/containers/create", body)["Id"])

    def start(self, container_id: str) -> None:
        """ContainerStart."""
        self.call("POST", f"/containers/{container_id}/start")

    def wait(self, container_id: str) -> int:
        """ContainerWait; the exit code."""
        return int(self.call("POST", f"/containers/{container_id}/wait")["StatusCode"])

    def remove(self, container_id: str) -> None:
        """ContainerDelete with force."""
        self.call("DELETE", f"/containers/{container_id}?force=1")

    def run(self, image: str, command: list[str], **host_config: Any) -> None:
        """create, start, wait, remove."""
        self.asked.clear()
        container_id = self.create(image, command, **host_config)
        self.start(container_id)
        if self.wait(container_id) != 0:
            raise RuntimeError(f"{command} failed")
        self.remove(container_id)

    def execute(self, container_id: str, command: list[str]) -> None:
        """exec create, exec start (its whole output is read), exec inspect."""
        self.asked.clear()
        body = {"Cmd": command, "AttachStdout": True, "AttachStderr": True}
        exec_id = self.call("POST", f"/containers/{container_id}/exec", body)["Id"]
        self._ask("POST", f"/exec/{exec_id}/start", {}).read()
        self.close()
        self.call("GET", f"/exec/{exec_id}/json")
