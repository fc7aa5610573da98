"""A seccomp agent: takes the listeners that a runtime sends it, and answers system calls (seccomp_unotify(2))."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

# struct seccomp_notif: id, pid, flags, then struct seccomp_data; struct seccomp_notif_resp: id, val, error, flags
NOTIFICATION = struct.Struct("=QII iIQ 6Q")
ANSWER = struct.Struct("=QqiI")
RECV, SEND = 0xC0502100, 0xC0182101
CONTINUE = 1

# the number of the system call → errno, or 0: let it go on
Decision = Callable[[int], int]


class Agent:
    """Listens at `path` and answers in threads of its own; `states` are the messages that came, `calls` what asked."""

    def __init__(self, path: Path, decide: Decision, *, answers: bool = True) -> None:
        self.states: list[dict[str, Any]] = []
        self.calls: list[tuple[int, int]] = []
        self.fd_counts: list[int] = []
        self.connections: list[socket.socket] = []
        self._decide = decide
        self._answers = answers
        self._fds: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._stop_read, self._stop_write = os.pipe()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Closes what it has; processes that ask afterwards get ENOSYS."""
        os.close(self._stop_write)
        for thread in self._threads:
            thread.join(30)
        for fd in self._fds:
            os.close(fd)
        for stream in (self._socket, *self.connections):
            stream.close()
        os.close(self._stop_read)

    def _wait(self, fd: int) -> bool:
        """Until `fd` is readable, or over (False)."""
        import select

        poll = select.poll()
        poll.register(self._stop_read, select.POLLIN)
        poll.register(fd, select.POLLIN)
        ready = dict(poll.poll())
        return self._stop_read not in ready and not ready.get(fd, 0) & select.POLLHUP

    def _accept(self) -> None:
        while self._wait(self._socket.fileno()):
            stream, _ = self._socket.accept()
            self.connections.append(stream)
            # one message has to carry it all: agents read no second one
            data, fds, _, _ = socket.recv_fds(stream, 65536, 16)
            self.fd_counts.append(len(fds))
            self._fds += fds
            self.states.append(json.loads(data))
            for fd in fds:
                self._threads.append(threading.Thread(target=self._answer, args=(fd,)))
                self._threads[-1].start()

    def _answer(self, fd: int) -> None:
        while self._wait(fd):
            buffer = bytearray(NOTIFICATION.size)
            try:
                fcntl.ioctl(fd, RECV, buffer)
                id, pid, _, number, *_ = NOTIFICATION.unpack(buffer)
                self.calls.append((pid, number))
                if not self._answers:
                    continue
                why = self._decide(number)
                fcntl.ioctl(fd, SEND, bytearray(ANSWER.pack(id, 0, -why, 0 if why else CONTINUE)))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR):  # who asked is dead
                    raise
