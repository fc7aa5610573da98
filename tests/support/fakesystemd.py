"""A peer that speaks D-Bus as the specification says it, and answers as systemd's manager does.

Written from the specification with `struct` alone, not with the code under test: what it cannot read is a failure.
"""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any

MANAGER = "org.freedesktop.systemd1.Manager"
UNIT_PATH = "/org/freedesktop/systemd1/unit/some"
JOBS = "/org/freedesktop/systemd1/job"


class Wire:
    """A cursor over the bytes of one message (both byte orders)."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def number(self, code: str) -> Any:
        size = struct.calcsize(code)
        self.at += -self.at % size
        (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += size
        return value

    def text(self, code: str) -> str:
        size = self.number(code)
        found = self.data[self.at : self.at + size]
        assert self.data[self.at + size] == 0, "a string ends with NUL"
        self.at += size + 1
        return found.decode()

    def read(self, signature: str) -> list[Any]:
        found = []
        while signature:
            value, signature = self.one(signature)
            found.append(value)
        return found

    def one(self, signature: str) -> tuple[Any, str]:
        first, rest = signature[0], signature[1:]
        if first == "b":
            return {0: False, 1: True}[self.number("I")], rest
        if first in "ynqiuxt":
            return self.number({"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q"}[first]), rest
        if first in "so":
            return self.text("I"), rest
        if first == "g":
            return self.text("B"), rest
        if first == "v":
            inner = self.text("B")
            value, left = self.one(inner)
            assert not left, "a variant has one complete type"
            return (inner, value), rest
        if first == "(":
            self.at += -self.at % 8
            values = []
            while rest[0] != ")":
                value, rest = self.one(rest)
                values.append(value)
            return tuple(values), rest[1:]
        assert first == "a", signature
        return self.array(rest)

    def array(self, inner: str) -> tuple[list[Any], str]:
        size = self.number("I")
        self.at += -self.at % (8 if inner[0] in "xt({" else 4 if inner[0] in "iubsoa" else 1)
        end, values, rest = self.at + size, [], skip(inner)
        while self.at < end:
            values.append(self.one(inner)[0])
        assert self.at == end, "the elements fill the array"
        return values, rest


def skip(signature: str) -> str:
    """What follows the first complete type."""
    if signature[0] == "a":
        return skip(signature[1:])
    if signature[0] != "(":
        return signature[1:]
    depth = 0
    for place, letter in enumerate(signature):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return signature[place + 1 :]
    raise AssertionError(signature)


def string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


def field(code: int, type: str, data: bytes) -> bytes:
    """One entry of a header's array: a structure of a byte and a variant."""
    return bytes([code, len(type)]) + type.encode() + b"\0" + data


def header(kind: int, serial: int, body: bytes, fields: list[bytes]) -> bytes:
    rows = b""
    for one in fields:
        rows += bytes(-len(rows) % 8) + one
    head = struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(body), serial, len(rows)) + rows
    return head + bytes(-len(head) % 8) + body


class FakeSystemd:
    """Listens on a socket; `calls` has (member, values) of what was asked, `fails` the error of a member's next calls.

    `invocation` is that of every unit.

    The answer of a job comes before or after the method's reply, in turns: systemd promises neither.
    """

    def __init__(self, path: Path, *, bus: bool = False) -> None:
        self.path, self.bus = path, bus
        self.calls: list[tuple[str, list[Any]]] = []
        self.fails: dict[str, list[tuple[str, str]]] = {}
        self.results: list[str] = []
        self.invocation = bytes(range(16))
        self.authenticated: list[bytes] = []
        self.is_lazy = False  # an error is sent with the answer to the next message, as systemd 252 does
        self._kept = b""
        self._serial = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)

    def members(self) -> list[str]:
        return [member for member, _ in self.calls]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                self._authenticate(stream)
                while self._answer(stream):
                    stream.flush()

    def _authenticate(self, stream: Any) -> None:
        assert stream.read(1) == b"\0"
        self.authenticated.append(stream.readline())
        stream.write(b"OK 1234deadbeef\r\n")
        stream.flush()
        assert stream.readline() == b"BEGIN\r\n"

    def _answer(self, stream: Any) -> bool:
        start = stream.read(16)
        if len(start) < 16:
            return False
        order, kind, _, version, body_size, serial, rows_size = struct.unpack("<BBBBIII", start)
        assert (order, kind, version) == (ord("l"), 1, 1)
        rest = stream.read(rows_size + -rows_size % 8 + body_size)
        fields = {code: value for code, (_, value) in Wire(start + rest, "<").read("yyyyuua(yv)")[6]}
        member = fields[3]
        values = Wire(rest[len(rest) - body_size :], "<").read(fields.get(8, ""))
        if member != "Ping":  # whose number depends on the machine's speed
            self.calls.append((member, values))
        if self.fails.get(member):
            name, text = self.fails[member].pop(0)
            error = [field(4, "s", string(name)), field(5, "u", struct.pack("<I", serial))]
            self._send(stream, 3, string(text), [*error, field(8, "g", b"\1s\0")], keep=self.is_lazy)
        elif member in ("StartTransientUnit", "StopUnit", "Stop"):
            self._job(stream, serial, values[0])
        elif member in ("GetUnit", "GetUnitByInvocationID"):
            reply = [field(5, "u", struct.pack("<I", serial)), field(8, "g", b"\1o\0")]
            self._send(stream, 2, string(UNIT_PATH), reply)
        elif member == "Get":
            reply = [field(5, "u", struct.pack("<I", serial)), field(8, "g", b"\1v\0")]
            self._send(stream, 2, b"\2ay\0" + struct.pack("<I", len(self.invocation)) + self.invocation, reply)
        else:
            self._send(stream, 2, b"", [field(5, "u", struct.pack("<I", serial))])
        return True

    def _job(self, stream: Any, serial: int, unit: str) -> None:
        job = f"{JOBS}/{serial}"
        reply = [field(5, "u", struct.pack("<I", serial)), field(8, "g", b"\1o\0")]
        result = self.results.pop(0) if self.results else "done"
        other = (f"{JOBS}/{serial + 1000}", "other.scope", "failed")
        if len(self.calls) % 2:
            self._send(stream, 2, string(job), reply)
        self._removed(stream, *other)
        self._removed(stream, job, unit, result)
        if not len(self.calls) % 2:
            self._send(stream, 2, string(job), reply)

    def _removed(self, stream: Any, job: str, unit: str, result: str) -> None:
        body = struct.pack("<I", 7)
        for text in (job, unit, result):
            body += bytes(-len(body) % 4) + string(text)
        fields = [field(1, "o", string("/org/freedesktop/systemd1")), field(2, "s", string(MANAGER))]
        self._send(stream, 4, body, [*fields, field(3, "s", string("JobRemoved")), field(8, "g", b"\4uoss\0")])

    def _send(self, stream: Any, kind: int, body: bytes, fields: list[bytes], *, keep: bool = False) -> None:
        self._serial += 1
        self._kept += header(kind, self._serial, body, fields)
        if not keep:
            stream.write(self._kept)
            self._kept = b""
