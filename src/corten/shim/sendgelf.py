"""gelf: Graylog's format 1.1 over udp (compressed, in chunks) and tcp (ended by a zero byte).

https://go2docs.graylog.org, "GELF": a chunk is 0x1e 0x0f, eight bytes of message id, number and count; 128 at most.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import zlib

from corten.shim.delivery import Driver
from corten.shim.lines import Line
from corten.shim.protocol import Message
from corten.shim.wire import Wire, address_of, attributes_of, option

_ERR, _INFO = 3, 6
_CHUNK_BYTES = 1420
_CHUNK_HEAD = 12
_MAX_CHUNKS = 128
_RETRIES, _PAUSE_S = 3, 1  # go-gelf's, for tcp


class Gelf(Driver):
    """One server."""

    def __init__(self, order: Message) -> None:
        scheme, host, port = address_of(order)
        self._is_udp = scheme == "udp"
        self._compression = option(order, "gelf-compression-type") or "gzip"
        self._level = int(option(order, "gelf-compression-level") or 1)
        retries = int(option(order, "gelf-tcp-max-reconnect") or _RETRIES)
        pause_s = int(option(order, "gelf-tcp-reconnect-delay") or _PAUSE_S)
        self._wire = Wire(scheme, host, port, order, retries=retries, pause_s=0.0 if self._is_udp else pause_s)
        self._address = f"{host}:{port}"
        self._extra = attributes_of(order)
        self._host = socket.gethostname()

    def connect(self) -> None:
        try:
            self._wire.connect()
        except OSError as error:
            raise ValueError(f"gelf: cannot connect to GELF endpoint: {self._address} {error.strerror}") from error

    def close(self) -> None:
        self._wire.close()

    def send(self, source: str, line: Line) -> None:
        if not line.text:
            return
        message = {
            "version": "1.1",
            "host": self._host,
            "short_message": line.text.decode("utf-8", "replace"),
            "timestamp": line.moment_ns // 10**6 / 1000,
            "level": _ERR if source == "stderr" else _INFO,
            **self._extra,
        }
        data = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        if not self._is_udp:
            self._wire.send(data + b"\0")
            return
        for part in chunks(self._compressed(data)):
            self._wire.send(part)

    def _compressed(self, data: bytes) -> bytes:
        match self._compression:
            case "none":
                return data
            case "zlib":
                return zlib.compress(data, self._level)
        return gzip.compress(data, self._level if self._level >= 0 else 6, mtime=0)


def chunks(data: bytes) -> list[bytes]:
    """The datagrams of a message.  Raises ValueError when they would be too many."""
    if len(data) <= _CHUNK_BYTES:
        return [data]
    size = _CHUNK_BYTES - _CHUNK_HEAD
    count = -(-len(data) // size)
    if count > _MAX_CHUNKS:
        raise ValueError(f"msg too large, would need {count} chunks")
    id = os.urandom(8)
    return [
        b"\x1e\x0f%s%s%s" % (id, bytes((number, count)), data[number * size : (number + 1) * size])
        for number in range(count)
    ]
