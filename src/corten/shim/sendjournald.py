"""journald: its native protocol (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md), with the fields that dockerd writes.

A datagram of `NAME=value` lines, or of NAME, newline, length (64 bits, little-endian) and bytes for a value with
newlines; one that is too large travels in a sealed memfd.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct

from corten.shim.delivery import Driver
from corten.shim.jsonlog import rfc3339_nano
from corten.shim.lines import Line
from corten.shim.protocol import Message
from corten.shim.wire import address_of, attributes_of

_ERR, _INFO = b"3", b"6"
_LENGTH = struct.Struct("<Q")
# A journal that is not there any more; the kernel says the first of them once and then forgets the peer (unix(7)).
_GONE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journald(Driver):
    """The machine's journal."""

    def __init__(self, order: Message) -> None:
        _, self._path, _ = address_of(order)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        id, tag = str(order.get("id", "")), str(order.get("tag", ""))
        self._ordinal = 0
        fixed = {
            "CONTAINER_ID": id[:12],
            "CONTAINER_ID_FULL": id,
            "CONTAINER_NAME": str(order.get("name", "")),
            "CONTAINER_TAG": tag,
            "SYSLOG_IDENTIFIER": tag,
            "CONTAINER_LOG_EPOCH": os.urandom(32).hex(),
            **attributes_of(order),
        }
        self._fixed = b"".join(field(name, value.encode()) for name, value in fixed.items())

    def connect(self) -> None:
        try:
            self._socket.connect(self._path)
        except OSError as error:
            raise ValueError("journald is not enabled on this host") from error

    def close(self) -> None:
        self._socket.close()

    def send(self, source: str, line: Line) -> None:
        self._ordinal += 1
        data = self._entry(source, line)
        try:
            self._put(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._socket.connect(self._path)  # it may have been started again
            self._put(data)

    def _put(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_memfd(data)

    def _entry(self, source: str, line: Line) -> bytes:
        parts = [
            field("MESSAGE", line.text),
            field("PRIORITY", _ERR if source == "stderr" else _INFO),
            field("SYSLOG_TIMESTAMP", rfc3339_nano(line.moment_ns)),
            field("CONTAINER_LOG_ORDINAL", b"%d" % self._ordinal),
            self._fixed,
        ]
        if line.ordinal:
            parts += [
                field("CONTAINER_PARTIAL_ID", line.id.encode()),
                field("CONTAINER_PARTIAL_ORDINAL", b"%d" % line.ordinal),
                field("CONTAINER_PARTIAL_LAST", b"true" if line.is_last else b"false"),
            ]
            if not line.is_last:
                parts.append(field("CONTAINER_PARTIAL_MESSAGE", b"true"))
        return b"".join(parts)

    def _send_memfd(self, data: bytes) -> None:
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights])
        finally:
            os.close(fd)


def field(name: str, value: bytes) -> bytes:
    """One field of an entry."""
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), _LENGTH.pack(len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)
