"""The archive operations of an engine, and trees of files as values."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import stat
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

STAT = "X-Docker-Container-Path-Stat"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Answer:
    """Of one operation; `stat` is the decoded header."""

    status: int
    stat: Any
    body: bytes
    media_type: str | None

    @property
    def message(self) -> str:
        """Of an error."""
        text: str = json.loads(self.body)["message"] if self.body else ""
        return text

    @property
    def entries(self) -> list[tuple[Any, ...]]:
        """Of an archive, in order, without times."""
        with tarfile.open(fileobj=io.BytesIO(self.body)) as archive:
            return [(one.name, one.type, one.mode, one.uid, one.gid, one.size, one.linkname) for one in archive]

    def content(self, name: str) -> bytes:
        """Of one file of an archive."""
        with tarfile.open(fileobj=io.BytesIO(self.body)) as archive:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()


def call(engine_socket: Path, method: str, container: str, path: str | None, body: Any = None, **query: str) -> Answer:
    """HEAD, GET or PUT of `/containers/{container}/archive`."""
    given = query | ({} if path is None else {"path": path})
    headers = {"Content-Type": "application/x-tar"} if body is not None else {}
    target = f"/containers/{container}/archive?{urlencode(given)}"
    with closing(_Connection(engine_socket)) as connection:
        connection.request(method, target, body=body, headers=headers)
        with connection.getresponse() as response:
            header = response.getheader(STAT)
            data = response.read()
            found = json.loads(base64.b64decode(header)) if header else None
            return Answer(response.status, found, data, response.getheader("Content-Type"))


def tree(folder: Path) -> list[tuple[Any, ...]]:
    """Every file below a folder: name, kind and mode, owner, what is in it or where it leads; no times."""
    found: list[tuple[Any, ...]] = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        inside: Any = None
        if stat.S_ISLNK(status.st_mode):
            inside = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            inside = path.read_bytes()
        found.append((str(path.relative_to(folder)), oct(status.st_mode), status.st_uid, status.st_gid, inside))
    return found
