"""Terminals: the other end of `--console-socket`, and one that a command line is given."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROWS, COLUMNS = 31, 77  # as no terminal has them by itself
# The size of a terminal, for a shell inside: once it has one, which engines give it after its process was started.
SIZE = (
    'n=0; until size=$(stty size 2>/dev/null) && [ "$size" ] || [ $((n += 1)) -gt 100 ]; do sleep 0.1; done; echo $size'
)


class ConsoleSocket:
    """What a shim listens on: gives the pty master that the runtime sends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def master(self) -> int:
        """The descriptor, once it has come."""
        self._listener.settimeout(60)
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
    deadline = time.monotonic() + 60
    while wanted not in data:
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], f"no {wanted!r}: {data!r}"
        data += os.read(fd, 1000)
    return data


def in_terminal(
    argv: Sequence[str], env: Mapping[str, str] | None = None, *, typed: Sequence[tuple[str, str]] = ()
) -> tuple[int, str]:
    """Exit code of a program in a terminal of ROWS and COLUMNS, and all that this shows.

    `typed` is (what is shown last, what is typed then), one after the other.
    """
    left = list(typed)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    child = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)
    seen, until = b"", time.monotonic() + 30
    try:
        while select.select([master], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                seen += os.read(master, 4096)
            except OSError:  # nobody has the other side any more
                break
            if left and seen.endswith(left[0][0].encode()):
                os.write(master, left.pop(0)[1].encode())
        return child.wait(60), seen.decode()
    finally:
        child.kill()
        child.wait()
        os.close(master)
