"""A connection that the engine hands over to a process: attach and exec, raw (tty) or in Docker's frames."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any


def frames(raw: bytes) -> Iterator[bytes]:
    """The data of whole frames: stream, three zeroes, length big-endian."""
    while len(raw) >= 8:
        _, length = struct.unpack(">BxxxI", raw[:8])
        if len(raw) < 8 + length:
            return
        yield raw[8 : 8 + length]
        raw = raw[8 + length :]


class Hijacked:
    """The stream behind a 101; a context manager that closes it."""

    def __init__(self, path: Path, target: str, body: Any = None, *, tty: bool = False) -> None:
        """POSTs `target` with Upgrade and reads the head."""
        self.tty = tty
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._begin(path, target, body)
        except BaseException:
            self._socket.close()
            raise

    def _begin(self, path: Path, target: str, body: Any) -> None:
        self._socket.connect(str(path))
        data = b"" if body is None else json.dumps(body).encode()
        head = f"POST /v1.51{target} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._socket.sendall(head.encode() + data)
        self._read_until(lambda: b"\r\n\r\n" in self._received, "head")
        answer, _, self._received = self._received.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def send(self, text: str) -> None:
        """To the process's stdin."""
        self._socket.sendall(text.encode())

    def end_input(self) -> None:
        """The half-close: no more input."""
        self._socket.shutdown(socket.SHUT_WR)

    def output(self) -> str:
        """What has come so far; an incomplete frame is left out."""
        if self.tty:
            return self._received.decode().replace("\r\n", "\n")
        return b"".join(frames(self._received)).decode()

    def read_until(self, text: str) -> None:
        """Until the output has `text` in it."""
        self._read_until(lambda: text in self.output(), repr(text))

    def read_all(self) -> str:
        """Until the other side closes it."""
        while chunk := self._chunk("end of the stream"):
            self._received += chunk
        return self.output()

    def _read_until(self, condition: Any, what: str) -> None:
        while not condition():
            chunk = self._chunk(what)
            assert chunk, f"the stream ended before {what}: {self._received!r}"
            self._received += chunk

    def _chunk(self, what: str, timeout_s: float = 60) -> bytes:
        end = time.monotonic() + timeout_s
        ready, _, _ = select.select([self._socket], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"no {what} after {timeout_s} s: {self._received!r}"
        return self._socket.recv(65536)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Hijacked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
