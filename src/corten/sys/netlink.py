"""Netlink: messages and their attributes, pure, and one socket that batches requests.

A request is a value; `Socket.send` puts any number of them into one datagram, which the kernel works through in order
in one system call.  A socket belongs for ever to the network namespace of the thread that made it.  What the requests
say is in `sys/rtnetlink.py` and with those who make them.

Sources: netlink(7), include/uapi/linux/netlink.h.  Numbers are in host byte order unless they say otherwise.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12

HEADER = struct.Struct("=IHHII")  # nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid
ATTRIBUTE = struct.Struct("=HH")  # nla_len, nla_type

_RECEIVE_BYTES = 1 << 18  # a dump comes in datagrams of at most 32 KiB; one call may not truncate it


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and a text that names the request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One message without its header; `title` is for the error text."""

    title: str
    kind: int
    flags: int
    body: bytes

    def encode(self, sequence: int) -> bytes:
        """The message as it goes over the wire, asking for an acknowledgement."""
        flags = self.flags | NLM_F_REQUEST | NLM_F_ACK
        return HEADER.pack(HEADER.size + len(self.body), self.kind, flags, sequence, 0) + self.body


# --- encoding


def attribute(kind: int, payload: bytes = b"") -> bytes:
    """One attribute, padded to 4 bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, os.fsencode(value) + b"\0")


def u8(kind: int, value: int) -> bytes:
    """One byte."""
    return attribute(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    """Four bytes."""
    return attribute(kind, struct.pack("=I", value))


def mac_bytes(mac: str) -> bytes:
    """The six bytes of `02:42:ac:11:00:02`."""
    return bytes.fromhex(mac.replace(":", ""))


# --- decoding


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type, without flags; of a repeated type the last one."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size or offset + length > len(data):
            raise ValueError(f"netlink attribute of {length} bytes at {offset} of {len(data)}")
        found[kind & NLA_TYPE_MASK] = data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, payload) of every message in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > len(datagram):
            raise ValueError(f"netlink message of {length} bytes at {offset} of {len(datagram)}")
        yield kind, flags, sequence, datagram[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def string(found: Mapping[int, bytes], kind: int) -> str:
    """A text among attributes; '' when it is missing."""
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def number(found: Mapping[int, bytes], kind: int) -> int:
    """A number of up to four bytes among attributes; 0 when it is missing."""
    return int.from_bytes(found.get(kind, b"")[:4], sys.byteorder)


# --- the socket


class Socket:
    """A netlink socket of the calling thread's network namespace.  Not for several threads at once."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, *requests: Request) -> None:
        """Has the kernel work through `requests` in order; raises for the first that failed (the others ran too)."""
        for error in self.attempt(*requests):
            if error is not None:
                raise error

    def attempt(self, *requests: Request) -> list[NetlinkError | None]:
        """As `send`, but returns what became of each request."""
        if not requests:
            return []  # the kernel takes no empty message (ENODATA)
        first = self._post(requests)
        outcome: list[NetlinkError | None] = [None] * len(requests)
        pending = len(requests)
        while pending:
            for kind, flags, sequence, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                place = sequence - first
                if kind == NLMSG_ERROR and 0 <= place < len(requests):
                    outcome[place] = _error(requests[place], flags, payload)
                    pending -= 1
        return outcome

    def get(self, request: Request) -> bytes | None:
        """The answer to a request for one object; None when there is no such object."""
        first = self._post((request,))
        answer: bytes | None = None
        while True:
            for kind, flags, sequence, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != first:
                    continue
                if kind != NLMSG_ERROR:
                    answer = payload
                    continue
                error = _error(request, flags, payload)
                if error is None or error.errno in (errno.ENODEV, errno.ENOENT):
                    return answer
                raise error

    def dump(self, request: Request) -> list[bytes]:
        """Every object of a kind, without headers; asked again when it changed underneath (NLM_F_DUMP_INTR)."""
        while True:
            found, whole = self._dump_once(request)
            if whole:
                return found

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        first = self._post((request,))
        found: list[bytes] = []
        whole = True
        while True:
            for kind, flags, sequence, payload in messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != first:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return found, whole
                if kind == NLMSG_ERROR:
                    error = _error(request, flags, payload)
                    if error is not None:
                        raise error
                else:
                    found.append(payload)

    def _post(self, requests: tuple[Request, ...]) -> int:
        """Sends requests as one datagram; the sequence number of the first."""
        first = self._sequence + 1
        self._sequence += len(requests)
        self._socket.send(b"".join(_padded(one.encode(first + place)) for place, one in enumerate(requests)))
        return first


def raise_unless(outcome: Iterable[NetlinkError | None], *fine: int) -> None:
    """Raises the first error of an `attempt` whose errno is not among `fine`."""
    for error in outcome:
        if error is not None and error.errno not in fine:
            raise error


def _padded(message: bytes) -> bytes:
    return message + bytes(-len(message) % 4)


def _error(request: Request, flags: int, payload: bytes) -> NetlinkError | None:
    """The outcome in an NLMSG_ERROR: None for an acknowledgement."""
    (code,) = struct.unpack_from("=i", payload)
    if code == 0:
        return None
    detail = _extended(flags, payload)
    return NetlinkError(-code, f"{request.title}: {os.strerror(-code).lower()}{detail}")


def _extended(flags: int, payload: bytes) -> str:
    """The kernel's own sentence, where it gives one (NETLINK_EXT_ACK)."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    length = HEADER.size if flags & NLM_F_CAPPED else HEADER.unpack_from(payload, 4)[0]
    sentence = string(attributes(payload[4 + length :]), NLMSGERR_ATTR_MSG)
    return f" ({sentence})" if sentence else ""
