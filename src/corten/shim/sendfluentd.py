"""fluentd: the forward protocol's message mode, [tag, time, record, option] in MessagePack (Forward Protocol v1).

The little MessagePack that it takes is written here: a shim has no packages.
"""

from __future__ import annotations

import base64
import os
import struct
import time
from collections.abc import Mapping

from corten.shim.delivery import Driver
from corten.shim.lines import Line
from corten.shim.protocol import Message
from corten.shim.wire import Wire, address_of, attributes_of, option

_RETRY_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_GROWTH = 1.5
_ACK_TIMEOUT_S = 30.0
_ACK_BYTES = 64 * 1024
_RETRIES = (1 << 31) - 1
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Fluentd(Driver):
    """One server.  Without `fluentd-async` it must be there at the start; what it does not take is sent again."""

    def __init__(self, order: Message) -> None:
        scheme, host, port = address_of(order)
        self._wire = Wire(scheme, host, port, order, retries=0)
        self._tag = str(order.get("tag", ""))
        self._is_async = any(_flag(option(order, f"fluentd-{name}")) for name in ("async", "async-connect"))
        self._is_precise = _flag(option(order, "fluentd-sub-second-precision"))
        self._wants_ack = _flag(option(order, "fluentd-request-ack"))
        self._retries = int(option(order, "fluentd-max-retries") or _RETRIES)
        self._wait_s = seconds(option(order, "fluentd-retry-wait")) or _RETRY_WAIT_S
        self._fixed = {
            "container_id": str(order.get("id", "")),
            "container_name": f"/{order.get('name', '')}",
            **attributes_of(order),
        }

    def connect(self) -> None:
        if not self._is_async:
            self._wire.connect()

    def close(self) -> None:
        self._wire.close()

    def send(self, source: str, line: Line) -> None:
        record: dict[str, str | bytes] = {**self._fixed, "source": source, "log": line.text}
        if line.ordinal:
            record |= {
                "partial_message": "true",
                "partial_id": line.id,
                "partial_ordinal": str(line.ordinal),
                "partial_last": "true" if line.is_last else "false",
            }
        chunk = base64.b64encode(os.urandom(16)).decode() if self._wants_ack else ""
        moment = event_time(line.moment_ns) if self._is_precise else whole_seconds(line.moment_ns)
        wanted = {"chunk": chunk} if chunk else {}
        self._deliver(b"\x94%s%s%s%s" % (text(self._tag), moment, mapping(record), mapping(wanted)), chunk)

    def _deliver(self, data: bytes, chunk: str) -> None:
        wait_s = self._wait_s
        for attempt in range(self._retries + 1):
            try:
                self._wire.send(data)
                if chunk:
                    self._await(chunk)
            except OSError:
                self._wire.close()
                if attempt == self._retries:
                    raise
                time.sleep(wait_s)
                wait_s = min(wait_s * _GROWTH, _LONGEST_WAIT_S)
            else:
                return

    def _await(self, chunk: str) -> None:
        """{"ack": chunk}: it is enough that it is said."""
        said = b""
        while chunk.encode() not in said:
            more = self._wire.receive(4096, _ACK_TIMEOUT_S)
            if not more:
                raise OSError("fluent: the server closed the connection instead of an ack")
            said += more
            if len(said) > _ACK_BYTES:
                raise OSError("fluent: the server sends no ack")


def _flag(word: str) -> bool:
    return word in ("1", "t", "T", "TRUE", "true", "True")


def seconds(duration: str) -> float:
    """Go's `1m30s`, checked already, in seconds; 0 for nothing."""
    total, number, unit = 0.0, "", ""
    for one in f"{duration}0":
        if (one.isdigit() or one == ".") and unit:
            total += float(number) * _UNITS.get(unit, 0.0)
            number, unit = one, ""
        elif one.isdigit() or one == ".":
            number += one
        else:
            unit += one
    return total


def whole_seconds(moment_ns: int) -> bytes:
    """A 64-bit integer."""
    return b"\xd3%s" % struct.pack(">q", moment_ns // 10**9)


def event_time(moment_ns: int) -> bytes:
    """EventTime: fixext8 of type 0, seconds and nanoseconds."""
    second, nanosecond = divmod(moment_ns, 10**9)
    return b"\xd7\x00%s" % struct.pack(">II", second & 0xFFFFFFFF, nanosecond)


def text(value: str | bytes) -> bytes:
    """A string."""
    data = value if isinstance(value, bytes) else value.encode()
    if len(data) < 32:
        return b"%c%s" % (0xA0 | len(data), data)
    if len(data) < 1 << 16:
        return b"\xda%s%s" % (struct.pack(">H", len(data)), data)
    return b"\xdb%s%s" % (struct.pack(">I", len(data)), data)


def mapping(values: Mapping[str, str | bytes]) -> bytes:
    """A map of strings."""
    count = len(values)
    head = b"%c" % (0x80 | count) if count < 16 else b"\xde%s" % struct.pack(">H", count)
    return head + b"".join(text(key) + text(value) for key, value in values.items())
