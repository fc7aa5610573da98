"""syslog: RFC 3164 and RFC 5424 over udp, tcp, tcp+tls, unix and unixgram, in the forms that dockerd sends.

    ""            <PRI>MMM dd hh:mm:ss TAG[PID]: MSG
    rfc3164       <PRI>MMM dd hh:mm:ss HOST TAG[PID]: MSG
    rfc5424       <PRI>1 TIME HOST TAG PID TAG - MSG       rfc5424micro: with microseconds

Each message ends with a newline; rfc5424 over TLS has its length in front (RFC 5425, 4.3).  PID is the courier's.
"""

from __future__ import annotations

import os
import socket
import time

from corten.shim.delivery import Driver
from corten.shim.lines import Line
from corten.shim.protocol import Message
from corten.shim.wire import Wire, address_of, option

_ERR, _INFO = 3, 6
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")


class Syslog(Driver):
    """One connection, made again once when a message cannot be sent."""

    def __init__(self, order: Message) -> None:
        self._tag = str(order.get("tag", ""))
        self._format = option(order, "syslog-format")
        facility = order.get("facility")
        self._facility = (facility if isinstance(facility, int) else 3) << 3
        self._host = socket.gethostname()
        self._pid = os.getpid()
        scheme, host, port = address_of(order)
        self._is_counted = scheme == "tcp+tls" and self._format.startswith("rfc5424")
        self._wires = [Wire(scheme, host, port, order)] if scheme else _local_wires(order)
        self._wire = self._wires[0]

    def connect(self) -> None:
        last: OSError | None = None
        for wire in self._wires:
            try:
                wire.connect()
            except OSError as error:
                last = error
                continue
            self._wire = wire
            return
        if len(self._wires) > 1:
            raise ValueError("Unix syslog delivery error")
        if last is not None:
            raise last

    def close(self) -> None:
        self._wire.close()

    def send(self, source: str, line: Line) -> None:
        if not line.text:
            return
        priority = self._facility | (_ERR if source == "stderr" else _INFO)
        message = self._head(priority) + line.text + b"\n"
        if self._is_counted:
            message = b"%d %s" % (len(message), message)
        self._wire.send(message)

    def _head(self, priority: int) -> bytes:
        now = time.time_ns()
        moment = time.localtime(now // 10**9)
        if not self._format.startswith("rfc5424"):
            host = f" {self._host}" if self._format == "rfc3164" else ""
            stamp = f"{time.strftime('%b', moment)} {moment.tm_mday:2d} {time.strftime('%H:%M:%S', moment)}"
            return f"<{priority}>{stamp}{host} {self._tag}[{self._pid}]: ".encode()
        fraction = f".{now % 10**9 // 1000:06d}" if self._format == "rfc5424micro" else ""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", moment) + fraction + _zone(moment)
        return f"<{priority}>1 {stamp} {self._host} {self._tag} {self._pid} {self._tag} - ".encode()


def _zone(moment: time.struct_time) -> str:
    """As Go prints it: Z for UTC."""
    if not moment.tm_gmtoff:
        return "Z"
    text = time.strftime("%z", moment)
    return f"{text[:3]}:{text[3:5]}"


def _local_wires(order: Message) -> list[Wire]:
    return [Wire(kind, path, 0, order) for kind in ("unixgram", "unix") for path in _LOCAL]
