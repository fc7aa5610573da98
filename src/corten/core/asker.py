"""Who asks for what is being done: the client of a request, by the credentials of its socket (unix(7), SO_PEERCRED).

The door names it for every request; what runs on behalf of the request inherits it, as context variables do.  What the
engine does of its own accord meanwhile begins with `set_engine`.

pid, uid and gid are those that connected, as the kernel recorded them.  The name (comm) is what that process calls
itself while the request arrives: a hint, and evidence of nothing.
"""

from __future__ import annotations

import os
import socket
import struct
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec

_TEXT_CHARS: Final = 256
_CREDENTIALS: Final = struct.Struct("iII")


class Asker(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """`by`: client, engine, or the reason that the engine acts for; `operation`: method and path of the request.

    Of a policy: `policy FILE:FUNCTION`, and as `operation` what it says.

    Of a signal that did not come from Corten (engine.sending): process, itself or kernel.
    """

    by: str
    operation: str = ""
    pid: int = 0
    uid: int = -1
    gid: int = -1
    command: str = ""
    address: str = ""  # of a client over TCP

    @property
    def text(self) -> str:
        """For people: `docker (pid 12, uid 0)`."""
        if self.by not in ("client", "process"):
            return self.by
        if not self.pid:
            return self.address or f"a {self.by}"
        return f"{self.command or f'a {self.by}'} (pid {self.pid}, uid {self.uid})"


class Socket(Protocol):
    """What is asked of a connection."""

    @property
    def family(self) -> int: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> Any: ...
    def getpeername(self) -> Any: ...


ENGINE: Final = Asker(by="engine")
_current: ContextVar[Asker] = ContextVar("asker", default=ENGINE)


def current() -> Asker:
    """Who asks for what the caller does."""
    return _current.get()


def set_client(sock: Socket | None, operation: str) -> None:
    """What this task does from here on is done for a client."""
    _current.set(of_socket(sock, operation))


def set_engine() -> None:
    """What this task does from here on is the engine's own doing, whoever's request has led to it."""
    _current.set(ENGINE)


def set_to(by: Asker) -> None:
    """What this task does from here on is done for somebody that is no client: a policy."""
    _current.set(by)


def of_socket(sock: Socket | None, operation: str, *, own_pid: int = 0) -> Asker:
    """The other end of a connection, as far as it is known.

    own_pid: of a process (this one) that only passes on what comes from elsewhere: a socketpair behind TLS.
    """
    operation = printable(operation)
    if sock is None:
        return Asker(by="client", operation=operation)
    try:
        if sock.family != socket.AF_UNIX:
            return Asker(by="client", operation=operation, address=printable(str(sock.getpeername())))
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:  # the client is gone
        return Asker(by="client", operation=operation)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    if pid == (own_pid or os.getpid()):
        return Asker(by="client", operation=operation, address="a client over TLS")
    return Asker(by="client", operation=operation, pid=pid, uid=uid, gid=gid, command=_name(pid))


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return printable(file.read(64).decode("utf-8", "replace").rstrip("\n"))
    except OSError:
        return ""


def printable(text: str) -> str:
    """Safe for a terminal and a log: what is not printable is escaped, and the length has a limit."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
    return shown[:_TEXT_CHARS]
