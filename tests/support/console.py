"""The other end of `--console-socket`: who takes a container's terminal."""

from __future__ import annotations

import array
import os
import socket
import time
from pathlib import Path


class ConsoleSocket:
    """What a shim listens on: gives the pty master that the runtime sends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def master(self) -> int:
        """The descriptor, once it has come."""
        self._listener.settimeout(10)
        connection, _ = self._listener.accept()
        with connection:
            fds = array.array("i")
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_LEN(4))
            fds.frombytes(ancillary[0][2][:4])
        self._listener.close()
        return fds[0]


def read_until(fd: int, wanted: bytes) -> bytes:
    """What a terminal shows, up to `wanted`."""
    data = b""
    deadline = time.monotonic() + 10
    while wanted not in data:
        assert time.monotonic() < deadline, data
        data += os.read(fd, 1000)
    return data
